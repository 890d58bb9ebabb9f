//! A disk that is full, or fails.

use canopy_load::faults::failing;

use crate::fixture::{check, host, seed};

#[test]
fn nothing_acknowledged_is_lost_by_a_failing_disk() {
    let dir = tempfile::tempdir().unwrap();
    let tally = failing::attack(&mut host(), dir.path(), seed(), 24).unwrap();
    check(&tally, 24);
}
