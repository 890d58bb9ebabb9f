//! An account's passkeys: how they are made, named, listed and forgotten. What
//! browsers exchange is read in the steps before a decision; the account keeps
//! what comes of it.

use bytes::Bytes;
use canopy_domain::{
    Code, Context, Draft, Id, Mask, Module, Order, PASSKEY_CHALLENGE_S, PageRequest, PasskeyDone, PasskeyStep,
    PasswordFit, Prepared, Refusal, Span, State, Step, Table, Wire, decode,
};
use canopy_proto::identity::v1::{
    BeginPasskeyRequest, BeginPasskeyResponse, CreatePasskeyRequest, DeletePasskeyRequest, DeletePasskeyResponse,
    ListPasskeysRequest, ListPasskeysResponse, Passkey, SecurityEventKind, UpdatePasskeyRequest,
};
use canopy_proto::methods::{passkey_effects, passkeys};
use canopy_proto::system::v1::{PasskeyBegun, PasskeyCredential};

use crate::account::the_account;
use crate::{passkey_log_in, second_factor, security, strength};

/// By passkey id.
pub(crate) const PASSKEYS: Table<Passkey> = Table::new(50, "passkeys", 1);
/// By passkey id.
pub(crate) const CREDENTIALS: Table<PasskeyCredential> = Table::new(51, "passkey_credentials", 1);
/// The one row, under [`SELF`].
const BEGUN: Table<PasskeyBegun> = Table::new(52, "passkey_begun", 1);

/// Key of a table's only row.
const SELF: [u8; 1] = [0];

/// Passkeys of one account: more than anybody has devices, and few enough to be
/// read at each log-in.
const PASSKEYS_MAX: usize = 20;
/// What a passkey is called that was given no name.
const UNNAMED: &str = "Passkey";

const FIXED: [&str; 5] = ["name", "create_time_ms", "last_use_time_ms", "last_use_address", "suspect_time_ms"];

/// Adds the methods to the module of accounts.
pub(crate) fn methods(module: Module) -> Module {
    module
        .prepared_command(passkeys::BEGIN_PASSKEY, prepare_begin, begin)
        .prepared_command(passkeys::CREATE_PASSKEY, prepare_create, create)
        .query(passkeys::LIST_PASSKEYS, list)
        .command(passkeys::UPDATE_PASSKEY, update)
        .prepared_command(passkeys::DELETE_PASSKEY, |s, r, cx| second_factor::prove(s, &r.password, cx), delete)
        .query(passkey_effects::LIST_CREDENTIAL_IDS, passkey_log_in::list_credential_ids)
        .prepared_command(passkey_effects::REDEEM_PASSKEY, passkey_log_in::prepare_redeem, passkey_log_in::redeem)
}

/// All credentials, by passkey id.
pub(crate) fn credentials(state: &State<'_>) -> Result<Vec<(Bytes, Wire<PasskeyCredential>)>, Refusal> {
    state.scan(&CREDENTIALS, Span { prefix: &[], after: None, order: Order::Ascending, limit: PASSKEYS_MAX })
}

/// How many passkeys log in: all but those that were perhaps copied.
pub(crate) fn count_good(state: &State<'_>) -> Result<usize, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: PASSKEYS_MAX };
    let mut good = 0;
    for (_, row) in state.scan(&PASSKEYS, span)? {
        good += usize::from(decode(&row)?.suspect_time_ms == 0);
    }
    Ok(good)
}

/// Refuses where too little is left once a passkey has gone.
fn may_lose_one(state: &State<'_>, cx: &Context<'_>, others: usize) -> Result<(), Refusal> {
    let left = strength::strongest(others > 0, second_factor::is_on(state)?);
    strength::may_lose(state, cx, left)
}

/// Refuses where there is no room for another one; else, the credential ids
/// that are known.
fn known(state: &State<'_>) -> Result<Vec<Bytes>, Refusal> {
    let rows = credentials(state)?;
    if rows.len() >= PASSKEYS_MAX {
        let message = format!("the account has {PASSKEYS_MAX} passkeys, which is the limit");
        return Err(Refusal::new(Code::FailedPrecondition, message)
            .hint("delete one that is not used: `canopy identity list-passkeys` says when each was"));
    }
    rows.iter().map(|(_, row)| Ok(decode(row)?.credential_id)).collect()
}

