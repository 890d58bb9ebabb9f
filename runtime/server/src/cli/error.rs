//! What can go wrong on the command line, how it is told, and the exit code
//! that scripts may rely on.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How a command ended; the numbers do not change between releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or whoever read the output went away.
    Success = 0,
    /// Unexpected: INTERNAL, UNKNOWN, DATA_LOSS, CANCELLED, or a fault here.
    Unexpected = 1,
    /// The command line or a local file does not make sense.
    Usage = 2,
    /// INVALID_ARGUMENT, OUT_OF_RANGE.
    InvalidArgument = 3,
    /// UNAUTHENTICATED.
    Unauthenticated = 4,
    /// PERMISSION_DENIED.
    PermissionDenied = 5,
    /// NOT_FOUND.
    NotFound = 6,
    /// ALREADY_EXISTS, ABORTED, FAILED_PRECONDITION.
    Conflict = 7,
    /// RESOURCE_EXHAUSTED.
    ResourceExhausted = 8,
    /// UNAVAILABLE, DEADLINE_EXCEEDED.
    Unavailable = 9,
    /// UNIMPLEMENTED.
    Unimplemented = 10,
    /// Ctrl-C; 128 + SIGINT, as shells do.
    Interrupted = 130,
}

/// The table of exit codes, for `canopy --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  unexpected: INTERNAL, UNKNOWN, DATA_LOSS, CANCELLED
    2  the command line or a local file does not make sense
    3  INVALID_ARGUMENT, OUT_OF_RANGE
    4  UNAUTHENTICATED
    5  PERMISSION_DENIED
    6  NOT_FOUND
    7  ALREADY_EXISTS, ABORTED, FAILED_PRECONDITION
    8  RESOURCE_EXHAUSTED
    9  UNAVAILABLE, DEADLINE_EXCEEDED
   10  UNIMPLEMENTED
  130  interrupted";

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The exit for an answer that is not OK.
    pub fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Success,
            Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => Self::Unexpected,
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidArgument,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => Self::Conflict,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unavailable,
            Code::Unimplemented => Self::Unimplemented,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line does not make sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// A local file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write`, …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server, or the way to it, refused.
    #[error("{}: {}", code_name(status.code()), status.message())]
    Refused {
        /// With the details that the server sent.
        status: Box<Status>,
        /// What to do next, where that is known here.
        hint: Option<String>,
    },
    /// The answer is not what its descriptor says.
    #[error("cannot show the answer")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody reads the output any more (`canopy … | head`).
    #[error("the output is closed")]
    OutputClosed,
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// A usage error with what to do next.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// A failed action on a file.
    pub fn file(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { action, path: path.into(), source }
    }

    /// How the process ends after this.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } | Self::File { .. } => Exit::Usage,
            Self::Refused { status, .. } => Exit::of(status.code()),
            Self::Answer(_) | Self::Output(_) => Exit::Unexpected,
            Self::OutputClosed => Exit::Success,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    /// Message, details and hint, a line each, ending in a newline. What came
    /// from the server is shown without control characters.
    pub fn report(&self) -> String {
        let mut text = format!("error: {}\n", printable(&self.to_string()));
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line(&mut text, &error.to_string());
            cause = error.source();
        }
        match self {
            Self::Refused { status, hint } => {
                report_details(&mut text, status);
                let advice = status.get_details_error_info().and_then(|mut info| info.metadata.remove(HINT));
                let usual = || hint_for(status.code()).map(str::to_owned);
                if let Some(hint) = hint.clone().or(advice).or_else(usual) {
                    let _ = writeln!(text, "hint: {}", printable(&hint));
                }
            }
            Self::Usage { hint, .. } if !hint.is_empty() => {
                let _ = writeln!(text, "hint: {hint}");
            }
            _ => {}
        }
        text
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Refused { status: Box::new(status), hint: None }
    }
}

/// Writing to standard output failed.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::OutputClosed } else { Self::Output(error) }
    }
}

/// Key of `google.rpc.ErrorInfo.metadata` under which the server says what to
/// do next.
const HINT: &str = "hint";

fn line(text: &mut String, what: &str) {
    let _ = writeln!(text, "  {}", printable(what));
}

/// The `google.rpc` details that say more than the message.
fn report_details(text: &mut String, status: &Status) {
    // Each layer of the transport repeats the one below.
    let mut told = vec![status.message().to_owned()];
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let what = error.to_string();
        if !told.contains(&what) {
            line(text, &what);
            told.push(what);
        }
        cause = error.source();
    }
    let details = status.get_error_details();
    if let Some(request) = details.bad_request() {
        for violation in &request.field_violations {
            let what = format!("{}: {}", violation.field, violation.description);
            if !told.contains(&what) {
                line(text, &what);
            }
        }
    }
    if let Some(failure) = details.precondition_failure() {
        for violation in &failure.violations {
            line(text, &format!("{} {}: {}", violation.r#type, violation.subject, violation.description));
        }
    }
    if let Some(failure) = details.quota_failure() {
        for violation in &failure.violations {
            line(text, &format!("{}: {}", violation.subject, violation.description));
        }
    }
    if let Some(info) = details.error_info() {
        let mut what = format!("reason: {} ({})", info.reason, info.domain);
        let mut metadata: Vec<_> = info.metadata.iter().filter(|(key, _)| *key != HINT).collect();
        metadata.sort();
        for (key, value) in metadata {
            let _ = write!(what, " {key}={value}");
        }
        line(text, &what);
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        line(text, &format!("retry after {:.1} s", delay.as_secs_f64()));
    }
    if let Some(help) = details.help() {
        for link in &help.links {
            line(text, &format!("see: {} {}", link.description, link.url));
        }
    }
}

/// What people usually do next; a hint in the server's details says it better.
fn hint_for(code: Code) -> Option<&'static str> {
    match code {
        Code::Unauthenticated => Some("log in: canopy identity log-in --email YOU@EXAMPLE.ORG"),
        Code::ResourceExhausted => Some("the server is busy or a quota is used up: try again later"),
        Code::OutOfRange => Some("list anew what is there now, and go on from the cursor of that list"),
        Code::Unavailable => Some("is the server running, and is its URL right? canopy context show"),
        Code::DeadlineExceeded => Some("allow more time: --timeout 2m"),
        Code::Unimplemented => Some("server and command line may differ in release: canopy ops get-installation"),
        _ => None,
    }
}

/// The code as `google.rpc.Code` spells it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The text with control characters escaped, so that what others wrote cannot
/// steer the reader's terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}
