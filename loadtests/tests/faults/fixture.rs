//! Where attacks find their program, place and seed.

use std::path::Path;

use canopy_load::faults::finding::Tally;
use canopy_load::faults::host::Host;

pub(crate) fn host() -> Host {
    Host::new(Path::new(env!("CARGO_BIN_EXE_canopy-load")))
}

/// Another one in each run; printed, and taken from `CANOPY_FAULTS_SEED` to repeat one.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("CANOPY_FAULTS_SEED").ok();
    let seed = given.map_or_else(rand_seed, |text| text.parse().unwrap());
    println!("CANOPY_FAULTS_SEED={seed}");
    seed
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() >> 16
}

/// That an attack found nothing.
pub(crate) fn check(tally: &Tally, points: u64) {
    let Tally { transactions, acknowledged, noticed, contained_panics, .. } = tally;
    println!(
        "{transactions} transactions compared, {acknowledged} acknowledged, {noticed} points noticed, {contained_panics} panics contained"
    );
    assert_eq!(tally.points, points);
    assert!(tally.findings.is_empty(), "{}", tally.describe());
}
