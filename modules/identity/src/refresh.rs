//! Refresh tokens: single use, rotated at each use, and known by their hashes
//! alone.
//!
//! A token is 128 random bits that all of its session share, its family, by
//! which the reuse of any earlier one is noticed, and 256 of its own. Whoever
//! shows an earlier one ends the session: one of the two holders stole it, and
//! nobody can tell which.
//!
//! An answer can get lost on the way, and its client shows the same token once
//! more. So for [`GRACE_MS`] the token before, shown from the same network
//! address by the same program, gets the credentials that it was exchanged for:
//! the same ones, so that a family never forks, however many ask at once. For
//! this nothing is kept that is a token: the successor's own bits are
//! `HMAC-SHA256(predecessor, salt)`, and a session keeps the salt (256 random
//! bits, replaced at each rotation) and the hashes. Who reads the store has no
//! predecessor, who stole a predecessor has no salt, and who has both, within
//! the grace and from the same place, gets what the server would give them.

use canopy_domain::{Address, Code, Context, Draft, Refusal, State, Table, TokenClaims, Wire, decode};
use canopy_proto::identity::v1::{
    Credentials, RefreshRequest, RefreshResponse, SecurityEventKind, Session, SessionEnd,
};
use canopy_proto::system::v1::RefreshVerifier;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::security;
use crate::session::{SELF, SESSION, end, take_use};

/// The one row, under [`SELF`].
pub(crate) const VERIFIER: Table<RefreshVerifier> = Table::new(2, "refresh_verifier", 1);

/// How long the token before is taken once more from the same client: a
/// client's patience with an answer that does not come, and too short to
/// replay what was found in a log.
const GRACE_MS: i64 = 10_000;
/// Characters of a refresh token that its session's tokens share.
const FAMILY_CHARS: usize = 32;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

pub(crate) fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("keys of any length are taken");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn family(token: &str) -> &str {
    token.get(..FAMILY_CHARS).unwrap_or_default()
}

/// What a token is exchanged for.
fn successor(token: &str, salt: &[u8]) -> String {
    format!("{}{}", family(token), hex(&mac(token.as_bytes(), salt)))
}

/// The first credentials of a session. The call's 256 random bits are used for
/// nothing else in these decisions.
pub(crate) fn first(cx: &Context<'_>, account: &str) -> Result<(Credentials, RefreshVerifier), Refusal> {
    let shared = mac(&cx.entropy, b"canopy refresh token, family");
    let own = mac(&cx.entropy, b"canopy refresh token, own");
    let token = format!("{}{}", family(&hex(&shared)), hex(&own));
    let verifier = RefreshVerifier {
        current: hash(&token).into(),
        family: hash(family(&token)).into(),
        expire_time_ms: expire_time_ms(cx, cx.now_ms),
        rotate_time_ms: cx.now_ms,
        ..RefreshVerifier::default()
    };
    Ok((credentials(cx, account, token, &verifier)?, verifier))
}

/// When a token that is handed out now ends: once the session was idle for too
/// long, and with it at the latest.
fn expire_time_ms(cx: &Context<'_>, log_in_time_ms: i64) -> i64 {
    let idle_ms = cx.now_ms.saturating_add(cx.issuer.refresh_ttl_ms());
    idle_ms.min(log_in_time_ms.saturating_add(cx.settings.session_max_ms))
}

/// What a client gets; the same again for the same rotation.
fn credentials(
    cx: &Context<'_>,
    account: &str,
    refresh_token: String,
    verifier: &RefreshVerifier,
) -> Result<Credentials, Refusal> {
    let account = Address::parse(account).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
    let expire_time_ms = verifier.expire_time_ms.min(verifier.rotate_time_ms + cx.issuer.access_ttl_ms());
    let claims = TokenClaims { account, session: cx.address.clone(), expire_time_ms };
    Ok(Credentials {
        access_token: cx.issuer.issue(&claims),
        access_token_expire_time_ms: expire_time_ms,
        refresh_token,
        refresh_token_expire_time_ms: verifier.expire_time_ms,
    })
}

fn session_over() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the session is over or the refresh token is not its own")
        .hint("log in again with `canopy identity log-in`")
}

/// What the token before was exchanged for, where it is still to be had.
fn once_more(cx: &Context<'_>, token: &str, verifier: &RefreshVerifier) -> Option<String> {
    let (place, client) = (cx.origin.place(), &cx.origin.client);
    let is_same_client = !place.is_empty() && place == verifier.rotate_address && *client == verifier.rotate_client;
    let is_soon = cx.now_ms - verifier.rotate_time_ms <= GRACE_MS;
    let again = successor(token, &verifier.salt);
    let is_last = verifier.previous == hash(token) && verifier.current == hash(&again);
    (is_same_client && is_soon && is_last).then_some(again)
}

pub(crate) fn refresh(
    state: &State<'_>,
    request: RefreshRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RefreshResponse, Refusal> {
    let [] = cx.address.held("session", &request.session, [])?;
    let (Some(before), Some(verifier_before)) = (state.get(&SESSION, &SELF)?, state.get(&VERIFIER, &SELF)?) else {
        return Err(session_over());
    };
    let mut session: Session = decode(&before)?;
    let verifier = decode(&verifier_before)?;
    let token = request.refresh_token.as_str();
    // What is allowed may have become less since.
    let end_ms = verifier.expire_time_ms.min(expire_time_ms(cx, session.create_time_ms));
    if session.end_time_ms > 0 || end_ms <= cx.now_ms {
        return Err(session_over());
    }
    if verifier.current != hash(token) {
        if let Some(again) = once_more(cx, token, &verifier) {
            let credentials = credentials(cx, &session.account, again, &verifier)?;
            return Ok(RefreshResponse { credentials: Some(credentials) });
        }
        // Guesses end nothing.
        if verifier.family == hash(family(token)) {
            security::tell(draft, cx, &session.account, SecurityEventKind::RefreshTokenReused)?;
            end(draft, &before, session, SessionEnd::TokenReuse, cx.now_ms)?;
            draft.refuse(session_over());
            return Ok(RefreshResponse::default());
        }
        return Err(session_over());
    }
    let next = successor(token, &cx.entropy);
    let rotated = RefreshVerifier {
        current: hash(&next).into(),
        family: verifier.family,
        expire_time_ms: expire_time_ms(cx, session.create_time_ms),
        previous: verifier.current,
        salt: cx.entropy.to_vec().into(),
        rotate_time_ms: cx.now_ms,
        rotate_address: cx.origin.place(),
        rotate_client: cx.origin.client.clone(),
    };
    let credentials = credentials(cx, &session.account, next, &rotated)?;
    take_use(&mut session, cx, &rotated);
    draft.put(&SESSION, SELF, Some(&before), &before.updated(&session, None));
    draft.put(&VERIFIER, SELF, Some(&verifier_before), &Wire::new(&rotated));
    Ok(RefreshResponse { credentials: Some(credentials) })
}
