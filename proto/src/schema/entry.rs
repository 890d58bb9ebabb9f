//! Occurrences of a field gathered from a message, and entries of maps.

use super::kind::Kind;
use super::reader::{DEPTH_MAX, Raw, Reader};

/// A map's key, equal for equal keys however they are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key<'a> {
    Text(&'a [u8]),
    Signed(i64),
    Unsigned(u64),
}

/// The payloads of field `number`, up to the first malformed one.
pub(super) fn payloads(bytes: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        loop {
            let field = reader.field(DEPTH_MAX).ok()??;
            if let (true, Raw::Bytes(payload)) = (field.number == number, field.raw) {
                return Some(payload);
            }
        }
    })
}

/// The occurrences of a singular message merged, which for encoded messages
/// means: one after the other.
pub(super) fn concatenated(bytes: &[u8], number: u32) -> Vec<u8> {
    payloads(bytes, number).flatten().copied().collect()
}

/// Keys of the entries in map `number`, in order.
pub(super) fn keys(bytes: &[u8], number: u32, kind: Kind) -> Vec<Key<'_>> {
    payloads(bytes, number).map(|entry| key(entry, kind)).collect()
}

/// The key of an encoded entry.
pub(super) fn key(entry: &[u8], kind: Kind) -> Key<'_> {
    let mut raw = kind.zero();
    let mut reader = Reader::new(entry);
    while let Ok(Some(field)) = reader.field(DEPTH_MAX) {
        if field.number == 1 && kind.fits(field.raw) {
            raw = field.raw;
        }
    }
    match (kind, raw) {
        (Kind::String, Raw::Bytes(text)) => Key::Text(text),
        (Kind::Bool, _) => Key::Unsigned(u64::from(kind.unsigned(raw) != 0)),
        (Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64, _) => Key::Unsigned(kind.unsigned(raw)),
        _ => Key::Signed(kind.signed(raw)),
    }
}
