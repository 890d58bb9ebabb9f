//! A vault's `head`: how far it had come, outside fjall.
//!
//! Hazard 2: a flipped bit in fjall's journal silently drops acknowledged
//! groups behind it. So the number of the last group is kept twice: in the
//! batch itself, and here, written between the batch's fsync and the replies.
//! A vault whose batch says less than its head lost something.
//!
//! Two slots of 64 bytes are written in turn, so that a torn write leaves the
//! other one: `magic (4) | group (8, big-endian) | zeros (20) | HMAC (32)`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use subtle::ConstantTimeEq;

use crate::key::{Hmac256, digest32};
use crate::layout;

const MAGIC: [u8; 4] = *b"CHD1";
const SLOT_BYTES: usize = 64;
const TEXT_BYTES: usize = 32;

pub(crate) struct Head {
    file: File,
    hmac: Hmac256,
}

impl Head {
    /// Makes the file of a new vault, at group 0.
    pub(crate) fn create(path: &Path, hmac: Hmac256) -> io::Result<Self> {
        let file = layout::private().create_new(true).open(path)?;
        file.set_len(2 * SLOT_BYTES as u64)?;
        let head = Self { file, hmac };
        head.write(0)?;
        head.file.sync_all()?;
        Ok(head)
    }

    pub(crate) fn open(path: &Path, hmac: Hmac256) -> io::Result<Self> {
        Ok(Self { file: layout::private().open(path)?, hmac })
    }

    /// Notes a group. Durable once [`Head::sync`] or the system wrote it out.
    pub(crate) fn write(&self, group: u64) -> io::Result<()> {
        let text = text_of(group);
        let mut slot = [0u8; SLOT_BYTES];
        let mac = digest32(&self.hmac, &[&text]);
        for (to, from) in slot.iter_mut().zip(text.iter().chain(&mac)) {
            *to = *from;
        }
        self.file.write_all_at(&slot, (group % 2) * SLOT_BYTES as u64)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The last group noted; `None` where neither slot is authentic.
    pub(crate) fn read(&self) -> io::Result<Option<u64>> {
        let mut last = None;
        for n in 0..2u64 {
            let mut slot = [0u8; SLOT_BYTES];
            match self.file.read_exact_at(&mut slot, n * SLOT_BYTES as u64) {
                Ok(()) => last = last.max(self.parse(&slot)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(e),
            }
        }
        Ok(last)
    }

    fn parse(&self, slot: &[u8; SLOT_BYTES]) -> Option<u64> {
        let (text, mac) = slot.split_first_chunk::<TEXT_BYTES>()?;
        let group = group_of(text)?;
        let authentic = digest32(&self.hmac, &[text]).as_slice().ct_eq(mac);
        bool::from(authentic).then_some(group)
    }
}

/// The highest group a head speaks of, unauthenticated: whether a directory
/// without a name was ever used.
pub(crate) fn claimed(path: &Path) -> io::Result<u64> {
    let bytes = std::fs::read(path)?;
    let groups = bytes.chunks(SLOT_BYTES).filter_map(|slot| group_of(slot.first_chunk()?));
    Ok(groups.max().unwrap_or(0))
}

fn text_of(group: u64) -> [u8; TEXT_BYTES] {
    let mut text = [0u8; TEXT_BYTES];
    for (to, from) in text.iter_mut().zip(MAGIC.into_iter().chain(group.to_be_bytes())) {
        *to = from;
    }
    text
}

fn group_of(text: &[u8; TEXT_BYTES]) -> Option<u64> {
    let (magic, rest) = text.split_first_chunk::<4>()?;
    (*magic == MAGIC).then_some(())?;
    rest.first_chunk().map(|group| u64::from_be_bytes(*group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    #[test]
    fn one_torn_slot_leaves_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head");
        let key = Key::random();
        let head = Head::create(&path, key.hmac()).unwrap();
        assert_eq!(head.read().unwrap(), Some(0));
        head.write(1).unwrap();
        head.write(2).unwrap();
        assert_eq!(head.read().unwrap(), Some(2));
        assert_eq!(claimed(&path).unwrap(), 2);
        head.file.write_all_at(&[0xAA; 40], 0).unwrap();
        assert_eq!(head.read().unwrap(), Some(1), "group 2 was in slot 0");
        head.file.write_all_at(&[0xAA; 40], 64).unwrap();
        assert_eq!(head.read().unwrap(), None);
        assert_eq!(Head::open(&path, Key::random().hmac()).unwrap().read().unwrap(), None);
    }
}
