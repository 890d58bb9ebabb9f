//! Lost power, and that an attack sees what a store forgets to sync.

use std::fs;

use canopy_load::faults::disk::Forgotten;
use canopy_load::faults::finding::Kind;
use canopy_load::faults::power::{self, Plan};
use canopy_load::faults::tree;

use crate::fixture::{check, host, seed};

// A hundred points, in two halves: they run side by side.
fn lose_power(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { seed, points: 50, forgotten: Forgotten::Nothing };
    let tally = power::attack(&mut host(), dir.path(), plan).unwrap();
    check(&tally, 50);
    assert!(tally.acknowledged > 50, "{} acknowledged", tally.acknowledged);
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_lost_power() {
    lose_power(seed());
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_lost_power_elsewhere() {
    lose_power(seed() + 1000);
}

#[test]
fn a_store_that_forgets_a_sync_is_found_out() {
    for forgotten in [Forgotten::Journals, Forgotten::Keyrings, Forgotten::Directories] {
        let dir = tempfile::tempdir().unwrap();
        let tally = power::attack(&mut host(), dir.path(), Plan { seed: seed(), points: 10, forgotten }).unwrap();
        // Lost, or in quarantine for what it lost.
        let seen = tally.count(Kind::Lost) + tally.count(Kind::FalseAlarm);
        assert!(seen > 0, "{forgotten:?}: {}", tally.describe());
    }
}

#[test]
fn the_shim_sees_every_call_that_changes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    let (place, history) = power::rebuild(&host(), dir.path(), seed(), &copy).unwrap();
    assert!(history.done && history.acknowledged() > 100);
    let names = |of: &std::path::Path| -> Vec<_> {
        tree::files(of).unwrap().into_iter().map(|path| path.strip_prefix(of).unwrap().to_owned()).collect()
    };
    let files = names(&place.dir);
    assert_eq!(names(&copy), files);
    assert!(files.iter().any(|path| path.parent().unwrap().ends_with("tables")), "nothing was rotated: {files:?}");
    for file in files {
        let (found, replayed) = (fs::read(place.dir.join(&file)).unwrap(), fs::read(copy.join(&file)).unwrap());
        assert!(found == replayed, "{}", file.display());
    }
}
