//! Keys, and what is derived from them. Nothing here prints.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use rand::TryRng;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// HMAC-SHA256 with its key schedule done; clone it to use it.
pub(crate) type Hmac256 = Hmac<Sha256>;

/// Bytes of a nonce of XChaCha20-Poly1305.
pub(crate) const NONCE_BYTES: usize = 24;
/// Bytes of its tag.
pub(crate) const TAG_BYTES: usize = 16;

/// Fills `to` from the system's generator, which alone is told when a machine
/// was cloned or resumed twice: a generator in our memory would repeat itself.
pub(crate) fn fill_random(to: &mut [u8]) {
    rand::rngs::SysRng.try_fill_bytes(to).expect("the system has a random generator");
}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    fill_random(&mut bytes);
    bytes
}

/// 256 secret bits.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// A fresh key.
    pub(crate) fn random() -> Self {
        Self(random())
    }

    /// Takes bytes over; the caller wipes its own copy.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A sub-key: HKDF-SHA256 (RFC 5869), expand only, as keys are uniform.
    pub(crate) fn derive(&self, info: &str) -> Key {
        let hkdf = Hkdf::<Sha256>::from_prk(&self.0).expect("32 bytes are a hash's length");
        let mut okm = [0u8; 32];
        hkdf.expand(info.as_bytes(), &mut okm).expect("32 bytes are within HKDF's bound");
        let key = Key(okm);
        okm.zeroize();
        key
    }

    /// What names the key without telling it: a commitment, for lists and
    /// for certificates of its destruction.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        *self.derive("canopy key fingerprint").expose()
    }

    /// An HMAC under this key.
    pub(crate) fn hmac(&self) -> Hmac256 {
        <Hmac256 as KeyInit>::new_from_slice(&self.0).expect("HMAC takes any key length")
    }

    /// A cipher under this key.
    pub(crate) fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.0.into())
    }

    /// `nonce | ciphertext | tag` over a short text.
    pub(crate) fn seal(&self, context: &[u8], text: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random();
        let mut sealed = Vec::with_capacity(NONCE_BYTES + text.len() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(text);
        let (_, body) = sealed.split_at_mut(NONCE_BYTES);
        let tag = self
            .cipher()
            .encrypt_inout_detached(&XNonce::from(nonce), context, body.into())
            .expect("shorter than 256 GiB");
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// The reverse of [`Key::seal`]; `None` for another key, context or text.
    pub(crate) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        let mut text = zeroize::Zeroizing::new(body.to_vec());
        self.cipher()
            .decrypt_inout_detached(&XNonce::from(*nonce), context, text.as_mut_slice().into(), &Tag::from(*tag))
            .ok()?;
        Some(text)
    }

    /// Wraps another key.
    pub(crate) fn wrap(&self, context: &[u8], key: &Key) -> Vec<u8> {
        self.seal(context, &key.0)
    }

    /// The reverse of [`Key::wrap`].
    pub(crate) fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Option<Key> {
        let text = self.open(context, wrapped)?;
        let mut bytes: [u8; 32] = text.as_slice().try_into().ok()?;
        let key = Key(bytes);
        bytes.zeroize();
        Some(key)
    }
}

/// An HMAC's first 16 bytes.
pub(crate) fn digest16(hmac: &Hmac256, parts: &[&[u8]]) -> [u8; 16] {
    let full = digest32(hmac, parts);
    let (first, _) = full.split_first_chunk::<16>().expect("32 bytes have 16");
    *first
}

/// An HMAC over parts, which the caller makes unambiguous.
pub(crate) fn digest32(hmac: &Hmac256, parts: &[&[u8]]) -> [u8; 32] {
    let mut hmac = hmac.clone();
    for part in parts {
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}

/// Nonces of one submission: a random one, and those that follow it. It starts
/// anywhere among 2^192, so that two submissions no more meet than two random
/// nonces do, and one call to the system serves all rows.
pub(crate) struct Nonces {
    front: [u8; NONCE_BYTES - Self::COUNTER_BYTES],
    counter: u64,
}

impl Nonces {
    const COUNTER_BYTES: usize = size_of::<u64>();

    /// For what is sealed together, and no longer: a machine may be cloned.
    pub(crate) fn new() -> Self {
        let first: [u8; NONCE_BYTES] = random();
        let (front, counter) = first.split_last_chunk().expect("24 bytes have 8");
        let front = *front.first_chunk().expect("and 16 before them");
        Self { front, counter: u64::from_be_bytes(*counter) }
    }

    /// One that was never used.
    pub(crate) fn take(&mut self) -> [u8; NONCE_BYTES] {
        self.counter = self.counter.wrapping_add(1);
        let mut nonce = [0; NONCE_BYTES];
        nonce
            .iter_mut()
            .zip(self.front.into_iter().chain(self.counter.to_be_bytes()))
            .for_each(|(to, from)| *to = from);
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_binds_key_and_context() {
        let (outer, inner) = (Key::random(), Key::random());
        let wrapped = outer.wrap(b"one", &inner);
        assert_eq!(outer.unwrap(b"one", &wrapped).unwrap().expose(), inner.expose());
        assert!(outer.unwrap(b"two", &wrapped).is_none());
        assert!(Key::random().unwrap(b"one", &wrapped).is_none());
    }

    #[test]
    fn nonces_never_repeat() {
        let mut nonces = Nonces::new();
        let others = (0..1000).map(|_| Nonces::new().take());
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| nonces.take()).chain(others).collect();
        assert_eq!(drawn.len(), 2000);
    }
}
