//! kill -9.

use canopy_load::faults::kill;

use crate::fixture::{check, host, seed};

// Two hundred kills, in two halves: they run side by side.
fn kill(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let tally = kill::attack(&mut host(), dir.path(), seed, 100).unwrap();
    check(&tally, 100);
    assert!(tally.acknowledged > 500, "{} acknowledged", tally.acknowledged);
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kill_9() {
    kill(seed());
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kill_9_elsewhere() {
    kill(seed() + 1000);
}
