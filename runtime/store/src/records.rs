//! Append-only files of records: `length | !length | payload | checksum`.
//!
//! A crash may tear what was being appended, in any shape; a flipped bit in a
//! record looks the same. Reading ends there, and what follows, the tail, is
//! kept: whoever knows that nothing needs it cuts it off.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};

use crate::StoreError;
use crate::key::Key;
use crate::layout;

const MAGIC: &[u8] = b"canopy records 1\n";
const FRAME_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 8;
/// A longer record is damage: ours have a few hundred bytes.
const RECORD_BYTES_MAX: u32 = 1 << 20;

/// An open file of records.
pub(crate) struct RecordFile {
    file: File,
    len: u64,
    /// Bytes behind the last whole record.
    tail: u64,
}

impl RecordFile {
    /// Makes a file of records, durably, in place of one that is there: it
    /// holds all of them or none, and the old one's bytes are overwritten.
    pub(crate) fn create<'a>(path: &Path, payloads: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Self> {
        let mut bytes = MAGIC.to_vec();
        frame(payloads, &mut bytes)?;
        layout::replace_keys(path, &bytes)?;
        Ok(Self { file: layout::private().open(path)?, len: bytes.len() as u64, tail: 0 })
    }

    /// Opens a file and gives what is in it, up to the tail.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Vec<u8>>), RecordError> {
        Ok(Unread::open(path)?.parse())
    }

    /// Whether something follows the last whole record.
    pub(crate) fn has_tail(&self) -> bool {
        self.tail > 0
    }

    /// Cuts the tail off, which a crash tore: nothing needs it.
    pub(crate) fn cut_tail(&mut self) -> io::Result<()> {
        if self.tail > 0 {
            tracing::warn!(bytes = self.tail, "cut off a record torn by a crash");
            self.file.set_len(self.len)?;
            self.file.sync_all()?;
            self.tail = 0;
        }
        Ok(())
    }

    /// Appends records and makes them durable. Not over a tail.
    pub(crate) fn append<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        if self.has_tail() {
            return Err(io::Error::other("a damaged record stands at the end of the file"));
        }
        let mut bytes = Vec::new();
        frame(payloads, &mut bytes)?;
        let written = self.file.write_all_at(&bytes, self.len).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What a failed write left would stand behind the next record.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// A file of records as it was read, with none of them looked at.
pub(crate) struct Unread {
    file: File,
    bytes: Vec<u8>,
}

impl Unread {
    fn open(path: &Path) -> Result<Self, RecordError> {
        let mut file = layout::private().open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if bytes.starts_with(MAGIC) { Ok(Self { file, bytes }) } else { Err(NO_HEADER) }
    }

    /// Reads a file; `None` for one that is missing.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        match Self::open(path) {
            Ok(unread) => Ok(Some(unread)),
            Err(RecordError::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(RecordError::Io(e)) => Err(StoreError::io("cannot read", path, &e)),
            Err(RecordError::Damaged(reason)) => {
                Err(StoreError::CorruptFile { path: path.into(), reason: reason.into() })
            }
        }
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn records(&self) -> &[u8] {
        self.bytes.strip_prefix(MAGIC).unwrap_or_default()
    }

    fn parse(self) -> (RecordFile, Vec<Vec<u8>>) {
        let mut rest = self.records();
        let mut payloads = Vec::new();
        while let Some((payload, after)) = next_record(rest) {
            payloads.push(payload.to_vec());
            rest = after;
        }
        let (tail, len) = (rest.len() as u64, (self.bytes.len() - rest.len()) as u64);
        (RecordFile { file: self.file, len, tail }, payloads)
    }

    /// The first so many records, if there are as many and `key` opens them.
    pub(crate) fn first<T: Message + Default>(&self, count: u64, key: &Key) -> Option<Vec<T>> {
        let mut rest = self.records();
        let record = |n: u64| {
            let (payload, after) = next_record(rest)?;
            rest = after;
            T::decode(key.open(&n.to_be_bytes(), payload)?.as_slice()).ok()
        };
        (0..count).map(record).collect()
    }
}

