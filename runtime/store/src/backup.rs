//! A vault in one file: what a snapshot of it holds, sealed as it is stored.
//! Whoever carries the file needs no key, and no key is in it.
//!
//! ```text
//! magic | frame | frame | …       frame: length (4) | kind (1) | payload
//! header    vault, group, and the cursor of each partition
//! rows      space (1) | key length (2) | value length (4) | key | value, again and again
//! end       rows (8) | transactions (8) | HMAC over all that stands before
//! ```
//!
//! Rows stand in the order of their keys, data before feed. Numbers are
//! big-endian. A file without its end is no backup.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use canopy_domain::Address;
use fjall::Readable;
use hmac::Mac;
use prost::Message;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::backup_check::{Check, Found};
use crate::disk::GROUP_KEY;
use crate::key::Hmac256;
use crate::keyring::PartitionName;
use crate::layout;
use crate::partition::{META, Meta, Partition, row_key};
use crate::seal::Space;
use crate::vault::Vault;
use crate::{Store, StoreError};

/// In format 2 a feed may begin at a floor.
const MAGIC: &[u8] = b"canopy backup 2\n";
/// The format before, which is read all the same.
const MAGIC_BEFORE: &[u8] = b"canopy backup 1\n";
const KIND_HEADER: u8 = 1;
const KIND_ROWS: u8 = 2;
const KIND_END: u8 = 3;
/// Bytes of rows after which a frame ends.
const FRAME_BYTES: usize = 256 << 10;
/// A longer frame is damage: one row is the most that may exceed
/// [`FRAME_BYTES`], and a row is shorter than this.
const FRAME_BYTES_MAX: u32 = 1 << 30;
const MAC_BYTES: usize = 32;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupSummary {
    /// The vault's name.
    pub vault: String,
    /// The vault's last group in it.
    pub group: u64,
    /// The last transaction in it of the partition that the vault is named
    /// after; 0 where that has none.
    pub cursor: u64,
    /// Partitions in it.
    pub partitions: u64,
    /// Rows in it, the vault's own and views' included.
    pub rows: u64,
    /// Feed entries in it.
    pub transactions: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file, in hex digits.
    pub sha256: String,
    /// Milliseconds since 1970 when it was begun.
    pub time_ms: i64,
    /// Partitions whose keys are gone, and which were left out.
    pub unreadable: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Header {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) vault: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(crate) group: u64,
    #[prost(int64, tag = "3")]
    pub(crate) time_ms: i64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) cursors: Vec<Cursor>,
    /// Version of the vault's key.
    #[prost(uint32, tag = "5")]
    pub(crate) key_version: u32,
}

/// Up to where a partition's feed is there.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Cursor {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) partition: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(crate) seq: u64,
}

/// A row as stored.
pub(crate) struct StoredRow<'a> {
    pub(crate) space: Space,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// What a damaged file is called.
pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> StoreError {
    StoreError::BackupDamaged { path: path.into(), reason: reason.into() }
}

impl Store {
    /// Writes a backup of an address's vault, as it is now. Every row is
    /// opened on the way, so that a file that is there is a good one; it
    /// appears under its name complete and durable, or not at all. `go_on` is
    /// told the bytes written so far, and says whether to.
    ///
    /// # Errors
    /// The vault is quarantined, damaged, or was never made; the file cannot
    /// be written; [`StoreError::Interrupted`] where `go_on` said so.
    pub async fn back_up(
        &self,
        address: &Address,
        to: &Path,
        time_ms: i64,
        go_on: impl Fn(u64) -> bool + Send + 'static,
    ) -> Result<BackupSummary, StoreError> {
        let vault = self.existing_vault(address).await?;
        let (address, to) = (address.clone(), to.to_owned());
        run_blocking(move || {
            let part = to.with_extension("part");
            let written = write(&vault, &address, &part, time_ms, &go_on);
            let summary = written.inspect_err(|_| drop(fs::remove_file(&part)))?;
            fs::rename(&part, &to)
                .and_then(|()| layout::sync_dir(layout::dir_of(&to)))
                .map_err(|e| StoreError::io("cannot put in place", &to, &e))?;
            Ok(summary)
        })
        .await
    }

