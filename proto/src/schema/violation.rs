//! What a check has to say.

use std::fmt;

use super::place::Place;

/// Violations told of at most: enough to mend a form by.
pub const VIOLATIONS_MAX: usize = 16;

/// What is wrong with one field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `message.text`, `channels[2].name`, `labels["a"]`; empty for the whole
    /// message.
    pub field: String,
    /// Id as in protovalidate (`string.max_bytes`), or `wire` for bytes that
    /// are no message of this type.
    pub rule: &'static str,
    /// `must be at most 16000 bytes, is 16001`. Never repeats a text.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() { "the message" } else { &self.field };
        write!(f, "{field} {} ({})", self.message, self.rule)
    }
}

/// Past the bound, violations are dropped.
pub(super) fn push(violations: &mut Vec<Violation>, place: &Place<'_>, rule: &'static str, message: String) {
    if violations.len() < VIOLATIONS_MAX {
        violations.push(Violation { field: place.render(), rule, message });
    }
}
