//! Who is calling: access tokens and API keys, verified once and remembered by
//! their hash until they expire or are ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use canopy_actors::{CommitHook, Node, Tokens, now_ms};
use canopy_domain::{Address, Change, Code, Id, Kind, Principal, Refusal, State, TokenIssuer};
use canopy_identity::{API_KEYS, SESSION, SESSIONS};
use canopy_proto::identity::v1::{LogInStrength, Session};
use canopy_store::Snapshot;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataMap;

use super::api_key::{self, Bounds};
use super::pool::Share;
use super::watchers::Watchers;

/// Tokens remembered; beyond it, expired ones are forgotten, then all.
const TOKENS_MAX: usize = 200_000;
/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 1024;
/// How long an API key is taken without looking at it again; its revocation
/// is heard of at once.
const KEY_REMEMBERED_MS: i64 = 300_000;
/// Holders of streams are told to refresh when this part of an access token's
/// life is left.
const REFRESH_MARGIN: i64 = 5;

/// How a session was opened. A refresh changes nothing of it.
#[derive(Debug)]
pub struct LogIn {
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// What was shown.
    pub strength: LogInStrength,
    /// The client's network address.
    pub place: String,
    /// The client's program (`user-agent`).
    pub client: String,
}

/// Somebody whose token was verified.
#[derive(Debug)]
pub struct Caller {
    /// The person.
    pub principal: Principal,
    /// The account's id.
    pub account: Id,
    /// What an API key may; absent for a person, who may all that they may.
    pub bounds: Option<Bounds>,
    /// Until when what was verified is remembered.
    expire_time_ms: i64,
    /// Until when streams go on: a refresh of the session moves it.
    lives_until_ms: AtomicI64,
    /// Absent for a key, which never logs in.
    log_in: OnceLock<LogIn>,
    /// How long before their end the readers of streams are told to refresh;
    /// absent for a key, which cannot be refreshed.
    pub refresh_margin_ms: Option<i64>,
    ended: AtomicBool,
    /// Streams that end with the session.
    pub streams: Watchers,
    /// Calls of the account, in all its sessions, that are for no org.
    pub calls: Arc<Share>,
}

impl Caller {
    /// Whether the session has ended since the token was verified.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How the person logged in; a key never did.
    pub fn log_in(&self) -> Option<&LogIn> {
        self.log_in.get()
    }

    /// When streams end, in milliseconds since 1970.
    pub fn lives_until_ms(&self) -> i64 {
        self.lives_until_ms.load(Ordering::Acquire)
    }
}

type TokenHash = [u8; 32];

/// The callers of this edge.
pub struct Callers {
    tokens: Arc<Tokens>,
    known: RwLock<HashMap<TokenHash, Arc<Caller>>>,
    /// By the name of the session or key.
    by_name: Mutex<HashMap<String, Vec<Weak<Caller>>>>,
    shares: Mutex<HashMap<Id, Weak<Share>>>,
}

fn unauthenticated(message: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, message)
        .hint("log in with `canopy identity log-in` and send `authorization: Bearer <access token>`")
}

/// What stands at the address of an account or session. Its keys are destroyed
/// with the account, and a session's when the account has forgotten it.
async fn of_living(node: &Node, address: &Address) -> Result<Snapshot, Refusal> {
    match node.snapshot(address).await {
        Err(_) if node.store().is_shredded(address).await => {
            Err(unauthenticated("the session has ended, or the account is gone"))
        }
        other => other,
    }
}

