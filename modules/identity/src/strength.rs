//! How much log-ins to an account show: what a session has, and what the account's factors could.
//!
//! Where the installation, or an org of the account's, asks for more than a password, whoever has shown less than the account's factors allow
//! adds none: a password alone, stolen, would make itself another way in. And the last factor that shows what is
//! asked for does not go before there is another one.

use canopy_domain::{Code, Context, Order, Refusal, Span, State, decode};
use canopy_proto::identity::v1::LogInStrength;

use crate::account::MEMBERSHIPS;
use crate::sessions::SESSIONS;
use crate::{passkeys, second_factor, sessions};

/// The strongest log-in that the account's factors allow.
pub(crate) fn reachable(state: &State<'_>) -> Result<LogInStrength, Refusal> {
    let has_passkey = passkeys::count_good(state)? > 0;
    Ok(strongest(has_passkey, second_factor::is_on(state)?))
}

/// The same, of an account with these factors.
pub(crate) fn strongest(has_passkey: bool, has_second_factor: bool) -> LogInStrength {
    match (has_passkey, has_second_factor) {
        (true, _) => LogInStrength::Passkey,
        (false, true) => LogInStrength::TwoFactors,
        (false, false) => LogInStrength::Password,
    }
}

/// What log-ins to the account have to show to be of use wherever it belongs.
pub(crate) fn asked(state: &State<'_>, cx: &Context<'_>) -> Result<LogInStrength, Refusal> {
    let asked = cx.settings.log_in_strength;
    if asked >= LogInStrength::TwoFactors {
        return Ok(asked);
    }
    let all = Span { prefix: &[], after: None, order: Order::Ascending, limit: usize::MAX };
    for (_, org) in state.scan(&MEMBERSHIPS, all)? {
        if decode(&org)?.require_second_factor() {
            return Ok(LogInStrength::TwoFactors);
        }
    }
    Ok(asked)
}

/// What the session that calls has shown.
fn shown(state: &State<'_>, cx: &Context<'_>) -> Result<LogInStrength, Refusal> {
    let id = sessions::current(cx).and_then(canopy_domain::Address::id);
    let session = id.map(|id| state.read(&SESSIONS, id.as_bytes())).transpose()?.flatten();
    Ok(session.map_or(LogInStrength::Password, |session| session.strength()).max(LogInStrength::Password))
}

/// Whether the session that calls may add a factor.
///
/// # Errors
/// `FAILED_PRECONDITION`: the account could show more than it has, and what is
/// asked for is more.
pub(crate) fn may_add(state: &State<'_>, cx: &Context<'_>) -> Result<(), Refusal> {
    let reachable = reachable(state)?;
    let asked = asked(state, cx)?.min(reachable);
    if shown(state, cx)? >= asked {
        return Ok(());
    }
    let hint = match reachable {
        LogInStrength::Passkey => {
            "log in with a passkey that the account has, then repeat it; who has lost them all asks a sys-admin to \
             have them forgotten: `canopy ops forget-factors`"
        }
        _ => "log in with a code of the authenticator app, or a recovery code: `canopy identity log-in --code`",
    };
    Err(Refusal::new(
        Code::FailedPrecondition,
        "the account has a factor already, and this session was opened without it: it adds no other one",
    )
    .reason("LogInTooWeak")
    .hint(hint))
}

/// Whether a factor may go, without which the account's log-ins can show
/// `after`.
///
/// # Errors
/// `FAILED_PRECONDITION`: it is the last one that shows what is asked for.
pub(crate) fn may_lose(state: &State<'_>, cx: &Context<'_>, after: LogInStrength) -> Result<(), Refusal> {
    let (asked, before) = (asked(state, cx)?, reachable(state)?);
    if after >= asked || before < asked {
        return Ok(());
    }
    let (message, hint) = match asked {
        LogInStrength::Passkey => (
            "this server asks for a passkey, and it is the last one",
            "make another one first: `canopy identity begin-passkey`, then `create-passkey`",
        ),
        _ => (
            "this server, or an org that you are in, asks for two factors, and it is the last one",
            "replace the app with `canopy identity enroll-totp --code`, or make a passkey first",
        ),
    };
    Err(Refusal::new(Code::FailedPrecondition, message).hint(hint))
}
