//! fjall's journals, read for as far as their batches are whole.
//!
//! ```text
//! batch: 1 | number of items (4) | seqno (8) | items | 3 | xxh3 of the items (8) | "FJL\x03"
//! item:  2 | type (1) | compression: 0, none (1) | keyspace (8) | length of the key (2)
//!        | length of the value (4) | the same (4) | key | value
//! ```
//!
//! Integers are little-endian. What clears a keyspace is no such item, and never
//! written by a vault. Behind the last batch a journal is zeros, for
//! it was allocated in advance, or ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const UNCOMPRESSED: u8 = 0;
const MAGIC: [u8; 4] = *b"FJL\x03";
/// The numbers of types of items: a value, two kinds of tombstones.
const TYPE_MAX: u8 = 2;
/// Buffer for reading, in bytes.
const BUFFER_BYTES: usize = 1 << 16;

/// How much of a journal can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of the whole batches at its beginning.
    pub(crate) whole: u64,
    /// Whether something follows that is no batch.
    pub(crate) is_torn: bool,
}

/// Reads a journal.
pub(crate) fn extent(path: &Path) -> io::Result<Extent> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
    let mut whole = 0;
    loop {
        let read = match batch(&mut reader) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            read => read.ok().flatten(),
        };
        let Some(bytes) = read else { break };
        whole += bytes;
    }
    reader.seek(SeekFrom::Start(whole))?;
    Ok(Extent { whole, is_torn: !is_zero(&mut reader)? })
}

fn is_zero(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(true);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        let len = bytes.len();
        reader.consume(len);
    }
}

fn take<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads a batch; its length in bytes, if it is whole.
fn batch(reader: &mut impl BufRead) -> io::Result<Option<u64>> {
    if take(reader)? != [START] {
        return Ok(None);
    }
    let items = u32::from_le_bytes(take(reader)?);
    let _seqno: [u8; 8] = take(reader)?;
    let mut hasher = Xxh3::new();
    let mut bytes = 1 + 4 + 8;
    for _ in 0..items {
        let Some(item) = item(reader, &mut hasher)? else { return Ok(None) };
        bytes += item;
    }
    let is_whole =
        take(reader)? == [END] && u64::from_le_bytes(take(reader)?) == hasher.digest() && take(reader)? == MAGIC;
    Ok(is_whole.then_some(bytes + 1 + 8 + 4))
}

/// Reads an item of a batch; its length in bytes, if it is one.
fn item(reader: &mut impl BufRead, hasher: &mut Xxh3) -> io::Result<Option<u64>> {
    let [tag] = take(reader)?;
    hasher.update(&[tag]);
    let head: [u8; 20] = take(reader)?;
    hasher.update(&head);
    let [kind, compression, _, _, _, _, _, _, _, _, k0, k1, v0, v1, v2, v3, s0, s1, s2, s3] = head;
    let key = u16::from_le_bytes([k0, k1]);
    let (value, stored) = (u32::from_le_bytes([v0, v1, v2, v3]), u32::from_le_bytes([s0, s1, s2, s3]));
    if tag != ITEM || kind > TYPE_MAX || compression != UNCOMPRESSED || value != stored {
        return Ok(None);
    }
    let content = u64::from(key) + u64::from(value);
    let mut left = content;
    while left > 0 {
        let bytes = reader.fill_buf()?;
        let part = bytes.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(bytes);
        if part.is_empty() {
            return Ok(None);
        }
        hasher.update(part);
        let len = part.len();
        reader.consume(len);
        left -= len as u64;
    }
    Ok(Some(1 + 20 + content))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::fs;

    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    use super::*;

    fn open(dir: &Path) -> Database {
        Database::builder(dir).journal_compression(fjall::CompressionType::None).open().unwrap()
    }

    /// Every byte is one of a batch, or behind the last one: a journal that is
    /// cut or changed anywhere is whole up to that batch.
    #[test]
    fn whole_batches_are_told_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let keyspace = db.keyspace("data", KeyspaceCreateOptions::default).unwrap();
        for n in 0..20u8 {
            let mut batch = db.batch().durability(Some(PersistMode::SyncData));
            batch.insert(&keyspace, [n], vec![n; 10 * usize::from(n)]);
            batch.remove(&keyspace, [n, n]);
            batch.commit().unwrap();
        }
        drop((keyspace, db));
        let path = dir.path().join("0.jnl");
        let bytes = fs::read(&path).unwrap();
        let Extent { whole, is_torn } = extent(&path).unwrap();
        assert!(!is_torn);
        let whole = usize::try_from(whole).unwrap();
        let (used, rest) = bytes.split_at(whole);
        assert!(used.len() > 2_000 && rest.iter().all(|byte| *byte == 0));
        let changed = dir.path().join("changed");
        let mut ends = vec![0];
        for cut in 1..=whole {
            fs::write(&changed, &used[..cut]).unwrap();
            let found = extent(&changed).unwrap();
            let last = *ends.last().unwrap();
            if found.whole == cut as u64 {
                ends.push(found.whole);
            }
            assert_eq!(found, Extent { whole: *ends.last().unwrap(), is_torn: found.whole == last }, "{cut}");
        }
        assert!(ends.len() > 20, "{ends:?}");
        for at in 0..whole {
            let mut flipped = used.to_vec();
            flipped[at] ^= 1;
            fs::write(&changed, &flipped).unwrap();
            let batch = ends.iter().rev().find(|end| **end <= at as u64).unwrap();
            let found = extent(&changed).unwrap();
            // A seqno is not part of a checksum.
            let is_seqno = (5..13).contains(&(at as u64 - batch));
            let expected = if is_seqno { whole as u64 } else { *batch };
            assert_eq!(found, Extent { whole: expected, is_torn: !is_seqno }, "{at}");
        }
    }
}