    /// Reads a backup of an address's vault and opens every row in it.
    ///
    /// # Errors
    /// [`StoreError::BackupDamaged`], and as [`Store::back_up`].
    pub async fn verify_backup(
        &self,
        address: &Address,
        path: &Path,
        go_on: impl Fn(u64) -> bool + Send + 'static,
    ) -> Result<BackupSummary, StoreError> {
        let vault = self.existing_vault(address).await?;
        let (address, path) = (address.clone(), path.to_owned());
        run_blocking(move || {
            let keys = |name: &PartitionName| vault.partition_named(name).map_err(|e| e.to_string());
            let check = Check::new(&vault.keys, &keys, false);
            let own = Partition::name_of(&vault.keys.names, &address);
            let mut bytes = 0u64;
            read(&path, vault.keys.backup(), &vault.id, check, &vault.name, &own, |row| {
                bytes += (row.key.len() + row.value.len()) as u64;
                if go_on(bytes) { Ok(()) } else { Err(StoreError::Interrupted) }
            })
        })
        .await
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(StoreError::Io { what: "a backup was broken off".into(), reason: e.to_string() }))
}

fn write(
    vault: &Arc<Vault>,
    address: &Address,
    path: &Path,
    time_ms: i64,
    go_on: &dyn Fn(u64) -> bool,
) -> Result<BackupSummary, StoreError> {
    let disk = vault.disk().ok_or_else(|| StoreError::NothingThere(vault.name.to_string()))?;
    let snapshot = disk.snapshot();
    let keys = |name: &PartitionName| vault.partition_named(name).map_err(|e| e.to_string());
    let mut check = Check::new(&vault.keys, &keys, false);
    let mut header =
        Header { vault: vault.id.to_vec(), time_ms, key_version: vault.keys.version(), ..Header::default() };
    if let Some(stored) = snapshot.get(&disk.data, GROUP_KEY).map_err(|e| vault.read_error(e))? {
        header.group = check.group_of(&stored).map_err(|e| vault.damaged(e))?;
    }
    for name in vault.partition_names() {
        let key = row_key(&name, META, &[]);
        let stored = snapshot.get(&disk.data, &key).map_err(|e| vault.read_error(e))?;
        let (Some(stored), Some(partition)) = (stored, vault.partition_named(&name)?) else {
            // Its keys are made durable before its first commit.
            continue;
        };
        let text = partition.open_row(&key, &stored).map_err(|e| vault.damaged(e))?;
        let text = text.ok_or_else(|| vault.damaged("a partition's state is under a subject's key"))?;
        let meta = Meta::decode(text.as_slice()).map_err(|e| vault.damaged(&e.to_string()))?;
        header.cursors.push(Cursor { partition: name.to_vec(), seq: meta.seq });
    }
    let failed = |e: std::io::Error| match StoreError::commit(&vault.name, &e) {
        full @ StoreError::DiskFull { .. } => full,
        _ => StoreError::io("cannot write", path, &e),
    };
    let file = layout::private().create(true).truncate(true).open(path).map_err(failed)?;
    let mut out = FrameWriter::new(file, vault.keys.backup()).map_err(failed)?;
    out.frame(KIND_HEADER, &header.encode_to_vec()).map_err(failed)?;
    let mut rows = Vec::with_capacity(FRAME_BYTES + (FRAME_BYTES >> 2));
    for (space, keyspace) in [(Space::Data, &disk.data), (Space::Feed, &disk.feed)] {
        for guard in snapshot.iter(keyspace) {
            let (key, value) = guard.into_inner().map_err(|e| vault.read_error(e))?;
            if key.first_chunk().is_some_and(|name| vault.is_shredded(name)) {
                // A partition that is gone is in no backup made after that.
                continue;
            }
            let row = StoredRow { space, key: &key, value: &value };
            if !check.row(&row).map_err(|e| vault.damaged(&e))? {
                continue;
            }
            push_row(&mut rows, &row).ok_or_else(|| vault.damaged("a row is too long"))?;
            if rows.len() >= FRAME_BYTES {
                out.frame(KIND_ROWS, &rows).map_err(failed)?;
                rows.clear();
                if !go_on(out.bytes) {
                    return Err(StoreError::Interrupted);
                }
            }
        }
    }
    if !rows.is_empty() {
        out.frame(KIND_ROWS, &rows).map_err(failed)?;
    }
    let found = check.end(&header).map_err(|e| vault.damaged(&e))?;
    let (bytes, sha256) = out.end(&found).map_err(failed)?;
    let own = Partition::name_of(&vault.keys.names, address);
    Ok(summary(&vault.name, &own, &header, &found, bytes, sha256))
}