fn unprepared() -> Refusal {
    Refusal::new(Code::Internal, "a command came without its prepared steps")
}

/// Has the password compared, and then a registration begun.
fn prepare_begin(state: &State<'_>, request: &BeginPasskeyRequest, cx: &Context<'_>) -> Result<Option<Step>, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    match cx.prepared {
        [] => {
            strength::may_add(state, cx)?;
            second_factor::prove(state, &request.password, cx)
        }
        [Prepared::Password(PasswordFit::Right | PasswordFit::RightAndWeak)] => {
            let account = decode(&the_account(state, cx)?)?;
            let step = PasskeyStep::Begin {
                account: cx.address.id().ok_or_else(unprepared)?,
                email: account.email,
                display_name: account.display_name,
                known: known(state)?,
            };
            Ok(Some(step.into()))
        }
        _ => Ok(None),
    }
}

fn begin(
    state: &State<'_>,
    request: BeginPasskeyRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<BeginPasskeyResponse, Refusal> {
    let [] = cx.address.held("name", &request.name, [])?;
    the_account(state, cx)?;
    strength::may_add(state, cx)?;
    if !second_factor::is_proven(state, cx, draft)? {
        return Ok(BeginPasskeyResponse::default());
    }
    let [_, Prepared::Passkey(PasskeyDone::Begun { options, begun })] = cx.prepared else {
        return Err(unprepared());
    };
    let row = PasskeyBegun { begun: begun.clone(), expire_time_ms: cx.now_ms + 1_000 * i64::from(PASSKEY_CHALLENGE_S) };
    draft.put(&BEGUN, SELF, state.get(&BEGUN, &SELF)?.as_ref(), &Wire::new(&row));
    Ok(BeginPasskeyResponse { options: options.clone() })
}

/// What was begun, and has not run out.
fn begun(state: &State<'_>, now_ms: i64) -> Result<(Wire<PasskeyBegun>, Bytes), Refusal> {
    let row = state.get(&BEGUN, &SELF)?;
    let begun = row.map(|row| decode(&row).map(|begun| (row, begun))).transpose()?;
    match begun.filter(|(_, begun)| begun.expire_time_ms > now_ms) {
        Some((row, begun)) => Ok((row, begun.begun)),
        None => {
            Err(Refusal::new(Code::FailedPrecondition, "no passkey was begun, or it took longer than five minutes")
                .hint("begin anew with `begin-passkey`, and then make the passkey"))
        }
    }
}

fn prepare_create(
    state: &State<'_>,
    request: &CreatePasskeyRequest,
    cx: &Context<'_>,
) -> Result<Option<Step>, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    if !cx.prepared.is_empty() {
        return Ok(None);
    }
    strength::may_add(state, cx)?;
    let (_, begun) = begun(state, cx.now_ms)?;
    Ok(Some(PasskeyStep::Finish { begun, answer: request.answer.clone() }.into()))
}

fn create(
    state: &State<'_>,
    request: CreatePasskeyRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Passkey>, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    the_account(state, cx)?;
    strength::may_add(state, cx)?;
    let [Prepared::Passkey(PasskeyDone::Made { begun: answered, credential_id, credential })] = cx.prepared else {
        return Err(unprepared());
    };
    let (row, begun) = begun(state, cx.now_ms)?;
    if begun != answered {
        return Err(Refusal::new(Code::Aborted, "another passkey was begun meanwhile").hint("answer the latest"));
    }
    if known(state)?.contains(credential_id) {
        return Err(Refusal::new(Code::AlreadyExists, "the account has this passkey already"));
    }
    draft.delete(&BEGUN, SELF, &row);
    let id = cx.fresh_id(0);
    let sent = request.passkey.unwrap_or_default();
    let wanted = decode(&sent)?;
    let passkey = Passkey {
        name: format!("{}/passkey/{id}", cx.address),
        display_name: if wanted.display_name.is_empty() { UNNAMED.to_owned() } else { wanted.display_name },
        create_time_ms: cx.now_ms,
        ..Passkey::default()
    };
    let passkey = sent.with(&passkey);
    draft.insert(&PASSKEYS, *id.as_bytes(), &passkey);
    let credential =
        PasskeyCredential { credential_id: credential_id.clone(), credential: credential.clone(), sign_count: 0 };
    draft.insert(&CREDENTIALS, *id.as_bytes(), &Wire::new(&credential));
    security::note(state, draft, cx, cx.origin, SecurityEventKind::PasskeyAdded)?;
    Ok(passkey)
}