/// Whether a file begins as one of records does.
pub(crate) fn has_header(path: &Path) -> bool {
    let mut header = [0; MAGIC.len()];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut header).is_ok()) && header.as_slice() == MAGIC
}

fn frame<'a>(payloads: impl IntoIterator<Item = &'a [u8]>, bytes: &mut Vec<u8>) -> io::Result<()> {
    for payload in payloads {
        let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&(!len).to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&checksum(payload));
    }
    Ok(())
}

/// Why a file of records cannot be read.
#[derive(Debug)]
pub(crate) enum RecordError {
    Io(io::Error),
    Damaged(&'static str),
}

const NO_HEADER: RecordError = RecordError::Damaged("it has no known header");

impl From<io::Error> for RecordError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha256::digest(payload).into();
    *digest.first_chunk().expect("32 bytes have 8")
}

/// A record's payload, and the bytes behind the record.
type Split<'a> = (&'a [u8], &'a [u8]);

/// The first record and what follows it; none at the end, and where the first
/// is not whole.
fn next_record(bytes: &[u8]) -> Option<Split<'_>> {
    let (frame, rest) = bytes.split_first_chunk::<FRAME_BYTES>()?;
    let frame = u64::from_be_bytes(*frame);
    let (len, inverse) = ((frame >> 32) as u32, (frame & 0xFFFF_FFFF) as u32);
    if len != !inverse || len > RECORD_BYTES_MAX {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(len as usize)?;
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    (*sum == checksum(payload)).then_some((payload, rest))
}

/// A file of sealed records of one type. Each is bound to its place in the
/// file, so that records cannot be swapped.
pub(crate) struct SealedRecords<T> {
    file: Option<RecordFile>,
    path: PathBuf,
    key: Key,
    count: u64,
    /// A rewrite failed, and which file stands is not known.
    is_lost: bool,
    records: std::marker::PhantomData<T>,
}

impl<T: Message + Default> SealedRecords<T> {
    /// Opens the file with the first of `keys` that fits its records. One that
    /// is missing is made with its first record, under the first key.
    pub(crate) fn open(path: &Path, keys: &[Key]) -> Result<(Self, Vec<T>), StoreError> {
        Self::parse(path, keys, Unread::read(path)?)
    }

    /// As [`SealedRecords::open`], of what has been read of the file.
    pub(crate) fn parse(path: &Path, keys: &[Key], unread: Option<Unread>) -> Result<(Self, Vec<T>), StoreError> {
        let [first, ..] = keys else { return Err(StoreError::MalformedKey("no key was given".into())) };
        let key = first.clone();
        let mut this =
            Self { file: None, path: path.into(), key, count: 0, is_lost: false, records: std::marker::PhantomData };
        let damaged = |reason: &str| StoreError::CorruptFile { path: path.into(), reason: reason.into() };
        let Some(unread) = unread else { return Ok((this, Vec::new())) };
        let (file, payloads) = unread.parse();
        if let Some(payload) = payloads.first() {
            let fits = keys.iter().find(|key| key.open(&0u64.to_be_bytes(), payload).is_some());
            this.key = fits.unwrap_or(first).clone();
        }
        let mut found = Vec::with_capacity(payloads.len());
        for payload in &payloads {
            let text = this
                .key
                .open(&this.count.to_be_bytes(), payload)
                .ok_or_else(|| damaged("a record fails its authentication tag"))?;
            found.push(T::decode(text.as_slice()).map_err(|e| damaged(&e.to_string()))?);
            this.count += 1;
        }
        this.file = Some(file);
        Ok((this, found))
    }

    /// Whether something follows the last whole record. Nothing is written
    /// while it does.
    pub(crate) fn has_tail(&self) -> bool {
        self.file.as_ref().is_some_and(RecordFile::has_tail)
    }

