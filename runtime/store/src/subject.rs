//! Subjects: what can be shredded alone within a partition, a chat's channel
//! for instance. Each has random keys of its own, one for each version of the
//! vault's key under which something of it was written.

use std::collections::HashMap;
use std::sync::Arc;

use crate::key::Key;
use crate::keyring::{NewKey, PartitionKeys, PartitionName, SubjectId};
use crate::seal::{SUBJECT_VERSIONS, Sealer};

/// A key of a subject.
struct SubjectKey {
    sealer: Arc<Sealer>,
    /// Version of the vault's key when it was made.
    outer_version: u32,
    fingerprint: [u8; 32],
}

enum Subject {
    Alive(Vec<SubjectKey>),
    /// Nothing more is written of it; its keys go when that is durable.
    Doomed(Vec<SubjectKey>),
    Shredded,
}

/// The subjects of a partition.
pub(crate) struct Subjects {
    by_id: HashMap<SubjectId, Subject>,
    /// What opens values; nothing, where the key was destroyed.
    by_version: HashMap<u32, Option<Arc<Sealer>>>,
    /// The last version that was given out.
    last_version: u32,
}

impl Subjects {
    pub(crate) fn new(keys: &PartitionKeys, vault: [u8; 16]) -> Self {
        let mut this = Self { by_id: HashMap::new(), by_version: HashMap::new(), last_version: SUBJECT_VERSIONS - 1 };
        for (id, key) in &keys.subjects {
            this.insert(*id, &key.key, key.version, key.outer_version, vault);
        }
        for (id, versions) in &keys.shredded {
            this.by_id.insert(*id, Subject::Shredded);
            for version in versions {
                this.by_version.insert(*version, None);
                this.last_version = this.last_version.max(*version);
            }
        }
        this
    }

    fn insert(&mut self, id: SubjectId, key: &Key, version: u32, outer_version: u32, vault: [u8; 16]) -> Arc<Sealer> {
        let sealer = Arc::new(Sealer::new(key, vault, version));
        self.last_version = self.last_version.max(version);
        self.by_version.insert(version, Some(Arc::clone(&sealer)));
        let key = SubjectKey { sealer: Arc::clone(&sealer), outer_version, fingerprint: key.fingerprint() };
        match self.by_id.entry(id).or_insert(Subject::Alive(Vec::new())) {
            Subject::Alive(keys) => keys.push(key),
            Subject::Doomed(_) | Subject::Shredded => {}
        }
        sealer
    }

    /// Takes a key into use.
    pub(crate) fn adopt(&mut self, id: SubjectId, new: &NewKey, vault: [u8; 16]) -> Arc<Sealer> {
        self.insert(id, &new.key, new.version, new.outer_version, vault)
    }

    /// What opens values of a key version; nothing, where it was destroyed.
    pub(crate) fn sealer(&self, version: u32) -> Result<Option<Arc<Sealer>>, &'static str> {
        self.by_version.get(&version).cloned().ok_or("a stored value is under a subject's key that is missing")
    }

    /// What seals values of a subject from now on: its key, or one that is new
    /// and still to be made durable.
    pub(crate) fn to_write(
        &self,
        id: SubjectId,
        partition: PartitionName,
        outer_version: u32,
        created_ms: i64,
    ) -> Result<ToWrite, SubjectGone> {
        match self.by_id.get(&id) {
            Some(Subject::Doomed(_) | Subject::Shredded) => return Err(SubjectGone),
            Some(Subject::Alive(keys)) => {
                if let Some(key) = keys.last().filter(|key| key.outer_version >= outer_version) {
                    return Ok(ToWrite::Known(Arc::clone(&key.sealer)));
                }
            }
            None => {}
        }
        let version = self.last_version + 1;
        Ok(ToWrite::New(NewKey {
            partition,
            subject: Some(id),
            version,
            outer_version,
            key: Key::random(),
            created_ms,
        }))
    }

    /// Fingerprints of a subject's keys; none, where it has none.
    pub(crate) fn fingerprints(&self, id: &SubjectId) -> Vec<[u8; 32]> {
        match self.by_id.get(id) {
            Some(Subject::Alive(keys)) => keys.iter().map(|key| key.fingerprint).collect(),
            _ => Vec::new(),
        }
    }

    /// Has nothing more written of a subject.
    pub(crate) fn doom(&mut self, id: SubjectId) {
        let subject = self.by_id.entry(id).or_insert(Subject::Alive(Vec::new()));
        if let Subject::Alive(keys) = subject {
            *subject = Subject::Doomed(std::mem::take(keys));
        }
    }

    /// Whether nothing more may be written of a subject.
    pub(crate) fn is_gone(&self, id: &SubjectId) -> bool {
        matches!(self.by_id.get(id), Some(Subject::Doomed(_) | Subject::Shredded))
    }

    /// Forgets a subject's keys, whose records are gone.
    pub(crate) fn forget(&mut self, id: SubjectId) {
        if let Some(Subject::Alive(keys) | Subject::Doomed(keys)) = self.by_id.insert(id, Subject::Shredded) {
            for key in keys {
                self.by_version.insert(key.sealer.key_version(), None);
            }
        }
    }

    /// What seals a subject's values now, where it has a key.
    pub(crate) fn current(&self, id: &SubjectId) -> Option<Arc<Sealer>> {
        match self.by_id.get(id)? {
            Subject::Alive(keys) | Subject::Doomed(keys) => keys.last().map(|key| Arc::clone(&key.sealer)),
            Subject::Shredded => None,
        }
    }
}

/// How to seal values of a subject.
pub(crate) enum ToWrite {
    Known(Arc<Sealer>),
    New(NewKey),
}

/// It was shredded, or is about to be.
pub(crate) struct SubjectGone;