fn list(state: &State<'_>, request: ListPasskeysRequest, cx: &Context<'_>) -> Result<ListPasskeysResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, PASSKEYS.id, &[], Order::Descending)?;
    let passkeys = rows.into_iter().map(|(_, row)| PASSKEYS.row(row)).collect();
    Ok(ListPasskeysResponse { passkeys, next_page_token })
}

fn find(state: &State<'_>, cx: &Context<'_>, field: &str, name: &str) -> Result<(Id, Wire<Passkey>), Refusal> {
    let [id] = cx.address.held(field, name, ["passkey"])?;
    let id = Id::parse(id).ok_or_else(|| Refusal::not_found(name))?;
    let row = state.get(&PASSKEYS, id.as_bytes())?.ok_or_else(|| Refusal::not_found(name))?;
    Ok((id, row))
}

fn update(
    state: &State<'_>,
    request: UpdatePasskeyRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Passkey>, Refusal> {
    let sent = request.passkey.unwrap_or_default();
    let wanted = decode(&sent)?;
    let (id, before) = find(state, cx, "passkey.name", &wanted.name)?;
    let mut passkey = decode(&before)?;
    let mask = Mask::new(request.update_mask.as_ref(), &["display_name"], &FIXED, sent.has_unknown())?;
    if mask.includes("display_name") {
        passkey.display_name = wanted.display_name;
    }
    let after = before.updated(&passkey, mask.takes_unknown().then_some(&sent));
    draft.put(&PASSKEYS, *id.as_bytes(), Some(&before), &after);
    Ok(after)
}

fn delete(
    state: &State<'_>,
    request: DeletePasskeyRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<DeletePasskeyResponse, Refusal> {
    let (id, row) = find(state, cx, "name", &request.name)?;
    let others = count_good(state)? - usize::from(decode(&row)?.suspect_time_ms == 0);
    may_lose_one(state, cx, others)?;
    if !second_factor::is_proven(state, cx, draft)? {
        return Ok(DeletePasskeyResponse::default());
    }
    draft.delete(&PASSKEYS, *id.as_bytes(), &row);
    if let Some(credential) = state.get(&CREDENTIALS, id.as_bytes())? {
        draft.delete(&CREDENTIALS, *id.as_bytes(), &credential);
    }
    security::note(state, draft, cx, cx.origin, SecurityEventKind::PasskeyRemoved)?;
    Ok(DeletePasskeyResponse {})
}

/// Forgets all passkeys, and one that is being made; whether there were any.
pub(crate) fn forget_all(state: &State<'_>, draft: &mut Draft) -> Result<bool, Refusal> {
    if let Some(begun) = state.get(&BEGUN, &SELF)? {
        draft.delete(&BEGUN, SELF, &begun);
    }
    let rows = credentials(state)?;
    for (id, credential) in &rows {
        draft.delete(&CREDENTIALS, id.to_vec(), credential);
        if let Some(passkey) = state.get(&PASSKEYS, id)? {
            draft.delete(&PASSKEYS, id.to_vec(), &passkey);
        }
    }
    Ok(!rows.is_empty())
}

#[cfg(test)]
mod tests {
    use canopy_domain::Rows;

    use super::*;

    #[test]
    fn what_was_begun_runs_out() {
        let mut rows = Rows::default();
        assert_eq!(begun(&State(&rows), 0).err().map(|refusal| refusal.code), Some(Code::FailedPrecondition));
        let row = PasskeyBegun { begun: Bytes::from_static(b"state"), expire_time_ms: 1_000 };
        let mut draft = Draft::default();
        draft.insert(&BEGUN, SELF, &Wire::new(&row));
        rows.apply(draft.changes());
        assert_eq!(begun(&State(&rows), 999).unwrap().1, "state");
        assert_eq!(begun(&State(&rows), 1_000).err().map(|refusal| refusal.code), Some(Code::FailedPrecondition));
    }
}