    /// See [`RecordFile::cut_tail`].
    pub(crate) fn cut_tail(&mut self) -> Result<(), StoreError> {
        let cut = self.file.as_mut().map_or(Ok(()), RecordFile::cut_tail);
        cut.map_err(|e| StoreError::io("cannot write", &self.path, &e))
    }

    /// Whether the file is what it was written as, up to its end.
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_lost && !self.has_tail()
    }

    /// How many records there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// What the records are sealed under.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Appends a record and makes it durable.
    pub(crate) fn append(&mut self, record: &T) -> Result<(), StoreError> {
        self.check_known()?;
        let sealed = self.seal(self.count, record);
        let failed = |e: io::Error| StoreError::io("cannot write", &self.path, &e);
        match &mut self.file {
            Some(file) => file.append([sealed.as_slice()]).map_err(failed)?,
            none => *none = Some(RecordFile::create(&self.path, [sealed.as_slice()]).map_err(failed)?),
        }
        self.count += 1;
        Ok(())
    }

    /// Replaces all records, durably and at once, sealed under `key` from now
    /// on.
    pub(crate) fn rewrite(&mut self, key: Key, records: &[T]) -> Result<(), StoreError> {
        self.check_known()?;
        self.key = key;
        let sealed: Vec<Vec<u8>> = (0u64..).zip(records).map(|(n, record)| self.seal(n, record)).collect();
        match RecordFile::create(&self.path, sealed.iter().map(Vec::as_slice)) {
            Ok(file) => {
                self.file = Some(file);
                self.count = sealed.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.is_lost = true;
                Err(StoreError::io("cannot write", &self.path, &e))
            }
        }
    }

    /// Nothing is acknowledged that may be written to a file that is gone.
    fn check_known(&self) -> Result<(), StoreError> {
        if self.has_tail() {
            let reason = "a record in it cannot be read, and there are vaults that need it".into();
            return Err(StoreError::CorruptFile { path: self.path.clone(), reason });
        }
        let what = || format!("`{}` could not be rewritten, and is read again at the next start", self.path.display());
        if self.is_lost { Err(StoreError::Io { what: what(), reason: "restart the server".into() }) } else { Ok(()) }
    }

    fn seal(&self, n: u64, record: &T) -> Vec<u8> {
        let text = zeroize::Zeroizing::new(record.encode_to_vec());
        self.key.seal(&n.to_be_bytes(), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dir: &Path) -> (PathBuf, Vec<u8>) {
        let path = dir.join("records");
        let mut file = RecordFile::create(&path, []).unwrap();
        file.append([b"first".as_slice(), b"second"]).unwrap();
        file.append([b"third".as_slice()]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    }

    #[test]
    fn a_torn_tail_is_cut_and_the_rest_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = written(dir.path());
        let third = FRAME_BYTES + 5 + CHECKSUM_BYTES;
        for cut in 0..third {
            std::fs::write(&path, &bytes[..bytes.len() - third + cut]).unwrap();
            let (mut file, found) = RecordFile::open(&path).unwrap();
            assert_eq!(found, [b"first".to_vec(), b"second".to_vec()], "cut at {cut}");
            assert_eq!(file.has_tail(), cut > 0);
            assert_eq!(file.append([b"again".as_slice()]).is_err(), cut > 0, "nothing is written over a tail");
            if cut > 0 {
                file.cut_tail().unwrap();
                file.append([b"again".as_slice()]).unwrap();
            }
            assert_eq!(RecordFile::open(&path).unwrap().1.len(), 3);
        }
    }

    #[test]
    fn reading_ends_at_a_flipped_bit_and_every_byte_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = written(dir.path());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            match RecordFile::open(&path) {
                Ok((file, found)) => assert!(file.has_tail() && found.len() < 3, "byte {at}: {found:?}"),
                Err(error) => assert!(matches!(error, RecordError::Damaged(_)) && at < MAGIC.len(), "byte {at}"),
            }
            assert_eq!(std::fs::read(&path).unwrap(), flipped);
        }
    }
}
