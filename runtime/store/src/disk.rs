//! A vault's directory while it is open: `keyring`, `head` and `db/`, a fjall
//! database with two keyspaces.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::Instant;

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Config, Database, Keyspace, KeyspaceCreateOptions, LsmError, Readable, UserValue};
use parking_lot::{Mutex, MutexGuard};

use crate::StoreError;
use crate::head::Head;
use crate::key::{Hmac256, random};
use crate::keyring::{Keyring, PartitionName, PartitionRecords};
use crate::layout;
use crate::partition::SCHEMA_VERSION;
use crate::seal::{Sealer, Space};
use crate::versions;

/// File descriptors that an open vault keeps for its tables.
const CACHED_FILES_MAX: usize = 64;

/// A memtable of this size is written out, however few vaults are open. Both
/// keyspaces together stay below the 64 MB at which fjall starts another
/// journal, so that a vault has two journals at most while one is written out.
const MEMTABLE_BYTES_MAX: u64 = 48 << 20;
/// Smaller tables are not worth their file, however many vaults are open.
const MEMTABLE_BYTES_MIN: u64 = 1 << 20;

/// fjall stalls its writers at 4 memtables waiting to be written out, for as
/// long as it takes; we do not add a third.
const SEALED_MEMTABLES_MAX: usize = 2;

/// Milliseconds after which the head is synced on its own. With each group it
/// would be a second fsync, which costs 42% of all commits.
const HEAD_SYNC_MS: u128 = 1000;

/// Where the batch says which group it is: below all partitions, whose names
/// are keyed digests.
pub(crate) const GROUP_KEY: [u8; 18] = [0; 18];

/// What is wrong with a directory.
pub(crate) enum OpenError {
    /// Try again later.
    Transient(StoreError),
    /// Quarantine it.
    Damaged(String),
}

impl OpenError {
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        if tells_of_damage(error) {
            Self::Damaged(format!("{what}: {error}"))
        } else {
            Self::Transient(StoreError::Io { what: what.into(), reason: error.to_string() })
        }
    }

    fn fjall(error: &fjall::Error) -> Self {
        match error {
            fjall::Error::Io(e) | fjall::Error::Storage(LsmError::Io(e)) => Self::io("its database", e),
            fjall::Error::Locked => Self::Transient(StoreError::Io {
                what: "its database".into(),
                reason: "it is locked by another process".into(),
            }),
            other => Self::Damaged(format!("its database: {other:?}")),
        }
    }
}

/// Whether what is stored is wrong, rather than the disk that should read it:
/// files that must be there are not, or are cut short, or what they say leads
/// nowhere: to an offset below zero, for instance, or a file that is none.
pub(crate) fn tells_of_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
    )
}

/// The I/O error within one of fjall's.
pub(crate) fn io_error(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(e) | fjall::Error::Storage(LsmError::Io(e)) => e,
        other => io::Error::other(other),
    }
}

pub(crate) struct Disk {
    pub(crate) data: Keyspace,
    pub(crate) feed: Keyspace,
    db: Database,
    writer: Mutex<DiskWriter>,
}

/// What only the group commit touches.
pub(crate) struct DiskWriter {
    pub(crate) keyring: Keyring,
    head: Head,
    group: u64,
    buffered_bytes: u64,
    head_synced: Instant,
    head_dirty: bool,
}

impl Disk {
    /// Makes `db/` and `head` in the directory of a new vault.
    pub(crate) fn create(dir: &Path, template: &Config, keyring: Keyring, head: Hmac256) -> Result<Self, fjall::Error> {
        let head = Head::create(&dir.join("head"), head)?;
        let path = dir.join("db");
        let this = Self::assemble(open_database(&path, template)?, keyring, head, 0)?;
        // fjall makes the keyspaces' directories and does not sync the one
        // they are in: without power they would be gone with all their rows.
        layout::sync_dir(&path.join("keyspaces"))?;
        layout::sync_dir(&path)?;
        Ok(this)
    }

