//! Strings read, and replaced, in a message's bytes.

use super::MessageSchema;
use super::kind::Kind;
use super::reader::{DEPTH_MAX, Malformed, Raw, Reader, put_delimited};

/// Why a dotted path leads to no string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// No such field.
    #[error("{message} has no field `{field}`: see its .proto for the names")]
    NoField {
        /// Full name of the message.
        message: String,
        /// What was asked for.
        field: String,
    },
    /// A path goes on after a field that is no message, or through a map.
    #[error("`{field}` of {message} is no message to look into: end the path there")]
    NoMessage {
        /// Full name of the message.
        message: String,
        /// The field.
        field: String,
    },
    /// A path ends at something else than a string.
    #[error("`{field}` of {message} is no string: end the path at one")]
    NoString {
        /// Full name of the message.
        message: String,
        /// The field.
        field: String,
    },
}

/// A way to a string, compiled by [`MessageSchema::path`] for messages of
/// that schema.
#[derive(Debug, Clone)]
pub struct Path {
    steps: Box<[Step]>,
}

#[derive(Debug, Clone)]
struct Step {
    number: u32,
    is_repeated: bool,
    has_presence: bool,
    /// Other members of its oneof, which clear it.
    rivals: Box<[u32]>,
}

/// The strings at a path, in order.
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    found: Found<'a>,
}

#[derive(Debug, Clone)]
enum Found<'a> {
    One(Option<&'a str>),
    Many(std::vec::IntoIter<&'a str>),
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match &mut self.found {
            Found::One(one) => one.take(),
            Found::Many(many) => many.next(),
        }
    }
}

impl Path {
    pub(super) fn compile(schema: &MessageSchema, dotted: &str) -> Result<Self, PathError> {
        let mut table = schema.table();
        let mut names = dotted.split('.').peekable();
        let mut steps = Vec::new();
        while let Some(name) = names.next() {
            let (message, field) = (|| table.full_name.clone(), || name.to_owned());
            let known = table.fields().iter().find(|field| field.name == name);
            let known = known.ok_or_else(|| PathError::NoField { message: message(), field: field() })?;
            let oneof = known.oneof.and_then(|oneof| table.oneofs.get(oneof));
            let rivals = oneof.into_iter().flat_map(|oneof| &oneof.numbers).copied();
            steps.push(Step {
                number: known.number,
                is_repeated: known.is_repeated,
                has_presence: known.has_presence,
                rivals: rivals.filter(|number| *number != known.number).collect(),
            });
            match (known.kind, names.peek()) {
                (Kind::String, None) => {}
                (_, None) => {
                    return Err(PathError::NoString { message: message(), field: field() });
                }
                (Kind::Message(inner), Some(_)) if !known.is_map => {
                    table = schema.table_at(inner);
                }
                _ => {
                    return Err(PathError::NoMessage { message: message(), field: field() });
                }
            }
        }
        Ok(Self { steps: steps.into() })
    }

