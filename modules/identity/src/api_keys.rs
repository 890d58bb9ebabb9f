//! An account's API keys: with one, a machine acts as the account, within the
//! key's bounds. A key is shown once, when it is made; what is kept is its
//! hash.

use bytes::Bytes;
use canopy_domain::{
    Address, Code, Context, Draft, Id, Kind, Order, PageRequest, Refusal, Role, Span, State, Table, Wire, decode,
};
use canopy_proto::identity::v1::{
    Account, ApiKey, CreateApiKeyRequest, CreateApiKeyResponse, ListApiKeysRequest, ListApiKeysResponse,
    RevokeApiKeyRequest, SecurityEventKind,
};
use canopy_proto::system::v1::{ApiKeyVerifier, Letter, LetterKind, RecordKeyUseRequest, RecordKeyUseResponse};
use sha2::{Digest, Sha256};

use crate::account::the_account;
use crate::refresh::{hex, mac};
use crate::{life, proof, security};

/// By key id.
pub const API_KEYS: Table<ApiKey> = Table::new(20, "api_keys", 1);
/// By key id.
const API_KEY_VERIFIERS: Table<ApiKeyVerifier> = Table::new(21, "api_key_verifiers", 1);

/// What every key starts with, so that people and programs that look for
/// leaked secrets recognise it.
pub const PREFIX: &str = "canopy_";
/// Characters of the secret part: 256 bits in hexadecimal.
const SECRET_CHARS: usize = 64;
/// Characters of the checksum, by which a key is told from a text that looks
/// like one without asking anybody.
const CHECK_CHARS: usize = 8;
/// Longest life: a year, and a day to renew it on.
const LIFE_MS_MAX: i64 = 366 * 86_400_000;
/// Keys that live for less are made anew all the time, and nobody is reminded.
const REMINDED_LIFE_MS_MIN: i64 = 86_400_000;
/// How long before its end the holder of a key is reminded: a week, and a tenth
/// of its life where that is less.
const REMINDER_MS_MAX: i64 = 7 * 86_400_000;
const REMINDER_LIFE_PART: i64 = 10;
/// Keys of one account that are good at once, and ended ones that are kept.
const KEYS_MAX: usize = 100;

/// A key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is.
    pub account: Address,
    /// Which of theirs.
    pub id: Id,
    /// SHA-256 of the whole text.
    pub hash: [u8; 32],
}

type Row = (Bytes, Wire<ApiKey>, ApiKey);

fn checksum(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())).get(..CHECK_CHARS).unwrap_or_default().to_owned()
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// A key's text: `canopy_`, the ids of account and key, the secret and the
/// checksum, without anything in between, so that a double click takes it
/// whole.
fn text(account: Id, id: Id, secret: &[u8; 32]) -> String {
    let text = format!("{PREFIX}{account}{id}{}", hex(secret));
    let check = checksum(&text);
    format!("{text}{check}")
}

/// Takes a key apart; `None` where it is none, or was copied wrongly.
pub fn read(text: &str) -> Option<Shown> {
    let rest = text.strip_prefix(PREFIX)?;
    let (body, check) = text.split_at_checked(text.len().checked_sub(CHECK_CHARS)?)?;
    if rest.len() != 2 * Id::TEXT_LEN + SECRET_CHARS + CHECK_CHARS || checksum(body) != check {
        return None;
    }
    let account = Id::parse(rest.get(..Id::TEXT_LEN)?)?;
    let id = Id::parse(rest.get(Id::TEXT_LEN..2 * Id::TEXT_LEN)?)?;
    Some(Shown { account: Address::account(account), id, hash: hash(text) })
}

fn is_over(key: &ApiKey, now_ms: i64) -> bool {
    key.revoke_time_ms > 0 || key.expire_time_ms <= now_ms
}

/// Whether the key's place is an org or a project, by its id.
fn check_scope(scope: &str) -> Result<(), Refusal> {
    let address = Address::parse(scope).ok();
    let is_place = match address.as_ref().and_then(Address::kind) {
        Some(Kind::Org) => scope.split('/').nth(1).and_then(Id::parse).is_some(),
        Some(Kind::Project) => scope.split('/').skip(1).step_by(2).all(|id| Id::parse(id).is_some()),
        _ => false,
    };
    if scope.is_empty() || is_place {
        return Ok(());
    }
    let message = format!("`{scope}` is no org or project: write `org/<id>` or `org/<id>/project/<id>`");
    Err(Refusal::invalid("api_key.scope", message).hint("ids are in the `name` that get-org and get-project show"))
}

