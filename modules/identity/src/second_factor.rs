//! What an account asks for beside its password: codes of an authenticator app,
//! and recovery codes for when that is lost. All of it is in the account's
//! partition, so that a code is good once however many log-ins show it.

use canopy_domain::{
    Address, Attempt, Code, Context, Draft, Module, Origin, PasswordFit, Prepared, Refusal, Secret, State, Step, Table,
    Wire, decode,
};
use canopy_proto::identity::v1::{
    ConfirmTotpRequest, ConfirmTotpResponse, EnrollTotpRequest, EnrollTotpResponse, GetSecondFactorsRequest,
    RegenerateRecoveryCodesRequest, RegenerateRecoveryCodesResponse, RemoveTotpRequest, RemoveTotpResponse,
    SecondFactorState, SecurityEventKind,
};
use canopy_proto::methods::{second_factor_effects, second_factors};
use canopy_proto::system::v1::{
    FailedAttempts, HasSecondFactorRequest, HasSecondFactorResponse, RecoveryCodes, RedeemCodeRequest,
    RedeemCodeResponse, TotpSecret,
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::{account, passkeys, password, security, sessions, strength, totp};

/// The app under [`SELF`], and under [`NEXT`] the one that is to replace it.
const TOTP: Table<TotpSecret> = Table::new(41, "totp", 1);
/// The one row, under [`SELF`].
const RECOVERY_CODES: Table<RecoveryCodes> = Table::new(42, "recovery_codes", 1);
/// The one row, under [`SELF`].
const FAILED_ATTEMPTS: Table<FailedAttempts> = Table::new(43, "failed_attempts", 1);

/// Key of a table's only row.
const SELF: [u8; 1] = [0];
/// Key of an app that has not proven itself yet, where there is one that has.
const NEXT: [u8; 1] = [1];

/// Wrong codes or passwords that are borne within [`ATTEMPTS_WINDOW_MS`]: a
/// guesser who has the password comes in once in some six years, and in two where
/// clocks may differ so much that three codes are good at a time.
const ATTEMPTS_MAX: u32 = 5;
/// 15 minutes.
const ATTEMPTS_WINDOW_MS: i64 = 15 * 60 * 1000;
/// Recovery codes made at a time.
const RECOVERY_CODES_MADE: u8 = 10;
/// Random bytes of a recovery code: 120 bits, which base32 takes whole. From 112
/// on a plain hash may be kept (ASVS 6.5.2).
const RECOVERY_CODE_BYTES: usize = 15;
/// Characters between two dashes of a recovery code.
const GROUP_CHARS: usize = 4;
/// What apps show beside a code.
const ISSUER: &str = "Canopy";

/// Adds the methods to the module of accounts.
pub(crate) fn methods(module: Module) -> Module {
    module
        .query(second_factors::GET_SECOND_FACTORS, get)
        .prepared_command(second_factors::ENROLL_TOTP, |s, r, cx| prove(s, &r.password, cx), enroll)
        .command(second_factors::CONFIRM_TOTP, confirm)
        .prepared_command(second_factors::REMOVE_TOTP, |s, r, cx| prove(s, &r.password, cx), remove)
        .prepared_command(second_factors::REGENERATE_RECOVERY_CODES, |s, r, cx| prove(s, &r.password, cx), regenerate)
        .query(second_factor_effects::HAS_SECOND_FACTOR, has)
        .command(second_factor_effects::REDEEM_CODE, redeem_code)
}

/// The app that has proven itself.
fn confirmed(state: &State<'_>) -> Result<Option<(Wire<TotpSecret>, TotpSecret)>, Refusal> {
    let Some(row) = state.get(&TOTP, &SELF)? else { return Ok(None) };
    let totp = decode(&row)?;
    Ok((totp.confirm_time_ms > 0).then_some((row, totp)))
}

fn matching_step(totp: &TotpSecret, code: &str, cx: &Context<'_>) -> Option<i64> {
    totp::matching_step(&totp.secret, code, cx.now_ms, cx.settings.totp_tolerance_ms, totp.used_step)
}

/// Whether log-ins ask for a code.
pub(crate) fn is_on(state: &State<'_>) -> Result<bool, Refusal> {
    Ok(confirmed(state)?.is_some())
}

fn not_enrolled() -> Refusal {
    Refusal::new(Code::FailedPrecondition, "this account has no authenticator app")
        .hint("enrol one with `canopy identity enroll-totp`, then confirm it")
}

fn get(state: &State<'_>, request: GetSecondFactorsRequest, cx: &Context<'_>) -> Result<SecondFactorState, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    account::the_account(state, cx)?;
    let totp = confirmed(state)?;
    let left = state.read(&RECOVERY_CODES, &SELF)?.map_or(0, |codes| codes.hashes.len());
    Ok(SecondFactorState {
        totp: totp.is_some(),
        totp_create_time_ms: totp.map_or(0, |(_, totp)| totp.create_time_ms),
        recovery_codes_left: u32::try_from(left).unwrap_or(u32::MAX),
    })
}

