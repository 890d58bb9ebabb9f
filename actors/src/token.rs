//! Access tokens: PASETO v4.public (Ed25519), which say account, session and
//! expiry alone.
//!
//! Each day has a signing key of its own, derived from the installation's
//! secret, so that rotation needs no store, no clock of its own and no
//! agreement, and a restart changes nothing. A token is signed with the key of
//! the day that it is issued on, and verified with that of the present day;
//! with yesterday's for as long as a token of yesterday can live, and with
//! tomorrow's shortly before midnight, for clocks differ. Who got hold of one
//! day's key signs nothing the day after.

use std::sync::Arc;

use canopy_domain::{Address, Code, Kind, Policy, Refusal, Secret, TokenClaims, TokenIssuer};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::RwLock;
use pasetors::Public;
use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey};
use pasetors::token::UntrustedToken;
use pasetors::version4::{PublicToken, V4};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::clock;

/// How people sign up.
#[derive(Debug, Clone)]
pub enum SignUpPolicy {
    /// Whoever shows the installation's token.
    Token(Secret),
    /// Anybody; whoever shows the token may become the sys-admin.
    Open(Secret),
    /// Nobody.
    Closed,
}

/// Why a token is refused. What it says is nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this installation.
    #[error("the access token is not one of this server's")]
    Foreign,
    /// Its time is over.
    #[error("the access token has expired")]
    Expired,
}

/// What is signed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    /// Account.
    sub: String,
    /// Session.
    sid: String,
    /// Milliseconds since 1970.
    exp_ms: i64,
}

/// How long a key signs.
const DAY_MS: i64 = 86_400_000;
/// How far the clocks of those who sign and verify may differ.
const SKEW_MS: i64 = 60_000;
/// Days whose keys are at hand: yesterday, today, tomorrow.
const DAYS_KEPT: usize = 3;

/// The keys of one day.
struct DayKeys {
    day: i64,
    secret: AsymmetricSecretKey<V4>,
    public: AsymmetricPublicKey<V4>,
}

impl DayKeys {
    fn derive(secret: &[u8; 32], day: i64) -> Result<Self, Refusal> {
        let failed = |e: pasetors::errors::Error| Refusal::new(Code::Internal, format!("signing key: {e:?}"));
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("keys of any length are taken");
        mac.update(b"canopy access tokens, day");
        mac.update(&day.to_be_bytes());
        let seed = ed25519_compact::Seed::new(mac.finalize().into_bytes().into());
        let pair = ed25519_compact::KeyPair::from_seed(seed);
        Ok(Self {
            day,
            secret: AsymmetricSecretKey::from(&pair.sk[..]).map_err(failed)?,
            public: AsymmetricPublicKey::from(&pair.pk[..]).map_err(failed)?,
        })
    }
}

/// Signs and verifies the installation's access tokens.
pub struct Tokens {
    /// What each day's keys are derived from.
    secret: Zeroizing<[u8; 32]>,
    days: RwLock<Vec<Arc<DayKeys>>>,
    /// Signs statements, and no tokens; the same every day.
    attestation: ed25519_compact::KeyPair,
    /// Bound into every signature: a token of another installation never
    /// verifies, whatever its key.
    installation: String,
    access_ttl_ms: i64,
    refresh_ttl_ms: i64,
    sign_up: SignUpPolicy,
    policy: Policy,
}

