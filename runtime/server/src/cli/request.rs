//! Flags and JSON made into a request message.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use bytes::Bytes;
use clap::ArgMatches;
use clap::parser::ValueSource;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};

use super::error::Error;
use super::field::{FIELD_MASK, Leaf, REQUEST_ID, enum_value};
use super::options;
use super::terminal::Terminal;

/// Most that is read from one file or from standard input.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Makes the request that the flags describe.
///
/// # Errors
/// A value does not fit its field, a file cannot be read, or a field that the
/// server requires is missing.
pub fn build(
    request: &MessageDescriptor,
    leaves: &[Leaf],
    matches: &ArgMatches,
    terminal: &mut Terminal,
) -> Result<DynamicMessage, Error> {
    let mut reader = Reader { terminal, stdin_used_by: None };
    let json = matches.try_get_one::<String>(options::JSON).ok().flatten();
    let mut message = match json {
        Some(text) => {
            let text = reader.text("json", text)?;
            from_json(request.clone(), &text).map_err(|why| {
                Error::usage(format!("--json: {why}"), format!("it has to be a {}", request.full_name()))
            })?
        }
        None => DynamicMessage::new(request.clone()),
    };

    let mut elements: Vec<(&[FieldDescriptor], Vec<Occurrence<'_>>)> = Vec::new();
    for leaf in leaves {
        let occurrences = occurrences(leaf, matches);
        if occurrences.is_empty() {
            continue;
        }
        match list_of_messages(leaf) {
            Some(path) => match elements.iter_mut().find(|(other, _)| *other == path) {
                Some((_, all)) => all.extend(occurrences),
                None => elements.push((path, occurrences)),
            },
            None => {
                let value = reader.value(leaf, occurrences.iter().map(|o| o.text))?;
                set(&mut message, &leaf.path, value)?;
            }
        }
    }
    for (path, mut occurrences) in elements {
        occurrences.sort_by_key(|o| o.index);
        let list = build_elements(path, &occurrences, &mut reader)?;
        set(&mut message, path, Value::List(list))?;
    }

    fill_request_id(&mut message);
    for leaf in leaves.iter().filter(|l| l.required && l.element.is_none()) {
        let is_given = !occurrences(leaf, matches).is_empty() || !is_default(&message, &leaf.path);
        if is_given || json.is_some() {
            continue;
        }
        if leaf.secret && reader.terminal.stdin_is_terminal {
            let question = format!("{}: ", leaf.field().name().replace('_', " "));
            let answer = (reader.terminal.prompt)(&question).map_err(|source| {
                // In raw mode Ctrl-C is a character, and no signal.
                if source.kind() == std::io::ErrorKind::Interrupted {
                    return Error::Interrupted;
                }
                Error::file("read from", "the terminal", source)
            })?;
            set(&mut message, &leaf.path, Value::String(answer))?;
            continue;
        }
        let hint = if leaf.secret {
            format!("give it as --{} @FILE, or @- for standard input", leaf.shortest())
        } else {
            "see --help".to_owned()
        };
        return Err(Error::usage(format!("--{} is required", leaf.shortest()), hint));
    }
    Ok(message)
}

/// An argument that may be `@FILE`, `@-`, or `@@…` for a literal `@…`.
///
/// # Errors
/// The file cannot be read or is not text.
pub fn text_argument(flag: &str, text: &str, terminal: &mut Terminal) -> Result<String, Error> {
    Reader { terminal, stdin_used_by: None }.text(flag, text)
}

/// 128 random bits in hex.
pub fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Gives a request an id of its own where it has a place for one, so that
/// repeating it is harmless.
pub fn fill_request_id(message: &mut DynamicMessage) {
    let field = message.descriptor().get_field_by_name(REQUEST_ID);
    if let Some(field) = field.filter(|f| f.kind() == Kind::String && !f.is_list()) {
        let is_empty = message.get_field(&field).as_str().is_none_or(str::is_empty);
        if is_empty {
            message.set_field(&field, Value::String(random_id()));
        }
    }
}

/// One value as it stood on the command line.
struct Occurrence<'a> {
    leaf: &'a Leaf,
    index: usize,
    text: &'a str,
}

