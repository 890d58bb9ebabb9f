//! A log-in with a passkey. The session that it opens reads whose passkey the
//! answer names; that account compares it, uses the challenge up, and looks at
//! the counter, in one decision: of two log-ins with one answer one comes in.

use bytes::Bytes;
use canopy_domain::{
    Address, Attempt, Code, Context, Draft, Id, Module, Order, Origin, PasskeyDone, PasskeyFit, PasskeyHolder,
    PasskeyStep, Prepared, Refusal, Span, State, Step, Table, Wire, decode,
};
use canopy_proto::identity::v1::{
    BeginPasskeyLogInRequest, BeginPasskeyLogInResponse, LogInResponse, LogInStrength, LogInWithPasskeyRequest,
    SecurityEventKind,
};
use canopy_proto::methods::{directory, passkey_effects, passkeys};
use canopy_proto::system::v1::{
    ListCredentialIdsRequest, ListCredentialIdsResponse, PasskeyCredential, RedeemPasskeyRequest,
    RedeemPasskeyResponse, Reservation, ResolveRequest, UsedChallenge,
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::passkeys::{CREDENTIALS, PASSKEYS, credentials};
use crate::session::{Opening, open};
use crate::verify::the_account_by_password;
use crate::{deletion, password, security, sessions};

/// By challenge id.
const USED_CHALLENGES: Table<UsedChallenge> = Table::new(53, "used_challenges", 1);

/// Log-ins with passkeys to one account within the life of a challenge: more
/// than anybody has devices, and few enough to be read at each.
const LOG_INS_AT_ONCE_MAX: usize = 100;

/// Adds the methods to the module of sessions.
pub(crate) fn methods(module: Module) -> Module {
    module.prepared_query(passkeys::BEGIN_PASSKEY_LOG_IN, prepare_begin, begin).prepared_command(
        passkeys::LOG_IN_WITH_PASSKEY,
        prepare_log_in,
        log_in,
    )
}

/// Says the same whatever it is that does not fit.
fn wrong_passkey() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the passkey is not one of this server's, or did not answer its challenge")
        .hint("begin the log-in anew, or log in with the password")
}

fn unprepared() -> Refusal {
    Refusal::new(Code::Internal, "a command came without its prepared steps")
}

/// An account that nobody has, in the place of the one that an address has not.
fn nobody(email: &str) -> Id {
    let hash = Sha256::new_with_prefix(b"canopy nobody").chain_update(email).finalize();
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash) {
        *to = from;
    }
    Id::from_bytes(bytes)
}

/// Where an address is given, finds its account and that one's passkeys, by as
/// many steps whether or not there is one.
fn prepare_begin(_: &State<'_>, request: &BeginPasskeyLogInRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    let email = request.email.to_lowercase();
    match cx.prepared {
        [] if email.is_empty() => Ok(Some(PasskeyStep::BeginLogIn { of: None }.into())),
        [] => {
            let resolve = ResolveRequest { space: "email".into(), key: email };
            let (target, method) = (Address::system("directory"), directory::RESOLVE.path);
            Ok(Some(Step::Ask { target, method, request: resolve.encode_to_vec().into() }))
        }
        [Prepared::Answer(found)] => {
            let target = Address::account(holder(found, &email)?);
            let request = ListCredentialIdsRequest { account: target.to_string() }.encode_to_vec().into();
            Ok(Some(Step::Ask { target, method: passkey_effects::LIST_CREDENTIAL_IDS.path, request }))
        }
        [Prepared::Answer(found), Prepared::Answer(listed)] => {
            let listed = ListCredentialIdsResponse::decode(listed.clone()?).unwrap_or_default();
            let account = holder(found, &email)?;
            let of = PasskeyHolder { email, account, known: listed.credential_ids };
            Ok(Some(PasskeyStep::BeginLogIn { of: Some(of) }.into()))
        }
        _ => Ok(None),
    }
}

/// Whose address it is, by the directory's answer.
fn holder(found: &Result<Bytes, Refusal>, email: &str) -> Result<Id, Refusal> {
    match found {
        Ok(found) => {
            let holder = Reservation::decode(found.clone()).unwrap_or_default().holder;
            Ok(Address::parse(&holder).ok().and_then(|address| address.id()).unwrap_or_else(|| nobody(email)))
        }
        Err(refusal) if refusal.code == Code::NotFound => Ok(nobody(email)),
        Err(refusal) => Err(refusal.clone()),
    }
}

/// By which authenticators know the passkeys of an account that anybody may log
/// in to.
pub(crate) fn list_credential_ids(
    state: &State<'_>,
    _: ListCredentialIdsRequest,
    cx: &Context<'_>,
) -> Result<ListCredentialIdsResponse, Refusal> {
    if the_account_by_password(state, cx).is_err() {
        return Ok(ListCredentialIdsResponse::default());
    }
    let ids = credentials(state)?.iter().map(|(_, row)| Ok(decode(row)?.credential_id)).collect::<Result<_, Refusal>>();
    Ok(ListCredentialIdsResponse { credential_ids: ids? })
}

