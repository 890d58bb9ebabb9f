//! What a decision has done and hears where WebAuthn is spoken: the options and
//! answers of browsers are read there and nowhere else.

use bytes::Bytes;

use crate::{Address, Attempt, Id};

/// How long a browser, and its holder, have to answer, in seconds: time to find a
/// key or a phone, and to unlock it. WebAuthn level 3 recommends it.
pub const PASSKEY_CHALLENGE_S: u32 = 300;

/// What is done before a decision about a passkey.
#[derive(Debug, Clone)]
pub enum PasskeyStep {
    /// Begin to make one: gives [`PasskeyDone::Begun`].
    Begin {
        /// Whose it will be. Authenticators keep it and show it at a log-in.
        account: Id,
        /// What authenticators call the account: its e-mail address.
        email: String,
        /// What others call its holder.
        display_name: String,
        /// Credential ids that the account has already.
        known: Vec<Bytes>,
    },
    /// Compare the authenticator's answer with what was begun: gives
    /// [`PasskeyDone::Made`].
    Finish {
        /// As [`PasskeyDone::Begun`] gave it.
        begun: Bytes,
        /// JSON.
        answer: String,
    },
    /// Begin a log-in: gives [`PasskeyDone::LogInBegun`].
    BeginLogIn {
        /// Whose it is said to be; where nobody said, whoever's it will be.
        of: Option<PasskeyHolder>,
    },
    /// Read who an answer says it is from: gives [`PasskeyDone::Claimed`].
    /// Nothing of it is proven.
    ReadLogIn {
        /// As [`PasskeyDone::LogInBegun`] gave it.
        challenge: String,
        /// JSON.
        answer: String,
    },
    /// Compare an answer with the credential that it names: gives
    /// [`PasskeyDone::Compared`]. Without one, it never fits.
    CompareLogIn {
        /// As [`PasskeyDone::LogInBegun`] gave it.
        challenge: String,
        /// JSON.
        answer: String,
        /// As [`PasskeyDone::Made`] gave it.
        credential: Option<Bytes>,
        /// Whose log-in is tried, to count how often it is.
        attempt: Attempt,
        /// From which network address.
        place: String,
    },
}

/// Whose passkeys a log-in asks for, or somebody of whom there is nothing.
#[derive(Debug, Clone)]
pub struct PasskeyHolder {
    /// As it was given, in small letters.
    pub email: String,
    /// Whose account; where there is none, one that nobody has.
    pub account: Id,
    /// Credential ids of its passkeys.
    pub known: Vec<Bytes>,
}

/// What came of a [`PasskeyStep`].
#[derive(Debug, Clone)]
pub enum PasskeyDone {
    /// What a browser is given, as JSON, and what its answer is compared with.
    Begun {
        /// For `navigator.credentials.create`.
        options: String,
        /// To be kept until then.
        begun: Bytes,
    },
    /// The answer is right.
    Made {
        /// What it was compared with.
        begun: Bytes,
        /// By which authenticators name it.
        credential_id: Bytes,
        /// What log-ins are compared with.
        credential: Bytes,
    },
    /// What a browser is given, as JSON, and what proves that it was.
    LogInBegun {
        /// For `navigator.credentials.get`.
        options: String,
        /// To be sent back with the answer.
        challenge: String,
    },
    /// Who an answer says it is from.
    Claimed(PasskeyClaim),
    /// How it compares.
    Compared(PasskeyFit),
}

/// Who an answer says it is from, and to which challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasskeyClaim {
    /// Whose passkey.
    pub account: Address,
    /// Which of theirs.
    pub credential_id: Bytes,
    /// Which challenge: of our own making, and in time.
    pub challenge_id: [u8; 16],
    /// Until when it is good, in milliseconds since 1970.
    pub expire_time_ms: i64,
}

/// How an answer compares with a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasskeyFit {
    /// It is not by its holder, not for us, or not to this challenge.
    Wrong,
    /// It is right.
    Right {
        /// The credential as it is to be kept from now on.
        credential: Bytes,
        /// How often the authenticator has signed; zero where it does not count.
        sign_count: u32,
    },
    /// It is right, but for the counter: somebody else has signed more often.
    CounterWentBack,
}