fn occurrences<'a>(leaf: &'a Leaf, matches: &'a ArgMatches) -> Vec<Occurrence<'a>> {
    if matches.value_source(&leaf.flag) != Some(ValueSource::CommandLine) {
        return Vec::new();
    }
    let indices = matches.indices_of(&leaf.flag).into_iter().flatten();
    let values = matches.get_many::<String>(&leaf.flag).into_iter().flatten();
    indices.zip(values).map(|(index, text)| Occurrence { leaf, index, text }).collect()
}

/// The path of the list whose elements this leaf describes: from inside, or
/// whole as JSON.
fn list_of_messages(leaf: &Leaf) -> Option<&[FieldDescriptor]> {
    if let Some(element) = leaf.element {
        return leaf.path.get(..=element);
    }
    let field = leaf.field();
    let is_json = matches!(field.kind(), Kind::Message(m) if m.full_name() != FIELD_MASK);
    (field.is_list() && is_json).then_some(leaf.path.as_slice())
}

/// Each JSON value is an element; so is what lies between two occurrences of
/// the flag that came first.
fn build_elements(
    list: &[FieldDescriptor],
    occurrences: &[Occurrence<'_>],
    reader: &mut Reader<'_>,
) -> Result<Vec<Value>, Error> {
    let leader = occurrences.iter().find(|o| o.leaf.element.is_some()).map(|o| o.leaf.flag.as_str());
    let mut groups: Vec<Vec<&Occurrence<'_>>> = Vec::new();
    let mut open = None;
    for occurrence in occurrences {
        if occurrence.leaf.element.is_none() {
            groups.push(vec![occurrence]);
        } else if leader == Some(occurrence.leaf.flag.as_str()) {
            open = Some(groups.len());
            groups.push(vec![occurrence]);
        } else if let Some(group) = open.and_then(|i| groups.get_mut(i)) {
            group.push(occurrence);
        }
    }
    let mut values = Vec::new();
    for group in groups {
        match group.as_slice() {
            [whole] if whole.leaf.element.is_none() => {
                values.push(reader.scalar(whole.leaf, whole.text)?);
            }
            parts => values.push(build_element(list, parts, reader)?),
        }
    }
    Ok(values)
}

fn build_element(list: &[FieldDescriptor], parts: &[&Occurrence<'_>], reader: &mut Reader<'_>) -> Result<Value, Error> {
    let Some(Kind::Message(descriptor)) = list.last().map(FieldDescriptor::kind) else {
        return Err(Error::usage("only messages have elements with flags", ""));
    };
    let mut element = DynamicMessage::new(descriptor);
    let mut by_leaf: Vec<(&Leaf, Vec<&str>)> = Vec::new();
    for part in parts {
        match by_leaf.iter_mut().find(|(leaf, _)| leaf.flag == part.leaf.flag) {
            Some((_, texts)) => texts.push(part.text),
            None => by_leaf.push((part.leaf, vec![part.text])),
        }
    }
    for (leaf, texts) in by_leaf {
        let repeats = leaf.field().is_list() || leaf.field().is_map();
        if texts.len() > 1 && !repeats {
            let leader = parts.first().map(|p| p.leaf.flag.as_str()).unwrap_or_default();
            return Err(Error::usage(
                format!("--{} is given twice for one element", leaf.flag),
                format!("begin each element with --{leader}"),
            ));
        }
        let value = reader.value(leaf, texts.into_iter())?;
        let inner = leaf.path.get(list.len()..).unwrap_or_default();
        if let Some(field) = inner.first().and_then(|f| other_branch(&element, f)) {
            return Err(Error::usage(
                format!("--{} cannot be used with {} in one element", leaf.flag, field.name()),
                "only one of them may be set",
            ));
        }
        set(&mut element, inner, value)?;
    }
    Ok(Value::Message(element))
}

/// A set field of the same oneof.
fn other_branch(message: &DynamicMessage, field: &FieldDescriptor) -> Option<FieldDescriptor> {
    field.containing_oneof()?.fields().find(|f| f != field && message.has_field(f))
}

fn set(message: &mut DynamicMessage, path: &[FieldDescriptor], value: Value) -> Result<(), Error> {
    match path {
        [] => Ok(()),
        [field] => message
            .try_set_field(field, value)
            .map_err(|why| Error::usage(format!("--{}: {why}", field.name().replace('_', "-")), "see --help")),
        [field, rest @ ..] => match message.get_field_mut(field).as_message_mut() {
            Some(inner) => set(inner, rest, value),
            None => Ok(()),
        },
    }
}

fn is_default(message: &DynamicMessage, path: &[FieldDescriptor]) -> bool {
    match path {
        [] => false,
        [field] => !message.has_field(field),
        [field, rest @ ..] => message.get_field(field).as_message().is_none_or(|inner| is_default(inner, rest)),
    }
}

/// A message from its JSON form, and nothing behind it.
///
/// # Errors
/// The text is not JSON, or does not fit the message.
pub fn from_json(descriptor: MessageDescriptor, text: &str) -> Result<DynamicMessage, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(descriptor, &mut json)?;
    json.end()?;
    Ok(message)
}

/// Reads values, and the files and the one standard input that they name.
struct Reader<'a> {
    terminal: &'a mut Terminal,
    stdin_used_by: Option<String>,
}