    /// Opens the directory of a vault, and compares what it holds with its
    /// head and with the group it is known to have `acknowledged`; with
    /// nothing to compare, whatever is left in it.
    pub(crate) fn open(
        dir: &Path,
        template: &Config,
        keyring: Keyring,
        head: Hmac256,
        sealer: &Sealer,
        acknowledged: Option<u64>,
        partitions: &HashMap<PartitionName, PartitionRecords>,
    ) -> Result<Self, OpenError> {
        let head_path = dir.join("head");
        let opened = match acknowledged {
            None if !head_path.exists() => Head::create(&head_path, head),
            _ => Head::open(&head_path, head),
        };
        let head = opened.map_err(|e| OpenError::io("its head", &e))?;
        let noted = head.read().map_err(|e| OpenError::io("its head", &e))?;
        let Some(noted) = noted.or_else(|| acknowledged.is_none().then_some(0)) else {
            return Err(OpenError::Damaged("neither slot of its head is authentic".into()));
        };
        let path = dir.join("db");
        if !path.join("version").exists() {
            // fjall would make a new, empty database here.
            return Err(OpenError::Damaged("its database is missing".into()));
        }
        let is_used = acknowledged.is_some_and(|acknowledged| noted.max(acknowledged) > 0);
        versions::check(&path, is_used)?;
        let db = open_database(&path, template).map_err(|e| OpenError::fjall(&e))?;
        if let Some(missing) = KEYSPACES.iter().find(|name| is_used && !db.keyspace_exists(name)) {
            // fjall would make a new, empty one.
            return Err(OpenError::Damaged(format!("its database has lost the keyspace `{missing}`")));
        }
        let this = Self::assemble(db, keyring, head, noted).map_err(|e| OpenError::fjall(&e))?;
        let Some(acknowledged) = acknowledged else {
            this.writer.lock().group = this.stored_group(sealer).map_or(0, |(group, _)| group);
            return Ok(this);
        };
        let (stored, appended) = this.stored_group(sealer)?;
        // Hazard 2: fjall opens a damaged journal as a shorter one.
        if stored < noted {
            return Err(OpenError::Damaged(format!("it acknowledged group {noted}, and only {stored} are left")));
        }
        if stored < acknowledged {
            return Err(OpenError::Damaged(format!(
                "its directory was set back to an older copy: it acknowledged group {acknowledged}, and only {stored} \
                 are left"
            )));
        }
        {
            let mut writer = this.writer.lock();
            writer.group = stored;
            let has_needed_keys = match appended {
                Some(appended) => appended <= writer.keyring.appended(),
                None => !writer.keyring.has_tail() || this.has_no_strangers(partitions)?,
            };
            if !has_needed_keys {
                let reason = "a record of its keyring cannot be read, and there is data that needs it";
                return Err(OpenError::Damaged(reason.into()));
            }
            writer.keyring.cut_tail().map_err(|e| OpenError::io("its keyring", &e))?;
            if stored > noted {
                // A crash came between fsync and head; the group stands, and
                // was not acknowledged. On a full disk the next one notes it.
                writer.head_dirty = writer.head.write(stored).is_ok();
            }
        }
        Ok(this)
    }

    fn assemble(db: Database, keyring: Keyring, head: Head, group: u64) -> Result<Self, fjall::Error> {
        let [data, feed] = keyspaces(&db)?;
        let writer = Mutex::new(DiskWriter {
            keyring,
            head,
            group,
            buffered_bytes: db.write_buffer_size(),
            head_synced: Instant::now(),
            head_dirty: false,
        });
        Ok(Self { data, feed, db, writer })
    }

    /// Whether every row belongs to a partition that has a key. Asks for one
    /// row of each.
    fn has_no_strangers(&self, partitions: &HashMap<PartitionName, PartitionRecords>) -> Result<bool, OpenError> {
        let snapshot = self.db.snapshot();
        let mut from: PartitionName = 1u128.to_be_bytes();
        while let Some(row) = snapshot.range(&self.data, from.as_slice()..).next() {
            let key = row.key().map_err(|e| OpenError::fjall(&e))?;
            let name = key.first_chunk::<16>().copied().unwrap_or_default();
            if !partitions.contains_key(&name) {
                return Ok(false);
            }
            match u128::from_be_bytes(name).checked_add(1) {
                Some(next) => from = next.to_be_bytes(),
                None => break,
            }
        }
        Ok(true)
    }

    /// The last group, and how many records its keyring had been appended; of
    /// which groups of format 1 say nothing.
    fn stored_group(&self, sealer: &Sealer) -> Result<(u64, Option<u64>), OpenError> {
        let stored = self.db.snapshot().get(&self.data, GROUP_KEY).map_err(|e| OpenError::fjall(&e))?;
        let Some(stored) = stored else { return Ok((0, None)) };
        let text = sealer
            .open(Space::Data, &GROUP_KEY, &stored)
            .map_err(|e| OpenError::Damaged(format!("its group record: {e}")))?;
        parse_group(&text).ok_or_else(|| OpenError::Damaged("its group record".into()))
    }

    /// Hazard 3: without a snapshot, reads show half a batch.
    pub(crate) fn snapshot(&self) -> fjall::Snapshot {
        self.db.snapshot()
    }

