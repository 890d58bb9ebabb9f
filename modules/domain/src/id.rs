//! Opaque ids: 128 bits, written as 26 characters of Crockford's base 32 in
//! lower case, so that the text sorts as the number does.

use std::fmt;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// In [`DIGITS`], what is not in the alphabet.
const NO_DIGIT: u8 = u8::MAX;

/// The value of each ASCII character: every call parses several ids.
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated when compiled")]
const DIGITS: [u8; 128] = {
    let mut digits = [NO_DIGIT; 128];
    let mut value = 0;
    while value < ALPHABET.len() {
        digits[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// 128 opaque bits. Fresh ones start with 48 bits of milliseconds, as a ULID
/// does, so that they sort by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 16]);

impl Id {
    /// Characters of the written form. The first is always a digit, which
    /// keeps ids and slugs apart.
    pub const TEXT_LEN: usize = 26;

    /// An id that sorts by `now_ms`; the rest is taken from `entropy`.
    pub fn fresh(now_ms: i64, entropy: &[u8; 16]) -> Self {
        let mut bytes = *entropy;
        let time = now_ms.max(0).to_be_bytes();
        for (to, from) in bytes.iter_mut().zip(time.iter().skip(2)) {
            *to = *from;
        }
        Self(bytes)
    }

    /// An id from 16 bytes as they are.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads the written form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != Self::TEXT_LEN {
            return None;
        }
        let mut value: u128 = 0;
        for (i, c) in text.bytes().enumerate() {
            let digit = *DIGITS.get(usize::from(c))?;
            if digit == NO_DIGIT || (i == 0 && digit > 7) {
                return None;
            }
            value = (value << 5) | u128::from(digit);
        }
        Some(Self(value.to_be_bytes()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        let mut text = [0u8; Self::TEXT_LEN];
        for (i, c) in text.iter_mut().rev().enumerate() {
            let digit = (value >> (5 * i)) & 31;
            *c = ALPHABET.get(digit as usize).copied().unwrap_or(b'0');
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
