//! The file of breached passwords, which whoever runs a server puts there.

use std::io::Write as _;
use std::sync::LazyLock;

use canopy_actors::{check_breached_passwords, is_breached};
use tempfile::{NamedTempFile, TempDir};

/// Of two or three lines, so that the search goes some steps in what an input holds.
const BLOCK_BYTES: u64 = 128;
/// Lines of an input that are looked for.
const LOOKED_FOR_MAX: usize = 100;

static SCRATCH: LazyLock<TempDir> = LazyLock::new(crate::files::scratch);

/// The hash of a line, read as the format is described and in no other way.
fn hash(line: &str) -> Option<[u8; 20]> {
    let (digits, count) = line.strip_suffix('\r').unwrap_or(line).split_once(':')?;
    let is_count = (1..=20).contains(&count.len()) && count.bytes().all(|byte| byte.is_ascii_digit());
    let is_hash = digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let mut hash = [0; 20];
    for (n, to) in hash.iter_mut().enumerate().filter(|_| is_count && is_hash) {
        *to = byte(2 * n)?;
    }
    (is_count && is_hash).then_some(hash)
}

/// What is found stands there; of a whole and sorted file all is found, whatever it is read in, and of
/// another one a look-up ends. The check takes what is such a file and nothing else.
pub(crate) fn search(data: &[u8]) {
    let mut file = NamedTempFile::new_in(SCRATCH.path()).unwrap();
    file.write_all(data).unwrap();
    let text = std::str::from_utf8(data).unwrap_or_default();
    let lines: Vec<Option<[u8; 20]>> = text.strip_suffix('\n').unwrap_or(text).split('\n').map(hash).collect();
    let there: Vec<[u8; 20]> = lines.iter().copied().flatten().collect();
    let is_good = there.len() == lines.len() && there.is_sorted();
    assert_eq!(check_breached_passwords(file.path()).is_ok(), is_good, "the check is wrong");
    let ends = [[0; 20], [0xFF; 20]];
    for wanted in there.iter().take(LOOKED_FOR_MAX).chain(&ends) {
        for block_bytes in [BLOCK_BYTES, 4_096] {
            match is_breached(file.as_file(), wanted, block_bytes) {
                Ok(found) if is_good => assert_eq!(found, there.contains(wanted), "a search went wrong"),
                Ok(found) => assert!(!found || data_has(data, wanted), "what is not there was found"),
                Err(error) => assert!(!is_good && !error.to_string().is_empty(), "a good file was refused: {error}"),
            }
        }
    }
}

/// Whether the digits stand somewhere.
fn data_has(data: &[u8], wanted: &[u8; 20]) -> bool {
    let digits: String = wanted.iter().map(|byte| format!("{byte:02x}")).collect();
    data.to_ascii_lowercase().windows(digits.len()).any(|window| window == digits.as_bytes())
}
