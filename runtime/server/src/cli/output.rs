//! Answers as JSON, YAML or tables.

use std::fmt::Write as _;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, SerializeOptions};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::comment::field_flag;
use super::error::{Error, printable};
use super::field::short_name;
use super::mirror::rows_field;

/// How answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The canonical JSON of protobuf with the fields' own names, defaults
    /// included; 64-bit integers are strings, which lose nothing in scripts.
    Json,
    /// The same names; integers are numbers.
    Yaml,
    /// For eyes: columns for lists, lines otherwise; times and enums readable.
    Table,
}

/// Longest cell of a list; the rest is one `-o json` away.
pub const CELL_CHARS_MAX: usize = 80;

/// What is printed for a secret.
const REDACTED: &str = "***";

/// How one answer is shown.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// The format.
    pub format: Format,
    /// Whether tokens are printed.
    pub show_secrets: bool,
}

/// A whole answer, ending in a newline.
///
/// # Errors
/// The answer does not fit its descriptor.
pub fn answer(message: &DynamicMessage, style: Style) -> Result<String, Error> {
    let node = node_of(message, style)?;
    Ok(match style.format {
        Format::Json => pretty_json(&node)?,
        Format::Yaml => serde_norway::to_string(&node).map_err(|e| Error::Answer(e.into()))?,
        Format::Table => match rows_field(&message.descriptor()) {
            Some(rows) => table(&rows, &node),
            None => lines(&node),
        },
    })
}

/// One message of a stream: a line, or a document in YAML.
///
/// # Errors
/// As [`answer`].
pub fn event(message: &DynamicMessage, style: Style) -> Result<String, Error> {
    let node = node_of(message, style)?;
    Ok(match style.format {
        Format::Json => serde_json::to_string(&node).map_err(|e| Error::Answer(e.into()))? + "\n",
        Format::Yaml => format!("---\n{}", serde_norway::to_string(&node).map_err(|e| Error::Answer(e.into()))?),
        Format::Table => {
            let pairs: Vec<String> = flatten(&node)
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(key, value)| format!("{key}={}", printable(&value)))
                .collect();
            pairs.join("  ") + "\n"
        }
    })
}

fn pretty_json(node: &Node) -> Result<String, Error> {
    serde_json::to_string_pretty(node).map(|text| text + "\n").map_err(|e| Error::Answer(e.into()))
}

/// JSON that keeps the order of the fields.
#[derive(Debug)]
enum Node {
    Value(serde_json::Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::List(nodes) => nodes.serialize(serializer),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, node) in entries {
                    map.serialize_entry(key, node)?;
                }
                map.end()
            }
        }
    }
}

fn node_of(message: &DynamicMessage, style: Style) -> Result<Node, Error> {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false)
        .stringify_64_bit_integers(style.format == Format::Json);
    let json =
        message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| Error::Answer(e.into()))?;
    Ok(message_node(&message.descriptor(), json, style))
}

fn message_node(descriptor: &MessageDescriptor, json: serde_json::Value, style: Style) -> Node {
    let mut object = match json {
        serde_json::Value::Object(object) if !descriptor.full_name().starts_with("google.protobuf.") => object,
        other => return Node::Value(other),
    };
    let mut entries = Vec::new();
    for field in descriptor.fields() {
        if let Some(json) = object.remove(field.name()) {
            entries.push((field.name().to_owned(), field_node(&field, json, style)));
        }
    }
    Node::Map(entries)
}

fn field_node(field: &FieldDescriptor, json: serde_json::Value, style: Style) -> Node {
    if !style.show_secrets && field_flag(field, "canopy.options.v1.secret") && json.as_str() != Some("") {
        return Node::Value(REDACTED.into());
    }
    match (field.kind(), json) {
        (Kind::Message(entry), serde_json::Value::Object(object)) if field.is_map() => {
            let value = entry.map_entry_value_field();
            Node::Map(object.into_iter().map(|(k, v)| (k, single_node(&value, v, style))).collect())
        }
        (_, serde_json::Value::Array(items)) if field.is_list() => {
            Node::List(items.into_iter().map(|item| single_node(field, item, style)).collect())
        }
        (_, json) => single_node(field, json, style),
    }
}

fn single_node(field: &FieldDescriptor, json: serde_json::Value, style: Style) -> Node {
    match field.kind() {
        Kind::Message(descriptor) => message_node(&descriptor, json, style),
        Kind::Enum(of) if style.format == Format::Table => {
            let value = json.as_str().and_then(|name| of.get_value_by_name(name));
            Node::Value(value.map_or(json, |v| short_name(&v).into()))
        }
        _ if style.format == Format::Table && field.name().ends_with("_time_ms") => {
            Node::Value(json.as_i64().map_or(json, |ms| if ms == 0 { "".into() } else { time(ms).into() }))
        }
        _ => Node::Value(json),
    }
}

/// A row per message, a column per plain field.
fn table(rows: &FieldDescriptor, node: &Node) -> String {
    let Kind::Message(row) = rows.kind() else {
        return lines(node);
    };
    let columns: Vec<String> = row
        .fields()
        .filter(|f| !f.is_list() && !f.is_map() && !matches!(f.kind(), Kind::Message(_)))
        .map(|f| f.name().to_owned())
        .collect();
    let mut cells: Vec<Vec<String>> = vec![columns.iter().map(|c| c.trim_end_matches("_ms").to_uppercase()).collect()];
    if let Some(Node::List(items)) = get(node, rows.name()) {
        for item in items {
            let cell = |column: &String| get(item, column).map(|n| clipped(&text(n))).unwrap_or_default();
            cells.push(columns.iter().map(cell).collect());
        }
    }
    let mut widths = vec![0; columns.len()];
    for line in &cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut shown = String::new();
    for line in &cells {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        shown.push_str(padded.join("  ").trim_end());
        shown.push('\n');
    }
    shown
}

/// `key  value`, a line each; texts of several lines are indented.
fn lines(node: &Node) -> String {
    let pairs = flatten(node);
    let width = pairs.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    let mut shown = String::new();
    for (key, value) in pairs {
        let indent = format!("\n{:width$}  ", "");
        let value: Vec<String> = value.split('\n').map(printable).collect();
        let _ = writeln!(shown, "{}", format!("{key:width$}  {}", value.join(&indent)).trim_end());
    }
    shown
}

/// Nested fields by dotted names.
fn flatten(node: &Node) -> Vec<(String, String)> {
    fn walk(prefix: &str, node: &Node, pairs: &mut Vec<(String, String)>) {
        match node {
            Node::Map(entries) => {
                if entries.is_empty() && !prefix.is_empty() {
                    pairs.push((prefix.to_owned(), "{}".to_owned()));
                }
                for (key, inner) in entries {
                    let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&name, inner, pairs);
                }
            }
            other => pairs.push((prefix.to_owned(), text(other))),
        }
    }
    let mut pairs = Vec::new();
    walk("", node, &mut pairs);
    pairs
}

fn text(node: &Node) -> String {
    match node {
        Node::Value(serde_json::Value::String(text)) => text.clone(),
        Node::Value(serde_json::Value::Null) => String::new(),
        Node::List(items) if items.is_empty() => String::new(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

fn get<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    match node {
        Node::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
        _ => None,
    }
}

fn clipped(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= CELL_CHARS_MAX {
        return text;
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

/// `2026-01-31 12:00:00.250Z` from milliseconds since 1970-01-01 UTC.
pub fn time(ms: i64) -> String {
    let (days, ms_of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = canopy_domain::civil(days);
    let (seconds, millis) = (ms_of_day / 1000, ms_of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}
