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

use std::io::{self, Read};

use byteview::ByteView;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use fjall::UserValue;

use crate::key::{Key, NONCE_BYTES, TAG_BYTES};

const SUITE: u8 = 1;
const COMPRESSED: u8 = 0x80;
/// The text is a sealed value again: it is about several subjects, and goes
/// with each of them.
const NESTED: u8 = 0x40;
const HEADER_BYTES: usize = 9;
const TEXT_AT: usize = HEADER_BYTES + NONCE_BYTES;

/// Shorter texts are not worth compressing.
const COMPRESS_BYTES_MIN: usize = 512;

/// Key versions name one of a partition's keys: its own, counted from 1 with
/// each rotation, and from here on those of subjects.
pub(crate) const SUBJECT_VERSIONS: u32 = 1 << 31;

/// Which of the two keyspaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Rows, views, and what the store keeps about a partition.
    Data = 0,
    /// Transactions by seq.
    Feed = 1,
}

/// Which of a partition's keys a stored value is sealed under; `None` where it
/// is too short to say.
pub(crate) fn key_version(stored: &[u8]) -> Option<u32> {
    stored.get(1..5)?.try_into().ok().map(u32::from_be_bytes)
}

/// Version of the schema that a stored value says it is written by.
pub(crate) fn schema_version(stored: &[u8]) -> Option<u32> {
    stored.get(5..HEADER_BYTES)?.try_into().ok().map(u32::from_be_bytes)
}

/// What was under a seal.
pub(crate) enum Text {
    /// What was given to be sealed.
    Plain(Vec<u8>),
    /// A sealed value.
    Sealed(Vec<u8>),
}

/// Seals values under one key of a partition, or of a vault itself.
pub(crate) struct Sealer {
    cipher: XChaCha20Poly1305,
    vault: [u8; 16],
    key_version: u32,
}

impl Sealer {
    pub(crate) fn new(key: &Key, vault: [u8; 16], key_version: u32) -> Self {
        Self { cipher: key.cipher(), vault, key_version }
    }

    /// What sealed values call the key.
    pub(crate) fn key_version(&self) -> u32 {
        self.key_version
    }

    fn associated(&self, space: Space, header: &[u8], key: &[u8]) -> Associated {
        let mut data = Associated::new(self.vault.len() + 1 + header.len() + key.len());
        data.push(&self.vault);
        data.push(&[space as u8]);
        data.push(header);
        data.push(key);
        data
    }

