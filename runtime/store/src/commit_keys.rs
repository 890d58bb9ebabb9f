//! Which keys seal a commit: the partition's own, and those of the subjects
//! that its changes are about.

use std::sync::Arc;

use crate::keyring::NewKey;
use crate::partition::{Partition, SUBJECTS_PER_COMMIT_MAX, subject_of};
use crate::seal::Sealer;
use crate::subject::ToWrite;
use crate::{Commit, StoreError};

/// The keys of one commit.
pub(crate) struct CommitKeys {
    /// Of each change's subject; empty where no change has one.
    pub(crate) of_changes: Vec<Option<Arc<Sealer>>>,
    /// What else a commit holds goes with each of these: its effects and the
    /// first answer. Those that the commit itself shreds are not among them,
    /// for it is to be known what it did.
    pub(crate) subjects: Vec<Arc<Sealer>>,
}

impl CommitKeys {
    /// Finds the keys, and makes those that are missing or older than
    /// `vault_version`.
    pub(crate) fn new(
        partition: &Partition,
        commit: &Commit,
        vault_version: u32,
        now_ms: i64,
    ) -> Result<Self, StoreError> {
        let mut keys = Self { of_changes: Vec::new(), subjects: Vec::new() };
        if partition.sealer().key_version() < vault_version {
            partition.adopt(&NewKey::of_partition(partition.name, vault_version, now_ms));
        }
        if let Some(gone) = commit.shreds.iter().find(|subject| partition.subjects().read().is_gone(subject)) {
            return Err(gone_error(gone));
        }
        if !commit.changes.iter().any(|change| change.of_subject) {
            return Ok(keys);
        }
        for change in &commit.changes {
            if !change.of_subject {
                keys.of_changes.push(None);
                continue;
            }
            let subject = subject_of(&change.key).ok_or(StoreError::NoSubject(change.table))?;
            let found = partition.subjects().read().to_write(subject, partition.name, vault_version, now_ms);
            let sealer = match found.map_err(|_| gone_error(&subject))? {
                ToWrite::Known(sealer) => sealer,
                ToWrite::New(new) => partition.adopt_subject(subject, &new),
            };
            let is_known = |other: &Arc<Sealer>| other.key_version() == sealer.key_version();
            if !commit.shreds.contains(&subject) && !keys.subjects.iter().any(is_known) {
                keys.subjects.push(Arc::clone(&sealer));
            }
            keys.of_changes.push(Some(sealer));
        }
        if keys.subjects.len() > SUBJECTS_PER_COMMIT_MAX {
            return Err(StoreError::TooManySubjects { subjects: keys.subjects.len(), max: SUBJECTS_PER_COMMIT_MAX });
        }
        Ok(keys)
    }

    /// What seals the `n`-th change; nothing for the partition's own key.
    pub(crate) fn of_change(&self, n: usize) -> &[Arc<Sealer>] {
        self.of_changes.get(n).map_or(&[], Option::as_slice)
    }
}

fn gone_error(subject: &[u8; 16]) -> StoreError {
    StoreError::Shredded(canopy_domain::Id::from_bytes(*subject).to_string())
}