    pub(crate) fn keyspace(&self, space: Space) -> &Keyspace {
        match space {
            Space::Data => &self.data,
            Space::Feed => &self.feed,
        }
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, DiskWriter> {
        self.writer.lock()
    }

    /// A batch that is durable when its commit returns: fjall syncs the
    /// journal before it makes the batch visible.
    pub(crate) fn batch(&self, capacity: usize) -> fjall::OwnedWriteBatch {
        fjall::OwnedWriteBatch::with_capacity(self.db.clone(), capacity).durability(Some(fjall::PersistMode::SyncData))
    }

    /// Writes a batch of a vault that is being restored, durably.
    pub(crate) fn ingest(&self, batch: fjall::OwnedWriteBatch, bytes: u64, memtable_bytes: u64) -> io::Result<()> {
        batch.commit().map_err(io_error)?;
        self.writer.lock().buffered_bytes += bytes;
        self.maintain(memtable_bytes)
    }

    /// Notes that a restored vault is complete, at a group, with the keyring
    /// that it has now.
    pub(crate) fn restored(&self, group: u64, sealer: &Sealer) -> io::Result<()> {
        let mut writer = self.writer.lock();
        writer.keyring.cut_tail()?;
        let (key, value) = writer.group_row_of(group, sealer);
        let mut batch = self.batch(1);
        batch.insert(&self.data, key, value);
        batch.commit().map_err(io_error)?;
        writer.group = group;
        writer.head.write(group)?;
        writer.head.sync()
    }

    /// Rotates memtables once they are beyond this vault's part of the node's
    /// budget, and syncs the head now and then. Between groups only.
    pub(crate) fn maintain(&self, memtable_bytes: u64) -> io::Result<()> {
        let mut writer = self.writer.lock();
        let limit = memtable_bytes.clamp(MEMTABLE_BYTES_MIN, MEMTABLE_BYTES_MAX);
        let sealed = self.data.sealed_memtable_count().max(self.feed.sealed_memtable_count());
        if writer.buffered_bytes >= limit && sealed < SEALED_MEMTABLES_MAX {
            // Hazard 1: fjall's own worker must never rotate, it can wait for
            // itself. Both keyspaces together, so that the journal can go.
            self.data.rotate_memtable().map_err(io_error)?;
            self.feed.rotate_memtable().map_err(io_error)?;
            writer.buffered_bytes = 0;
        }
        if writer.head_synced.elapsed().as_millis() >= HEAD_SYNC_MS {
            writer.sync_head()?;
        }
        Ok(())
    }
}

impl DiskWriter {
    /// The group's record, to be part of its batch.
    pub(crate) fn group_row(&self, sealer: &Sealer) -> ([u8; 18], UserValue) {
        self.group_row_of(self.group + 1, sealer)
    }

    fn group_row_of(&self, group: u64, sealer: &Sealer) -> ([u8; 18], UserValue) {
        let text = [group.to_be_bytes(), self.keyring.appended().to_be_bytes()].concat();
        (GROUP_KEY, sealer.seal(Space::Data, &GROUP_KEY, SCHEMA_VERSION, &text, random()))
    }

    /// Notes in the head that the group's batch is durable; gives its number.
    pub(crate) fn committed(&mut self, bytes: u64) -> io::Result<u64> {
        self.group += 1;
        self.buffered_bytes += bytes;
        self.head_dirty = true;
        self.head.write(self.group)?;
        Ok(self.group)
    }

    /// Number of the last durable group.
    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    fn sync_head(&mut self) -> io::Result<()> {
        if self.head_dirty {
            self.head.sync()?;
            self.head_dirty = false;
        }
        self.head_synced = Instant::now();
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.writer.lock().sync_head() {
            tracing::error!(%error, "cannot sync a vault's head");
        }
    }
}

/// Rows and feed.
const KEYSPACES: [&str; 2] = ["data", "feed"];

/// Both, made where they are not there; always in this order.
pub(crate) fn keyspaces(db: &Database) -> Result<[Keyspace; 2], fjall::Error> {
    let [data, feed] = KEYSPACES;
    Ok([db.keyspace(data, keyspace_options)?, db.keyspace(feed, keyspace_options)?])
}

/// The number in a vault's group record, and how many records its keyring had
/// been appended, where the record says so.
pub(crate) fn parse_group(text: &[u8]) -> Option<(u64, Option<u64>)> {
    let (group, rest) = text.split_first_chunk()?;
    let appended = match rest {
        [] => None,
        rest => Some(u64::from_be_bytes(rest.try_into().ok()?)),
    };
    Some((u64::from_be_bytes(*group), appended))
}

pub(crate) fn open_database(path: &Path, template: &Config) -> Result<Database, fjall::Error> {
    let mut config = Database::builder(path)
        .worker_threads(1)
        .manual_journal_persist(true)
        .max_cached_files(Some(CACHED_FILES_MAX))
        .journal_compression(CompressionType::None)
        // Beyond this, fjall's worker would rotate memtables itself (hazard
        // 1). `Disk::maintain` bounds journals instead.
        .max_journaling_size(u64::MAX)
        .into_config();
    // One block cache for all vaults.
    config.cache = template.cache.clone();
    Database::open(config)
}

/// Sealed values do not compress.
fn keyspace_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(u64::MAX)
        .manual_journal_persist(true)
        .data_block_compression_policy(CompressionPolicy::disabled())
        .index_block_compression_policy(CompressionPolicy::disabled())
        .with_kv_separation(None)
}
