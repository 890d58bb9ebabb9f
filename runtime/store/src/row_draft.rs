//! The rows of one submission, sealed for the disk and plain for the overlay.

use std::sync::Arc;

use bytes::Bytes;
use canopy_domain::{View, ViewWrite};
use fjall::{UserKey, UserValue};

use crate::group::SealedRow;
use crate::key::Nonces;
use crate::keyring::SubjectId;
use crate::overlay::NewRows;
use crate::partition::Partition;
use crate::seal::{Sealer, Space};

/// What a submission takes to the disk.
pub(crate) struct Sealed {
    pub(crate) rows: Vec<SealedRow>,
    pub(crate) doomed: Vec<SubjectId>,
}

impl Sealed {
    pub(crate) fn rows(rows: Vec<SealedRow>) -> Self {
        Self { rows, doomed: Vec::new() }
    }
}

/// Rows of a submission, sealed for the disk and plain for the overlay.
pub(crate) struct RowDraft<'a> {
    partition: &'a Partition,
    /// Whose keys seal what comes next; none for the partition's own.
    pub(crate) subjects: &'a [Arc<Sealer>],
    pub(crate) nonces: Nonces,
    pub(crate) sealed: Vec<SealedRow>,
    pub(crate) plain: NewRows,
}

impl<'a> RowDraft<'a> {
    pub(crate) fn new(partition: &'a Partition, rows: usize) -> Self {
        let (sealed, plain) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        Self { partition, subjects: &[], nonces: Nonces::new(), sealed, plain }
    }

    pub(crate) fn set(&mut self, table: u16, key: &[u8], schema_version: u32, value: Option<Bytes>) {
        let key = self.partition.row_key(table, key);
        let sealed = value
            .as_ref()
            .map(|text| self.partition.seal_for(self.subjects, &key, schema_version, text, &mut self.nonces));
        self.push(key, sealed, value);
    }

    pub(crate) fn write_view(&mut self, view: &View, write: ViewWrite) {
        match write {
            // Stored as it is: the key says all there is to say.
            ViewWrite::Put { key, value } if value.is_empty() => {
                let key = self.partition.row_key(view.id, &key);
                self.push(key, Some(UserValue::empty()), Some(value));
            }
            ViewWrite::Put { key, value } => self.set(view.id, &key, view.version, Some(value)),
            ViewWrite::Delete { key } => self.set(view.id, &key, view.version, None),
        }
    }

    fn push(&mut self, key: UserKey, sealed: Option<UserValue>, plain: Option<Bytes>) {
        self.sealed.push(SealedRow { space: Space::Data, key: key.clone(), value: sealed });
        self.plain.push((key, plain));
    }
}
