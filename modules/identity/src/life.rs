//! What an account does of itself when its time has come.

use canopy_domain::{Context, Draft, Refusal, State};

use crate::email;
use crate::proof::{self, Purpose};

/// Has the account wake at a time, or before, where something else is due.
pub(crate) fn wake_by(state: &State<'_>, time_ms: i64, draft: &mut Draft) -> Result<(), Refusal> {
    let others = proof::all(state, Purpose::Undo)?.into_iter().map(|undo| undo.proof.expire_time_ms);
    draft.wake_at_ms(others.fold(time_ms, i64::min));
    Ok(())
}

pub(crate) fn woken(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let next_ms = email::let_go(state, cx, draft)?;
    draft.wake_at_ms(next_ms);
    Ok(())
}
