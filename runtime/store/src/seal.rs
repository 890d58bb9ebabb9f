//! How a value stands on disk:
//!
//! ```text
//! suite (1) | key version (4) | schema version (4) | nonce (24) | ciphertext | tag (16)
//! ```
//!
//! Suite 1 is XChaCha20-Poly1305 with a random nonce; its highest bit says
//! that the text was compressed by LZ4 before it was sealed. The associated
//! data binds vault, keyspace, these first nine bytes and the whole key, so
//! that no value passes for another's. Versions are big-endian.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use crate::key::{Key, NONCE_BYTES, TAG_BYTES};

const SUITE: u8 = 1;
const COMPRESSED: u8 = 0x80;
const HEADER_BYTES: usize = 9;

/// Shorter texts are not worth compressing.
const COMPRESS_BYTES_MIN: usize = 512;

/// Bytes that sealing adds.
pub(crate) const OVERHEAD_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

/// Which of the two keyspaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Rows, views, and what the store keeps about a partition.
    Data = 0,
    /// Transactions by seq.
    Feed = 1,
}

/// Seals the values of one partition, or of a vault itself.
pub(crate) struct Sealer {
    cipher: XChaCha20Poly1305,
    vault: [u8; 16],
    key_version: u32,
}

impl Sealer {
    pub(crate) fn new(key: &Key, vault: [u8; 16], key_version: u32) -> Self {
        Self { cipher: key.cipher(), vault, key_version }
    }

    fn associated(&self, space: Space, header: &[u8], key: &[u8]) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.vault.len() + 1 + header.len() + key.len());
        data.extend_from_slice(&self.vault);
        data.push(space as u8);
        data.extend_from_slice(header);
        data.extend_from_slice(key);
        data
    }

    /// Seals `text` for its place. `spare` bytes of capacity are left for
    /// what the caller appends.
    pub(crate) fn seal(
        &self,
        space: Space,
        key: &[u8],
        schema_version: u32,
        text: &[u8],
        nonce: [u8; NONCE_BYTES],
        spare: usize,
    ) -> Vec<u8> {
        let packed = compress(text);
        let (suite, body) = match &packed {
            Some(packed) => (SUITE | COMPRESSED, packed.as_slice()),
            None => (SUITE, text),
        };
        let mut stored = Vec::with_capacity(OVERHEAD_BYTES + body.len() + spare);
        stored.push(suite);
        stored.extend_from_slice(&self.key_version.to_be_bytes());
        stored.extend_from_slice(&schema_version.to_be_bytes());
        let associated = self.associated(space, &stored, key);
        stored.extend_from_slice(&nonce);
        stored.extend_from_slice(body);
        let (_, text) = stored.split_at_mut(HEADER_BYTES + NONCE_BYTES);
        let tag = self
            .cipher
            .encrypt_inout_detached(&XNonce::from(nonce), &associated, text.into())
            .expect("rows are shorter than 256 GiB");
        stored.extend_from_slice(&tag);
        stored
    }

    /// The text, or what is wrong with the stored bytes.
    pub(crate) fn open(&self, space: Space, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, &'static str> {
        let (header, rest) = stored.split_first_chunk::<HEADER_BYTES>().ok_or("a stored value is too short")?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or("a stored value is too short")?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or("a stored value is too short")?;
        let [suite, ..] = header;
        if suite & !COMPRESSED != SUITE {
            return Err("a stored value has a cipher suite that this release does not know");
        }
        if header.get(1..5) != Some(&self.key_version.to_be_bytes()) {
            return Err("a stored value has another key version than its partition");
        }
        let associated = self.associated(space, header, key);
        let mut text = body.to_vec();
        self.cipher
            .decrypt_inout_detached(&XNonce::from(*nonce), &associated, text.as_mut_slice().into(), &Tag::from(*tag))
            .map_err(|_| "a stored value fails its authentication tag")?;
        if suite & COMPRESSED == 0 {
            return Ok(text);
        }
        // Authenticated above, so the length in front is ours.
        lz4_flex::block::decompress_size_prepended(&text).map_err(|_| "a stored value does not decompress")
    }
}

/// The compressed text, where it is shorter by a tenth at least.
fn compress(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() < COMPRESS_BYTES_MIN {
        return None;
    }
    let packed = lz4_flex::block::compress_prepend_size(text);
    (packed.len() < text.len() - text.len() / 10).then_some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::random;

    fn check(text: &[u8], compressed: bool) {
        let sealer = Sealer::new(&Key::random(), [7; 16], 3);
        let stored = sealer.seal(Space::Data, b"key", 2, text, random(), 0);
        assert_eq!(stored.len() < text.len() + OVERHEAD_BYTES, compressed);
        assert_eq!(sealer.open(Space::Data, b"key", &stored).unwrap(), text);
        assert!(sealer.open(Space::Data, b"kez", &stored).is_err(), "bound to the key");
        assert!(sealer.open(Space::Feed, b"key", &stored).is_err(), "bound to the keyspace");
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 1;
            assert!(sealer.open(Space::Data, b"key", &flipped).is_err(), "byte {at} of {}", stored.len());
        }
        for len in 0..stored.len() {
            assert!(sealer.open(Space::Data, b"key", &stored[..len]).is_err());
        }
    }

    #[test]
    fn seals_and_notices_every_flipped_byte() {
        check(b"", false);
        check(b"short", false);
        check(&[b'a'; 511], false);
        check(&[b'a'; 512], true);
        let noise: [u8; 600] = random();
        check(&noise, false);
    }

    #[test]
    fn another_vault_cannot_open_it() {
        let key = Key::random();
        let stored = Sealer::new(&key, [1; 16], 1).seal(Space::Data, b"k", 1, b"text", random(), 0);
        assert!(Sealer::new(&key, [2; 16], 1).open(Space::Data, b"k", &stored).is_err());
    }
}