fn begin(_: &State<'_>, _: BeginPasskeyLogInRequest, cx: &Context<'_>) -> Result<BeginPasskeyLogInResponse, Refusal> {
    let [.., Prepared::Passkey(PasskeyDone::LogInBegun { options, challenge })] = cx.prepared else {
        return Err(unprepared());
    };
    Ok(BeginPasskeyLogInResponse { options: options.clone(), challenge: challenge.clone() })
}

fn prepare_log_in(_: &State<'_>, request: &LogInWithPasskeyRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    let (challenge, answer) = (request.challenge.clone(), request.answer.clone());
    match cx.prepared {
        [] => Ok(Some(PasskeyStep::ReadLogIn { challenge, answer }.into())),
        [Prepared::Passkey(PasskeyDone::Claimed(claim))] => {
            let redeem = RedeemPasskeyRequest {
                account: claim.account.to_string(),
                challenge,
                answer,
                credential_id: claim.credential_id.clone(),
                challenge_id: Bytes::copy_from_slice(&claim.challenge_id),
                expire_time_ms: claim.expire_time_ms,
                peer: cx.origin.peer.clone(),
                client: cx.origin.client.clone(),
                request_id: String::new(),
            };
            let (target, method) = (claim.account.clone(), passkey_effects::REDEEM_PASSKEY.path);
            Ok(Some(Step::Ask { target, method, request: redeem.encode_to_vec().into() }))
        }
        _ => Ok(None),
    }
}

fn log_in(
    state: &State<'_>,
    request: LogInWithPasskeyRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<LogInResponse, Refusal> {
    let [Prepared::Passkey(PasskeyDone::Claimed(_)), Prepared::Answer(redeemed)] = cx.prepared else {
        return Err(unprepared());
    };
    let redeemed = match redeemed {
        Ok(redeemed) => RedeemPasskeyResponse::decode(redeemed.clone()).unwrap_or_default(),
        // It was purged.
        Err(refusal) if refusal.code == Code::NotFound => return Err(wrong_passkey()),
        Err(refusal) => return Err(refusal.clone()),
    };
    let opening = Opening {
        account: redeemed.account.ok_or_else(wrong_passkey)?,
        password_version: redeemed.password_version,
        device: request.device,
        strength: LogInStrength::Passkey,
    };
    open(state, opening, cx, draft)
}

type Row = (Bytes, Wire<PasskeyCredential>, PasskeyCredential);

/// The credential that an answer names.
fn find(state: &State<'_>, credential_id: &[u8]) -> Result<Option<Row>, Refusal> {
    for (id, row) in credentials(state)? {
        let credential = decode(&row)?;
        if credential.credential_id == credential_id {
            return Ok(Some((id, row, credential)));
        }
    }
    Ok(None)
}

/// Has the answer compared: with nothing, where there is no such account or
/// nobody may log in to it, so that both are answered alike.
pub(crate) fn prepare_redeem(
    state: &State<'_>,
    request: &RedeemPasskeyRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let credential = match the_account_by_password(state, cx) {
        Ok(_) => find(state, &request.credential_id)?,
        Err(_) => None,
    };
    match cx.prepared {
        [] => {
            let place = origin(request).place();
            let is_known_place = sessions::is_known_place(state, &place)?;
            let step = PasskeyStep::CompareLogIn {
                challenge: request.challenge.clone(),
                answer: request.answer.clone(),
                credential: credential.map(|(_, _, credential)| credential.credential),
                attempt: Attempt { account: cx.address.to_string(), is_known_place },
                place,
            };
            Ok(Some(step.into()))
        }
        // The actor is not to wake up for what anybody can send. Its holder
        // hears of who knows one of its credential ids alone.
        [Prepared::Passkey(PasskeyDone::Compared(PasskeyFit::Wrong))] => Err(match credential {
            Some(_) => wrong_passkey().concerning(cx.address.clone()),
            None => wrong_passkey(),
        }),
        _ => Ok(None),
    }
}

fn origin(request: &RedeemPasskeyRequest) -> Origin {
    Origin { peer: request.peer.clone(), client: request.client.clone() }
}

/// Comes in with what was compared.
pub(crate) fn redeem(
    state: &State<'_>,
    request: RedeemPasskeyRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RedeemPasskeyResponse, Refusal> {
    let [Prepared::Passkey(PasskeyDone::Compared(fit))] = cx.prepared else { return Err(unprepared()) };
    let row = the_account_by_password(state, cx).map_err(|_| wrong_passkey())?;
    let account = decode(&row)?;
    if account.delete_time_ms > 0 {
        return Err(deletion::being_deleted(&account));
    }
    let (id, before, mut credential) = find(state, &request.credential_id)?.ok_or_else(wrong_passkey)?;
    use_up(state, &request, cx.now_ms, draft)?;
    let passkey_row = state.get(&PASSKEYS, &id)?.ok_or_else(wrong_passkey)?;
    let mut passkey = decode(&passkey_row)?;
    if passkey.suspect_time_ms > 0 {
        return Err(suspected());
    }
    match fit {
        PasskeyFit::Right { credential: after, sign_count } if has_advanced(credential.sign_count, *sign_count) => {
            credential.credential = after.clone();
            credential.sign_count = *sign_count;
            draft.put(&CREDENTIALS, id.to_vec(), Some(&before), &Wire::new(&credential));
            passkey.last_use_time_ms = cx.now_ms;
            passkey.last_use_address = origin(&request).place();
        }
        PasskeyFit::Right { .. } | PasskeyFit::CounterWentBack => {
            passkey.suspect_time_ms = cx.now_ms;
            security::note(state, draft, cx, &origin(&request), SecurityEventKind::PasskeySuspected)?;
            draft.refuse(suspected());
        }
        PasskeyFit::Wrong => return Err(wrong_passkey()),
    }
    draft.put(&PASSKEYS, id.to_vec(), Some(&passkey_row), &passkey_row.updated(&passkey, None));
    Ok(RedeemPasskeyResponse { account: Some(row), password_version: password::version(state)? })
}

/// WebAuthn level 2, section 7.2, step 21; zero twice where the authenticator
/// does not count.
fn has_advanced(before: u32, now: u32) -> bool {
    now > before || (before == 0 && now == 0)
}

fn suspected() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the passkey's counter went back: it was perhaps copied, and is refused")
        .hint("log in with the password, delete the passkey and make another one")
}

/// Notes the challenge as used, and forgets those that are too old to be used
/// again.
fn use_up(state: &State<'_>, request: &RedeemPasskeyRequest, now_ms: i64, draft: &mut Draft) -> Result<(), Refusal> {
    let used_before =
        || Refusal::new(Code::Unauthenticated, "the challenge was used before, or has expired").hint("begin anew");
    if request.expire_time_ms <= now_ms || state.get(&USED_CHALLENGES, &request.challenge_id)?.is_some() {
        return Err(used_before());
    }
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: LOG_INS_AT_ONCE_MAX };
    let used = state.scan(&USED_CHALLENGES, span)?;
    let mut left = used.len();
    for (id, row) in used {
        if decode(&row)?.expire_time_ms <= now_ms {
            draft.delete(&USED_CHALLENGES, id.to_vec(), &row);
            left -= 1;
        }
    }
    if left >= LOG_INS_AT_ONCE_MAX {
        return Err(Refusal::new(Code::ResourceExhausted, "too many log-ins with passkeys within five minutes")
            .hint("wait, or log in with the password"));
    }
    let row = UsedChallenge { expire_time_ms: request.expire_time_ms };
    draft.insert(&USED_CHALLENGES, request.challenge_id.to_vec(), &Wire::new(&row));
    Ok(())
}

