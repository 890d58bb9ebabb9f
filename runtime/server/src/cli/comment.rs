//! What the `.proto` files say of methods and fields, for help texts.

use std::collections::BTreeMap;

use canopy_proto::{Requirement, Rule};
use prost_reflect::{DynamicMessage, FieldDescriptor, FileDescriptor, Kind, Value};

/// The comment before a declaration, with its line breaks; empty where there
/// is none. `path` is the declaration's `SourceCodeInfo` path.
pub(super) fn of(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|l| l.path == path));
    let comment = location.map(|l| l.leading_comments()).unwrap_or_default();
    let lines: Vec<&str> = comment.lines().map(|l| l.strip_prefix(' ').unwrap_or(l).trim_end()).collect();
    lines.join("\n").trim().to_owned()
}

/// The first sentence, on one line.
pub(super) fn first_sentence(comment: &str) -> String {
    let paragraph = comment.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    match paragraph.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => paragraph,
    }
}

/// Who may call a method, as a sentence.
pub(super) fn requirement(rule: &Rule) -> String {
    match rule.requires {
        Requirement::Anybody => "Anybody may call this, without logging in.".to_owned(),
        Requirement::SignedIn => "Anybody who is logged in may call this.".to_owned(),
        Requirement::Own => "May be called for one's own account or session.".to_owned(),
        Requirement::Least(role) => {
            let role = role.as_str_name().trim_start_matches("ROLE_").to_lowercase().replace('_', "-");
            format!("Needs at least the role {role}.")
        }
        Requirement::Internal => "Called by Canopy's own actors.".to_owned(),
    }
}

/// Whether an option of this name is set to true on a field.
pub(super) fn field_flag(field: &FieldDescriptor, extension: &str) -> bool {
    let options = field.options();
    options.extensions().any(|(e, value)| e.full_name() == extension && matches!(value, Value::Bool(true)))
}

/// The `buf.validate` rules of a field that can be said in a few words.
#[derive(Debug, Default)]
pub(super) struct Limits {
    rules: BTreeMap<String, Value>,
    required: bool,
}

impl Limits {
    /// Reads the field's options.
    pub(super) fn of(field: &FieldDescriptor) -> Self {
        let options = field.options();
        let found = options
            .extensions()
            .find(|(e, _)| e.full_name() == "buf.validate.field")
            .and_then(|(_, value)| value.as_message());
        let Some(found) = found else {
            return Self::default();
        };
        let mut limits = Self { rules: BTreeMap::new(), required: is_true(found, "required") };
        if found.has_field_by_name("ignore") {
            return limits;
        }
        for (_, value) in found.fields() {
            if let Value::Message(kind) = value {
                limits.rules.extend(kind.fields().map(|(f, v)| (f.name().to_owned(), v.clone())));
            }
        }
        limits
    }

    /// Whether the field's default value breaks a rule, so that the field has
    /// to be given. Fields that know absence are checked only when present.
    pub(super) fn is_required(&self, field: &FieldDescriptor) -> bool {
        if self.required || field.supports_presence() {
            return self.required;
        }
        let least = |rule: &str| self.number(rule).is_some_and(|n| n >= 1.0);
        let refuses_zero = match self.rules.get("not_in") {
            Some(Value::List(values)) => values.iter().any(|v| as_number(v) == Some(0.0)),
            _ => false,
        };
        ["min_len", "min_bytes", "len", "min_items", "min_pairs", "gte"].into_iter().any(least)
            || self.number("gt").is_some_and(|n| n >= 0.0)
            || (refuses_zero && matches!(field.kind(), Kind::Enum(_)))
    }

    /// Such as `1 to 300 characters`; empty where nothing is said.
    pub(super) fn sentence(&self) -> String {
        let mut parts = Vec::new();
        let spans = [
            ("min_len", "max_len", " characters"),
            ("min_bytes", "max_bytes", " bytes"),
            ("min_items", "max_items", " times"),
            ("min_pairs", "max_pairs", " pairs"),
            ("gte", "lte", ""),
        ];
        for (min, max, unit) in spans {
            match (self.number(min), self.number(max)) {
                (Some(min), Some(max)) => parts.push(format!("{min} to {max}{unit}")),
                (Some(min), None) => parts.push(format!("at least {min}{unit}")),
                (None, Some(max)) => parts.push(format!("at most {max}{unit}")),
                (None, None) => {}
            }
        }
        for (rule, phrase) in [("gt", "more than"), ("lt", "less than"), ("len", "characters:")] {
            parts.extend(self.number(rule).map(|n| format!("{phrase} {n}")));
        }
        if let Some(Value::String(pattern)) = self.rules.get("pattern") {
            parts.push(format!("matching {pattern}"));
        }
        for format in ["email", "hostname", "ip", "uri", "uuid"] {
            if matches!(self.rules.get(format), Some(Value::Bool(true))) {
                parts.push(format!("a valid {format}"));
            }
        }
        let mut text = parts.join(", ");
        if let Some(first) = text.get(..1).map(str::to_uppercase) {
            text.replace_range(..1, &first);
            text.push('.');
        }
        text
    }

    fn number(&self, rule: &str) -> Option<f64> {
        self.rules.get(rule).and_then(as_number)
    }
}

fn is_true(message: &DynamicMessage, field: &str) -> bool {
    message.get_field_by_name(field).is_some_and(|v| matches!(v.as_ref(), Value::Bool(true)))
}

#[allow(clippy::cast_precision_loss, reason = "limits are shown and compared coarsely")]
fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::I32(n) | Value::EnumNumber(n) => Some(f64::from(*n)),
        Value::I64(n) => Some(*n as f64),
        Value::U32(n) => Some(f64::from(*n)),
        Value::U64(n) => Some(*n as f64),
        Value::F32(n) => Some(f64::from(*n)),
        Value::F64(n) => Some(*n),
        _ => None,
    }
}
