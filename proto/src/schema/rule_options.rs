//! Reads `buf.validate` options. What is not enforced is refused here.

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind as Described, OneofDescriptor, ReflectMessage, Value,
};
use regex_lite::Regex;

use super::compile::SchemaError;
use super::number::{self, Bound, Number, NumberIds};
use super::rules::{BlobRules, EnumRules, Rules, RulesOf, TextRules};

/// What HTML takes for an e-mail address, which is what `string.email` means:
/// <https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address>.
const EMAIL: &str = "^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+\
    @[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\
    (?:\\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$";

/// `buf.validate.Ignore`
const IGNORE_IF_ZERO_VALUE: i32 = 1;
const IGNORE_ALWAYS: i32 = 3;

type Result<T> = std::result::Result<T, SchemaError>;

#[derive(Default)]
pub(super) struct FieldOptions {
    pub(super) rules: Option<Rules>,
    /// `IGNORE_ALWAYS`
    pub(super) is_ignored: bool,
}

/// What the rules stand on, for errors and to tell whether they fit.
struct Subject<'a> {
    name: &'a str,
    kind: Described,
    has_presence: bool,
    /// An element, key or value, which is always there.
    is_element: bool,
}

/// Rules of a field.
pub(super) fn of_field(field: &FieldDescriptor) -> Result<FieldOptions> {
    match extension(&field.options(), "buf.validate.field") {
        Some(options) => read(
            &options,
            &Subject {
                name: field.full_name(),
                kind: field.kind(),
                has_presence: field.supports_presence(),
                is_element: false,
            },
            field.is_list(),
            field.is_map(),
        ),
        None => Ok(FieldOptions::default()),
    }
}

/// Rules of `key` or `value` in the entries of `map`.
pub(super) fn of_entry(map: &FieldDescriptor, part: &str) -> Result<FieldOptions> {
    let field_kind = map.kind();
    let entry = field_kind.as_message().expect("a map's entries are messages");
    let (rules, field) =
        if part == "key" { ("keys", entry.map_entry_key_field()) } else { ("values", entry.map_entry_value_field()) };
    let options = extension(&map.options(), "buf.validate.field");
    let of_map = options.and_then(|options| set_message(&options, "map"));
    match of_map.and_then(|of_map| set_message(&of_map, rules)) {
        Some(options) => element(&options, map.full_name(), field.kind()),
        None => Ok(FieldOptions::default()),
    }
}

fn element(options: &DynamicMessage, name: &str, kind: Described) -> Result<FieldOptions> {
    let subject = Subject { name, kind, has_presence: false, is_element: true };
    read(options, &subject, false, false)
}

/// Fails for rules of a whole message: none is supported.
pub(super) fn refuse_message_rules(name: &str, options: &DynamicMessage) -> Result<()> {
    let Some(rules) = extension(options, "buf.validate.message") else {
        return Ok(());
    };
    match rules.fields().next() {
        Some((field, _)) => Err(unsupported(name, &format!("message.{}", field.name()))),
        None => refuse_unknown(name, "message", &rules),
    }
}

pub(super) fn is_oneof_required(oneof: &OneofDescriptor) -> Result<bool> {
    let Some(rules) = extension(&oneof.options(), "buf.validate.oneof") else {
        return Ok(false);
    };
    refuse_unknown(oneof.full_name(), "oneof", &rules)?;
    let mut is_required = false;
    for (field, value) in rules.fields() {
        match field.name() {
            "required" => is_required = value.as_bool() == Some(true),
            other => return Err(unsupported(oneof.full_name(), &format!("oneof.{other}"))),
        }
    }
    Ok(is_required)
}

fn read(options: &DynamicMessage, subject: &Subject<'_>, is_list: bool, is_map: bool) -> Result<FieldOptions> {
    refuse_unknown(subject.name, "field", options)?;
    let (mut is_required, mut ignore, mut of) = (false, 0, None);
    for (field, value) in options.fields() {
        match (field.name(), value) {
            ("required", value) => is_required = value.as_bool() == Some(true),
            ("ignore", value) => ignore = value.as_enum_number().unwrap_or_default(),
            (name, Value::Message(rules)) if is_type(name) => {
                refuse_unknown(subject.name, name, rules)?;
                of = Some(match (name, is_list, is_map) {
                    ("repeated", true, _) => list(rules, subject)?,
                    ("map", _, true) => map(rules, subject)?,
                    ("repeated" | "map", ..) | (_, true, _) | (_, _, true) => {
                        return Err(mismatch(subject, name));
                    }
                    _ => of_type(name, rules, subject)?,
                });
            }
            (name, _) => return Err(unsupported(subject.name, name)),
        }
    }
    match ignore {
        0 | IGNORE_IF_ZERO_VALUE => {}
        IGNORE_ALWAYS => {
            return Ok(FieldOptions { rules: None, is_ignored: true });
        }
        other => return Err(unsupported(subject.name, &format!("ignore = {other}"))),
    }
    is_required &= !subject.is_element;
    let is_empty = !is_required && of.is_none();
    let rules = Rules {
        is_required,
        ignores_zero: ignore == IGNORE_IF_ZERO_VALUE && !subject.has_presence,
        of: of.unwrap_or(RulesOf::Presence),
    };
    Ok(FieldOptions { rules: (!is_empty).then_some(rules), is_ignored: false })
}

