//! What `salvage` makes of damaged directories.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use canopy_domain::Reader;
use canopy_store::{SalvageReport, Store, StoreError, StoreOptions, salvage};

use crate::fixture::{TABLE, all, check_gapless, commit, options, org};
use crate::verify::{COMMITS, VIEW, change_at, files, fill, reports};

/// Rows behind so many commits of [`fill`].
fn rows_at(commits: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = BTreeMap::new();
    for at in 0..commits {
        match change_at(at) {
            (key, Some(row)) => rows.insert(key.to_vec(), row),
            (key, None) => rows.remove(key.as_slice()),
        };
    }
    rows.into_iter().collect()
}

/// Salvages `from/data` into `to/data`.
async fn salvaged(from: &Path, to: &Path) -> Vec<SalvageReport> {
    let mut found = Vec::new();
    salvage(options(from), &to.join("data"), |report| found.push(report)).await.unwrap();
    assert_eq!(fs::read_dir(to).unwrap().count(), 1, "nothing else is left there");
    found
}

/// The last seq of an org, after its views were replayed and one more commit.
async fn check_lives(dir: &Path, n: u8) -> (u64, Vec<(Vec<u8>, Vec<u8>)>) {
    let store = Store::open(options(dir)).unwrap();
    let mut writer = store.writer(&org(n), &[VIEW]).await.unwrap();
    let snapshot = store.reader(&org(n)).await.unwrap().snapshot().await.unwrap();
    check_gapless(&snapshot);
    let found = (snapshot.seq().unwrap(), all(&snapshot, TABLE));
    drop(snapshot);
    assert_eq!(writer.submit(commit(&[])).await.unwrap(), found.0 + 1);
    drop(writer);
    store.close().await.unwrap();
    found
}

/// Damages the first vault's files of one kind, one at a time, and hands what
/// became of its vault to `judge`.
async fn check(is_meant: impl Fn(&Path) -> bool, judge: impl Fn(&SalvageReport, u64, &[(Vec<u8>, Vec<u8>)])) {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let all = files(&dir.path().join("data/vaults"));
    let mut tried = 0;
    for (path, bytes) in all.iter().filter(|(path, bytes)| is_meant(path) && bytes.iter().any(|byte| *byte != 0)) {
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let mut damaged = bytes.clone();
        damaged[written / 2] ^= 0x40;
        fs::write(path, &damaged).unwrap();
        let before = files(dir.path());
        let to = tempfile::tempdir().unwrap();
        let found = salvaged(dir.path(), to.path()).await;
        assert!(before == files(dir.path()), "what is damaged stays as it is");
        let bad: Vec<u8> = (1..3).filter(|n| !found[usize::from(*n) - 1].found.is_sound()).collect();
        let &[bad] = bad.as_slice() else { panic!("{}: {found:?}", path.display()) };
        let (seq, rows) = check_lives(to.path(), bad).await;
        judge(&found[usize::from(bad) - 1], seq, &rows);
        assert_eq!(check_lives(to.path(), 3 - bad).await, (COMMITS, rows_at(COMMITS)), "the other one");
        let verified = reports(to.path(), VIEW).await;
        assert!(verified.iter().all(canopy_store::VaultReport::is_sound), "{}: {verified:?}", path.display());
        fs::write(path, bytes).unwrap();
        tried += 1;
    }
    assert!(tried > 0, "there is no such file");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sound_is_taken_over_as_it_is() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(dir.path()).await;
    let before = reports(dir.path(), VIEW).await;
    let found = salvaged(dir.path(), to.path()).await;
    assert!(found.iter().all(|report| report.found.is_sound() && !report.quarantined), "{found:?}");
    assert_eq!(found.iter().map(|report| report.found.clone()).collect::<Vec<_>>(), before);
    assert_eq!(reports(to.path(), VIEW).await, before);
    for n in 1..3 {
        assert_eq!(check_lives(to.path(), n).await, (COMMITS, rows_at(COMMITS)));
    }
    let again = salvage(options(dir.path()), &to.path().join("data"), drop).await;
    assert!(matches!(again, Err(StoreError::Exists(_))));
    let nothing = StoreOptions { dir: to.path().join("none"), ..options(to.path()) };
    assert!(matches!(salvage(nothing, &dir.path().join("new"), drop).await, Err(StoreError::NotOurs(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_damaged_journal_all_that_came_before_is_kept() {
    let is_journal = |path: &Path| path.extension().is_some_and(|extension| extension == "jnl");
    check(is_journal, |report, seq, rows| {
        assert!(seq < COMMITS, "{report:?}");
        assert_eq!(rows, rows_at(seq), "{report:?}");
        assert_eq!((report.remade, report.condensed), (0, 0), "{report:?}");
        assert!(report.found.faults.iter().any(|fault| fault.starts_with("it acknowledged group")), "{report:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_tables_cost_no_row() {
    let outcomes = RefCell::new([0; 3]);
    let is_table = |path: &Path| path.components().any(|part| part.as_os_str() == "tables");
    check(is_table, |report, seq, rows| {
        assert_eq!(rows, rows_at(COMMITS), "{report:?}");
        match (report.remade > 0, report.condensed > 0) {
            // Rows are made from the feed, the feed's end from rows, and fjall's names anew.
            (true, false) => outcomes.borrow_mut()[0] += usize::from(seq == COMMITS),
            (false, true) => outcomes.borrow_mut()[1] += usize::from(seq < COMMITS),
            _ => outcomes.borrow_mut()[2] += usize::from(seq == COMMITS),
        }
    })
    .await;
    assert!(outcomes.borrow().iter().all(|count| *count > 0), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_head_costs_nothing() {
    let is_head = |path: &Path| path.file_name().is_some_and(|name| name == "head");
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    for path in files(&dir.path().join("data/vaults")).keys().filter(|path| is_head(path)) {
        fs::write(path, [0xAA; 128]).unwrap();
    }
    let to = tempfile::tempdir().unwrap();
    let found = salvaged(dir.path(), to.path()).await;
    assert!(found.iter().all(|report| report.found.faults.len() == 1), "{found:?}");
    for n in 1..3 {
        assert_eq!(check_lives(to.path(), n).await, (COMMITS, rows_at(COMMITS)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_stays_quarantined() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(dir.path()).await;
    let keyring = |path: &&std::path::PathBuf| path.file_name().is_some_and(|name| name == "keyring");
    let all = files(&dir.path().join("data/vaults"));
    let path = all.keys().find(keyring).unwrap();
    fs::write(path, b"nonsense").unwrap();
    let found = salvaged(dir.path(), to.path()).await;
    let bad = found.iter().position(|report| report.quarantined).unwrap() as u8 + 1;
    let store = Store::open(options(to.path())).unwrap();
    let refused = store.reader(&org(bad)).await.err().unwrap();
    assert!(matches!(refused, StoreError::Quarantined { .. }), "{refused}");
    store.close().await.unwrap();
    assert_eq!(check_lives(to.path(), 3 - bad).await, (COMMITS, rows_at(COMMITS)));
}