/// Has the password compared.
pub(crate) fn prove(state: &State<'_>, given: &str, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    match cx.prepared {
        [] => {
            limit(state, cx)?;
            let phc = state.read(&password::VERIFIER, &SELF)?.map(|verifier| Secret::new(verifier.phc));
            let is_known_place = sessions::is_known_place(state, &cx.origin.place())?;
            let attempt = Attempt { account: cx.address.to_string(), is_known_place };
            Ok(Some(Step::VerifyPassword { phc, password: Secret::new(given), attempt }))
        }
        _ => Ok(None),
    }
}

/// Refuses where too much was tried in vain.
fn limit(state: &State<'_>, cx: &Context<'_>) -> Result<(), Refusal> {
    let failed = state.read(&FAILED_ATTEMPTS, &SELF)?.unwrap_or_default();
    let over_ms = failed.first_time_ms + ATTEMPTS_WINDOW_MS;
    if failed.count < ATTEMPTS_MAX || cx.now_ms >= over_ms {
        return Ok(());
    }
    let wait_ms = u64::try_from(over_ms - cx.now_ms).unwrap_or_default();
    Err(Refusal::new(Code::ResourceExhausted, "too many wrong codes or passwords were given")
        .hint("wait, and then take care: nobody can shorten this")
        .retry_after_ms(wait_ms))
}

/// Counts what was tried in vain, and answers with the refusal.
fn fail(
    state: &State<'_>,
    cx: &Context<'_>,
    draft: &mut Draft,
    from: &Origin,
    refusal: Refusal,
) -> Result<(), Refusal> {
    let before = state.get(&FAILED_ATTEMPTS, &SELF)?;
    let mut failed = before.as_ref().map(decode).transpose()?.unwrap_or_default();
    if cx.now_ms >= failed.first_time_ms + ATTEMPTS_WINDOW_MS {
        failed = FailedAttempts { count: 0, first_time_ms: cx.now_ms };
    }
    failed.count += 1;
    draft.put(&FAILED_ATTEMPTS, SELF, before.as_ref(), &Wire::new(&failed));
    security::note(state, draft, cx, from, SecurityEventKind::CodeRefused)?;
    draft.refuse(refusal);
    Ok(())
}

/// Nothing was tried in vain any more.
fn forget_failed(state: &State<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    if let Some(before) = state.get(&FAILED_ATTEMPTS, &SELF)? {
        draft.delete(&FAILED_ATTEMPTS, SELF, &before);
    }
    Ok(())
}

fn wrong_code() -> Refusal {
    Refusal::new(Code::PermissionDenied, "the code is wrong, was used before, or its time is over")
        .hint("wait for the app's next code and give that; its device's clock must be right. Or give a recovery code")
}

