//! The small closed taxonomy of refusals.

use std::fmt;

use crate::Address;

/// Why a call was refused: a subset of gRPC's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request itself is wrong.
    InvalidArgument,
    /// No such thing, or not for the caller to know of.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Known who, not allowed.
    PermissionDenied,
    /// Not known who.
    Unauthenticated,
    /// Not in this state.
    FailedPrecondition,
    /// Somebody else was faster, or the actor restarted: read and try again.
    Aborted,
    /// A cursor below the retention floor or beyond the end.
    OutOfRange,
    /// Too much at once.
    ResourceExhausted,
    /// Not in this release.
    Unimplemented,
    /// Not now: try again with the same request id.
    Unavailable,
    /// The time given ran out.
    DeadlineExceeded,
    /// A bug or a broken disk.
    Internal,
}

/// A field of the request, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Dotted path: `message.text`.
    pub field: String,
    /// What is wrong.
    pub description: String,
}

/// A limit of an org's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuotaLimit {
    /// People with a role.
    PeopleMax,
    /// Calls a second.
    RequestsPerSMax,
    /// Bytes on disk.
    BytesMax,
}

impl QuotaLimit {
    /// As the quota's field is named.
    pub fn name(self) -> &'static str {
        match self {
            Self::PeopleMax => "people_max",
            Self::RequestsPerSMax => "requests_per_s_max",
            Self::BytesMax => "bytes_max",
        }
    }
}

/// A quota that is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaViolation {
    /// Whose: `org/<id>`.
    pub org: String,
    /// Which limit.
    pub limit: QuotaLimit,
    /// How much it allows.
    pub max: i64,
}

/// A refusal: what happened, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal.
    pub code: Code,
    /// One sentence for people.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Fields at fault.
    pub fields: Vec<FieldViolation>,
    /// When trying again makes sense, in milliseconds.
    pub retry_after_ms: Option<u64>,
    details: Option<Box<Details>>,
}

/// What few refusals have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// What a program tells it by, where its kind does not say enough:
    /// `LogInTooWeak`.
    pub reason: Option<&'static str>,
    /// The account that should know of it: somebody tried to come in as its
    /// holder. Never told to the caller.
    pub concerns: Option<Address>,
    /// The quota that is used up.
    pub quota: Option<QuotaViolation>,
    /// The retention floor that a cursor lies below.
    pub floor: Option<u64>,
}

impl Refusal {
    /// A refusal with a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, fields: Vec::new(), retry_after_ms: None, details: None }
    }

    /// What it says beside all that refusals do.
    pub fn details(&self) -> &Details {
        static NONE: Details = Details { reason: None, concerns: None, quota: None, floor: None };
        self.details.as_deref().unwrap_or(&NONE)
    }

    fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// The request's field is wrong.
    pub fn invalid(field: &str, description: impl Into<String>) -> Self {
        let description = description.into();
        let mut refusal = Self::new(Code::InvalidArgument, format!("{field}: {description}"));
        refusal.fields.push(FieldViolation { field: field.into(), description });
        refusal
    }

    /// There is no such thing.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("`{what}` does not exist, or is not yours to see"))
    }

    /// The feed of `what` no longer holds what came after a cursor.
    pub fn below_floor(what: &str, cursor: u64, floor: u64) -> Self {
        let message = format!("cursor {cursor} of `{what}` is too old: changes are kept from {floor} on");
        let mut refusal = Self::new(Code::OutOfRange, message)
            .hint("list anew what is there now, and subscribe from the cursor of that list");
        refusal.details_mut().floor = Some(floor);
        refusal
    }

    /// Somebody else changed it first.
    pub fn stale_etag() -> Self {
        Self::new(Code::Aborted, "it was changed since you read it")
            .hint("read it again and repeat the change with the new etag")
    }

    /// Adds the account that should know of it.
    #[must_use]
    pub fn concerning(mut self, account: Address) -> Self {
        self.details_mut().concerns = Some(account);
        self
    }

    /// Adds the quota that is used up.
    #[must_use]
    pub fn quota(mut self, limit: QuotaLimit, org: &Address, max: i64) -> Self {
        self.details_mut().quota = Some(QuotaViolation { org: org.to_string(), limit, max });
        self
    }

    /// Adds what a program tells it by.
    #[must_use]
    pub fn reason(mut self, reason: &'static str) -> Self {
        self.details_mut().reason = Some(reason);
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds when to try again, in milliseconds.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
