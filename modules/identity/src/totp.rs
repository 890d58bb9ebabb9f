//! Time-based one-time passwords (RFC 6238) as authenticator apps make them:
//! HMAC-SHA-1, six digits, steps of 30 seconds.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac};
use sha1::Sha1;

/// Bytes of a secret: as long as the hash, as RFC 4226 asks for.
pub(crate) const SECRET_BYTES: usize = 20;
/// Seconds that a code stands for.
const STEP_S: i64 = 30;
/// Digits of a code.
const DIGITS: usize = 6;

/// RFC 4648.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The code of a step (RFC 4226).
fn code(secret: &[u8], step: i64) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(&step.to_be_bytes());
    let hash: [u8; 20] = mac.finalize().into_bytes().into();
    let offset = usize::from(hash.last().copied().unwrap_or_default() & 0x0F);
    let word = hash.get(offset..offset + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes);
    let number = (word & 0x7FFF_FFFF) % 10_u32.pow(6);
    format!("{number:0DIGITS$}")
}

/// The step whose code was given, if one of those that are taken now has it and
/// is later than `used`, the last step whose code was taken. Taken is the code of
/// the present step, and those whose time is over, or comes, by `tolerance_ms`.
pub(crate) fn matching_step(secret: &[u8], given: &str, now_ms: i64, tolerance_ms: i64, used: i64) -> Option<i64> {
    use subtle::ConstantTimeEq as _;
    let at = |time_ms: i64| time_ms.div_euclid(1_000 * STEP_S);
    let fits = |step: &i64| *step > used && bool::from(code(secret, *step).as_bytes().ct_eq(given.as_bytes()));
    (at(now_ms - tolerance_ms)..=at(now_ms + tolerance_ms)).find(fits)
}

/// Bytes as apps take them where they cannot scan.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(5) {
        let mut word = [0u8; 8];
        for (to, from) in word.iter_mut().skip(3).zip(chunk) {
            *to = *from;
        }
        let bits = u64::from_be_bytes(word);
        let chars = (chunk.len() * 8).div_ceil(5);
        for n in 0..chars {
            let at = usize::try_from(bits >> (35 - 5 * n) & 0x1F).unwrap_or_default();
            text.push(BASE32.get(at).copied().map_or('A', char::from));
        }
    }
    text
}

/// What apps scan.
pub(crate) fn uri(issuer: &str, account: &str, secret: &[u8]) -> String {
    let escaped = |text: &str| {
        let mut out = String::new();
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
                _ => write!(out, "%{byte:02X}").expect("a string takes what is written to it"),
            }
        }
        out
    };
    let (issuer, account) = (escaped(issuer), escaped(account));
    format!(
        "otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}&digits={DIGITS}&period={STEP_S}",
        base32(secret)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"12345678901234567890";

    /// RFC 6238, appendix B, the last six digits.
    #[test]
    fn codes_are_those_of_the_standard() {
        for (seconds, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code(SECRET, seconds / STEP_S), expected);
        }
    }

    /// A step, and when it begins.
    const STEP: i64 = 1_111_111_109 / STEP_S;
    const BEGIN_MS: i64 = 1_000 * STEP * STEP_S;

    #[test]
    fn a_code_is_good_for_its_own_seconds_and_once() {
        let given = code(SECRET, STEP);
        let at = |given: &str, ms: i64, used: i64| matching_step(SECRET, given, BEGIN_MS + ms, 0, used);
        for (ms, taken) in [(-1, false), (0, true), (15_000, true), (29_999, true), (30_000, false)] {
            assert_eq!(at(&given, ms, 0), taken.then_some(STEP), "{ms} ms after it begins");
        }
        assert_eq!(at(&given, 0, STEP), None, "it was used");
        assert_eq!(at(&code(SECRET, STEP + 1), 30_000, STEP), Some(STEP + 1));
        for wrong in ["", "08180", "0818040", "081805", "O81804"] {
            assert_eq!(at(wrong, 0, 0), None, "{wrong}");
        }
    }

    #[test]
    fn where_clocks_may_differ_a_code_is_good_for_longer_and_once() {
        let given = code(SECRET, STEP);
        for tolerance_ms in [1_000, 10_000, 30_000] {
            let at = |given: &str, ms: i64, used: i64| matching_step(SECRET, given, BEGIN_MS + ms, tolerance_ms, used);
            let (early, late) = (-tolerance_ms, 30_000 + tolerance_ms);
            for (ms, taken) in [(early - 1, false), (early, true), (0, true), (late - 1, true), (late, false)] {
                assert_eq!(at(&given, ms, 0), taken.then_some(STEP), "{ms} ms after it begins, {tolerance_ms} borne");
            }
            assert_eq!(at(&given, 0, STEP), None, "it was used");
            assert_eq!(at(&code(SECRET, STEP - 1), 0, STEP), None, "one before it, too");
            assert_eq!(at(&code(SECRET, STEP + 1), 29_999, STEP), Some(STEP + 1));
        }
    }

    /// RFC 4648, section 10, without padding.
    #[test]
    fn secrets_are_written_as_apps_read_them() {
        for (text, expected) in
            [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("fooba", "MZXW6YTB")]
        {
            assert_eq!(base32(text.as_bytes()), expected);
        }
        assert_eq!(base32(b"foobarfoobar").len(), 20);
        let uri = uri("Canopy", "ada@example.org", b"foobar");
        assert_eq!(uri, "otpauth://totp/Canopy:ada%40example.org?secret=MZXW6YTBOI&issuer=Canopy&digits=6&period=30");
    }
}
