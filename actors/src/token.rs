//! Access tokens: PASETO v4.public (Ed25519), which say account, session and
//! expiry alone.

use canopy_domain::{Address, Code, Kind, Refusal, Secret, TokenClaims, TokenIssuer};
use pasetors::Public;
use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey};
use pasetors::token::UntrustedToken;
use pasetors::version4::{PublicToken, V4};
use serde::{Deserialize, Serialize};

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

/// Signs and verifies the installation's access tokens.
pub struct Tokens {
    secret: AsymmetricSecretKey<V4>,
    public: AsymmetricPublicKey<V4>,
    /// Bound into every signature: a token of another installation never
    /// verifies, whatever its key.
    installation: String,
    access_ttl_ms: i64,
    refresh_ttl_ms: i64,
    sign_up: SignUpPolicy,
}

impl Tokens {
    /// From a 32-byte seed.
    ///
    /// # Errors
    /// `INTERNAL`: the seed is no key.
    pub fn new(
        seed: &[u8; 32],
        installation: String,
        access_ttl_ms: i64,
        refresh_ttl_ms: i64,
        sign_up: SignUpPolicy,
    ) -> Result<Self, Refusal> {
        let failed = |e: pasetors::errors::Error| Refusal::new(Code::Internal, format!("signing key: {e:?}"));
        let pair = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(*seed));
        Ok(Self {
            secret: AsymmetricSecretKey::from(&pair.sk[..]).map_err(failed)?,
            public: AsymmetricPublicKey::from(&pair.pk[..]).map_err(failed)?,
            installation,
            access_ttl_ms,
            refresh_ttl_ms,
            sign_up,
        })
    }

    /// What a token says, if it is ours and its time is not over.
    ///
    /// # Errors
    /// Foreign, forged or expired.
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<TokenClaims, TokenError> {
        let foreign = |_| TokenError::Foreign;
        let untrusted = UntrustedToken::<Public, V4>::try_from(token).map_err(foreign)?;
        let bound = Some(self.installation.as_bytes());
        let trusted = PublicToken::verify(&self.public, &untrusted, None, bound).map_err(foreign)?;
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
        PublicToken::sign(&self.secret, &payload, None, Some(self.installation.as_bytes()))
            .expect("the key was checked when it was read")
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
