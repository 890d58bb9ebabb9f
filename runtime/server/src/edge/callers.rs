//! Who is calling: access tokens, verified once and remembered by their hash
//! until they expire or their session ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use canopy_actors::{CommitHook, Node, Tokens, now_ms};
use canopy_domain::{Address, Change, Code, Id, Kind, Principal, Refusal, State};
use canopy_identity::SESSION;
use canopy_proto::identity::v1::Session;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataMap;

use super::pool::Share;
use super::watchers::Watchers;

/// Tokens remembered; beyond it, expired ones are forgotten, then all.
const TOKENS_MAX: usize = 200_000;
/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 1024;

/// Somebody whose token was verified.
#[derive(Debug)]
pub struct Caller {
    /// The person.
    pub principal: Principal,
    /// The account's id.
    pub account: Id,
    expire_time_ms: i64,
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
}

type TokenHash = [u8; 32];

/// The callers of this edge.
pub struct Callers {
    tokens: Arc<Tokens>,
    known: RwLock<HashMap<TokenHash, Arc<Caller>>>,
    by_session: Mutex<HashMap<Address, Vec<Weak<Caller>>>>,
    shares: Mutex<HashMap<Id, Weak<Share>>>,
}

fn unauthenticated(message: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, message)
        .hint("log in with `canopy identity log-in` and send `authorization: Bearer <access token>`")
}

impl Callers {
    /// Callers whose tokens `tokens` verifies.
    pub fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens, known: RwLock::default(), by_session: Mutex::default(), shares: Mutex::default() }
    }

    /// Who calls; nobody where no token is shown.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: the token is malformed, foreign, expired, or its
    /// session has ended.
    pub async fn identify(&self, node: &Node, metadata: &MetadataMap) -> Result<Option<Arc<Caller>>, Refusal> {
        let Some(header) = metadata.get("authorization") else { return Ok(None) };
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
            _ => self.verify(node, token, hash, now_ms).await?,
        };
        if caller.has_ended() {
            return Err(unauthenticated("the session has ended"));
        }
        Ok(Some(caller))
    }

    async fn verify(&self, node: &Node, token: &str, hash: TokenHash, now_ms: i64) -> Result<Arc<Caller>, Refusal> {
        metrics::counter!("canopy_edge_tokens_verified_total").increment(1);
        let claims = self.tokens.verify(token, now_ms).map_err(|e| unauthenticated(&e.to_string()))?;
        let account = claims.account.id().ok_or_else(|| unauthenticated("the token names no account"))?;
        let caller = Arc::new(Caller {
            principal: Principal::Person { account: claims.account, session: claims.session.clone() },
            account,
            expire_time_ms: claims.expire_time_ms,
            ended: AtomicBool::new(false),
            streams: Watchers::default(),
            calls: self.share(account),
        });
        // Registered before the session is read: an end that commits after
        // the reading finds the caller here.
        self.register(&claims.session, &caller);
        let snapshot = node.snapshot(&claims.session).await?;
        let session = State(&snapshot).read(&SESSION, &[0])?;
        let own = |session: &Session| session.account == caller.principal.account().map_or("", Address::as_str);
        if !session.is_some_and(|session| session.end_time_ms == 0 && own(&session)) {
            return Err(unauthenticated("the session has ended"));
        }
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

    fn register(&self, session: &Address, caller: &Arc<Caller>) {
        let mut by_session = self.by_session.lock();
        if by_session.len() >= TOKENS_MAX {
            by_session.retain(|_, callers| callers.iter().any(|caller| caller.strong_count() > 0));
        }
        let callers = by_session.entry(session.clone()).or_default();
        callers.retain(|caller| caller.strong_count() > 0);
        callers.push(Arc::downgrade(caller));
    }
}

impl CommitHook for Callers {
    fn wants(&self, address: &Address) -> bool {
        address.kind() == Some(Kind::Session)
    }

    fn committed(&self, address: &Address, _: u64, changes: &[Change]) {
        let ends = |change: &Change| {
            change.table == SESSION.id
                && match &change.after {
                    Some(row) => SESSION.row(row.clone()).decode().map_or(true, |session| session.end_time_ms > 0),
                    None => true,
                }
        };
        if changes.iter().any(ends) {
            let callers = self.by_session.lock().remove(address);
            for caller in callers.into_iter().flatten().filter_map(|caller| caller.upgrade()) {
                caller.ended.store(true, Ordering::Release);
                caller.streams.wake();
            }
        }
    }
}
