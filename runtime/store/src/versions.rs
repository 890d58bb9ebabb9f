//! What fjall's keyspaces say of themselves, compared with its checksum before
//! fjall reads it.
//!
//! Each keyspace has a file `v<number>` that lists its tables, and a file
//! `current` with the number that counts and the checksum of that file:
//!
//! ```text
//! number (8) | xxh3 of 128 bits (16) | kind of checksum (1), little-endian
//! ```
//!
//! fjall writes the checksum and does not look at it. Of a list with a flipped
//! bit it asserts what it expects, and panics again while it lets go of what
//! that panic has poisoned, which ends the process with all other vaults; and
//! it removes the files of keyspaces that an older list does not name.

use std::fs;
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use crate::disk::OpenError;

/// Where fjall has keyspaces, within its database.
const KEYSPACES: &str = "keyspaces";
/// Without this file, fjall takes a keyspace for one that never was complete,
/// and removes it.
pub(crate) const CURRENT: &str = "current";
/// The list of the others, rows and feed, in the order in which they are made.
const ALL: [&str; 3] = ["0", "1", "2"];
const XXH3: u8 = 0;

/// Compares every keyspace of a database with its checksum. One that is `used`
/// has all keyspaces.
pub(crate) fn check(database: &Path, used: bool) -> Result<(), OpenError> {
    for keyspace in ALL {
        let directory = database.join(KEYSPACES).join(keyspace);
        let read = |name: &str| fs::read(directory.join(name));
        let current = match read(CURRENT) {
            Ok(current) => current,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !used => continue,
            Err(error) => return Err(OpenError::io(&format!("its database's keyspace {keyspace}"), &error)),
        };
        let damaged = || OpenError::Damaged(format!("its database's keyspace {keyspace} fails its checksum"));
        let (number, rest) = current.split_first_chunk().ok_or_else(damaged)?;
        let (sum, kind) = rest.split_first_chunk().ok_or_else(damaged)?;
        let list = read(&format!("v{}", u64::from_le_bytes(*number)));
        let list = list.map_err(|e| OpenError::io(&format!("its database's keyspace {keyspace}"), &e))?;
        if kind != [XXH3] || xxh3_128(&list) != u128::from_le_bytes(*sum) {
            return Err(damaged());
        }
    }
    Ok(())
}