fn summary(
    vault: &str,
    own: &PartitionName,
    header: &Header,
    found: &Found,
    bytes: u64,
    sha256: String,
) -> BackupSummary {
    BackupSummary {
        vault: vault.to_owned(),
        group: header.group,
        cursor: header.cursors.iter().find(|cursor| cursor.partition == own).map_or(0, |cursor| cursor.seq),
        partitions: header.cursors.len() as u64,
        rows: found.rows,
        transactions: found.transactions,
        bytes,
        sha256,
        time_ms: header.time_ms,
        unreadable: found.unreadable,
    }
}

fn push_row(to: &mut Vec<u8>, row: &StoredRow<'_>) -> Option<()> {
    to.push(row.space as u8);
    to.extend_from_slice(&u16::try_from(row.key.len()).ok()?.to_be_bytes());
    to.extend_from_slice(&u32::try_from(row.value.len()).ok()?.to_be_bytes());
    to.extend_from_slice(row.key);
    to.extend_from_slice(row.value);
    Some(())
}

/// The first row of a frame, and what follows it.
fn split_row(bytes: &[u8]) -> Option<(StoredRow<'_>, &[u8])> {
    let (space, rest) = bytes.split_first()?;
    let space = match space {
        0 => Space::Data,
        1 => Space::Feed,
        _ => return None,
    };
    let (key_bytes, rest) = rest.split_first_chunk::<2>()?;
    let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_bytes).into())?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*value_bytes) as usize)?;
    Some((StoredRow { space, key, value }, rest))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct FrameWriter {
    file: BufWriter<File>,
    mac: Hmac256,
    digest: Sha256,
    bytes: u64,
}

impl FrameWriter {
    fn new(file: File, mac: Hmac256) -> std::io::Result<Self> {
        let mut this = Self { file: BufWriter::new(file), mac, digest: Sha256::new(), bytes: 0 };
        this.put(MAGIC)?;
        Ok(this)
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.mac.update(bytes);
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(std::io::Error::other)?;
        self.put(&len.to_be_bytes())?;
        self.put(&[kind])?;
        self.put(payload)
    }

    /// Ends the file and makes it durable; gives its size and digest.
    fn end(mut self, found: &Found) -> std::io::Result<(u64, String)> {
        let mut payload = [found.rows.to_be_bytes(), found.transactions.to_be_bytes()].concat();
        let mut mac = self.mac.clone();
        mac.update(&payload);
        payload.extend_from_slice(&mac.finalize().into_bytes());
        self.frame(KIND_END, &payload)?;
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((self.bytes, hex(&self.digest.finalize())))
    }
}

/// A backup file, frame by frame.
pub(crate) struct FrameReader {
    path: PathBuf,
    file: BufReader<File>,
    mac: Option<Hmac256>,
    digest: Sha256,
    bytes: u64,
}

/// The vault that a backup is of, before its keys are known.
pub(crate) fn vault_of_backup(path: &Path) -> Result<[u8; 16], StoreError> {
    let mut reader = FrameReader::open(path, None)?;
    let header = reader.header()?;
    header.vault.as_slice().try_into().map_err(|_| damaged(path, "its header names no vault"))
}

