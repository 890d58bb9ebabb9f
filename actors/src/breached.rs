//! Passwords that leaked, in a file as Have I Been Pwned gives it out: a line
//! for each, `<SHA-1 in hexadecimal>:<how often>`, sorted by hash. Nobody is
//! asked over the network, and nothing of the file, of some 40 GB, is kept in
//! memory: a look-up reads a block in the middle of where the line can be, then
//! of that half, and so on.
//!
//! The file is opened for each look-up, so that another one can take its place
//! at any time, by a rename.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use canopy_domain::{Code, Refusal, Secret};
use sha1::{Digest as _, Sha1};

/// Bytes read at a time: what disks and file systems read at least, and some 90
/// lines.
const BLOCK_BYTES: u64 = 4_096;
/// Blocks that are looked at when the server starts: 1 MiB in all. A smaller
/// file is looked at whole.
const BLOCKS_CHECKED: u64 = 256;
/// Hexadecimal digits of a hash.
const HASH_CHARS: usize = 40;
/// Digits of a count: those of the largest number of 64 bits.
const COUNT_CHARS_MAX: usize = 20;

/// SHA-1 of a password.
type Hash = [u8; 20];

/// The file of passwords that leaked. A cheap handle.
#[derive(Debug, Clone)]
pub struct BreachedPasswords(Arc<PathBuf>);

impl BreachedPasswords {
    /// The file at `path`, after a look at it.
    ///
    /// # Errors
    /// See [`check_breached_passwords`].
    pub fn open(path: &Path) -> io::Result<Self> {
        check_breached_passwords(path)?;
        Ok(Self(Arc::new(path.to_owned())))
    }

    /// Whether a password leaked. Reads the file on the caller's thread.
    ///
    /// # Errors
    /// `UNAVAILABLE`: the file cannot be read, or is no such file any more. A
    /// password of which nobody knows is not taken: it would stay for years, and
    /// a file is soon put right.
    pub(crate) fn contains(&self, password: &Secret) -> Result<bool, Refusal> {
        let hash: Hash = Sha1::digest(password.expose().as_bytes()).into();
        File::open(&*self.0).and_then(|file| is_breached(&file, &hash, BLOCK_BYTES)).map_err(|error| {
            tracing::error!(file = %self.0.display(), %error, "the file of breached passwords cannot be read");
            Refusal::new(Code::Unavailable, "whether the password leaked cannot be looked up now")
                .hint("nothing was changed: try again later, and tell whoever runs the server")
        })
    }
}

/// Looks whether a file is one of breached passwords, at 256 places of it; how
/// many bytes it has.
///
/// # Errors
/// It cannot be read; or it is empty, of another format, or not sorted by hash.
pub fn check_breached_passwords(path: &Path) -> io::Result<u64> {
    // Before it is opened, which waits where it is a pipe.
    if !std::fs::metadata(path)?.is_file() {
        return Err(wrong("is no file".into()));
    }
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    if end == 0 {
        return Err(wrong("is empty".into()));
    }
    let blocks: Vec<(u64, u64)> = if end <= BLOCKS_CHECKED * BLOCK_BYTES {
        vec![(0, end)]
    } else {
        let between = (end - BLOCK_BYTES) / (BLOCKS_CHECKED - 1);
        let spread = (0..BLOCKS_CHECKED - 1).map(|n| (n * between, BLOCK_BYTES));
        spread.chain([(end - BLOCK_BYTES, BLOCK_BYTES)]).collect()
    };
    let mut last: Option<Hash> = None;
    for (at, bytes) in blocks {
        let block = Block::read(&file, at, bytes)?;
        let from = if at == 0 { 0 } else { block.first_start()? };
        let to = if at + bytes == end { block.bytes.len() } else { block.last_end()? };
        for line in block.lines(from, to) {
            let (at, hash) = line?;
            if last.is_some_and(|last| last > hash) {
                return Err(wrong(format!("is not sorted by hash: the line at byte {at} comes before another one")));
            }
            last = Some(hash);
        }
    }
    Ok(end)
}

/// Whether a hash is in a file of breached passwords, which is read in blocks of
/// `block_bytes`, of several lines each.
///
/// # Errors
/// The file cannot be read, is empty, or a line that is read is none.
pub fn is_breached(file: &File, wanted: &[u8; 20], block_bytes: u64) -> io::Result<bool> {
    // Between the two there are whole lines, and the one that is looked for, if
    // it is there.
    let (mut low, mut high) = (0, file.metadata()?.len());
    if high == 0 {
        return Err(wrong("is empty".into()));
    }
    while high - low > block_bytes {
        let middle = low + (high - low) / 2 - block_bytes / 2;
        let block = Block::read(file, middle, block_bytes)?;
        let (from, to) = (block.first_start()?, block.last_end()?);
        let mut ends: Option<(Hash, Hash)> = None;
        for line in block.lines(from, to) {
            let (_, hash) = line?;
            if hash == *wanted {
                return Ok(true);
            }
            ends = Some((ends.map_or(hash, |(first, _)| first), hash));
        }
        match ends {
            Some((first, _)) if *wanted < first => high = middle + index(from),
            Some((_, last)) if *wanted > last => low = middle + index(to),
            // Between two neighbours.
            Some(_) => return Ok(false),
            None => return Err(block.no_line()),
        }
    }
    let block = Block::read(file, low, high - low)?;
    for line in block.lines(0, block.bytes.len()) {
        if line?.1 == *wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A part of the file.
struct Block {
    /// Where it begins.
    at: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn read(file: &File, at: u64, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| wrong("has a block that no memory holds".into()))?;
        let mut bytes = vec![0; bytes];
        file.read_exact_at(&mut bytes, at)?;
        Ok(Self { at, bytes })
    }

    /// Where the first line begins that does so in the block, which may begin
    /// within one.
    fn first_start(&self) -> io::Result<usize> {
        let newline = self.bytes.iter().position(|byte| *byte == b'\n');
        newline.map(|at| at + 1).ok_or_else(|| self.no_line())
    }

    /// Where the last whole line ends.
    fn last_end(&self) -> io::Result<usize> {
        let newline = self.bytes.iter().rposition(|byte| *byte == b'\n');
        newline.map(|at| at + 1).ok_or_else(|| self.no_line())
    }

    fn no_line(&self) -> io::Error {
        wrong(format!("has no line of `<SHA-1>:<count>` at byte {}", self.at))
    }

    /// The lines between two places, by where each begins in the file.
    fn lines(&self, from: usize, to: usize) -> impl Iterator<Item = io::Result<(u64, Hash)>> {
        let mut at = self.at + index(from);
        let lines = self.bytes.get(from..to).unwrap_or_default().split_inclusive(|byte| *byte == b'\n');
        lines.map(move |line| {
            let begins = at;
            at += index(line.len());
            let hash = read_line(line)
                .ok_or_else(|| wrong(format!("has something else than `<SHA-1>:<count>` at byte {begins}")))?;
            Ok((begins, hash))
        })
    }
}

/// The hash of a line, which ends with `\n`, `\r\n` or the file.
fn read_line(line: &[u8]) -> Option<Hash> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (digits, rest) = line.split_at_checked(HASH_CHARS)?;
    let count = rest.strip_prefix(b":")?;
    let is_count = (1..=COUNT_CHARS_MAX).contains(&count.len()) && count.iter().all(u8::is_ascii_digit);
    let mut hash = Hash::default();
    for (byte, digits) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    is_count.then_some(hash)
}

fn index(at: usize) -> u64 {
    u64::try_from(at).unwrap_or(u64::MAX)
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
