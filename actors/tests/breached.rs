//! Passwords that leaked are found in a sorted file, wherever they stand in it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use canopy_actors::{check_breached_passwords, is_breached};
use proptest::collection::btree_set;
use proptest::prelude::*;
use tempfile::NamedTempFile;

type Hash = [u8; 20];

/// Of two or three lines: the search goes many steps even in a short file.
const SMALL_BLOCK: u64 = 128;
/// As the server reads.
const BLOCK: u64 = 4_096;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn line(hash: &Hash, count: u64, end: &str) -> String {
    let mut line = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02X}"));
    write!(line, ":{count}{end}").unwrap();
    line
}

/// A hash that sorts by a number.
fn hash(n: u32) -> Hash {
    let mut hash = [0x5A; 20];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    hash
}

fn listed(hashes: impl IntoIterator<Item = Hash>, end: &str) -> String {
    hashes.into_iter().zip(1..).map(|(hash, count)| line(&hash, count * count, end)).collect()
}

fn found(file: &NamedTempFile, wanted: &Hash, block_bytes: u64) -> bool {
    is_breached(file.as_file(), wanted, block_bytes).unwrap()
}

#[test]
fn what_is_listed_is_found_and_nothing_else() {
    for end in ["\n", "\r\n"] {
        for lines in [1, 2, 3, 10, 91, 92, 1_000] {
            // Every other number, so that each has neighbours that are not there.
            let file = file(&listed((1..=lines).map(|n| hash(2 * n)), end));
            assert_eq!(check_breached_passwords(file.path()).unwrap(), file.as_file().metadata().unwrap().len());
            for n in 0..=2 * lines + 2 {
                let is_there = n > 0 && n % 2 == 0 && n <= 2 * lines;
                for block in [SMALL_BLOCK, BLOCK] {
                    assert_eq!(found(&file, &hash(n), block), is_there, "{n} of {lines}");
                }
            }
            assert!(!found(&file, &[0; 20], SMALL_BLOCK) && !found(&file, &[0xFF; 20], SMALL_BLOCK));
        }
    }
}

#[test]
fn lines_may_stand_twice_in_small_letters_and_without_an_end() {
    let text = listed((0..600).map(|n| hash(n / 3)), "\n");
    for text in [text.clone(), text.to_lowercase(), text.trim_end().to_owned(), format!("{}\r", text.trim_end())] {
        let file = file(&text);
        check_breached_passwords(file.path()).unwrap();
        for n in 0..200 {
            assert!(found(&file, &hash(n), SMALL_BLOCK) && found(&file, &hash(n), BLOCK), "{n}");
        }
        assert!(!found(&file, &hash(200), SMALL_BLOCK));
    }
    // All the same.
    let file = file(&listed([hash(7); 500], "\r\n"));
    let [less, same, more] = [6, 7, 8].map(|n| found(&file, &hash(n), SMALL_BLOCK));
    assert!(!less && same && !more);
}

#[test]
fn what_is_no_such_file_is_told() {
    let good = listed((0..200).map(hash), "\n");
    let swapped = format!("{}{}", listed([hash(9)], "\n"), listed([hash(8)], "\n"));
    let ntlm = "0CB6948805F797BF2A82807973B89537:7\n".repeat(200);
    for (text, why) in [
        (String::new(), "is empty"),
        ("password\n123456\n".repeat(500), "something else than `<SHA-1>:<count>` at byte 0"),
        (ntlm, "something else"),
        (good.replace(':', ";"), "something else"),
        (good.replace(":1\n", ":\n"), "something else"),
        (good.replacen("5A", "5G", 1), "something else"),
        (format!("{good}\n"), "something else"),
        (format!("{good}0000"), "something else"),
        (swapped, "is not sorted by hash: the line at byte 43"),
        ("A".repeat(20_000), "something else"),
    ] {
        let error = check_breached_passwords(file(&text).path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(check_breached_passwords(dir.path()).unwrap_err().to_string(), "is no file");
    assert_eq!(check_breached_passwords(&dir.path().join("absent")).unwrap_err().kind(), ErrorKind::NotFound);

    // Of a large file, places all over it are looked at; the last line always is.
    let large = listed((0..40_000).map(hash), "\r\n");
    assert!(large.len() > 1 << 20);
    check_breached_passwords(file(&large).path()).unwrap();
    let half = listed((20_000..40_000).chain(0..20_000).map(hash), "\r\n");
    assert!(check_breached_passwords(file(&half).path()).unwrap_err().to_string().contains("not sorted"));
    let torn = &large[..large.len() - 20];
    assert!(check_breached_passwords(file(torn).path()).unwrap_err().to_string().contains("something else"));
}

/// A look-up that cannot know says so.
#[test]
fn a_damaged_file_answers_nothing() {
    for text in ["", "\n", &"A".repeat(10_000), &"\n".repeat(10_000), &"AB:1\n".repeat(2_000)] {
        for block in [SMALL_BLOCK, BLOCK] {
            let error = is_breached(file(text).as_file(), &hash(1), block).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        }
    }
}

proptest! {
    #[test]
    fn a_search_agrees_with_reading_it_all(
        hashes in btree_set(prop::array::uniform20(0u8..4), 1..300),
        others in btree_set(prop::array::uniform20(0u8..4), 0..50),
        is_dos in any::<bool>(),
        block in SMALL_BLOCK..1_024,
    ) {
        let file = file(&listed(hashes.iter().copied(), if is_dos { "\r\n" } else { "\n" }));
        for wanted in hashes.iter().chain(&others) {
            prop_assert_eq!(found(&file, wanted, block), hashes.contains(wanted));
        }
    }
}
