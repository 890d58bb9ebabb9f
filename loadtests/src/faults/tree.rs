//! Copies of data directories. Journals are mostly holes, and stay so.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Kind};
use super::plan::PLANTED;

/// Every file below a directory, in the order of names.
///
/// # Errors
/// The directory cannot be read.
pub fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The parts of a file that were written.
///
/// # Errors
/// The file cannot be read.
pub fn extents(file: &File) -> io::Result<Vec<Range<u64>>> {
    use rustix::fs::{SeekFrom::Data, SeekFrom::Hole, seek};
    let len = file.metadata()?.len();
    let mut found = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match seek(file.as_fd(), Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file.as_fd(), Hole(start)).map_err(io::Error::from)?.min(len);
        found.push(start..end);
        at = end;
    }
    Ok(found)
}

/// A file's written parts.
///
/// # Errors
/// The file cannot be read.
pub fn read_extents(path: &Path) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut file = File::open(path)?;
    let mut parts = Vec::new();
    for extent in extents(&file)? {
        file.seek(SeekFrom::Start(extent.start))?;
        let mut bytes = Vec::new();
        (&file).take(extent.end - extent.start).read_to_end(&mut bytes)?;
        parts.push((extent.start, bytes));
    }
    Ok(parts)
}

/// Makes `to` a copy of the directory `from`; what was there goes.
///
/// # Errors
/// Something cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(to)?,
    }
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            let mut file = File::create(&target)?;
            file.set_len(fs::metadata(&path)?.len())?;
            for (start, bytes) in read_extents(&path)? {
                file.seek(SeekFrom::Start(start))?;
                file.write_all(&bytes)?;
            }
        }
    }
    Ok(())
}

/// Files that hold planted text.
///
/// # Errors
/// The directory cannot be read.
pub fn plaintext(dir: &Path) -> io::Result<Vec<Finding>> {
    let mut found = Vec::new();
    let text = PLANTED.as_bytes();
    for path in files(dir)? {
        for (_, bytes) in read_extents(&path)? {
            let first = text.first().copied().unwrap_or_default();
            let mut starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == first).map(|(at, _)| at);
            if starts.any(|at| bytes.get(at..).is_some_and(|rest| rest.starts_with(text))) {
                found.push(Finding::new(Kind::Plaintext, format!("planted text in {}", path.display())));
            }
        }
    }
    Ok(found)
}
