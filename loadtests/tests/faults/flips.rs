//! Rotten bits.

use canopy_load::faults::flips;

use crate::fixture::{check, host, seed};

// Four hundred flips, in two halves: they run side by side.
fn flips(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let tally = flips::attack(&mut host(), dir.path(), seed, 200).unwrap();
    check(&tally, 200);
    assert!(tally.noticed > 50, "{} noticed", tally.noticed);
}

#[test]
fn a_flipped_bit_is_noticed_or_does_no_harm() {
    flips(seed());
}

#[test]
fn a_flipped_bit_is_noticed_or_does_no_harm_elsewhere() {
    flips(seed() + 1000);
}