impl FrameReader {
    fn open(path: &Path, mac: Option<Hmac256>) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|e| StoreError::io("cannot open", path, &e))?;
        let mut this = Self { path: path.into(), file: BufReader::new(file), mac, digest: Sha256::new(), bytes: 0 };
        if ![MAGIC, MAGIC_BEFORE].contains(&this.take(MAGIC.len())?.as_slice()) {
            return Err(damaged(path, "it is no backup, or of a newer format"));
        }
        Ok(this)
    }

    /// So many bytes; they count for the digest and the MAC.
    fn take(&mut self, len: usize) -> Result<Vec<u8>, StoreError> {
        let bytes = self.take_apart(len)?;
        if let Some(mac) = &mut self.mac {
            mac.update(&bytes);
        }
        Ok(bytes)
    }

    /// As [`FrameReader::take`], but for the MAC.
    fn take_apart(&mut self, len: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        // Grows as bytes come: a damaged length allocates nothing.
        let read = self.file.by_ref().take(len as u64).read_to_end(&mut bytes);
        read.map_err(|e| StoreError::io("cannot read", &self.path, &e))?;
        if bytes.len() < len {
            return Err(damaged(&self.path, "it is cut short"));
        }
        self.digest.update(&bytes);
        self.bytes += len as u64;
        Ok(bytes)
    }

    fn frame_head(&mut self) -> Result<(u8, usize), StoreError> {
        let bytes = self.take(5)?;
        let [a, b, c, d, kind] = <[u8; 5]>::try_from(bytes).map_err(|_| damaged(&self.path, "it is cut short"))?;
        match u32::from_be_bytes([a, b, c, d]) {
            len if len > FRAME_BYTES_MAX => Err(damaged(&self.path, "a frame's length is damaged")),
            len => Ok((kind, len as usize)),
        }
    }

    fn header(&mut self) -> Result<Header, StoreError> {
        let (kind, len) = self.frame_head()?;
        if kind != KIND_HEADER {
            return Err(damaged(&self.path, "it has no header"));
        }
        let payload = self.take(len)?;
        Header::decode(payload.as_slice()).map_err(|_| damaged(&self.path, "its header cannot be read"))
    }

    /// Checks the end, whose head was read; gives rows and transactions.
    fn end(&mut self, len: usize) -> Result<(u64, u64), StoreError> {
        let path = self.path.clone();
        let short = || damaged(&path, "its end is damaged");
        let payload = self.take_apart(len)?;
        let (counts, mac) = payload.split_last_chunk::<MAC_BYTES>().ok_or_else(short)?;
        let (rows, transactions) = counts.split_first_chunk::<8>().ok_or_else(short)?;
        let transactions = <[u8; 8]>::try_from(transactions).map_err(|_| short())?;
        Ok((u64::from_be_bytes(*rows), u64::from_be_bytes(transactions))).and_then(|counted| {
            let authentic = self.authentic(counts, mac);
            if authentic { Ok(counted) } else { Err(damaged(&path, "it fails its authentication code")) }
        })
    }

    /// Whether the MAC is that of all before the end's head, and its counts.
    fn authentic(&mut self, counts: &[u8], mac: &[u8; MAC_BYTES]) -> bool {
        let Some(mut expected) = self.mac.take() else { return false };
        expected.update(counts);
        let expected: [u8; MAC_BYTES] = expected.finalize().into_bytes().into();
        bool::from(expected.ct_eq(mac))
    }
}

/// Reads a whole backup, checks all of it, and hands every row that is to be
/// kept on. What was handed on counts only when this gives no error.
pub(crate) fn read(
    path: &Path,
    mac: Hmac256,
    vault: &[u8; 16],
    mut check: Check<'_>,
    name: &str,
    own: &PartitionName,
    mut keep: impl FnMut(&StoredRow<'_>) -> Result<(), StoreError>,
) -> Result<BackupSummary, StoreError> {
    let mut reader = FrameReader::open(path, Some(mac))?;
    let header = reader.header()?;
    if header.vault != vault {
        return Err(damaged(path, "it is of another vault"));
    }
    loop {
        // The end's MAC is over all that stands before its frame.
        let before = reader.mac.clone();
        let (kind, len) = reader.frame_head()?;
        match kind {
            KIND_ROWS => {
                let payload = reader.take(len)?;
                let mut rest = payload.as_slice();
                while !rest.is_empty() {
                    let (row, after) = split_row(rest).ok_or_else(|| damaged(path, "a row is damaged"))?;
                    if check.row(&row).map_err(|e| damaged(path, e))? {
                        keep(&row)?;
                    }
                    rest = after;
                }
            }
            KIND_END => {
                reader.mac = before;
                let counted = reader.end(len)?;
                let found = check.end(&header).map_err(|e| damaged(path, e))?;
                if counted != (found.rows, found.transactions) {
                    return Err(damaged(path, "it holds another number of rows than it says"));
                }
                let mut more = [0u8; 1];
                if reader.file.read(&mut more).map_err(|e| StoreError::io("cannot read", path, &e))? > 0 {
                    return Err(damaged(path, "something stands behind its end"));
                }
                let sha256 = hex(&reader.digest.finalize());
                return Ok(summary(name, own, &header, &found, reader.bytes, sha256));
            }
            _ => return Err(damaged(path, "a frame is of an unknown kind")),
        }
    }
}