    /// Seals `text` for its place.
    pub(crate) fn seal(
        &self,
        space: Space,
        key: &[u8],
        schema_version: u32,
        text: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> UserValue {
        self.seal_before(space, key, schema_version, text, nonce, &[])
    }

    /// As [`Sealer::seal`]; `tail` stands behind the seal as it is.
    pub(crate) fn seal_before(
        &self,
        space: Space,
        key: &[u8],
        schema_version: u32,
        text: &[u8],
        nonce: [u8; NONCE_BYTES],
        tail: &[u8],
    ) -> UserValue {
        match compress(text) {
            Some(packed) => self.put(SUITE | COMPRESSED, space, key, schema_version, &packed, nonce, tail),
            None => self.put(SUITE, space, key, schema_version, text, nonce, tail),
        }
    }

    /// Seals a sealed value under another key.
    pub(crate) fn seal_again(
        &self,
        space: Space,
        key: &[u8],
        schema_version: u32,
        sealed: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> UserValue {
        self.put(SUITE | NESTED, space, key, schema_version, sealed, nonce, &[])
    }

    #[allow(clippy::too_many_arguments, reason = "all that a value consists of")]
    fn put(
        &self,
        suite: u8,
        space: Space,
        key: &[u8],
        schema_version: u32,
        text: &[u8],
        nonce: [u8; NONCE_BYTES],
        tail: &[u8],
    ) -> UserValue {
        let mut front = [suite; TEXT_AT];
        let (header, rest) = front.split_at_mut(HEADER_BYTES);
        let versions = self.key_version.to_be_bytes().into_iter().chain(schema_version.to_be_bytes());
        header.iter_mut().skip(1).zip(versions).for_each(|(to, from)| *to = from);
        rest.copy_from_slice(&nonce);
        let associated = self.associated(space, header, key);
        let encrypt = |to: &mut [u8]| {
            let both = InOutBuf::new(text, to).expect("they are of one length");
            self.cipher
                .encrypt_inout_detached(&XNonce::from(nonce), associated.as_slice(), both)
                .expect("rows are shorter than 256 GiB")
        };
        let len = TEXT_AT + text.len() + TAG_BYTES + tail.len();
        let write = |value: &mut [u8]| {
            let (to_front, rest) = value.split_at_mut(TEXT_AT);
            to_front.copy_from_slice(&front);
            let (to_text, rest) = rest.split_at_mut(text.len());
            let tag = encrypt(to_text);
            let (to_tag, to_tail) = rest.split_at_mut(TAG_BYTES);
            to_tag.copy_from_slice(&tag);
            to_tail.copy_from_slice(tail);
        };
        ByteView::from_reader(&mut InPlace(Some(write)), len).expect("it is given whole, at once").into()
    }

    /// The text, or what is wrong with the stored bytes.
    pub(crate) fn open(&self, space: Space, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, &'static str> {
        match self.decrypt(space, key, stored)? {
            Text::Plain(text) => Ok(text),
            Text::Sealed(_) => Err("a stored value is sealed twice where it must not be"),
        }
    }

    /// As [`Sealer::open`], for what may have been sealed again.
    pub(crate) fn decrypt(&self, space: Space, key: &[u8], stored: &[u8]) -> Result<Text, &'static str> {
        let (header, rest) = stored.split_first_chunk::<HEADER_BYTES>().ok_or("a stored value is too short")?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or("a stored value is too short")?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or("a stored value is too short")?;
        let [suite, ..] = header;
        if suite & !(COMPRESSED | NESTED) != SUITE {
            return Err("a stored value has a cipher suite that this release does not know");
        }
        if header.get(1..5) != Some(&self.key_version.to_be_bytes()) {
            return Err("a stored value has another key version than its partition");
        }
        let associated = self.associated(space, header, key);
        // Copied first: to authenticate what comes from memory takes longer than both from the cache.
        let mut text = body.to_vec();
        self.cipher
            .decrypt_inout_detached(
                &XNonce::from(*nonce),
                associated.as_slice(),
                text.as_mut_slice().into(),
                &Tag::from(*tag),
            )
            .map_err(|_| "a stored value fails its authentication tag")?;
        if suite & NESTED != 0 {
            return Ok(Text::Sealed(text));
        }
        if suite & COMPRESSED == 0 {
            return Ok(Text::Plain(text));
        }
        // Authenticated above, so the length in front is ours.
        lz4_flex::block::decompress_size_prepended(&text)
            .map(Text::Plain)
            .map_err(|_| "a stored value does not decompress")
    }
}

/// What writes all of a value, once, into the value's own memory.
struct InPlace<F>(Option<F>);

impl<F: FnOnce(&mut [u8])> Read for InPlace<F> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(write) = self.0.take() else { return Ok(0) };
        write(to);
        Ok(to.len())
    }
}

/// Associated data, put together on the stack where it fits: all but the
/// longest keys do.
struct Associated {
    short: [u8; Self::SHORT_BYTES],
    len: usize,
    long: Vec<u8>,
}

impl Associated {
    const SHORT_BYTES: usize = 112;

    fn new(len: usize) -> Self {
        let long = if len > Self::SHORT_BYTES { Vec::with_capacity(len) } else { Vec::new() };
        Self { short: [0; Self::SHORT_BYTES], len: 0, long }
    }

    fn push(&mut self, part: &[u8]) {
        if self.long.capacity() > 0 {
            self.long.extend_from_slice(part);
            return;
        }
        let to = self.short.get_mut(self.len..self.len + part.len()).expect("the length was given in advance");
        to.copy_from_slice(part);
        self.len += part.len();
    }

    fn as_slice(&self) -> &[u8] {
        if self.long.capacity() > 0 { &self.long } else { self.short.get(..self.len).expect("as long as pushed") }
    }
}

