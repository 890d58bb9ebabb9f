//! A message as one line of a log.

use std::fmt::Write as _;

use super::kind::{Kind, Shape};
use super::reader::{DEPTH_MAX, Malformed, Raw, Reader};
use super::table::{FieldTable, Table};

/// Length of a line, but for the mark that says it was cut.
pub const REDACTED_BYTES_MAX: usize = 1024;

/// Characters shown of one string.
const STRING_CHARS_MAX: usize = 80;

/// Stands where a line was cut.
const CUT: &str = "…";

pub(super) fn redact(tables: &[Table], table: &Table, bytes: &[u8]) -> String {
    let mut line = Line { tables, text: String::new() };
    line.message(table, bytes, table.is_stored, DEPTH_MAX);
    let mut text = line.text;
    if text.len() > REDACTED_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REDACTED_BYTES_MAX));
        text.push_str(CUT);
    }
    text
}

struct Line<'t> {
    tables: &'t [Table],
    text: String,
}

impl Line<'_> {
    fn message(&mut self, table: &Table, bytes: &[u8], is_stored: bool, depth: u32) {
        let mut reader = Reader::new(bytes);
        while self.text.len() <= REDACTED_BYTES_MAX {
            match reader.field(depth) {
                Ok(Some(field)) => {
                    self.space();
                    match table.field(field.number) {
                        Some(known) => self.field(known, field.raw, is_stored, depth),
                        None => {
                            self.write(format_args!("{}: <{} bytes>", field.number, field.span.len()));
                        }
                    }
                }
                Ok(None) => return,
                Err(malformed) => return self.malformed(malformed),
            }
        }
    }

    fn field(&mut self, known: &FieldTable, raw: Raw<'_>, is_stored: bool, depth: u32) {
        self.text.push_str(&known.name);
        if known.is_secret {
            self.text.push_str(": ***");
            return;
        }
        match (known.kind, raw) {
            (Kind::Message(inner), Raw::Bytes(bytes)) => {
                let (Some(inner), Some(depth)) = (self.tables.get(inner), depth.checked_sub(1)) else {
                    return self.text.push_str(" { … }");
                };
                self.text.push_str(" { ");
                self.message(inner, bytes, is_stored || inner.is_stored, depth);
                self.text.push_str(if self.text.ends_with(' ') { "}" } else { " }" });
            }
            (Kind::String, Raw::Bytes(bytes)) if !is_stored => self.string(bytes),
            (kind, Raw::Bytes(bytes)) if kind.shape() == Shape::Delimited => {
                self.write(format_args!(": <{} bytes>", bytes.len()));
            }
            (_, Raw::Bytes(bytes)) => {
                self.write(format_args!(": <packed in {} bytes>", bytes.len()));
            }
            (kind, raw) if kind.fits(raw) => self.scalar(kind, raw),
            _ => self.text.push_str(": <of another wire type>"),
        }
    }

    fn string(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let mut chars = text.chars();
        let shown: String = chars.by_ref().take(STRING_CHARS_MAX).collect();
        let cut = if chars.next().is_some() { CUT } else { "" };
        self.write(format_args!(": {shown:?}{cut}"));
    }

    fn scalar(&mut self, kind: Kind, raw: Raw<'_>) {
        match kind {
            Kind::Bool => self.write(format_args!(": {}", kind.unsigned(raw) != 0)),
            Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => {
                self.write(format_args!(": {}", kind.unsigned(raw)));
            }
            Kind::Float | Kind::Double => self.write(format_args!(": {}", kind.float(raw))),
            _ => self.write(format_args!(": {}", kind.signed(raw))),
        }
    }

    fn malformed(&mut self, malformed: Malformed) {
        self.space();
        self.write(format_args!("<malformed: {} at byte {}>", malformed.why, malformed.at));
    }

    fn space(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(' ') {
            self.text.push(' ');
        }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes what is written to it");
    }
}