impl Callers {
    /// Callers whose tokens `tokens` verifies.
    pub fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens, known: RwLock::default(), by_name: Mutex::default(), shares: Mutex::default() }
    }

    /// Who calls; nobody where no token is shown.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: the token is malformed, foreign, expired, or its
    /// session has ended; or several are shown, of which a proxy on the way
    /// may have looked at another.
    pub async fn identify(
        &self,
        node: &Node,
        metadata: &MetadataMap,
        remote: IpAddr,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        let mut headers = metadata.get_all("authorization").iter();
        let Some(header) = headers.next() else { return Ok(None) };
        if headers.next().is_some() {
            return Err(unauthenticated("there is more than one authorization header"));
        }
        let token = header.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            (scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_BYTES_MAX).then_some(token)
        });
        let token = token.ok_or_else(|| unauthenticated("the authorization header holds no bearer token"))?;
        let hash: TokenHash = Sha256::digest(token.as_bytes()).into();
        let now_ms = now_ms();
        let known = self.known.read().get(&hash).cloned();
        let caller = match known {
            Some(caller) if caller.expire_time_ms > now_ms => caller,
            _ => {
                let place = remote.to_canonical().to_string();
                self.verify(node, token, hash, &place, now_ms).await?
            }
        };
        if caller.has_ended() {
            return Err(unauthenticated("the session has ended"));
        }
        Ok(Some(caller))
    }

    async fn verify(
        &self,
        node: &Node,
        token: &str,
        hash: TokenHash,
        place: &str,
        now_ms: i64,
    ) -> Result<Arc<Caller>, Refusal> {
        metrics::counter!("canopy_edge_tokens_verified_total").increment(1);
        let caller = match api_key::is_key(token) {
            true => self.verify_key(node, token, place, now_ms).await?,
            false => self.verify_access(node, token, now_ms).await?,
        };
        let mut known = self.known.write();
        if known.len() >= TOKENS_MAX {
            known.retain(|_, caller| caller.expire_time_ms > now_ms && !caller.has_ended());
            if known.len() >= TOKENS_MAX {
                known.clear();
            }
        }
        known.insert(hash, Arc::clone(&caller));
        Ok(caller)
    }

    async fn verify_access(&self, node: &Node, token: &str, now_ms: i64) -> Result<Arc<Caller>, Refusal> {
        let claims = self.tokens.verify(token, now_ms).map_err(|e| unauthenticated(&e.to_string()))?;
        let account_id = claims.account.id().ok_or_else(|| unauthenticated("the token names no account"))?;
        let session_id = claims.session.id().ok_or_else(|| unauthenticated("the token names no session"))?;
        let principal = Principal::Person { account: claims.account.clone(), session: claims.session.clone() };
        let caller = self.caller(principal, account_id, None, claims.expire_time_ms);
        // Registered before the session is read: an end that commits after
        // the reading finds the caller here.
        self.register(claims.session.as_str(), &caller);
        let session = State(&of_living(node, &claims.session).await?).read(&SESSION, &[0])?;
        // The account may have ended it, and the session not have heard of it.
        let account = of_living(node, &claims.account).await?;
        let listed = State(&account).read(&SESSIONS, session_id.as_bytes())?;
        let is_listed = listed.is_none_or(|session| session.end_time_ms == 0);
        match session {
            Some(session) if is_listed && session.end_time_ms == 0 && session.account == claims.account.as_str() => {
                self.prolong(&caller, &session);
                Ok(caller)
            }
            _ => Err(unauthenticated("the session has ended")),
        }
    }

    async fn verify_key(&self, node: &Node, token: &str, place: &str, now_ms: i64) -> Result<Arc<Caller>, Refusal> {
        let bad = || unauthenticated("the API key is none, has expired or was revoked");
        let verified = api_key::verify(node, token, now_ms).await?.ok_or_else(bad)?;
        let account_id = verified.account.id().ok_or_else(bad)?;
        let remembered_ms = verified.expire_time_ms.min(now_ms + KEY_REMEMBERED_MS);
        let principal = Principal::Key { account: verified.account.clone(), name: verified.name.clone() };
        let caller = self.caller(principal, account_id, Some(verified.bounds), remembered_ms);
        caller.lives_until_ms.store(verified.expire_time_ms, Ordering::Release);
        // Read again once it is registered, as sessions are: who it is was not
        // known before.
        self.register(&verified.name, &caller);
        api_key::verify(node, token, now_ms).await?.ok_or_else(bad)?;
        api_key::record_use(node, verified.account, verified.name, place.to_owned());
        Ok(caller)
    }

    fn caller(&self, principal: Principal, account: Id, bounds: Option<Bounds>, expire_time_ms: i64) -> Arc<Caller> {
        Arc::new(Caller {
            principal,
            account,
            refresh_margin_ms: bounds.is_none().then(|| self.tokens.access_ttl_ms() / REFRESH_MARGIN),
            bounds,
            expire_time_ms,
            lives_until_ms: AtomicI64::new(expire_time_ms),
            log_in: OnceLock::new(),
            ended: AtomicBool::new(false),
            streams: Watchers::default(),
            calls: self.share(account),
        })
    }

    /// A refreshed session's streams go on as long as the token lives that the
    /// refresh gave.
    fn prolong(&self, caller: &Caller, session: &Session) {
        let until_ms = session.refresh_time_ms.saturating_add(self.tokens.access_ttl_ms());
        let until_ms = until_ms.min(session.expire_time_ms);
        caller.log_in.get_or_init(|| LogIn {
            time_ms: session.create_time_ms,
            strength: session.strength().max(LogInStrength::Password),
            place: session.log_in_address.clone(),
            client: session.log_in_client.clone(),
        });
        caller.lives_until_ms.fetch_max(until_ms, Ordering::AcqRel);
    }

    fn share(&self, account: Id) -> Arc<Share> {
        let mut shares = self.shares.lock();
        if let Some(share) = shares.get(&account).and_then(Weak::upgrade) {
            return share;
        }
        if shares.len() >= TOKENS_MAX {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::default();
        shares.insert(account, Arc::downgrade(&share));
        share
    }

    /// Under the name of the session or key that the caller came with.
    fn register(&self, name: &str, caller: &Arc<Caller>) {
        let mut by_name = self.by_name.lock();
        if by_name.len() >= TOKENS_MAX {
            by_name.retain(|_, callers| callers.iter().any(|caller| caller.strong_count() > 0));
        }
        let callers = by_name.entry(name.to_owned()).or_default();
        callers.retain(|caller| caller.strong_count() > 0);
        callers.push(Arc::downgrade(caller));
    }
}

