//! What the files show.

use canopy_load::faults::{plaintext, plan, tree};

use crate::fixture::{check, seed};

#[test]
fn no_file_shows_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let tally = plaintext::attack(dir.path(), seed(), 3000).unwrap();
    check(&tally, 2);
    assert_eq!(tally.acknowledged, 3000);
}

/// The look itself finds what is there, also over the border of what it reads at once.
#[test]
fn what_a_file_shows_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for before in [0, 1, 4090, (1 << 20) - 5, 3 << 20] {
        let bytes = [&vec![b'.'; before], plan::PLANTED.as_bytes(), b"."].concat();
        std::fs::write(dir.path().join("file"), bytes).unwrap();
        assert_eq!(tree::plaintext(dir.path()).unwrap().len(), 1, "behind {before} bytes");
    }
}