/// Whether a text looks like noise (media, archives, what is encrypted
/// already), on which LZ4 would take as long as the cipher and find nothing.
/// Judged by how many different bytes stand among samples from all over it:
/// of 64 random ones 57 differ, give or take two; writing in any script and
/// rows of ids and numbers have far fewer, base64 has 41, give or take three. A mistake costs bytes or
/// time, never more.
fn is_noise(text: &[u8]) -> bool {
    const SAMPLES: usize = 4;
    const SAMPLE_BYTES: usize = 16;
    const DIFFERENT_MIN: u32 = 48;
    let stride = text.len().saturating_sub(SAMPLE_BYTES) / (SAMPLES - 1);
    let mut seen = [0u8; 256];
    for sample in 0..SAMPLES {
        let start = sample * stride;
        for byte in text.get(start..start + SAMPLE_BYTES).unwrap_or_default() {
            if let Some(seen) = seen.get_mut(usize::from(*byte)) {
                *seen = 1;
            }
        }
    }
    seen.iter().map(|seen| u32::from(*seen)).sum::<u32>() >= DIFFERENT_MIN
}

/// The compressed text, where it is shorter by a tenth at least.
fn compress(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() < COMPRESS_BYTES_MIN || is_noise(text) {
        return None;
    }
    let packed = lz4_flex::block::compress_prepend_size(text);
    (packed.len() < text.len() - text.len() / 10).then_some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::random;

    /// Bytes that sealing adds.
    const OVERHEAD_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

    fn check(text: &[u8], compressed: bool) {
        let sealer = Sealer::new(&Key::random(), [7; 16], 3);
        let stored = sealer.seal(Space::Data, b"key", 2, text, random());
        assert_eq!(stored.len() < text.len() + OVERHEAD_BYTES, compressed);
        assert_eq!(sealer.open(Space::Data, b"key", &stored).unwrap(), text);
        assert!(sealer.open(Space::Data, b"kez", &stored).is_err(), "bound to the key");
        assert!(sealer.open(Space::Feed, b"key", &stored).is_err(), "bound to the keyspace");
        for at in 0..stored.len() {
            let mut flipped = stored.to_vec();
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
    fn long_keys_are_bound_too() {
        let sealer = Sealer::new(&Key::random(), [7; 16], 1);
        for len in [0, 1, 85, 86, 87, 88, 1000] {
            let key = vec![b'k'; len];
            let stored = sealer.seal(Space::Data, &key, 1, b"text", random());
            assert_eq!(sealer.open(Space::Data, &key, &stored).unwrap(), b"text", "{len} bytes");
            let longer = vec![b'k'; len + 1];
            assert!(sealer.open(Space::Data, &longer, &stored).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn noise_is_told_from_what_compresses() {
        let noise: [u8; 4096] = random();
        let check = |text: &[u8], expected: bool| assert_eq!(is_noise(text), expected, "{text:?}");
        for len in [512, 513, 1000, 1024, 4096] {
            check(&noise[..len], true);
        }
        let repeat = |text: &str| text.repeat(4096 / text.len() + 1).into_bytes();
        check(&repeat("The quick brown fox jumps over the lazy dog, 0123456789 times. "), false);
        check(&repeat("Съешь ещё этих мягких французских булок, да выпей же чаю. "), false);
        check(&repeat("いろはにほへとちりぬるをわかよたれそつねならむうゐのおくやま"), false);
        check(&repeat(r#"{"id":"01arz3ndektsv4rrffq69g5fav","n":42,"tags":["a","b"],"ok":true}"#), false);
        let mut ids = noise[..16].to_vec();
        ids.extend([0; 16]);
        check(&ids.repeat(40), false);
    }

    #[test]
    fn another_vault_cannot_open_it() {
        let key = Key::random();
        let stored = Sealer::new(&key, [1; 16], 1).seal(Space::Data, b"k", 1, b"text", random());
        assert!(Sealer::new(&key, [2; 16], 1).open(Space::Data, b"k", &stored).is_err());
    }
}
