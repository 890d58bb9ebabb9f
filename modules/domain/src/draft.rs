//! What a decision writes.

use bytes::Bytes;
use canopy_proto::{Method, Wire};
use prost::Message;

use crate::table::Row;
use crate::{Address, Refusal, Table};

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The table's number.
    pub table: u16,
    /// Key within the table.
    pub key: Vec<u8>,
    /// The row before; absent for an insert.
    pub before: Option<Bytes>,
    /// The row after; absent for a delete.
    pub after: Option<Bytes>,
    /// Version of the rows' format.
    pub schema_version: u32,
    /// Whether the key starts with the id of a subject; see
    /// [`Table::of_subjects`].
    pub of_subject: bool,
}

/// A message to another actor. It is committed with the decision, delivered
/// at least once, and made once by the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Who gets it.
    pub target: Address,
    /// `canopy.system.v1.AccountEffects/RecordSession`
    pub method: &'static str,
    /// The encoded request.
    pub request: Bytes,
    /// Tells nothing that goes with a subject: it is delivered even where all
    /// that the commit was about is shredded before.
    pub outlives_subjects: bool,
}

/// What a decision is about to commit. Empty, it commits nothing.
#[derive(Debug, Default)]
pub struct Draft {
    changes: Vec<Change>,
    effects: Vec<Effect>,
    wake_at_ms: Option<i64>,
    settle: bool,
    verdict: Option<Refusal>,
    shreds: Vec<[u8; 16]>,
    details: Vec<(&'static str, String)>,
}

impl Draft {
    /// Adds a row that is not there yet.
    pub fn insert<T: Row>(&mut self, table: &Table<T>, key: impl Into<Vec<u8>>, row: &Wire<T>) {
        self.push(table, key.into(), None, Some(row.bytes().clone()));
    }

    /// Sets a row; `before` is the row as it stands, if it stands.
    pub fn put<T: Row>(
        &mut self,
        table: &Table<T>,
        key: impl Into<Vec<u8>>,
        before: Option<&Wire<T>>,
        after: &Wire<T>,
    ) {
        let before = before.map(|row| row.bytes().clone());
        self.push(table, key.into(), before, Some(after.bytes().clone()));
    }

    /// Removes a row.
    pub fn delete<T: Row>(&mut self, table: &Table<T>, key: impl Into<Vec<u8>>, before: &Wire<T>) {
        self.push(table, key.into(), Some(before.bytes().clone()), None);
    }

    fn push<T>(&mut self, t: &Table<T>, key: Vec<u8>, before: Option<Bytes>, after: Option<Bytes>) {
        self.changes.push(Change {
            table: t.id,
            key,
            before,
            after,
            schema_version: t.schema_version,
            of_subject: t.of_subjects,
        });
    }

    /// Sends a message to another actor once this is committed.
    pub fn effect<Q: Message, R>(&mut self, target: Address, method: Method<Q, R>, request: &Q) {
        let request = request.encode_to_vec().into();
        self.effects.push(Effect { target, method: method.path, request, outlives_subjects: false });
    }

    /// Asks for the answer to wait until the effects have been delivered, so
    /// that the caller reads what it wrote in other partitions too. Where
    /// delivery takes longer than the caller waits, the answer goes out first.
    pub fn settle(&mut self) {
        self.settle = true;
    }

    /// Asks to be activated at a time, in milliseconds since 1970.
    pub fn wake_at_ms(&mut self, time_ms: i64) {
        self.wake_at_ms = Some(time_ms);
    }

    /// Destroys the keys of a subject once this is committed: nobody can read
    /// again what was written of it, from the disk, a backup or an older copy,
    /// and nothing more can be written of it. Rows that are still there vanish.
    pub fn shred(&mut self, subject: [u8; 16]) {
        self.shreds.push(subject);
    }

    /// Commits the draft and answers with a refusal all the same: a stolen
    /// token ends its session, and is still refused.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.verdict = Some(refusal);
    }

    /// Says in the audit, where the method stands there, what it was about
    /// beside the actor itself. Ids, roles and numbers, never what people
    /// wrote: the audit outlives it.
    pub fn detail(&mut self, name: &'static str, value: impl Into<String>) {
        self.details.push((name, value.into()));
    }

    /// What is to be committed.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.effects.is_empty() && self.wake_at_ms.is_none() && self.shreds.is_empty()
    }

    /// Takes the draft apart.
    pub fn into_parts(self) -> DraftParts {
        DraftParts {
            changes: self.changes,
            effects: self.effects,
            wake_at_ms: self.wake_at_ms,
            settle: self.settle,
            verdict: self.verdict,
            shreds: self.shreds,
            details: self.details,
        }
    }
}

/// A draft, taken apart by the shell that commits it.
#[derive(Debug)]
pub struct DraftParts {
    /// Rows to write.
    pub changes: Vec<Change>,
    /// Messages to send once committed.
    pub effects: Vec<Effect>,
    /// When to be activated.
    pub wake_at_ms: Option<i64>,
    /// Whether the answer waits for the effects.
    pub settle: bool,
    /// The refusal that answers in place of the reply.
    pub verdict: Option<Refusal>,
    /// Subjects whose keys are destroyed.
    pub shreds: Vec<[u8; 16]>,
    /// What the audit says of it.
    pub details: Vec<(&'static str, String)>,
}
