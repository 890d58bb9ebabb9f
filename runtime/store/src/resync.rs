//! After a sync that failed.
//!
//! The kernel says once that pages could not be written, and takes them for
//! clean then: whoever reads the file still finds them, and no later sync
//! writes them. What would be appended behind them is lost with them when the
//! power goes, acknowledged or not. So a vault that failed is written to new
//! files before it is used again, by this process or another.
//!
//! See Rebello et al., "Can Applications Recover from fsync Failures?",
//! USENIX ATC 2020.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::layout;

/// Says of a vault's directory that something in it may not be durable,
/// however often it is synced. Itself it needs no sync: what it speaks of goes
/// with it.
const MARKER: &str = "unsynced";
/// Bytes that are looked at and written at once. Journals are mostly holes,
/// and stay so.
const CHUNK_BYTES: usize = 64 << 10;

/// What it holds: enough to tell a disk that is full.
const MARKER_BYTES: usize = 4096;

/// Marks a vault's directory.
pub(crate) fn mark(dir: &Path) -> io::Result<()> {
    let file = layout::private().create(true).truncate(true).open(dir.join(MARKER))?;
    file.write_all_at(&[b'!'; MARKER_BYTES], 0)
}

/// Whether a vault's directory is marked.
pub(crate) fn is_marked(dir: &Path) -> bool {
    dir.join(MARKER).exists()
}

/// Writes what grows in a vault's directory to new files, durably, and takes
/// the mark away. Tables are written once, and used when they are durable.
pub(crate) fn settle(dir: &Path) -> io::Result<()> {
    let db = dir.join("db");
    let mut files: Vec<PathBuf> = ["keyring", "head"].iter().map(|name| dir.join(name)).collect();
    for entry in fs::read_dir(&db)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            files.push(path);
        }
    }
    for path in files.iter().filter(|path| path.exists()) {
        rewrite(path)?;
    }
    layout::sync_dir(&db)?;
    match fs::remove_file(dir.join(MARKER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    layout::sync_dir(dir)
}

fn rewrite(path: &Path) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let mut from = File::open(path)?;
    let to = layout::private().create(true).truncate(true).open(&new)?;
    to.set_len(from.metadata()?.len())?;
    let (mut at, mut chunk) = (0, vec![0; CHUNK_BYTES]);
    loop {
        let read = from.read(&mut chunk)?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        if bytes.iter().any(|byte| *byte != 0) {
            to.write_all_at(bytes, at)?;
        }
        at += read as u64;
    }
    to.sync_all()?;
    fs::rename(&new, path)
}
