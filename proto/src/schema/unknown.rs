//! Fields that a release does not know, carried from one encoding of a
//! message to another.

use std::collections::HashMap;

use super::entry::{self, Key};
use super::kind::Kind;
use super::reader::{DEPTH_MAX, Malformed, Occurrence, Raw, Reader, put_delimited};
use super::table::{FieldTable, Table};

/// Number of the value in a map's entry.
const VALUE: u32 = 2;

/// Malformed parts count as holding nothing unknown.
pub(super) fn has_unknown(tables: &[Table], table: &Table, bytes: &[u8], depth: u32) -> bool {
    let mut reader = Reader::new(bytes);
    while let Ok(Some(field)) = reader.field(depth) {
        let is_unknown = match (table.field(field.number), field.raw) {
            // No implementation keeps these.
            (None, _) => !table.is_map_entry,
            (Some(FieldTable { kind: Kind::Message(inner), .. }), Raw::Bytes(payload)) => {
                match (tables.get(*inner), depth.checked_sub(1)) {
                    (Some(inner), Some(depth)) => has_unknown(tables, inner, payload, depth),
                    _ => false,
                }
            }
            _ => false,
        };
        if is_unknown {
            return true;
        }
    }
    false
}

/// `known` with what is unknown in `sources`, of which later ones win; or
/// `None` where that changes nothing.
pub(super) fn merge(tables: &[Table], table: &Table, known: &[u8], sources: &[&[u8]]) -> Option<Vec<u8>> {
    Merge { tables }.message(table, known, sources, DEPTH_MAX)
}

struct Merge<'t> {
    tables: &'t [Table],
}

impl<'t> Merge<'t> {
    fn message(&self, table: &Table, known: &[u8], sources: &[&[u8]], depth: u32) -> Option<Vec<u8>> {
        let sources = sources.iter().filter(|s| has_unknown(self.tables, table, s, depth));
        let sources: Vec<Fields<'_>> = sources.filter_map(|source| Fields::read(table, source, depth).ok()).collect();
        let known = Fields::read(table, known, depth).ok().filter(|_| !sources.is_empty())?;

        let mut out = Vec::new();
        // Before the known fields, so that a oneof set by who knows it wins
        // over a member that nobody here knew.
        let mut taken: Vec<u32> = known.unknown().map(|field| field.number).collect();
        for source in sources.iter().rev() {
            let fields = source.unknown().filter(|field| !taken.contains(&field.number));
            let fields: Vec<&Occurrence<'_>> = fields.collect();
            fields.iter().for_each(|field| out.extend_from_slice(field.span));
            taken.extend(fields.iter().map(|field| field.number));
            taken.sort_unstable();
            taken.dedup();
        }
        let mut is_changed = !out.is_empty();
        let mut parts = Parts::of(self, table, &known, &sources, depth);
        for (field, is_live) in known.fields.iter().zip(&known.live) {
            let part = if *is_live { parts.next(field) } else { None };
            match part {
                Some(Part::Kept) | None => out.extend_from_slice(field.span),
                Some(Part::Merged(bytes)) => {
                    is_changed = true;
                    put_delimited(field.number, &bytes, &mut out);
                }
                Some(Part::Later) => is_changed = true,
            }
        }
        is_changed.then_some(out)
    }

    fn inner(&self, field: &FieldTable) -> Option<&'t Table> {
        match field.kind {
            Kind::Message(inner) => self.tables.get(inner),
            _ => None,
        }
    }

    /// Singular messages: all that counts, as one.
    fn singular(&self, field: &FieldTable, known: &Fields<'_>, sources: &[Fields<'_>], depth: u32) -> Option<Vec<u8>> {
        let merged: Vec<Vec<u8>> = sources.iter().map(|s| s.merged(field.number)).collect();
        let merged: Vec<&[u8]> = merged.iter().map(Vec::as_slice).collect();
        self.message(self.inner(field)?, &known.merged(field.number), &merged, depth)
    }

    /// Elements of a list: by index, from sources of the same length.
    fn list(&self, field: &FieldTable, known: &Fields<'_>, sources: &[Fields<'_>], depth: u32) -> Vec<Option<Vec<u8>>> {
        let elements: Vec<&[u8]> = known.payloads(field.number).collect();
        let sources = sources.iter().map(|s| s.payloads(field.number).collect::<Vec<_>>());
        let sources: Vec<Vec<&[u8]>> = sources.filter(|s| s.len() == elements.len()).collect();
        let Some(inner) = self.inner(field) else {
            return Vec::new();
        };
        let merged = elements.iter().enumerate().map(|(index, element)| {
            let of: Vec<&[u8]> = sources.iter().filter_map(|s| s.get(index).copied()).collect();
            self.message(inner, element, &of, depth)
        });
        merged.collect()
    }

    /// Values of a map: by key.
    fn map(&self, field: &FieldTable, known: &Fields<'_>, sources: &[Fields<'_>], depth: u32) -> Vec<Option<Vec<u8>>> {
        let entry = self.inner(field);
        let key = entry.and_then(|entry| entry.field(1));
        let value = entry.and_then(|entry| entry.field(VALUE));
        let inner = value.and_then(|value| self.inner(value));
        let (Some(key), Some(inner), Some(depth)) = (key, inner, depth.checked_sub(1)) else {
            return Vec::new();
        };
        let by_key = |source: &Fields<'_>| -> HashMap<OwnedKey, Vec<u8>> {
            let entries = source.payloads(field.number);
            entries.map(|e| (entry::key(e, key.kind).into(), entry::concatenated(e, VALUE))).collect()
        };
        let sources: Vec<HashMap<OwnedKey, Vec<u8>>> = sources.iter().map(by_key).collect();
        let merged = known.payloads(field.number).map(|entry| {
            let name = OwnedKey::from(entry::key(entry, key.kind));
            let of: Vec<&[u8]> = sources.iter().filter_map(|s| s.get(&name)).map(Vec::as_slice).collect();
            let value = entry::concatenated(entry, VALUE);
            let value = self.message(inner, &value, &of, depth)?;
            let mut out = Vec::with_capacity(entry.len() + value.len());
            let mut reader = Reader::new(entry);
            while let Ok(Some(field)) = reader.field(depth) {
                if field.number != VALUE {
                    out.extend_from_slice(field.span);
                }
            }
            put_delimited(VALUE, &value, &mut out);
            Some(out)
        });
        merged.collect()
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum OwnedKey {
    Text(Vec<u8>),
    Signed(i64),
    Unsigned(u64),
}