fn check(key: &ApiKey, cx: &Context<'_>) -> Result<(), Refusal> {
    if key.expire_time_ms <= cx.now_ms {
        return Err(Refusal::invalid("api_key.expire_time_ms", "is not in the future"));
    }
    if key.expire_time_ms > cx.now_ms + LIFE_MS_MAX {
        return Err(Refusal::invalid("api_key.expire_time_ms", "is more than a year away"));
    }
    if key.role_max > Role::OrgAdmin as i32 {
        return Err(Refusal::invalid("api_key.role_max", "is at most ROLE_ORG_ADMIN"));
    }
    check_scope(&key.scope)
}

pub(crate) fn create(
    state: &State<'_>,
    request: CreateApiKeyRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<CreateApiKeyResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let holder = decode(&the_account(state, cx)?)?;
    let account = cx.address.id().ok_or_else(|| Refusal::new(Code::Internal, "an account without an id"))?;
    let sent = request.api_key.unwrap_or_default();
    let wanted = decode(&sent)?;
    check(&wanted, cx)?;
    make_room(state, cx, draft)?;
    let id = cx.fresh_id(0);
    let text = text(account, id, &mac(&cx.entropy, b"canopy api key"));
    let key = ApiKey {
        name: format!("{}/key/{id}", cx.address),
        create_time_ms: cx.now_ms,
        revoke_time_ms: 0,
        last_use_time_ms: 0,
        last_use_address: String::new(),
        remind_time_ms: 0,
        ..wanted
    };
    life::wake_by(state, cx, [reminder_ms(&key).unwrap_or(0), holder.purge_time_ms], draft)?;
    let key = sent.with(&key);
    draft.insert(&API_KEYS, *id.as_bytes(), &key);
    let verifier = ApiKeyVerifier { hash: hash(&text).to_vec().into() };
    draft.insert(&API_KEY_VERIFIERS, *id.as_bytes(), &Wire::new(&verifier));
    security::note(state, draft, cx, cx.origin, SecurityEventKind::ApiKeyCreated)?;
    Ok(CreateApiKeyResponse { api_key: Some(key), key: text })
}

/// When the holder of a key is to be reminded that it expires; never, of one
/// that lives for a short while, is revoked, or of which they were.
fn reminder_ms(key: &ApiKey) -> Option<i64> {
    let life_ms = key.expire_time_ms - key.create_time_ms;
    let is_wanted = life_ms >= REMINDED_LIFE_MS_MIN && key.revoke_time_ms == 0 && key.remind_time_ms == 0;
    is_wanted.then(|| key.expire_time_ms - REMINDER_MS_MAX.min(life_ms / REMINDER_LIFE_PART))
}

/// The keys whose end is still to be told, with the time to do so.
fn reminders(state: &State<'_>, now_ms: i64) -> Result<Vec<(i64, Row)>, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: KEYS_MAX };
    let mut found = Vec::new();
    for (id, row) in state.scan(&API_KEYS, span)? {
        let key = decode(&row)?;
        if let Some(due_ms) = reminder_ms(&key).filter(|_| !is_over(&key, now_ms)) {
            found.push((due_ms, (id, row, key)));
        }
    }
    Ok(found)
}

/// When the first reminder of the keys that there are is due, or zero.
pub(crate) fn next_reminder_ms(state: &State<'_>, cx: &Context<'_>) -> Result<i64, Refusal> {
    Ok(reminders(state, cx.now_ms)?.into_iter().map(|(due_ms, _)| due_ms).min().unwrap_or(0))
}