#[cfg(test)]
mod tests {
    use canopy_domain::Rows;

    use super::*;

    fn used(rows: &mut Rows, id: u8, expire_time_ms: i64, now_ms: i64) -> Result<(), Code> {
        let mut draft = Draft::default();
        let challenge_id = Bytes::from(vec![id; 16]);
        let request = RedeemPasskeyRequest { challenge_id, expire_time_ms, ..RedeemPasskeyRequest::default() };
        use_up(&State(rows), &request, now_ms, &mut draft).map_err(|refusal| refusal.code)?;
        rows.apply(draft.changes());
        Ok(())
    }

    fn kept(rows: &Rows) -> usize {
        rows.keys(USED_CHALLENGES.id).len()
    }

    #[test]
    fn a_challenge_is_used_once_until_it_is_too_old() {
        let mut rows = Rows::default();
        used(&mut rows, 1, 1_000, 0).unwrap();
        assert_eq!(used(&mut rows, 1, 1_000, 999), Err(Code::Unauthenticated));
        // It is forgotten with the next one, and too old by then.
        used(&mut rows, 2, 2_000, 1_000).unwrap();
        assert_eq!(kept(&rows), 1);
        assert_eq!(used(&mut rows, 1, 1_000, 1_000), Err(Code::Unauthenticated));
    }

    #[test]
    fn log_ins_at_once_are_few() {
        let mut rows = Rows::default();
        for id in 0..LOG_INS_AT_ONCE_MAX {
            used(&mut rows, u8::try_from(id).unwrap(), 1_000, 0).unwrap();
        }
        assert_eq!(used(&mut rows, 200, 2_000, 999), Err(Code::ResourceExhausted));
        used(&mut rows, 200, 2_000, 1_000).unwrap();
        assert_eq!(kept(&rows), 1);
    }

    #[test]
    fn counters_advance_or_are_not_kept() {
        for (before, now, expected) in
            [(0, 0, true), (0, 1, true), (1, 2, true), (1, 1, false), (2, 1, false), (1, 0, false)]
        {
            assert_eq!(has_advanced(before, now), expected, "{before} {now}");
        }
    }
}
