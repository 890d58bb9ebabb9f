//! API keys as they are shown: whose, and within which bounds.

use canopy_actors::{Node, now_ms};
use canopy_domain::{Address, Refusal, Role, State};
use canopy_identity::{API_KEY_PREFIX, good_api_key, read_api_key};
use canopy_proto::identity::v1::ApiKey;
use canopy_proto::methods::account_effects;
use canopy_proto::system::v1::RecordKeyUseRequest;
use prost::Message;

/// What a key may of what its account may.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// The highest role that it acts with.
    pub role_max: Role,
    /// The org or project that it is good for; anywhere where absent.
    pub scope: Option<Address>,
}

impl Bounds {
    /// Whether a place lies within.
    pub fn include(&self, place: &Address) -> bool {
        self.scope.as_ref().is_none_or(|scope| {
            let rest = place.as_str().strip_prefix(scope.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The role that is left of one.
    pub fn at_most(&self, role: Role) -> Role {
        if (role as i32) < (self.role_max as i32) { role } else { self.role_max }
    }
}

/// A key that is good.
pub(super) struct Verified {
    pub(super) account: Address,
    /// `account/<id>/key/<id>`
    pub(super) name: String,
    pub(super) bounds: Bounds,
    pub(super) expire_time_ms: i64,
}

/// Whether a bearer token is a key and no access token.
pub(super) fn is_key(token: &str) -> bool {
    token.starts_with(API_KEY_PREFIX)
}

/// Looks a key up with its account.
///
/// # Errors
/// The store failed.
pub(super) async fn verify(node: &Node, token: &str, now_ms: i64) -> Result<Option<Verified>, Refusal> {
    let Some(shown) = read_api_key(token) else { return Ok(None) };
    let snapshot = match node.snapshot(&shown.account).await {
        // With its account.
        Err(_) if node.store().is_shredded(&shown.account).await => return Ok(None),
        other => other?,
    };
    let key: Option<ApiKey> = good_api_key(&State(&snapshot), &shown, now_ms)?;
    Ok(key.map(|key| Verified {
        bounds: Bounds { role_max: key.role_max(), scope: Address::parse(&key.scope).ok() },
        expire_time_ms: key.expire_time_ms,
        name: key.name,
        account: shown.account,
    }))
}

/// Tells the account that its key is in use, without anybody waiting for it.
pub(super) fn record_use(node: &Node, account: Address, key: String, place: String) {
    let node = node.clone();
    tokio::spawn(async move {
        let request = RecordKeyUseRequest { key, time_ms: now_ms(), place, request_id: String::new() };
        let (method, request) = (account_effects::RECORD_KEY_USE.path, request.encode_to_vec().into());
        if let Err(refusal) = node.ask(&account, method, request, &account, "").await {
            tracing::warn!(%account, %refusal, "an API key's use is not noted");
        }
    });
}
