//! kill -9.

use canopy_load::faults::kill;

use crate::fixture::{check, host, seed};

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let tally = kill::attack(&mut host(), dir.path(), seed(), 200).unwrap();
    check(&tally, 200);
    assert!(tally.acknowledged > 1_000, "{} acknowledged", tally.acknowledged);
}
