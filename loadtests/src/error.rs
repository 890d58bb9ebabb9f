use std::path::PathBuf;

/// What can stop a load run. A failed call inside a run is counted, not raised.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{program} did not become ready: {reason}; run it by hand to see why. Its last words: {output}")]
    NotReady { program: String, reason: String, output: String },
    #[error("process {pid}: {reason}; it may have ended, see its output")]
    Process { pid: u32, reason: String },
    #[error("cannot connect to {address}: {source}; is the server listening there?")]
    Connect { address: String, source: tonic::transport::Error },
    #[error("call of {path} failed: {reason}")]
    Call { path: String, reason: String },
    #[error("the delivery stream broke: {0}")]
    Stream(String),
    #[error("deliveries stalled: {delivered} of {expected} after {seconds} s without progress")]
    Stalled { delivered: u64, expected: u64, seconds: u64 },
    #[error("raw fjall: {0}")]
    Store(#[from] fjall::Error),
    #[error("the side under test failed: {0}")]
    Subject(String),
    #[error("scenario {0} is unknown; `canopy-load list` names them all")]
    UnknownScenario(String),
    #[error(
        "no side under test is built in for scenario {0}; try `--subject baseline`, which compares the baseline with itself"
    )]
    NoSubject(&'static str),
    #[error("{} is in memory, where fsync costs nothing; name a directory on a disk with --data", .0.display())]
    InMemory(PathBuf),
    #[error("TLS set-up: {0}")]
    Tls(String),
    #[error("{context}: {source}")]
    Io { context: String, source: std::io::Error },
}

/// How a call's reason begins that was refused for want of room (`RESOURCE_EXHAUSTED`).
const REFUSED: &str = "grpc-status 8 ";

impl LoadError {
    /// Whether a call was refused for want of room, which is no failure.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Call { reason, .. } if reason.starts_with(REFUSED))
    }

    /// Turns an I/O error into one that says what was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}
