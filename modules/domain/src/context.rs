//! What a decision is given beside the state: time, randomness, the caller.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::{Address, Id, Origin, PasskeyDone, PasskeyStep, Principal, Refusal, Role, Settings};

/// A text that is wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Something slow, or outside the partition, to be done before a decision.
#[derive(Debug, Clone)]
pub enum Step {
    /// Hash a new password (Argon2id): gives [`Prepared::PasswordHash`].
    HashPassword(Secret),
    /// Look a new password up among those that leaked: gives
    /// [`Prepared::Breached`].
    FindBreached(Secret),
    /// Compare a password with a PHC string: gives [`Prepared::Password`].
    /// Without one, it takes as long and never fits.
    VerifyPassword {
        /// The stored hash.
        phc: Option<Secret>,
        /// The password given.
        password: Secret,
        /// Whose password is guessed, to count how often it is.
        attempt: Attempt,
    },
    /// Ask another actor: gives [`Prepared::Answer`].
    Ask {
        /// Who is asked.
        target: Address,
        /// `canopy.system.v1.Directory/Resolve`
        method: &'static str,
        /// The encoded request.
        request: Bytes,
    },
    /// Ask many actors the same: gives [`Prepared::Answers`], in this order.
    AskAll {
        /// Who is asked, and the encoded request.
        asked: Vec<(Address, Bytes)>,
        /// `canopy.system.v1.SessionEffects/ReadSession`
        method: &'static str,
    },
    /// Speak WebAuthn: gives [`Prepared::Passkey`].
    Passkey(Box<PasskeyStep>),
}

impl From<PasskeyStep> for Step {
    fn from(step: PasskeyStep) -> Self {
        Self::Passkey(Box::new(step))
    }
}

/// A password that somebody tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The account; where there is none, what was given in its place, so that
    /// both are counted alike.
    pub account: String,
    /// Whether the account has been logged in to from the caller's network
    /// address before.
    pub is_known_place: bool,
}

/// How a password compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordFit {
    /// It is another one.
    Wrong,
    /// It is the one.
    Right,
    /// It is the one, and its hash is weaker than those that are made now.
    RightAndWeak,
}

/// What came of a [`Step`].
#[derive(Debug, Clone)]
pub enum Prepared {
    /// A PHC string.
    PasswordHash(Secret),
    /// Whether the password leaked; never, where the server has no list.
    Breached(bool),
    /// Whether the password was right.
    Password(PasswordFit),
    /// The other actor's answer.
    Answer(Result<Bytes, Refusal>),
    /// The other actors' answers.
    Answers(Vec<Result<Bytes, Refusal>>),
    /// What came of a step about a passkey.
    Passkey(PasskeyDone),
}

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaims {
    /// Who.
    pub account: Address,
    /// By which log-in.
    pub session: Address,
    /// Milliseconds since 1970.
    pub expire_time_ms: i64,
}

/// Signs access tokens. Deterministic for the same claims and key.
pub trait TokenIssuer: Send + Sync {
    /// Milliseconds that an access token lives.
    fn access_ttl_ms(&self) -> i64;
    /// Milliseconds that a refresh token lives.
    fn refresh_ttl_ms(&self) -> i64;
    /// The signed token.
    fn issue(&self, claims: &TokenClaims) -> String;
    /// Opaque id of the installation.
    fn installation(&self) -> &str;
    /// Ed25519 key that verifies what [`TokenIssuer::attest`] signed.
    fn attestation_key(&self) -> [u8; 32];
    /// Signs a statement of the installation's, with a key that signs nothing
    /// else.
    fn attest(&self, statement: &[u8]) -> [u8; 64];
    /// Whether a sign-up with this token may proceed, and whether the token
    /// was the installation's (where sign-up is open, it need not be).
    ///
    /// # Errors
    /// Sign-up is closed, or the token is wrong.
    fn admit_sign_up(&self, sign_up_token: &str) -> Result<bool, Refusal>;
    /// What the installation decided for everybody.
    fn policy(&self) -> Policy {
        Policy::default()
    }
}

/// What an installation decided for everybody, in its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Whether mails are sent.
    pub mails: bool,
    /// Whether an account is to be verified before it is of use. Nobody is
    /// told, then, whether there is an account with an address.
    pub verification: bool,
}

/// Everything a decision may know beside the partition's state.
pub struct Context<'a> {
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: i64,
    /// Fresh random bits for this call.
    pub entropy: [u8; 32],
    /// Whose partition this is.
    pub address: &'a Address,
    /// Who calls.
    pub principal: &'a Principal,
    /// Where the call came from.
    pub origin: &'a Origin,
    /// The caller's highest role where the request points to.
    pub role: Option<Role>,
    /// The seq that this decision gets if it commits.
    pub seq: u64,
    /// What the method's steps gave, in order.
    pub prepared: &'a [Prepared],
    /// Signs tokens.
    pub issuer: &'a dyn TokenIssuer,
    /// What the server is set to.
    pub settings: Settings,
}

impl Context<'_> {
    /// A fresh id; `n` tells several of one decision apart.
    pub fn fresh_id(&self, n: u8) -> Id {
        let mut entropy = [0u8; 16];
        for (to, from) in entropy.iter_mut().zip(self.entropy) {
            *to = from;
        }
        if let Some(last) = entropy.last_mut() {
            *last ^= n;
        }
        Id::fresh(self.now_ms, &entropy)
    }

    /// 256 secret bits, as 64 hexadecimal digits; `purpose` tells several of
    /// one decision apart. Whoever shows a secret's name takes it from
    /// [`Context::hidden_id`], which tells nothing of them.
    pub fn secret(&self, purpose: &str) -> Secret {
        Secret::new(self.derived(purpose).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
    }

    /// A fresh id that shows none of the call's random bits.
    pub fn hidden_id(&self, purpose: &str) -> Id {
        let mut bits = [0u8; 16];
        for (to, from) in bits.iter_mut().zip(self.derived(purpose)) {
            *to = from;
        }
        Id::fresh(self.now_ms, &bits)
    }

    fn derived(&self, purpose: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.entropy).chain_update(purpose.as_bytes()).finalize().into()
    }

    /// The account that calls.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: nobody, or an actor, calls.
    pub fn caller(&self) -> Result<&Address, Refusal> {
        self.principal.account().ok_or_else(|| {
            Refusal::new(crate::Code::Unauthenticated, "this needs somebody signed in")
                .hint("log in with `canopy identity log-in`")
        })
    }

    /// Whether the caller holds at least `role` here.
    pub fn holds(&self, role: Role) -> bool {
        self.role.is_some_and(|held| held as i32 >= role as i32)
    }

    /// The etag of a row as this decision leaves it.
    pub fn etag(&self) -> String {
        self.seq.to_string()
    }
}