/// The others (`any`, `duration`, `timestamp`, `field_mask`) are not enforced.
fn is_type(name: &str) -> bool {
    const TYPES: [&str; 18] = [
        "float", "double", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
        "sfixed64", "bool", "string", "bytes", "enum", "repeated", "map",
    ];
    TYPES.contains(&name)
}

fn list(rules: &DynamicMessage, subject: &Subject<'_>) -> Result<RulesOf> {
    let (mut items_min, mut items_max, mut items) = (None, None, None);
    for (field, value) in rules.fields() {
        match (field.name(), value) {
            ("min_items", value) => items_min = value.as_u64(),
            ("max_items", value) => items_max = value.as_u64(),
            ("items", Value::Message(options)) => {
                let options = element(options, subject.name, subject.kind.clone())?;
                if options.is_ignored {
                    return Err(unsupported(subject.name, "repeated.items.ignore"));
                }
                items = options.rules.map(Box::new);
            }
            (name, _) => return Err(unsupported(subject.name, &format!("repeated.{name}"))),
        }
    }
    Ok(RulesOf::List { items_min, items_max, items })
}

fn map(rules: &DynamicMessage, subject: &Subject<'_>) -> Result<RulesOf> {
    let (mut pairs_min, mut pairs_max) = (None, None);
    for (field, value) in rules.fields() {
        match field.name() {
            "min_pairs" => pairs_min = value.as_u64(),
            "max_pairs" => pairs_max = value.as_u64(),
            // Read where the entry's table is made.
            "keys" | "values" => {}
            name => return Err(unsupported(subject.name, &format!("map.{name}"))),
        }
    }
    Ok(RulesOf::Map { pairs_min, pairs_max })
}

fn of_type(name: &str, rules: &DynamicMessage, subject: &Subject<'_>) -> Result<RulesOf> {
    let signed = |ids: &'static NumberIds| Ok(RulesOf::Signed(numbers(name, rules, subject)?, ids));
    let unsigned = |ids: &'static NumberIds| Ok(RulesOf::Unsigned(numbers(name, rules, subject)?, ids));
    let float = |ids: &'static NumberIds| Ok(RulesOf::Float(numbers(name, rules, subject)?, ids));
    match (name, &subject.kind) {
        ("float", Described::Float) => float(&number::FLOAT),
        ("double", Described::Double) => float(&number::DOUBLE),
        ("int32", Described::Int32) => signed(&number::INT32),
        ("int64", Described::Int64) => signed(&number::INT64),
        ("sint32", Described::Sint32) => signed(&number::SINT32),
        ("sint64", Described::Sint64) => signed(&number::SINT64),
        ("sfixed32", Described::Sfixed32) => signed(&number::SFIXED32),
        ("sfixed64", Described::Sfixed64) => signed(&number::SFIXED64),
        ("uint32", Described::Uint32) => unsigned(&number::UINT32),
        ("uint64", Described::Uint64) => unsigned(&number::UINT64),
        ("fixed32", Described::Fixed32) => unsigned(&number::FIXED32),
        ("fixed64", Described::Fixed64) => unsigned(&number::FIXED64),
        ("bool", Described::Bool) => boolean(rules, subject),
        ("enum", Described::Enum(described)) => enumeration(rules, described, subject),
        ("string", Described::String) => Ok(RulesOf::Text(Box::new(text(rules, subject)?))),
        ("bytes", Described::Bytes) => Ok(RulesOf::Blob(blob(rules, subject)?)),
        _ => Err(mismatch(subject, name)),
    }
}

/// A number of an option, in the width that rules are kept in.
trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

impl FromValue for i64 {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_i64().or_else(|| value.as_i32().map(Self::from))
    }
}

impl FromValue for u64 {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_u64().or_else(|| value.as_u32().map(Self::from))
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_f64().or_else(|| value.as_f32().map(Self::from))
    }
}

fn numbers<T: FromValue>(kind: &str, rules: &DynamicMessage, subject: &Subject<'_>) -> Result<Number<T>> {
    let mut number = Number::default();
    let one = |value: &Value| T::from_value(value).expect("rules have their field's type");
    let all = |value: &Value| value.as_list().into_iter().flatten().map(one).collect::<Vec<T>>();
    let bound = |value: &Value, is_inclusive| Some(Bound { value: one(value), is_inclusive });
    for (field, value) in rules.fields() {
        match field.name() {
            "const" => number.constant = Some(one(value)),
            "lt" => number.upper = bound(value, false),
            "lte" => number.upper = bound(value, true),
            "gt" => number.lower = bound(value, false),
            "gte" => number.lower = bound(value, true),
            "in" => number.one_of = all(value),
            "not_in" => number.none_of = all(value),
            "finite" => number.is_finite = value.as_bool() == Some(true),
            "example" => {}
            name => return Err(unsupported(subject.name, &format!("{kind}.{name}"))),
        }
    }
    Ok(number)
}

