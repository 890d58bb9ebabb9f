//! The rules of protovalidate that Canopy enforces, as `validate.proto` gives
//! them; ids are those of <https://protovalidate.com/reference/rules/>.

use regex_lite::Regex;

use super::kind::Kind;
use super::number::{Number, NumberIds};
use super::reader::Raw;

/// What is called with a rule's id and what is wrong.
pub(super) type Report<'a> = &'a mut dyn FnMut(&'static str, String);

/// The rules of a field, or of a list's elements.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) is_required: bool,
    /// `IGNORE_IF_ZERO_VALUE`, on a field without presence.
    pub(super) ignores_zero: bool,
    pub(super) of: RulesOf,
}

#[derive(Debug)]
pub(super) enum RulesOf {
    /// Of a message, or `required` alone.
    Presence,
    Signed(Number<i64>, &'static NumberIds),
    Unsigned(Number<u64>, &'static NumberIds),
    Float(Number<f64>, &'static NumberIds),
    Bool {
        constant: bool,
    },
    Enum(EnumRules),
    Text(Box<TextRules>),
    Blob(BlobRules),
    List {
        items_min: Option<u64>,
        items_max: Option<u64>,
        items: Option<Box<Rules>>,
    },
    /// Rules of keys and values stand in the entry's table.
    Map {
        pairs_min: Option<u64>,
        pairs_max: Option<u64>,
    },
}

#[derive(Debug, Default)]
pub(super) struct EnumRules {
    pub(super) constant: Option<i32>,
    /// Sorted numbers that the enum declares.
    pub(super) defined: Option<Vec<i32>>,
    pub(super) one_of: Vec<i32>,
    pub(super) none_of: Vec<i32>,
}

#[derive(Debug, Default)]
pub(super) struct TextRules {
    pub(super) constant: Option<String>,
    /// In characters.
    pub(super) len: Option<u64>,
    pub(super) len_min: Option<u64>,
    pub(super) len_max: Option<u64>,
    pub(super) len_bytes: Option<u64>,
    pub(super) bytes_min: Option<u64>,
    pub(super) bytes_max: Option<u64>,
    pub(super) pattern: Option<Regex>,
    pub(super) prefix: Option<String>,
    pub(super) suffix: Option<String>,
    pub(super) contains: Option<String>,
    pub(super) contains_not: Option<String>,
    pub(super) one_of: Vec<String>,
    pub(super) none_of: Vec<String>,
    /// What `string.email` asks for, compiled.
    pub(super) email: Option<Regex>,
    pub(super) is_uuid: bool,
    /// Whether any rule looks at more than the length.
    pub(super) is_read: bool,
}

#[derive(Debug, Default)]
pub(super) struct BlobRules {
    /// In bytes.
    pub(super) len: Option<u64>,
    pub(super) len_min: Option<u64>,
    pub(super) len_max: Option<u64>,
}

impl Rules {
    /// Looks at one value: a singular field's, or a list's element.
    /// Texts must be UTF-8 already.
    pub(super) fn value(&self, kind: Kind, raw: Raw<'_>, is_secret: bool, report: Report<'_>) {
        match (&self.of, raw) {
            (RulesOf::Signed(rules, ids), _) => {
                rules.check(kind.signed(raw), ids, is_secret, report);
            }
            (RulesOf::Unsigned(rules, ids), _) => {
                rules.check(kind.unsigned(raw), ids, is_secret, report);
            }
            (RulesOf::Float(rules, ids), _) => {
                rules.check(kind.float(raw), ids, is_secret, report);
            }
            (RulesOf::Bool { constant }, _) if (kind.unsigned(raw) != 0) != *constant => {
                report("bool.const", format!("must be {constant}"));
            }
            (RulesOf::Enum(rules), _) => {
                let number = i32::try_from(kind.signed(raw)).expect("an enum has 32 bits");
                rules.check(number, report);
            }
            (RulesOf::Text(rules), Raw::Bytes(bytes)) => rules.check(bytes, report),
            (RulesOf::Blob(rules), Raw::Bytes(bytes)) => rules.check(bytes, report),
            _ => {}
        }
    }

    /// Looks at how many elements or pairs there are.
    pub(super) fn count(&self, count: usize, report: Report<'_>) {
        let count = count as u64;
        let (least, most, least_id, most_id, what) = match &self.of {
            RulesOf::List { items_min, items_max, .. } => {
                (*items_min, *items_max, "repeated.min_items", "repeated.max_items", "items")
            }
            RulesOf::Map { pairs_min, pairs_max } => {
                (*pairs_min, *pairs_max, "map.min_pairs", "map.max_pairs", "pairs")
            }
            _ => return,
        };
        at_least(least, count, least_id, what, report);
        at_most(most, count, most_id, what, report);
    }

    pub(super) fn counts_pairs(&self) -> bool {
        matches!(self.of, RulesOf::Map { pairs_min, pairs_max } if pairs_min.or(pairs_max).is_some())
    }
}

fn exactly(bound: Option<u64>, is: u64, id: &'static str, what: &str, report: Report<'_>) {
    if let Some(bound) = bound.filter(|bound| is != *bound) {
        report(id, format!("must be {bound} {what}, is {is}"));
    }
}

fn at_least(bound: Option<u64>, is: u64, id: &'static str, what: &str, report: Report<'_>) {
    if let Some(bound) = bound.filter(|bound| is < *bound) {
        report(id, format!("must be at least {bound} {what}, is {is}"));
    }
}

fn at_most(bound: Option<u64>, is: u64, id: &'static str, what: &str, report: Report<'_>) {
    if let Some(bound) = bound.filter(|bound| is > *bound) {
        report(id, format!("must be at most {bound} {what}, is {is}"));
    }
}

impl EnumRules {
    fn check(&self, number: i32, report: Report<'_>) {
        if let Some(constant) = self.constant.filter(|constant| number != *constant) {
            report("enum.const", format!("must be {constant}, is {number}"));
        }
        if self.defined.as_ref().is_some_and(|defined| defined.binary_search(&number).is_err()) {
            report("enum.defined_only", format!("must be a value that the enum names, is {number}"));
        }
        if !self.one_of.is_empty() && !self.one_of.contains(&number) {
            report("enum.in", format!("must be one of {:?}, is {number}", self.one_of));
        }
        if self.none_of.contains(&number) {
            report("enum.not_in", format!("must not be one of {:?}, is {number}", self.none_of));
        }
    }
}

impl TextRules {
    /// Most texts are judged by their size in bytes, without being read.
    fn check(&self, text: &[u8], report: Report<'_>) {
        let bytes = text.len() as u64;
        exactly(self.len_bytes, bytes, "string.len_bytes", "bytes", report);
        at_least(self.bytes_min, bytes, "string.min_bytes", "bytes", report);
        at_most(self.bytes_max, bytes, "string.max_bytes", "bytes", report);
        // A character has 1 to 4 bytes.
        let is_long_enough = self.len_min.is_none_or(|min| bytes.div_ceil(4) >= min);
        let is_short_enough = self.len_max.is_none_or(|max| bytes <= max);
        let is_counted = self.len.is_some() || !is_long_enough || !is_short_enough;
        if !is_counted && !self.is_read {
            return;
        }
        let Ok(text) = str::from_utf8(text) else {
            return;
        };
        if is_counted {
            let chars = text.chars().count() as u64;
            exactly(self.len, chars, "string.len", "characters", report);
            at_least(self.len_min, chars, "string.min_len", "characters", report);
            at_most(self.len_max, chars, "string.max_len", "characters", report);
        }
        if self.is_read {
            self.content(text, report);
        }
    }

    /// Messages do not repeat the text: it may be secret, or long.
    fn content(&self, text: &str, report: Report<'_>) {
        if self.constant.as_ref().is_some_and(|constant| text != constant) {
            report("string.const", "must be the one text that is allowed".into());
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            report("string.pattern", format!("must match `{pattern}`"));
        }
        if let Some(prefix) = self.prefix.as_ref().filter(|prefix| !text.starts_with(*prefix)) {
            report("string.prefix", format!("must start with {prefix:?}"));
        }
        if let Some(suffix) = self.suffix.as_ref().filter(|suffix| !text.ends_with(*suffix)) {
            report("string.suffix", format!("must end with {suffix:?}"));
        }
        if let Some(part) = self.contains.as_ref().filter(|part| !text.contains(*part)) {
            report("string.contains", format!("must contain {part:?}"));
        }
        if let Some(part) = self.contains_not.as_ref().filter(|part| text.contains(*part)) {
            report("string.not_contains", format!("must not contain {part:?}"));
        }
        if !self.one_of.is_empty() && !self.one_of.iter().any(|one| one == text) {
            report("string.in", format!("must be one of {:?}", self.one_of));
        }
        if self.none_of.iter().any(|one| one == text) {
            report("string.not_in", format!("must not be one of {:?}", self.none_of));
        }
        match &self.email {
            Some(_) if text.is_empty() => {
                report("string.email_empty", "must be an e-mail address, is empty".into());
            }
            Some(email) if !email.is_match(text) => {
                report("string.email", "must be an e-mail address".into());
            }
            _ => {}
        }
        if self.is_uuid && text.is_empty() {
            report("string.uuid_empty", "must be a UUID, is empty".into());
        } else if self.is_uuid && !is_uuid(text) {
            report("string.uuid", "must be a UUID".into());
        }
    }
}

/// Five groups of hexadecimal digits (RFC 9562, section 4).
fn is_uuid(text: &str) -> bool {
    let mut groups = text.split('-');
    let fits = [8, 4, 4, 4, 12]
        .into_iter()
        .all(|len| groups.next().is_some_and(|g| g.len() == len && g.bytes().all(|b| b.is_ascii_hexdigit())));
    fits && groups.next().is_none()
}

impl BlobRules {
    fn check(&self, bytes: &[u8], report: Report<'_>) {
        let len = bytes.len() as u64;
        exactly(self.len, len, "bytes.len", "bytes", report);
        at_least(self.len_min, len, "bytes.min_len", "bytes", report);
        at_most(self.len_max, len, "bytes.max_len", "bytes", report);
    }
}