impl From<Key<'_>> for OwnedKey {
    fn from(key: Key<'_>) -> Self {
        match key {
            Key::Text(text) => Self::Text(text.to_vec()),
            Key::Signed(value) => Self::Signed(value),
            Key::Unsigned(value) => Self::Unsigned(value),
        }
    }
}

/// All fields of a message, read once.
struct Fields<'a> {
    fields: Vec<Occurrence<'a>>,
    /// Whether each still counts: setting a member of a oneof clears the
    /// others.
    live: Vec<bool>,
    is_known: Vec<bool>,
}

impl<'a> Fields<'a> {
    fn read(table: &Table, bytes: &'a [u8], depth: u32) -> Result<Self, Malformed> {
        let mut fields = Vec::new();
        // For each oneof: its member, and the index from which it stands.
        let mut set: Vec<Option<(u32, usize)>> = vec![None; table.oneofs.len()];
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.field(depth)? {
            let oneof = table.field(field.number).and_then(|known| known.oneof);
            if let Some(set) = oneof.and_then(|oneof| set.get_mut(oneof))
                && set.is_none_or(|(number, _)| number != field.number)
            {
                *set = Some((field.number, fields.len()));
            }
            fields.push(field);
        }
        let known = |field: &Occurrence<'_>| table.field(field.number);
        let is_live = |(index, field): (usize, &Occurrence<'_>)| {
            let set = known(field).and_then(|known| *set.get(known.oneof?)?);
            set.is_none_or(|(number, from)| number == field.number && index >= from)
        };
        Ok(Self {
            live: fields.iter().enumerate().map(is_live).collect(),
            is_known: fields.iter().map(|field| known(field).is_some()).collect(),
            fields,
        })
    }

    fn unknown(&self) -> impl Iterator<Item = &Occurrence<'a>> {
        self.fields.iter().zip(&self.is_known).filter(|(_, known)| !**known).map(|(field, _)| field)
    }

    fn payloads(&self, number: u32) -> impl Iterator<Item = &'a [u8]> {
        let live = self.fields.iter().zip(&self.live).filter(|(_, live)| **live);
        live.filter_map(move |(field, _)| match field.raw {
            Raw::Bytes(payload) if field.number == number => Some(payload),
            _ => None,
        })
    }

    fn merged(&self, number: u32) -> Vec<u8> {
        self.payloads(number).flatten().copied().collect()
    }
}

/// What becomes of one occurrence of an embedded message.
enum Part {
    Kept,
    Merged(Vec<u8>),
    /// It goes into a later occurrence.
    Later,
}

/// What becomes of the embedded messages, by field number, in order.
struct Parts {
    by_number: HashMap<u32, std::vec::IntoIter<Part>>,
}

impl Parts {
    fn of(merge: &Merge<'_>, table: &Table, known: &Fields<'_>, sources: &[Fields<'_>], depth: u32) -> Self {
        let mut by_number = HashMap::new();
        let Some(depth) = depth.checked_sub(1) else {
            return Self { by_number };
        };
        let kept_or_merged = |part: Option<Vec<u8>>| part.map_or(Part::Kept, Part::Merged);
        let fields = table.fields().iter().filter(|f| matches!(f.kind, Kind::Message(_)));
        for field in fields {
            let count = known.payloads(field.number).count();
            if count == 0 {
                continue;
            }
            let parts: Vec<Part> = if field.is_map {
                merge.map(field, known, sources, depth).into_iter().map(kept_or_merged).collect()
            } else if field.is_repeated {
                merge.list(field, known, sources, depth).into_iter().map(kept_or_merged).collect()
            } else if let Some(bytes) = merge.singular(field, known, sources, depth) {
                let earlier = (1..count).map(|_| Part::Later);
                earlier.chain([Part::Merged(bytes)]).collect()
            } else {
                continue;
            };
            by_number.insert(field.number, parts.into_iter());
        }
        Self { by_number }
    }

    fn next(&mut self, field: &Occurrence<'_>) -> Option<Part> {
        if !matches!(field.raw, Raw::Bytes(_)) {
            return None;
        }
        self.by_number.get_mut(&field.number)?.next()
    }
}
