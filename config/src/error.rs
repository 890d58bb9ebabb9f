//! What can be wrong with a configuration.

use std::path::PathBuf;

use crate::origin::Origin;

/// Everything that is wrong with a configuration, found in one pass.
#[derive(Debug, thiserror::Error)]
#[error("{}", listed(.problems))]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong. No variant holds a value that could be a misplaced secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{}: cannot be read: {reason}; check the path given with --config or CANOPY_CONFIG", path.display())]
    Unreadable {
        /// The path as it was given.
        path: PathBuf,
        /// What the operating system, or the size limit, said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{origin}: not TOML: {reason}; correct this line")]
    Syntax {
        /// The line at fault.
        origin: Origin,
        /// What the parser said.
        reason: String,
    },
    /// A name that is not in the table of keys.
    #[error("{origin}: unknown key `{name}`; {}", suggestion(.nearest))]
    UnknownKey {
        /// The name as found: a path, a section or a variable.
        name: String,
        /// Where it was found.
        origin: Origin,
        /// The known name most like it, if one is.
        nearest: Option<String>,
    },
    /// A value of the wrong type or out of bounds.
    #[error("{origin}: `{key}` is {found}; allowed: {allowed}")]
    BadValue {
        /// The key's path.
        key: &'static str,
        /// Where the value was found.
        origin: Origin,
        /// The value and its type, unless it could be a misplaced secret.
        found: String,
        /// What the key accepts.
        allowed: String,
    },
    /// Values that are each right, and wrong together.
    #[error("{reason}: {}; {remedy}", .values.join(", "))]
    Conflict {
        /// The paths of the keys involved.
        keys: Vec<&'static str>,
        /// `key = value (origin)` for each of them.
        values: Vec<String>,
        /// What is wrong.
        reason: &'static str,
        /// What to change.
        remedy: &'static str,
    },
    /// A command line override that is not `key=value`.
    #[error("command line: an override has the form key=value, such as --set log.level=debug")]
    NotAnOverride,
}

fn listed(problems: &[Problem]) -> String {
    match problems {
        [only] => format!("configuration: {only}"),
        _ => {
            let lines: String = problems.iter().map(|problem| format!("\n  - {problem}")).collect();
            format!("configuration: {} problems{lines}", problems.len())
        }
    }
}

fn suggestion(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("did you mean `{name}`?"),
        None => "`canopy local config --origin` lists every key".to_owned(),
    }
}
