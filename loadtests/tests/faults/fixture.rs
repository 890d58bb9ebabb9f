//! Where attacks find their program, place and seed.

use std::path::Path;

use canopy_load::faults::finding::Tally;
use canopy_load::faults::host::Host;

pub(crate) fn host() -> Host {
    Host::new(Path::new(env!("CARGO_BIN_EXE_canopy-load")))
}

/// The same in each run, unless `CANOPY_FAULTS_SEED` says another: `run faults --seed` looks elsewhere.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("CANOPY_FAULTS_SEED").ok();
    let seed = given.map_or(1, |text| text.parse().unwrap());
    println!("CANOPY_FAULTS_SEED={seed}");
    seed
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
