//! Refusals as gRPC statuses, with `google.rpc` details.

use std::collections::HashMap;
use std::time::Duration;

use canopy_domain::{Code, Refusal};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// `google.rpc.ErrorInfo.domain` of every refusal.
const DOMAIN: &str = "canopy";

/// gRPC's name of a refusal's kind.
pub fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::Aborted => tonic::Code::Aborted,
        Code::OutOfRange => tonic::Code::OutOfRange,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::Unimplemented => tonic::Code::Unimplemented,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::Internal => tonic::Code::Internal,
    }
}

/// The status that tells a client of a refusal: the message, and as details
/// the fields at fault, the quota that is used up, when to try again, and what
/// to do next (`ErrorInfo`, metadata key `hint`; `floor` where a cursor lies below it).
pub fn status(refusal: &Refusal) -> Status {
    let code = grpc_code(refusal.code);
    if code == tonic::Code::Internal {
        tracing::error!(message = refusal.message, "call failed");
    }
    let mut details = ErrorDetails::new();
    for field in &refusal.fields {
        details.add_bad_request_violation(&field.field, &field.description);
    }
    if let Some(quota) = &refusal.details().quota {
        let limit = quota.limit.name();
        details.add_quota_failure_violation(&quota.org, format!("{limit} is {}: {}", quota.max, refusal.message));
    }
    if let Some(ms) = refusal.retry_after_ms {
        details.set_retry_info(Some(Duration::from_millis(ms)));
    }
    let floor = refusal.details().floor.map(|floor| ("floor".to_owned(), floor.to_string()));
    let metadata: HashMap<_, _> =
        refusal.hint.iter().map(|hint| ("hint".to_owned(), hint.clone())).chain(floor).collect();
    if !metadata.is_empty() {
        let reason = refusal.details().reason.map_or_else(|| format!("{:?}", refusal.code), str::to_owned);
        details.set_error_info(reason, DOMAIN, metadata);
    }
    Status::with_error_details(code, &refusal.message, details)
}
