//! An account's password: its verifier, and how it is changed.

use canopy_domain::{
    Attempt, Code, Context, Draft, PasswordFit, Prepared, Refusal, Secret, State, Step, Table, Wire, decode,
};
use canopy_proto::identity::v1::{ChangePasswordRequest, ChangePasswordResponse, SecurityEventKind, SessionEnd};
use canopy_proto::system::v1::{
    GetVerifierRequest, GetVerifierResponse, PasswordVerifier, UpgradeVerifierRequest, UpgradeVerifierResponse,
};

use crate::account::{SELF, the_account};
use crate::{guessable, security, sessions, verify};

/// The one row, under [`SELF`].
pub(crate) const VERIFIER: Table<PasswordVerifier> = Table::new(2, "verifier", 1);

/// Which of the account's passwords is in use.
pub(crate) fn version(state: &State<'_>) -> Result<u32, Refusal> {
    Ok(state.read(&VERIFIER, &SELF)?.unwrap_or_default().version)
}

/// The account's next password. What was opened with the one before, and comes
/// later, is told from what was opened with this one by its version.
pub(crate) fn replace(state: &State<'_>, draft: &mut Draft, phc: &Secret) -> Result<(), Refusal> {
    let before = state.get(&VERIFIER, &SELF)?;
    let version = version(state)? + 1;
    let after = Wire::new(&PasswordVerifier { phc: phc.expose().to_owned(), version });
    draft.put(&VERIFIER, SELF, before.as_ref(), &after);
    Ok(())
}

pub(crate) fn prepare_change(
    state: &State<'_>,
    request: &ChangePasswordRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    match cx.prepared {
        [] => {
            let account = the_account(state, cx)?;
            let phc = state.read(&VERIFIER, &SELF)?.map(|verifier| Secret::new(verifier.phc));
            let is_known_place = sessions::is_known_place(state, &cx.origin.place())?;
            let attempt = Attempt { account: decode(&account)?.name, is_known_place };
            let password = Secret::new(request.old_password.as_str());
            Ok(Some(Step::VerifyPassword { phc, password, attempt }))
        }
        [Prepared::Password(PasswordFit::Wrong)] => {
            Err(Refusal::new(Code::PermissionDenied, "the old password is wrong")
                .hint("it was not changed; who has forgotten it resets it"))
        }
        [Prepared::Password(_)] => {
            guessable::check("new_password", &request.new_password, &decode(&the_account(state, cx)?)?)?;
            Ok(Some(guessable::look_up(&request.new_password)))
        }
        [Prepared::Password(_), Prepared::Breached(is_breached)] => {
            guessable::check_breached("new_password", *is_breached)?;
            Ok(Some(Step::HashPassword(Secret::new(request.new_password.as_str()))))
        }
        _ => Ok(None),
    }
}

pub(crate) fn change_password(
    state: &State<'_>,
    request: ChangePasswordRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ChangePasswordResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let [Prepared::Password(PasswordFit::Right | PasswordFit::RightAndWeak), _, Prepared::PasswordHash(phc)] =
        cx.prepared
    else {
        return Err(Refusal::new(Code::Internal, "a change of password came without its prepared steps"));
    };
    the_account(state, cx)?;
    // A session that another change of the password has ended does not change
    // it back, though it was compared before.
    let current = sessions::current(cx);
    if let Some(id) = current.and_then(canopy_domain::Address::id)
        && state.read(&sessions::SESSIONS, id.as_bytes())?.is_some_and(|session| session.end_time_ms > 0)
    {
        return Err(Refusal::new(Code::Unauthenticated, "the session has ended").hint("log in again"));
    }
    replace(state, draft, phc)?;
    let ended = sessions::end_all(state, cx, draft, current, SessionEnd::PasswordChange)?;
    security::note(state, draft, cx, cx.origin, SecurityEventKind::PasswordChanged)?;
    draft.settle();
    Ok(ChangePasswordResponse { ended })
}

/// What a log-in is compared with.
pub(crate) fn get_verifier(
    state: &State<'_>,
    request: GetVerifierRequest,
    cx: &Context<'_>,
) -> Result<GetVerifierResponse, Refusal> {
    let account = verify::the_account_by_password(state, cx)?;
    let verifier = state.read(&VERIFIER, &SELF)?;
    let known_place = sessions::is_known_place(state, &request.place)?;
    Ok(GetVerifierResponse { account: Some(account), verifier, known_place })
}

/// Takes a stronger hash of the same password.
pub(crate) fn upgrade_verifier(
    state: &State<'_>,
    request: UpgradeVerifierRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<UpgradeVerifierResponse, Refusal> {
    let after = request.verifier.unwrap_or_default();
    if let Some(before) = state.get(&VERIFIER, &SELF)?
        // Else the password was changed meanwhile.
        && decode(&before)?.version == after.version
        && !after.phc.is_empty()
    {
        draft.put(&VERIFIER, SELF, Some(&before), &Wire::new(&after));
    }
    Ok(UpgradeVerifierResponse {})
}