    /// The strings at this path, as a decoder would have them: of a singular
    /// field the last one, and where the message around it is there and it is
    /// not, the empty one, unless the field's absence has a meaning. So a
    /// path through a list gives a string for each element.
    ///
    /// Of bytes that a check refuses there may be none. Does not allocate
    /// unless a field on the path is a list.
    pub fn strings<'a>(&self, bytes: &'a [u8]) -> Strings<'a> {
        let found = if self.steps.iter().any(|step| step.is_repeated) {
            let mut many = Vec::new();
            if self.collect(&self.steps, &[bytes], &mut many, DEPTH_MAX).is_err() {
                many.clear();
            }
            Found::Many(many.into_iter())
        } else {
            Found::One(self.last(bytes).ok().flatten())
        };
        Strings { found }
    }

    /// The first string at this path: the one, where no field on it is a list.
    pub fn string<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        self.strings(bytes).next()
    }

    /// The one string at a path without lists.
    fn last<'a>(&self, bytes: &'a [u8]) -> Result<Option<&'a str>, Malformed> {
        let mut state = Last::Missing;
        Self::seek(&self.steps, bytes, &mut state, DEPTH_MAX)?;
        Ok(match state {
            Last::Found(bytes) => str::from_utf8(bytes).ok(),
            Last::Missing if self.steps.len() > 1 => None,
            Last::Missing | Last::Around => self.steps.last().filter(|step| !step.has_presence).map(|_| ""),
        })
    }

    fn seek<'a>(steps: &[Step], bytes: &'a [u8], state: &mut Last<'a>, depth: u32) -> Result<(), Malformed> {
        let Some((step, below)) = steps.split_first() else {
            return Ok(());
        };
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.field(depth)? {
            if step.rivals.contains(&field.number) {
                *state = if below.is_empty() { Last::Around } else { Last::Missing };
            } else if let (true, Raw::Bytes(payload)) = (field.number == step.number, field.raw) {
                if below.is_empty() {
                    *state = Last::Found(payload);
                    continue;
                }
                // Where several messages are to be there, each absence below
                // is one of its own: only the innermost leaves a string out.
                if below.len() == 1 && matches!(state, Last::Missing) {
                    *state = Last::Around;
                }
                let depth = depth.saturating_sub(1);
                Self::seek(below, payload, state, depth)?;
            }
        }
        Ok(())
    }

    /// `parts` are the occurrences of one message.
    fn collect<'a>(
        &self,
        steps: &[Step],
        parts: &[&'a [u8]],
        out: &mut Vec<&'a str>,
        depth: u32,
    ) -> Result<(), Malformed> {
        let Some((step, below)) = steps.split_first() else {
            return Ok(());
        };
        let mut live: Vec<&'a [u8]> = Vec::new();
        for part in parts {
            let mut reader = Reader::new(part);
            while let Some(field) = reader.field(depth)? {
                if step.rivals.contains(&field.number) {
                    live.clear();
                } else if let (true, Raw::Bytes(payload)) = (field.number == step.number, field.raw) {
                    live.push(payload);
                }
            }
        }
        let depth = depth.saturating_sub(1);
        match (below.is_empty(), step.is_repeated) {
            (true, true) => out.extend(live.iter().filter_map(|text| str::from_utf8(text).ok())),
            (true, false) => {
                let absent: Option<&[u8]> = (!step.has_presence).then_some(&[]);
                let text = live.last().copied().or(absent);
                out.extend(text.and_then(|text| str::from_utf8(text).ok()));
            }
            (false, true) => {
                for element in live {
                    self.collect(below, &[element], out, depth)?;
                }
            }
            (false, false) if live.is_empty() => {}
            (false, false) => self.collect(below, &live, out, depth)?,
        }
        Ok(())
    }

    /// `bytes` with each string at this path that `f` has another for
    /// replaced, or `None` where there is none. Everything else stays as it
    /// is, unknown fields and the order of fields included. Strings that a
    /// later occurrence makes void are replaced as well.
    pub(super) fn replace(&self, bytes: &[u8], f: &mut dyn FnMut(&str) -> Option<String>) -> Option<Vec<u8>> {
        Self::rewrite(&self.steps, bytes, f, DEPTH_MAX).ok().flatten()
    }

    fn rewrite(
        steps: &[Step],
        bytes: &[u8],
        f: &mut dyn FnMut(&str) -> Option<String>,
        depth: u32,
    ) -> Result<Option<Vec<u8>>, Malformed> {
        let Some((step, below)) = steps.split_first() else {
            return Ok(None);
        };
        let mut out: Option<Vec<u8>> = None;
        let mut reader = Reader::new(bytes);
        let mut start = 0;
        while let Some(field) = reader.field(depth)? {
            let new = match field.raw {
                Raw::Bytes(payload) if field.number == step.number => {
                    if below.is_empty() {
                        str::from_utf8(payload).ok().and_then(&mut *f).map(String::into_bytes)
                    } else {
                        Self::rewrite(below, payload, f, depth.saturating_sub(1))?
                    }
                }
                _ => None,
            };
            if let Some(new) = new {
                let out = out.get_or_insert_with(|| bytes.get(..start).unwrap_or_default().to_vec());
                put_delimited(field.number, &new, out);
            } else if let Some(out) = &mut out {
                out.extend_from_slice(field.span);
            }
            start = reader.offset();
        }
        Ok(out)
    }
}

/// What was seen so far of a singular string.
enum Last<'a> {
    /// The message around it is not there.
    Missing,
    /// The message around it is there, and it is not.
    Around,
    Found(&'a [u8]),
}
