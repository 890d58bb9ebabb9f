//! Whether rows, in the order of their keys, make a whole vault: every value
//! opens, every feed chains from its floor to its last entry without a gap, and
//! each partition's state says the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use canopy_proto::system::v1::{Effect, RequestRecord};
use prost::Message;

use crate::backup::{Header, StoredRow};
use crate::disk::{GROUP_KEY, parse_group};
use crate::floor::Floor;
use crate::keyring::PartitionName;
use crate::partition::{EFFECTS, FLOOR, META, Meta, Partition, REQUESTS};
use crate::seal::Space;
use crate::vault_keys::VaultKeys;

/// The keys of a partition, where they are known.
pub(crate) type PartitionKeys<'a> = dyn Fn(&PartitionName) -> Result<Option<Arc<Partition>>, String> + 'a;

/// What was found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    /// In both spaces, feed entries not counted.
    pub(crate) rows: u64,
    pub(crate) transactions: u64,
    /// Partitions whose keys are not known.
    pub(crate) unreadable: u64,
}

struct Part {
    /// Without keys, its rows are passed over.
    keys: Option<Arc<Partition>>,
    meta: Option<Meta>,
    /// As far as the feed has been read; its floor first, which stands before it.
    seq: u64,
    chain: Vec<u8>,
    /// See [`Floor::below`].
    below: u64,
}

impl Part {
    /// Whether a feed entry was trimmed, and stands again since a bit was
    /// flipped.
    fn is_let_go(&self, key: &[u8]) -> bool {
        key.try_into().is_ok_and(|seq| u64::from_be_bytes(seq) <= self.below)
    }
}

/// Takes rows one by one. Keeps a few bytes a partition.
pub(crate) struct Check<'a> {
    vault: &'a VaultKeys,
    keys: &'a PartitionKeys<'a>,
    may_pass_over: bool,
    last: Option<(Space, Vec<u8>)>,
    group: u64,
    parts: BTreeMap<PartitionName, Part>,
    found: Found,
}

impl<'a> Check<'a> {
    /// `may_pass_over`: rows of partitions without keys are no fault.
    pub(crate) fn new(vault: &'a VaultKeys, keys: &'a PartitionKeys<'a>, may_pass_over: bool) -> Self {
        Self { vault, keys, may_pass_over, last: None, group: 0, parts: BTreeMap::new(), found: Found::default() }
    }

    /// The number in a vault's group record.
    pub(crate) fn group_of(&self, stored: &[u8]) -> Result<u64, &'static str> {
        let text = self.vault.sealer.open(Space::Data, &GROUP_KEY, stored)?;
        parse_group(&text).map(|(group, _)| group).ok_or("the group record is damaged")
    }

    /// Looks at the next row; tells whether it is to be kept.
    pub(crate) fn row(&mut self, row: &StoredRow<'_>) -> Result<bool, String> {
        let here = (row.space, row.key);
        if self.last.as_ref().is_some_and(|(space, key)| (*space as u8, key.as_slice()) >= (here.0 as u8, here.1)) {
            return Err("rows are not in the order of their keys".into());
        }
        self.last = Some((row.space, row.key.to_vec()));
        if row.space == Space::Data && row.key == GROUP_KEY {
            self.found.rows += 1;
            self.group = self.group_of(row.value)?;
            return Ok(true);
        }
        let (name, rest) = row.key.split_first_chunk::<16>().ok_or("a key is too short")?;
        if !self.parts.contains_key(name) {
            let keys = (self.keys)(name)?;
            if keys.is_none() {
                self.found.unreadable += 1;
                if !self.may_pass_over {
                    return Err("the keys of a partition are missing".into());
                }
            }
            self.parts.insert(*name, Part { keys, meta: None, seq: 0, chain: Vec::new(), below: 0 });
        }
        let part = self.parts.get_mut(name).ok_or("a partition is missing")?;
        if row.space == Space::Feed && part.is_let_go(rest) {
            return Ok(false);
        }
        match row.space {
            Space::Data => self.found.rows += 1,
            Space::Feed => self.found.transactions += 1,
        }
        let Some(keys) = &part.keys else { return Ok(false) };
        match row.space {
            Space::Data => {
                // What was shredded is kept as it is: nobody can say more of it.
                let Some(text) = keys.open_row(row.key, row.value)? else { return Ok(true) };
                let table = rest.first_chunk().map(|table| u16::from_be_bytes(*table)).ok_or("a key is too short")?;
                match table {
                    META => part.meta = Some(Meta::decode(text.as_slice()).map_err(|e| e.to_string())?),
                    REQUESTS => drop(RequestRecord::decode(text.as_slice()).map_err(|e| e.to_string())?),
                    FLOOR => {
                        let floor = Floor::decode(text.as_slice()).map_err(|e| e.to_string())?;
                        (part.seq, part.below) = (floor.below(), floor.below());
                        part.chain = floor.chain;
                    }
                    EFFECTS => drop(Effect::decode(text.as_slice()).map_err(|e| e.to_string())?),
                    _ => {}
                }
            }
            Space::Feed => {
                let seq = u64::from_be_bytes(rest.try_into().map_err(|_| "a feed key is damaged")?);
                if seq != part.seq + 1 {
                    return Err(format!("a feed goes from {} to {seq}", part.seq));
                }
                let (transaction, chain) = keys.check_link(&part.chain, seq, row.value)?;
                if transaction.seq != seq {
                    return Err("a feed entry says that it is another one".into());
                }
                part.seq = seq;
                part.chain = chain;
            }
        }
        Ok(true)
    }

    /// That what was looked at is all that the header says.
    pub(crate) fn end(self, header: &Header) -> Result<Found, String> {
        if self.group != header.group {
            return Err(format!("it is of group {}, and {} is there", header.group, self.group));
        }
        for part in self.parts.values().filter(|part| part.keys.is_some()) {
            let meta = part.meta.as_ref().ok_or("a partition has rows and no state")?;
            if meta.seq != part.seq || meta.chain != part.chain {
                return Err(format!("a feed ends at {}, and its rows at {}", part.seq, meta.seq));
            }
        }
        let mut said = 0;
        for cursor in &header.cursors {
            let name = PartitionName::try_from(cursor.partition.as_slice()).map_err(|_| "a cursor names nothing")?;
            let part = self.parts.get(&name).ok_or("a partition is missing")?;
            if part.keys.is_some() && part.seq != cursor.seq {
                return Err(format!("a feed ends at {}, and is to end at {}", part.seq, cursor.seq));
            }
            said += 1;
        }
        if said != self.parts.len() {
            return Err("it holds partitions that it does not name".into());
        }
        Ok(self.found)
    }
}