impl Reader<'_> {
    /// The value of a field, of all the texts given for it.
    fn value<'t>(&mut self, leaf: &Leaf, texts: impl Iterator<Item = &'t str>) -> Result<Value, Error> {
        let field = leaf.field();
        if field.is_map() {
            let mut map = HashMap::new();
            for text in texts {
                let (key, value) = self.map_entry(leaf, text)?;
                map.insert(key, value);
            }
            return Ok(Value::Map(map));
        }
        let mut values = Vec::new();
        for text in texts {
            values.push(self.scalar(leaf, text)?);
        }
        if field.is_list() {
            return Ok(Value::List(values));
        }
        values.pop().ok_or_else(|| Error::usage(format!("--{} needs a value", leaf.flag), "see --help"))
    }

    fn map_entry(&mut self, leaf: &Leaf, text: &str) -> Result<(MapKey, Value), Error> {
        let fail = |why: &str| Error::usage(format!("--{} {text}: {why}", leaf.flag), "write KEY=VALUE");
        let (key, value) = text.split_once('=').ok_or_else(|| fail("there is no ="))?;
        let Kind::Message(entry) = leaf.field().kind() else {
            return Err(fail("not a map"));
        };
        let key = parse(&entry.map_entry_key_field().kind(), key).map_err(|why| fail(&why))?;
        let key = key.into_map_key().ok_or_else(|| fail("not a key"))?;
        let kind = entry.map_entry_value_field().kind();
        let value = match kind {
            Kind::String => Value::String(self.text(&leaf.flag, value)?),
            Kind::Bytes => self.bytes(leaf, value)?,
            kind => parse(&kind, value).map_err(|why| fail(&why))?,
        };
        Ok((key, value))
    }

    fn scalar(&mut self, leaf: &Leaf, text: &str) -> Result<Value, Error> {
        let kind = leaf.field().kind();
        match &kind {
            Kind::String => Ok(Value::String(self.text(&leaf.flag, text)?)),
            Kind::Bytes => self.bytes(leaf, text),
            Kind::Message(m) if m.full_name() != FIELD_MASK => {
                let text = self.text(&leaf.flag, text)?;
                parse(&kind, &text).map_err(|why| invalid(leaf, &text, &why))
            }
            _ => parse(&kind, text).map_err(|why| invalid(leaf, text, &why)),
        }
    }

    fn text(&mut self, flag: &str, text: &str) -> Result<String, Error> {
        if let Some(literal) = text.strip_prefix("@@") {
            return Ok(format!("@{literal}"));
        }
        let Some(name) = text.strip_prefix('@') else {
            return Ok(text.to_owned());
        };
        let bytes = self.read(flag, name)?;
        let mut text = String::from_utf8(bytes).map_err(|_| {
            Error::usage(format!("--{flag}: {name} is not UTF-8 text"), "give text, or a field that takes bytes")
        })?;
        // Editors and `echo` end files with a line break that nobody meant.
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }

    fn bytes(&mut self, leaf: &Leaf, text: &str) -> Result<Value, Error> {
        if let Some(name) = text.strip_prefix('@') {
            return Ok(Value::Bytes(Bytes::from(self.read(&leaf.flag, name)?)));
        }
        decode_base64(text).map_err(|why| invalid(leaf, text, &why))
    }

    fn read(&mut self, flag: &str, name: &str) -> Result<Vec<u8>, Error> {
        let hint = || Error::usage(format!("--{flag}: more than {FILE_BYTES_MAX} bytes in {name}"), "give less");
        let mut bytes = Vec::new();
        if name == "-" {
            if let Some(other) = self.stdin_used_by.replace(flag.to_owned()) {
                return Err(Error::usage(
                    format!("--{other} and --{flag} cannot both read standard input"),
                    "give one of them as @FILE",
                ));
            }
            let stdin = &mut self.terminal.stdin;
            stdin
                .take(FILE_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|source| Error::file("read", "standard input", source))?;
        } else {
            let file = File::open(name).map_err(|source| {
                if source.kind() == std::io::ErrorKind::NotFound {
                    let message = format!("--{flag}: there is no file {name}");
                    return Error::usage(message, "a text that begins with @ is written @@");
                }
                Error::file("open", name, source)
            })?;
            file.take(FILE_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|source| Error::file("read", name, source))?;
        }
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(hint());
        }
        Ok(bytes)
    }
}