impl Tokens {
    /// From a 32-byte secret.
    ///
    /// # Errors
    /// `INTERNAL`: no key can be derived from it.
    pub fn new(
        secret: &[u8; 32],
        installation: String,
        access_ttl_ms: i64,
        refresh_ttl_ms: i64,
        sign_up: SignUpPolicy,
    ) -> Result<Self, Refusal> {
        let first = Arc::new(DayKeys::derive(secret, clock::now_ms().div_euclid(DAY_MS))?);
        let mut hash = Sha256::new_with_prefix(b"canopy attestations");
        hash.update(secret);
        let attestation = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(hash.finalize().into()));
        let secret = Zeroizing::new(*secret);
        let days = RwLock::new(vec![first]);
        let policy = Policy::default();
        Ok(Self { secret, days, attestation, installation, access_ttl_ms, refresh_ttl_ms, sign_up, policy })
    }

    fn keys(&self, day: i64) -> Arc<DayKeys> {
        if let Some(keys) = self.days.read().iter().find(|keys| keys.day == day) {
            return Arc::clone(keys);
        }
        let keys = DayKeys::derive(&self.secret, day).expect("the first day's keys could be derived");
        let keys = Arc::new(keys);
        let mut days = self.days.write();
        if days.len() >= DAYS_KEPT {
            days.remove(0);
        }
        days.push(Arc::clone(&keys));
        keys
    }

    /// Days whose keys are taken now, the present one first.
    fn days(&self, now_ms: i64) -> impl Iterator<Item = i64> {
        let (today, since_midnight_ms) = (now_ms.div_euclid(DAY_MS), now_ms.rem_euclid(DAY_MS));
        let yesterday = (since_midnight_ms < self.access_ttl_ms + SKEW_MS).then_some(today - 1);
        let tomorrow = (since_midnight_ms >= DAY_MS - SKEW_MS).then_some(today + 1);
        [Some(today), yesterday, tomorrow].into_iter().flatten()
    }

    /// With what the installation decided for everybody.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What a token says, if it is ours and its time is not over.
    ///
    /// # Errors
    /// Foreign, forged or expired.
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<TokenClaims, TokenError> {
        let foreign = |_| TokenError::Foreign;
        let untrusted = UntrustedToken::<Public, V4>::try_from(token).map_err(foreign)?;
        let bound = Some(self.installation.as_bytes());
        let verified = |day| PublicToken::verify(&self.keys(day).public, &untrusted, None, bound).ok();
        let trusted = self.days(now_ms).find_map(verified).ok_or(TokenError::Foreign)?;
        let payload: Payload = serde_json::from_str(trusted.payload()).map_err(|_| TokenError::Foreign)?;
        let address =
            |text: &str, kind| Address::parse(text).ok().filter(|a| a.kind() == Some(kind)).ok_or(TokenError::Foreign);
        let claims = TokenClaims {
            account: address(&payload.sub, Kind::Account)?,
            session: address(&payload.sid, Kind::Session)?,
            expire_time_ms: payload.exp_ms,
        };
        if claims.expire_time_ms <= now_ms { Err(TokenError::Expired) } else { Ok(claims) }
    }
}

/// Whether a statement was signed by who holds the private half of a key.
pub fn is_attested(key: &[u8], statement: &[u8], signature: &[u8]) -> bool {
    let key = ed25519_compact::PublicKey::from_slice(key);
    let signature = ed25519_compact::Signature::from_slice(signature);
    matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(statement, &signature).is_ok())
}

impl TokenIssuer for Tokens {
    fn access_ttl_ms(&self) -> i64 {
        self.access_ttl_ms
    }

    fn refresh_ttl_ms(&self) -> i64 {
        self.refresh_ttl_ms
    }

    fn issue(&self, claims: &TokenClaims) -> String {
        let payload =
            Payload { sub: claims.account.to_string(), sid: claims.session.to_string(), exp_ms: claims.expire_time_ms };
        let payload = serde_json::to_vec(&payload).expect("two texts and a number are JSON");
        let issue_ms = claims.expire_time_ms.saturating_sub(self.access_ttl_ms);
        PublicToken::sign(
            &self.keys(issue_ms.div_euclid(DAY_MS)).secret,
            &payload,
            None,
            Some(self.installation.as_bytes()),
        )
        .expect("the key was checked when it was read")
    }

    fn policy(&self) -> Policy {
        self.policy
    }

    fn installation(&self) -> &str {
        &self.installation
    }

    fn attestation_key(&self) -> [u8; 32] {
        *self.attestation.pk
    }

    fn attest(&self, statement: &[u8]) -> [u8; 64] {
        *self.attestation.sk.sign(statement, None)
    }

    fn admit_sign_up(&self, sign_up_token: &str) -> Result<bool, Refusal> {
        use subtle::ConstantTimeEq;
        let shown = |token: &Secret| bool::from(token.expose().as_bytes().ct_eq(sign_up_token.as_bytes()));
        match &self.sign_up {
            SignUpPolicy::Token(token) if shown(token) => Ok(true),
            SignUpPolicy::Token(_) => Err(Refusal::new(Code::PermissionDenied, "signing up needs the sign-up token")
                .hint("it is in `sign-up.token` in the server's data directory; ask whoever runs the server")),
            SignUpPolicy::Open(token) => Ok(shown(token)),
            SignUpPolicy::Closed => Err(Refusal::new(Code::PermissionDenied, "this server takes no sign-ups")
                .hint("ask whoever runs the server")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_attested_is_known() {
        let pair = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new([7; 32]));
        let (key, signature) = (pair.pk.as_slice(), pair.sk.sign(b"statement", None));
        assert!(is_attested(key, b"statement", &signature[..]));
        assert!(!is_attested(key, b"another", &signature[..]));
        assert!(
            !is_attested(key, b"statement", &signature[1..]) && !is_attested(&key[1..], b"statement", &signature[..])
        );
    }
}
