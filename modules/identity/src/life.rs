//! What an account does of itself when its time has come.

use canopy_domain::{Context, Draft, Refusal, State, decode};

use crate::account::{ACCOUNT, SELF};
use crate::proof::{self, Purpose};
use crate::{api_keys, deletion, email};

/// The earliest of some times; zero where there is none.
fn first(times: impl IntoIterator<Item = i64>) -> i64 {
    times.into_iter().filter(|time_ms| *time_ms > 0).min().unwrap_or(0)
}

/// Has the account wake at the first of some times, zero for none, or when
/// addresses are due that can be taken back, or a reminder that a key expires.
pub(crate) fn wake_by<const N: usize>(
    state: &State<'_>,
    cx: &Context<'_>,
    times_ms: [i64; N],
    draft: &mut Draft,
) -> Result<(), Refusal> {
    let undos = proof::all(state, Purpose::Undo)?.into_iter().map(|undo| undo.proof.expire_time_ms);
    let reminder_ms = api_keys::next_reminder_ms(state, cx)?;
    draft.wake_at_ms(first(undos.chain([reminder_ms]).chain(times_ms)));
    Ok(())
}

pub(crate) fn woken(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let Some(row) = state.get(&ACCOUNT, &SELF)? else { return Ok(()) };
    let account = decode(&row)?;
    if account.purge_time_ms > 0 && account.purge_time_ms <= cx.now_ms {
        return deletion::end(state, cx, draft, &row, &account);
    }
    let undo_ms = email::let_go(state, cx, draft)?;
    let reminder_ms = api_keys::remind(state, &account, cx, draft)?;
    draft.wake_at_ms(first([undo_ms, reminder_ms, account.purge_time_ms]));
    Ok(())
}