fn invalid(leaf: &Leaf, text: &str, why: &str) -> Error {
    let shown = if leaf.secret { "***" } else { text };
    Error::usage(format!("--{} {shown}: {why}", leaf.flag), format!("it takes {}", leaf.value_name()))
}

/// A value of one kind from its text.
fn parse(kind: &Kind, text: &str) -> Result<Value, String> {
    fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
        text.parse().map_err(|why: T::Err| why.to_string())
    }
    match kind {
        Kind::Bool => number(text).map(Value::Bool),
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => number(text).map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => number(text).map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => number(text).map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => number(text).map(Value::U64),
        Kind::Float => number(text).map(Value::F32),
        Kind::Double => number(text).map(Value::F64),
        Kind::Bytes => decode_base64(text),
        Kind::Enum(of) => enum_value(of, text)
            .map(|v| Value::EnumNumber(v.number()))
            .ok_or_else(|| format!("no such value of {}", of.name())),
        Kind::Message(m) if m.full_name() == FIELD_MASK => {
            // Written as JSON, a mask's paths would have to be in camel case.
            let mut mask = DynamicMessage::new(m.clone());
            let paths = text.split(',').map(str::trim).filter(|p| !p.is_empty());
            let paths = paths.map(|p| Value::String(p.replace('-', "_"))).collect();
            mask.set_field_by_name("paths", Value::List(paths));
            Ok(Value::Message(mask))
        }
        Kind::Message(m) => {
            let parsed = from_json(m.clone(), text);
            if m.full_name().starts_with("google.protobuf.") && parsed.is_err() {
                // Times, durations and wrapped texts are JSON strings: spare
                // people the quotes.
                let quoted = serde_json::Value::String(text.to_owned()).to_string();
                if let Ok(message) = from_json(m.clone(), &quoted) {
                    return Ok(Value::Message(message));
                }
            }
            parsed.map(Value::Message).map_err(|why| why.to_string())
        }
    }
}

/// Standard or URL-safe, with or without padding: what the JSON form of
/// `google.protobuf.BytesValue` takes.
fn decode_base64(text: &str) -> Result<Value, String> {
    let quoted = serde_json::Value::String(text.to_owned());
    let descriptor = canopy_bytes_value();
    let wrapped = DynamicMessage::deserialize(descriptor, quoted).map_err(|_| "not base64".to_owned())?;
    Ok(wrapped.get_field_by_name("value").map(|v| v.into_owned()).unwrap_or(Value::Bytes(Bytes::new())))
}

fn canopy_bytes_value() -> MessageDescriptor {
    prost_reflect::DescriptorPool::global()
        .get_message_by_name("google.protobuf.BytesValue")
        .expect("the global pool holds the well-known types")
}
