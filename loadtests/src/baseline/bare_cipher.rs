//! The cipher of sealed values alone: a text in memory, sealed and opened in place.

use std::hint::black_box;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use crate::process::own_cpu_ns;

/// Bytes of one measurement: some tens of milliseconds.
const BYTES: usize = 16 << 20;
/// As much associated data as a sealed row binds: vault, keyspace, versions and key.
const ASSOCIATED_BYTES: usize = 52;

/// XChaCha20-Poly1305 under one key.
pub struct BareCipher {
    cipher: XChaCha20Poly1305,
}

impl Default for BareCipher {
    fn default() -> Self {
        Self::new()
    }
}

impl BareCipher {
    pub fn new() -> Self {
        Self { cipher: XChaCha20Poly1305::new(&[7; 32].into()) }
    }

    /// Nanoseconds of CPU time to seal a text.
    pub fn seal_ns(&mut self, bytes: usize) -> f64 {
        let mut text = vec![0x5a; bytes];
        let texts = texts(bytes);
        let begun_ns = own_cpu_ns();
        for _ in 0..texts {
            let sealed = self.cipher.encrypt_inout_detached(&nonce(), &associated(), text.as_mut_slice().into());
            black_box(&sealed.is_ok());
        }
        per_text(begun_ns, texts)
    }

    /// Nanoseconds of CPU time to open a sealed text.
    pub fn open_ns(&mut self, bytes: usize) -> f64 {
        let mut sealed = vec![0x5a; bytes];
        let tag = self.cipher.encrypt_inout_detached(&nonce(), &associated(), sealed.as_mut_slice().into());
        let tag: Tag = tag.expect("a text of this length can be sealed");
        let texts = texts(bytes);
        let begun_ns = own_cpu_ns();
        for _ in 0..texts {
            // A text is opened where it stands, once: each turn takes a copy.
            let mut text = black_box(&sealed).clone();
            let opened = self.cipher.decrypt_inout_detached(&nonce(), &associated(), text.as_mut_slice().into(), &tag);
            assert!(opened.is_ok(), "it opens what it sealed");
            black_box(&text);
        }
        let whole = per_text(begun_ns, texts);
        let begun_ns = own_cpu_ns();
        for _ in 0..texts {
            black_box(black_box(&sealed).clone());
        }
        // The copies are not the cipher's.
        whole - per_text(begun_ns, texts)
    }
}

fn texts(bytes: usize) -> usize {
    (BYTES / bytes.max(1)).max(1)
}

#[allow(clippy::cast_precision_loss, reason = "some milliseconds, some thousand texts")]
fn per_text(begun_ns: u64, texts: usize) -> f64 {
    own_cpu_ns().saturating_sub(begun_ns) as f64 / texts as f64
}

fn nonce() -> XNonce {
    XNonce::from(black_box([3; 24]))
}

fn associated() -> [u8; ASSOCIATED_BYTES] {
    black_box([9; ASSOCIATED_BYTES])
}
