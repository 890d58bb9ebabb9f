//! Tables compiled once from the descriptors, to check and read bytes from
//! outside without decoding them.
//!
//! - [`MessageSchema::check`]: can it be decoded, and does it keep the rules
//!   (`buf.validate`) of its `.proto`?
//! - [`MessageSchema::path`] and [`MessageSchema::replace_string`]: names in
//!   requests, read and replaced in place.
//! - [`MessageSchema::merge_unknown`]: fields of a newer client, kept by an
//!   older server.
//! - [`MessageSchema::redact`]: a request as a line of a log.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use prost_reflect::DescriptorPool;

mod check;
mod compile;
mod entry;
mod kind;
mod number;
mod path;
mod place;
mod reader;
mod redact;
mod rule_options;
mod rules;
mod table;
mod unknown;
mod violation;

pub use compile::SchemaError;
pub use path::{Path, PathError, Strings};
pub use reader::DEPTH_MAX;
pub use redact::REDACTED_BYTES_MAX;
pub use violation::{VIOLATIONS_MAX, Violation};

use table::Table;

/// What is known of one message type. Cheap to clone.
#[derive(Clone)]
pub struct MessageSchema {
    tables: Arc<[Table]>,
    index: usize,
    request_id: Option<Path>,
}

impl MessageSchema {
    /// `canopy.chat.v1.SendMessageRequest`
    pub fn full_name(&self) -> &str {
        &self.table().full_name
    }

    /// Checks an encoded message from outside: that every decoder takes it
    /// (at most [`DEPTH_MAX`] messages, map entries and groups inside one
    /// another), and that it keeps the rules of its `.proto`, as protovalidate
    /// defines them. A field without presence that is absent is checked as
    /// zero. Does not allocate unless a message has more than eight fields to
    /// remember, comes in pieces, or is refused.
    ///
    /// Two exceptions. What the server sets itself (`output_only`) is not held
    /// to rules. In a request with an `update_mask`, a stored message beside
    /// it may leave out anything: rules hold for what is present. What the
    /// update makes of the whole is for its owner to check, by the stored
    /// message's own schema.
    ///
    /// # Errors
    /// What is wrong, of which at most [`VIOLATIONS_MAX`] are told. Bytes that
    /// cannot be decoded end the check with a violation of the rule `wire`.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Vec<Violation>> {
        check::check(&self.tables, self.table(), bytes)
    }

    /// Whether any field, at any depth, is unknown to this schema.
    pub fn has_unknown(&self, bytes: &[u8]) -> bool {
        unknown::has_unknown(&self.tables, self.table(), bytes, DEPTH_MAX)
    }

    /// `known`, written by code that knows this schema alone, with the fields
    /// of `original` that this schema does not name: see
    /// [`merge_unknown`](Self::merge_unknown).
    pub fn splice(&self, known: Bytes, original: &Bytes) -> Bytes {
        self.merge_unknown(known, &[original])
    }

    /// `known` with the fields of `sources` that this schema does not name.
    /// Of fields with one number at one place, those in `known` win, then
    /// those of the last source that has any.
    ///
    /// What is unknown within an embedded message goes to the same message in
    /// `known`, and is dropped where that was cleared. Messages in a list are
    /// the same if they have the same index and the lists the same length;
    /// else what is unknown in that source's list is dropped, for nothing
    /// tells which element is which. Values in a map are told by key.
    ///
    /// Unknown fields stand before known ones, so that a oneof that `known`
    /// sets wins over a member of it that was unknown. A malformed `known` is
    /// returned as it is, and malformed parts of sources are left out.
    pub fn merge_unknown(&self, known: Bytes, sources: &[&Bytes]) -> Bytes {
        let sources: Vec<&[u8]> =
            sources.iter().filter(|source| self.has_unknown(source)).map(|source| source.as_ref()).collect();
        if sources.is_empty() {
            return known;
        }
        match unknown::merge(&self.tables, self.table(), &known, &sources) {
            Some(merged) => merged.into(),
            None => known,
        }
    }

    /// Compiles a dotted path to a string, through messages and lists of
    /// them: `grant.on`, `channels.name`.
    ///
    /// # Errors
    /// The path leads to no string.
    pub fn path(&self, dotted: &str) -> Result<Path, PathError> {
        Path::compile(self, dotted)
    }

    /// `bytes` with each string at `path`, a path of this schema, that `f` has
    /// another for replaced. Everything else stays as it is, unknown fields
    /// and the order of fields included.
    pub fn replace_string(&self, path: &Path, bytes: &Bytes, mut f: impl FnMut(&str) -> Option<String>) -> Bytes {
        path.replace(bytes, &mut f).map_or_else(|| bytes.clone(), Bytes::from)
    }

    /// The request's `request_id`; `None` where it has none or an empty one.
    pub fn request_id<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        self.request_id.as_ref()?.string(bytes).filter(|id| !id.is_empty())
    }

    /// One line for a log, of at most [`REDACTED_BYTES_MAX`] bytes and a mark
    /// where it was cut. Of secrets it shows that they are there; of bytes,
    /// of unknown fields and of strings in stored messages it shows the
    /// length.
    pub fn redact(&self, bytes: &[u8]) -> String {
        redact::redact(&self.tables, self.table(), bytes)
    }

    fn table(&self) -> &Table {
        self.table_at(self.index)
    }

    fn table_at(&self, index: usize) -> &Table {
        self.tables.get(index).expect("tables name each other by index")
    }
}

impl fmt::Debug for MessageSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MessageSchema").field(&self.full_name()).finish()
    }
}

/// The schemas of all messages of a pool.
#[derive(Debug)]
pub struct Schemas {
    by_name: HashMap<String, MessageSchema>,
}

impl Schemas {
    /// Compiles descriptors that are known to be good.
    ///
    /// # Panics
    /// Where [`try_new`](Self::try_new) has an error.
    pub fn new(pool: &DescriptorPool) -> Self {
        Self::try_new(pool).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Compiles descriptors from outside.
    ///
    /// # Errors
    /// A rule is not supported, does not fit its field or cannot be compiled:
    /// none is ignored in silence.
    pub fn try_new(pool: &DescriptorPool) -> Result<Self, SchemaError> {
        let (tables, index) = compile::tables(pool)?;
        let tables: Arc<[Table]> = tables.into();
        let schema = |(name, index)| {
            let mut schema = MessageSchema { tables: tables.clone(), index, request_id: None };
            schema.request_id = schema.path("request_id").ok();
            (name, schema)
        };
        Ok(Self { by_name: index.into_iter().map(schema).collect() })
    }

    /// The schema of a message by its full name.
    pub fn find(&self, full_name: &str) -> Option<&MessageSchema> {
        self.by_name.get(full_name)
    }

    /// The schema of a message by its full name.
    ///
    /// # Panics
    /// There is no such message.
    pub fn message(&self, full_name: &str) -> &MessageSchema {
        self.find(full_name).unwrap_or_else(|| {
            panic!("no message is called {full_name}: give the full name, as canopy.chat.v1.Message")
        })
    }
}

/// The schemas of this release.
pub fn schemas() -> &'static Schemas {
    static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::new(crate::pool()));
    &SCHEMAS
}

/// The schema of a message of this release by its full name.
pub fn find(full_name: &str) -> Option<&'static MessageSchema> {
    schemas().find(full_name)
}

/// The schema of a message of this release by its full name.
///
/// # Panics
/// This release has no such message.
pub fn message(full_name: &str) -> &'static MessageSchema {
    schemas().message(full_name)
}
