//! Entries for audits: what a call was, for those who look back at it.

use canopy_domain::{Address, Code, Effect, Id, Principal, Refusal, Wire};
use canopy_proto::methods::audit_effects;
use canopy_proto::org::v1::{AuditDetail, AuditEntry, AuditOutcome};
use canopy_proto::system::v1::RecordEntryRequest;
use prost::Message;

use crate::call::Call;
use crate::{Node, clock};

/// The code of what was not looked at, for there was too much of it before.
pub(crate) const HELD_BACK: &str = "RESOURCE_EXHAUSTED";
/// The code of what a session asked for elsewhere than where it was opened.
pub(crate) const ELSEWHERE: &str = "FAILED_PRECONDITION";
/// Characters kept of a request id.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// The entry for a call that was let through.
pub(crate) fn entry(call: &Call, target: &Address, now_ms: i64) -> AuditEntry {
    let session = match &call.principal {
        Principal::Person { session, .. } => session.to_string(),
        Principal::Key { name, .. } => name.clone(),
        Principal::Nobody | Principal::Actor(_) => String::new(),
    };
    AuditEntry {
        time_ms: now_ms,
        last_time_ms: now_ms,
        principal: call.principal.as_str().to_owned(),
        session,
        peer: call.origin.peer.clone(),
        client: call.origin.client.clone(),
        method: call.method.to_owned(),
        target: target.to_string(),
        outcome: AuditOutcome::Allowed.into(),
        count: 1,
        request_id: call.request_id.chars().take(REQUEST_ID_CHARS_MAX).collect(),
        ..AuditEntry::default()
    }
}

pub(crate) fn detail(name: &str, value: String) -> AuditDetail {
    AuditDetail { name: name.to_owned(), value }
}

/// Makes an entry that of a denial.
pub(crate) fn deny(entry: &mut AuditEntry, code: Code) {
    entry.outcome = AuditOutcome::Denied.into();
    entry.code = match code {
        Code::NotFound => "NOT_FOUND",
        Code::ResourceExhausted => HELD_BACK,
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::FailedPrecondition => ELSEWHERE,
        _ => "PERMISSION_DENIED",
    }
    .to_owned();
}

/// What an audit is sent.
pub(crate) fn effect(audit: &Address, entry: &AuditEntry) -> Effect {
    let request =
        RecordEntryRequest { audit: audit.to_string(), entry: Some(Wire::new(entry)), request_id: String::new() };
    let request = request.encode_to_vec().into();
    Effect { target: audit.clone(), method: audit_effects::RECORD_ENTRY.path, request, outlives_subjects: true }
}

impl Node {
    /// Has a call stand in an audit before it is done, where no commit of its
    /// owner says it.
    ///
    /// # Errors
    /// It does not stand there.
    pub async fn record(&self, audit: &Address, call: &Call, target: &Address) -> Result<(), Refusal> {
        let now_ms = clock::now_ms();
        let Effect { target: to, method, request, .. } = effect(audit, &entry(call, target, now_ms));
        let id = Id::fresh(now_ms, &clock::random_bytes());
        self.ask(&to, method, request, &Address::system("edge"), &id.to_string()).await.map(drop)
    }
}