/// Reminds the holder of the keys whose time has come, once of each, if this
/// server sends mails at all; when the next one is due, or zero.
pub(crate) fn remind(
    state: &State<'_>,
    account: &Account,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<i64, Refusal> {
    let (due, later): (Vec<_>, Vec<_>) =
        reminders(state, cx.now_ms)?.into_iter().partition(|(due_ms, _)| *due_ms <= cx.now_ms);
    for (_, (id, before, mut key)) in due.into_iter().filter(|_| cx.issuer.policy().mails) {
        key.remind_time_ms = cx.now_ms;
        draft.put(&API_KEYS, id.to_vec(), Some(&before), &before.updated(&key, None));
        let letter = Letter {
            about: key.display_name,
            resource: key.name,
            expire_time_ms: key.expire_time_ms,
            ..proof::notice(&account.email, LetterKind::ApiKeyExpires)
        };
        proof::post(draft, letter);
    }
    Ok(later.into_iter().map(|(due_ms, _)| due_ms).min().unwrap_or(0))
}

/// Forgets keys that are over where there are too many.
fn make_room(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: KEYS_MAX + 1 };
    let rows = state.scan(&API_KEYS, span)?;
    if rows.len() < KEYS_MAX {
        return Ok(());
    }
    for (id, row) in rows {
        if is_over(&decode(&row)?, cx.now_ms) {
            draft.delete(&API_KEYS, id.to_vec(), &row);
            if let Some(verifier) = state.get(&API_KEY_VERIFIERS, &id)? {
                draft.delete(&API_KEY_VERIFIERS, id.to_vec(), &verifier);
            }
            return Ok(());
        }
    }
    Err(Refusal::new(Code::FailedPrecondition, format!("the account has {KEYS_MAX} keys, which is the limit"))
        .hint("revoke one: `canopy identity revoke-api-key`"))
}

pub(crate) fn list(
    state: &State<'_>,
    request: ListApiKeysRequest,
    cx: &Context<'_>,
) -> Result<ListApiKeysResponse, Refusal> {
    let [] = cx.address.held("parent", &request.parent, [])?;
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, API_KEYS.id, &[], Order::Descending)?;
    let api_keys = rows.into_iter().map(|(_, row)| API_KEYS.row(row)).collect();
    Ok(ListApiKeysResponse { api_keys, next_page_token })
}

fn find(state: &State<'_>, cx: &Context<'_>, name: &str) -> Result<(Id, Wire<ApiKey>), Refusal> {
    let [id] = cx.address.held("name", name, ["key"])?;
    let id = Id::parse(id).ok_or_else(|| Refusal::not_found(name))?;
    let row = state.get(&API_KEYS, id.as_bytes())?.ok_or_else(|| Refusal::not_found(name))?;
    Ok((id, row))
}

/// Revokes all keys: the account was shut.
pub(crate) fn revoke_all(state: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: usize::MAX };
    for (id, before) in state.scan(&API_KEYS, span)? {
        let mut key = decode(&before)?;
        if key.revoke_time_ms == 0 {
            key.revoke_time_ms = cx.now_ms;
            draft.put(&API_KEYS, id.to_vec(), Some(&before), &before.updated(&key, None));
        }
    }
    Ok(())
}

pub(crate) fn revoke(
    state: &State<'_>,
    request: RevokeApiKeyRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<ApiKey>, Refusal> {
    let (id, before) = find(state, cx, &request.name)?;
    let mut key = decode(&before)?;
    if key.revoke_time_ms > 0 {
        return Ok(before);
    }
    key.revoke_time_ms = cx.now_ms;
    security::note(state, draft, cx, cx.origin, SecurityEventKind::ApiKeyRevoked)?;
    let after = before.updated(&key, None);
    draft.put(&API_KEYS, *id.as_bytes(), Some(&before), &after);
    Ok(after)
}

/// Notes that a key is in use, a few times an hour.
pub(crate) fn record_use(
    state: &State<'_>,
    request: RecordKeyUseRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RecordKeyUseResponse, Refusal> {
    let (id, before) = find(state, cx, &request.key)?;
    let mut key = decode(&before)?;
    if key.last_use_time_ms < request.time_ms {
        key.last_use_time_ms = request.time_ms;
        key.last_use_address = request.place;
        draft.put(&API_KEYS, *id.as_bytes(), Some(&before), &before.updated(&key, None));
        // Of keys that an older release has made nobody is reminded else.
        let account = decode(&the_account(state, cx)?)?;
        life::wake_by(state, cx, [account.purge_time_ms], draft)?;
    }
    Ok(RecordKeyUseResponse {})
}

/// The key that was shown, if it is good now.
///
/// # Errors
/// The store failed.
pub fn good(state: &State<'_>, shown: &Shown, now_ms: i64) -> Result<Option<ApiKey>, Refusal> {
    let (Some(key), Some(verifier)) =
        (state.read(&API_KEYS, shown.id.as_bytes())?, state.read(&API_KEY_VERIFIERS, shown.id.as_bytes())?)
    else {
        return Ok(None);
    };
    // Hashes of 256 random bits: how far they agree tells nobody anything.
    let is_it = verifier.hash == shown.hash.as_slice();
    Ok(Some(key).filter(|key| is_it && !is_over(key, now_ms)))
}