/// Whether the password was right. Where it was not, the draft says so.
pub(crate) fn is_proven(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<bool, Refusal> {
    limit(state, cx)?;
    match cx.prepared {
        [Prepared::Password(PasswordFit::Right | PasswordFit::RightAndWeak), ..] => Ok(true),
        [Prepared::Password(PasswordFit::Wrong)] => {
            let wrong = Refusal::new(Code::PermissionDenied, "the password is wrong").hint("check it");
            fail(state, cx, draft, cx.origin, wrong)?;
            Ok(false)
        }
        _ => Err(Refusal::new(Code::Internal, "a command came without its prepared steps")),
    }
}

fn enroll(
    state: &State<'_>,
    request: EnrollTotpRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<EnrollTotpResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let account = decode(&account::the_account(state, cx)?)?;
    strength::may_add(state, cx)?;
    let replaces = is_on(state)?;
    if replaces && request.code.is_empty() {
        return Err(Refusal::new(Code::FailedPrecondition, "this account has an authenticator app already")
            .hint("to replace it, give `code`: what it shows now, or a recovery code"));
    }
    if !is_proven(state, cx, draft)? {
        return Ok(EnrollTotpResponse::default());
    }
    // The app that there is stays until the other one has proven itself.
    if replaces {
        match redeem(state, cx, draft, cx.origin, &request.code)? {
            None => return Ok(EnrollTotpResponse::default()),
            Some(SecurityEventKind::RecoveryCodeUsed) => {
                security::note(state, draft, cx, cx.origin, SecurityEventKind::RecoveryCodeUsed)?;
            }
            Some(_) => {}
        }
        forget_failed(state, draft)?;
    }
    let key = if replaces { NEXT } else { SELF };
    let secret = cx.entropy.get(..totp::SECRET_BYTES).unwrap_or_default();
    let row = TotpSecret { secret: secret.to_vec().into(), create_time_ms: cx.now_ms, ..TotpSecret::default() };
    draft.put(&TOTP, key, state.get(&TOTP, &key)?.as_ref(), &Wire::new(&row));
    Ok(EnrollTotpResponse { secret: totp::base32(secret), uri: totp::uri(ISSUER, &account.email, secret) })
}

fn confirm(
    state: &State<'_>,
    request: ConfirmTotpRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<ConfirmTotpResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    limit(state, cx)?;
    strength::may_add(state, cx)?;
    let before = state.get(&TOTP, &SELF)?;
    let next = state.get(&TOTP, &NEXT)?;
    let mut totp = decode(next.as_ref().or(before.as_ref()).ok_or_else(not_enrolled)?)?;
    if totp.confirm_time_ms > 0 {
        return Err(Refusal::new(Code::FailedPrecondition, "the app is confirmed already"));
    }
    let Some(step) = matching_step(&totp, &request.code, cx) else {
        fail(state, cx, draft, cx.origin, wrong_code())?;
        return Ok(ConfirmTotpResponse::default());
    };
    (totp.confirm_time_ms, totp.used_step) = (cx.now_ms, step);
    draft.put(&TOTP, SELF, before.as_ref(), &Wire::new(&totp));
    if let Some(next) = next {
        draft.delete(&TOTP, NEXT, &next);
    }
    forget_failed(state, draft)?;
    security::note(state, draft, cx, cx.origin, SecurityEventKind::SecondFactorAdded)?;
    Ok(ConfirmTotpResponse { recovery_codes: replace_recovery_codes(state, cx, draft)? })
}

fn replace_recovery_codes(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<Vec<String>, Refusal> {
    let codes: Vec<String> = (0..RECOVERY_CODES_MADE).map(|n| recovery_code(cx, n)).collect();
    let row = RecoveryCodes { hashes: codes.iter().map(|code| hash(code).to_vec().into()).collect() };
    draft.put(&RECOVERY_CODES, SELF, state.get(&RECOVERY_CODES, &SELF)?.as_ref(), &Wire::new(&row));
    Ok(codes)
}

/// `abcd-efgh-ijkl-mnop-qrst-uvwx`, out of the call's random bits.
fn recovery_code(cx: &Context<'_>, n: u8) -> String {
    let mut digest = Sha256::new_with_prefix(b"canopy recovery code");
    digest.update(cx.entropy);
    digest.update([n]);
    let digest = digest.finalize();
    let text = totp::base32(digest.get(..RECOVERY_CODE_BYTES).unwrap_or_default()).to_lowercase();
    let mut code = String::new();
    for (n, c) in text.chars().enumerate() {
        if n > 0 && n % GROUP_CHARS == 0 {
            code.push('-');
        }
        code.push(c);
    }
    code
}

/// Of a code as somebody may have written it down.
fn hash(code: &str) -> [u8; 32] {
    let plain: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    Sha256::digest(plain.to_lowercase().as_bytes()).into()
}

/// Uses a code up. Where it is wrong, the draft says so.
fn redeem(
    state: &State<'_>,
    cx: &Context<'_>,
    draft: &mut Draft,
    from: &Origin,
    code: &str,
) -> Result<Option<SecurityEventKind>, Refusal> {
    let (before, mut totp) = confirmed(state)?.ok_or_else(not_enrolled)?;
    if let Some(step) = matching_step(&totp, code, cx) {
        totp.used_step = step;
        draft.put(&TOTP, SELF, Some(&before), &Wire::new(&totp));
        return Ok(Some(SecurityEventKind::Unspecified));
    }
    if let Some(row) = state.get(&RECOVERY_CODES, &SELF)? {
        let mut codes = decode(&row)?;
        let (given, made) = (hash(code), codes.hashes.len());
        codes.hashes.retain(|known| known[..] != given);
        if codes.hashes.len() < made {
            draft.put(&RECOVERY_CODES, SELF, Some(&row), &Wire::new(&codes));
            return Ok(Some(SecurityEventKind::RecoveryCodeUsed));
        }
    }
    fail(state, cx, draft, from, wrong_code())?;
    Ok(None)
}

fn remove(
    state: &State<'_>,
    request: RemoveTotpRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RemoveTotpResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    let (row, _) = confirmed(state)?.ok_or_else(not_enrolled)?;
    let left = strength::strongest(passkeys::count_good(state)? > 0, false);
    strength::may_lose(state, cx, left)?;
    let mut tried = Draft::default();
    if !is_proven(state, cx, draft)? {
        return Ok(RemoveTotpResponse::default());
    }
    // What the code changes goes with the rest, unless it is wrong.
    if redeem(state, cx, &mut tried, cx.origin, &request.code)?.is_none() {
        *draft = tried;
        return Ok(RemoveTotpResponse::default());
    }
    forget(state, draft, &row)?;
    forget_failed(state, draft)?;
    security::note(state, draft, cx, cx.origin, SecurityEventKind::SecondFactorRemoved)?;
    Ok(RemoveTotpResponse {})
}

/// Forgets the app, the one that is to replace it, and the recovery codes.
fn forget(state: &State<'_>, draft: &mut Draft, row: &Wire<TotpSecret>) -> Result<(), Refusal> {
    draft.delete(&TOTP, SELF, row);
    if let Some(next) = state.get(&TOTP, &NEXT)? {
        draft.delete(&TOTP, NEXT, &next);
    }
    if let Some(codes) = state.get(&RECOVERY_CODES, &SELF)? {
        draft.delete(&RECOVERY_CODES, SELF, &codes);
    }
    Ok(())
}

/// Asks for codes no longer; whether it did.
pub(crate) fn forget_all(state: &State<'_>, draft: &mut Draft) -> Result<bool, Refusal> {
    let row = state.get(&TOTP, &SELF)?;
    let was_on = is_on(state)?;
    if let Some(row) = row {
        forget(state, draft, &row)?;
    }
    forget_failed(state, draft)?;
    Ok(was_on)
}

fn regenerate(
    state: &State<'_>,
    request: RegenerateRecoveryCodesRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RegenerateRecoveryCodesResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    if !is_proven(state, cx, draft)? {
        return Ok(RegenerateRecoveryCodesResponse::default());
    }
    let mut tried = Draft::default();
    match redeem(state, cx, &mut tried, cx.origin, &request.code)? {
        // A recovery code goes with the others, which are all replaced.
        Some(SecurityEventKind::RecoveryCodeUsed) => {}
        Some(_) => *draft = tried,
        None => {
            *draft = tried;
            return Ok(RegenerateRecoveryCodesResponse::default());
        }
    }
    forget_failed(state, draft)?;
    security::note(state, draft, cx, cx.origin, SecurityEventKind::RecoveryCodesReplaced)?;
    Ok(RegenerateRecoveryCodesResponse { recovery_codes: replace_recovery_codes(state, cx, draft)? })
}

fn has(state: &State<'_>, _: HasSecondFactorRequest, _: &Context<'_>) -> Result<HasSecondFactorResponse, Refusal> {
    Ok(HasSecondFactorResponse { has: confirmed(state)?.is_some() })
}

fn redeem_code(
    state: &State<'_>,
    request: RedeemCodeRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RedeemCodeResponse, Refusal> {
    limit(state, cx)?;
    let from = Origin { peer: request.peer, client: request.client };
    match redeem(state, cx, draft, &from, &request.code)? {
        Some(SecurityEventKind::RecoveryCodeUsed) => {
            security::note(state, draft, cx, &from, SecurityEventKind::RecoveryCodeUsed)?;
            forget_failed(state, draft)?;
        }
        Some(_) => forget_failed(state, draft)?,
        None => {}
    }
    Ok(RedeemCodeResponse {})
}

/// What an account is asked for once its password was right: whether
/// there is a second factor, and then to use the code up. `done` is what came
/// of it so far.
pub(crate) fn next_step(
    account: &Address,
    code: &str,
    cx: &Context<'_>,
    done: &[Prepared],
) -> Result<Option<Step>, Refusal> {
    let ask =
        |method, request: Vec<u8>| Ok(Some(Step::Ask { target: account.clone(), method, request: request.into() }));
    match done {
        [] => {
            let request = HasSecondFactorRequest { account: account.to_string() };
            ask(second_factor_effects::HAS_SECOND_FACTOR.path, request.encode_to_vec())
        }
        [Prepared::Answer(Ok(answer))] if HasSecondFactorResponse::decode(answer.clone()).unwrap_or_default().has => {
            if code.is_empty() {
                return Err(Refusal::new(Code::FailedPrecondition, "this account asks for a code beside the password")
                    .hint("try again with `code`: what the authenticator app shows now, or a recovery code"));
            }
            let request = RedeemCodeRequest {
                account: account.to_string(),
                code: code.to_owned(),
                peer: cx.origin.peer.clone(),
                client: cx.origin.client.clone(),
                request_id: String::new(),
            };
            ask(second_factor_effects::REDEEM_CODE.path, request.encode_to_vec())
        }
        _ => Ok(None),
    }
}

/// Whether an account was asked for a code by [`next_step`].
pub(crate) fn was_asked(done: &[Prepared]) -> bool {
    match done {
        [Prepared::Answer(Ok(has)), ..] => HasSecondFactorResponse::decode(has.clone()).unwrap_or_default().has,
        _ => false,
    }
}

/// What came of [`next_step`]'s steps, and of those after them.
pub(crate) fn split(done: &[Prepared]) -> (&[Prepared], &[Prepared]) {
    done.split_at_checked(1 + usize::from(was_asked(done))).unwrap_or((done, &[]))
}

/// Whether the account has got what it asks for, by [`next_step`]'s steps.
///
/// # Errors
/// It has not.
pub(crate) fn check_code(done: &[Prepared]) -> Result<(), Refusal> {
    match done {
        [Prepared::Answer(Ok(has)), rest @ ..] => {
            match (HasSecondFactorResponse::decode(has.clone()).unwrap_or_default().has, rest) {
                (false, []) | (true, [Prepared::Answer(Ok(_))]) => Ok(()),
                (true, [Prepared::Answer(Err(refusal))]) => Err(refusal.clone()),
                _ => Err(Refusal::new(Code::Internal, "a command came without its prepared steps")),
            }
        }
        [Prepared::Answer(Err(refusal))] => Err(refusal.clone()),
        _ => Err(Refusal::new(Code::Internal, "a command came without its prepared steps")),
    }
}

/// The same, where nobody is signed in yet.
///
/// # Errors
/// It has not, and there is no log-in.
pub(crate) fn check(done: &[Prepared]) -> Result<(), Refusal> {
    check_code(done).map_err(|mut refusal| {
        if refusal.code == Code::PermissionDenied {
            refusal.code = Code::Unauthenticated;
        }
        refusal
    })
}