/// What a change means to those who came with a session or a key.
enum News {
    /// Its name; it is over.
    Ended(String),
    /// It was refreshed.
    Refreshed(Session),
}

/// A session's own partition holds its row, its account's those of all its
/// sessions and keys.
fn news(address: &Address, change: &Change) -> Option<News> {
    if address.kind() == Some(Kind::Session) {
        if change.table != SESSION.id {
            return None;
        }
        let session = change.after.as_ref().and_then(|row| SESSION.row(row.clone()).decode().ok());
        return Some(match session {
            Some(session) if session.end_time_ms == 0 => News::Refreshed(session),
            _ => News::Ended(address.to_string()),
        });
    }
    let row = change.after.clone()?;
    if change.table == SESSIONS.id {
        let session = SESSIONS.row(row).decode().ok().filter(|session| session.end_time_ms > 0)?;
        return Some(News::Ended(session.name));
    }
    if change.table == API_KEYS.id {
        let key = API_KEYS.row(row).decode().ok().filter(|key| key.revoke_time_ms > 0)?;
        return Some(News::Ended(key.name));
    }
    None
}

impl CommitHook for Callers {
    fn wants(&self, address: &Address) -> bool {
        matches!(address.kind(), Some(Kind::Session | Kind::Account))
    }

    fn committed(&self, address: &Address, _: u64, changes: &[Change]) {
        for news in changes.iter().filter_map(|change| news(address, change)) {
            match news {
                News::Ended(name) => {
                    let callers = self.by_name.lock().remove(&name);
                    for caller in callers.into_iter().flatten().filter_map(|caller| caller.upgrade()) {
                        caller.ended.store(true, Ordering::Release);
                        caller.streams.wake();
                    }
                }
                News::Refreshed(session) => {
                    let callers = self.by_name.lock().get(&session.name).cloned();
                    for caller in callers.into_iter().flatten().filter_map(|caller| caller.upgrade()) {
                        self.prolong(&caller, &session);
                        caller.streams.wake();
                    }
                }
            }
        }
    }
}