fn boolean(rules: &DynamicMessage, subject: &Subject<'_>) -> Result<RulesOf> {
    let mut of = RulesOf::Presence;
    for (field, value) in rules.fields() {
        match field.name() {
            "const" => of = RulesOf::Bool { constant: value.as_bool() == Some(true) },
            "example" => {}
            name => return Err(unsupported(subject.name, &format!("bool.{name}"))),
        }
    }
    Ok(of)
}

fn enumeration(rules: &DynamicMessage, described: &EnumDescriptor, subject: &Subject<'_>) -> Result<RulesOf> {
    let mut of = EnumRules::default();
    let all = |value: &Value| value.as_list().into_iter().flatten().filter_map(Value::as_i32).collect::<Vec<_>>();
    for (field, value) in rules.fields() {
        match field.name() {
            "const" => of.constant = value.as_i32(),
            "defined_only" if value.as_bool() == Some(true) => {
                let mut defined: Vec<i32> = described.values().map(|v| v.number()).collect();
                defined.sort_unstable();
                of.defined = Some(defined);
            }
            "in" => of.one_of = all(value),
            "not_in" => of.none_of = all(value),
            "defined_only" | "example" => {}
            name => return Err(unsupported(subject.name, &format!("enum.{name}"))),
        }
    }
    Ok(RulesOf::Enum(of))
}

fn text(rules: &DynamicMessage, subject: &Subject<'_>) -> Result<TextRules> {
    let mut of = TextRules::default();
    let one = |value: &Value| value.as_str().map(str::to_owned);
    let all = |value: &Value| value.as_list().into_iter().flatten().filter_map(one).collect();
    let is_on = |value: &Value| value.as_bool() == Some(true);
    for (field, value) in rules.fields() {
        of.is_read |= !is_size(field.name());
        match field.name() {
            "const" => of.constant = one(value),
            "len" => of.len = value.as_u64(),
            "min_len" => of.len_min = value.as_u64(),
            "max_len" => of.len_max = value.as_u64(),
            "len_bytes" => of.len_bytes = value.as_u64(),
            "min_bytes" => of.bytes_min = value.as_u64(),
            "max_bytes" => of.bytes_max = value.as_u64(),
            "pattern" => of.pattern = Some(regex(value.as_str().unwrap_or_default(), subject)?),
            "prefix" => of.prefix = one(value),
            "suffix" => of.suffix = one(value),
            "contains" => of.contains = one(value),
            "not_contains" => of.contains_not = one(value),
            "in" => of.one_of = all(value),
            "not_in" => of.none_of = all(value),
            "email" if is_on(value) => of.email = Some(regex(EMAIL, subject)?),
            "uuid" => of.is_uuid = is_on(value),
            "email" | "example" => {}
            name => return Err(unsupported(subject.name, &format!("string.{name}"))),
        }
    }
    Ok(of)
}

fn is_size(rule: &str) -> bool {
    const SIZES: [&str; 6] = ["len", "min_len", "max_len", "len_bytes", "min_bytes", "max_bytes"];
    SIZES.contains(&rule)
}

fn regex(pattern: &str, subject: &Subject<'_>) -> Result<Regex> {
    Regex::new(pattern).map_err(|why| SchemaError::Pattern { of: subject.name.into(), why: why.to_string() })
}

fn blob(rules: &DynamicMessage, subject: &Subject<'_>) -> Result<BlobRules> {
    let mut of = BlobRules::default();
    for (field, value) in rules.fields() {
        match field.name() {
            "len" => of.len = value.as_u64(),
            "min_len" => of.len_min = value.as_u64(),
            "max_len" => of.len_max = value.as_u64(),
            "example" => {}
            name => return Err(unsupported(subject.name, &format!("bytes.{name}"))),
        }
    }
    Ok(of)
}

fn extension(options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let (_, value) = options.extensions().find(|(e, _)| e.full_name() == name)?;
    value.as_message().cloned()
}

fn set_message(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    let descriptor = message.descriptor().get_field_by_name(field)?;
    message.has_field(&descriptor).then(|| message.get_field(&descriptor))?.as_message().cloned()
}

/// Predefined rules are extensions; rules of a newer `validate.proto` are
/// unknown fields.
fn refuse_unknown(of: &str, part: &str, rules: &DynamicMessage) -> Result<()> {
    if let Some((extension, _)) = rules.extensions().next() {
        return Err(unsupported(of, extension.full_name()));
    }
    match rules.unknown_fields().next() {
        Some(field) => Err(unsupported(of, &format!("{part}.#{}", field.number()))),
        None => Ok(()),
    }
}

fn unsupported(of: &str, rule: &str) -> SchemaError {
    SchemaError::Unsupported {
        of: of.to_owned(),
        rule: rule.to_owned(),
        hint: "remove it, and check the field where the request is decided",
    }
}

fn mismatch(subject: &Subject<'_>, rule: &str) -> SchemaError {
    SchemaError::Mismatch { of: subject.name.to_owned(), rule: rule.to_owned() }
}
