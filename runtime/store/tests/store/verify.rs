//! What `verify` finds, and that it leaves everything as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use canopy_domain::{Address, Change, Source, View, ViewWrite};
use canopy_store::{Store, StoreError, VaultReport, verify};
use sha2::{Digest, Sha256};

use crate::fixture::{commit, open, options, org};

/// By key, the last change.
fn last_change(seq: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    writes.push(ViewWrite::Put { key: change.key.clone(), value: seq.to_be_bytes().to_vec().into() });
}

/// By key, nothing more.
fn keys_alone(_: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    writes.push(ViewWrite::Put { key: change.key.clone(), value: Default::default() });
}

pub(crate) const VIEW: View =
    View { id: View::FIRST_ID, name: "test", version: 1, source: Source::Changes, apply: last_change };
const OTHER: View = View { apply: keys_alone, ..VIEW };

pub(crate) const COMMITS: u64 = 300;
const ROW_BYTES: u64 = 3200;

/// The key and row of the commit behind the `at`-th: rows that do not
/// compress, and fill tables.
pub(crate) fn change_at(at: u64) -> ([u8; 8], Option<Vec<u8>>) {
    let row = || (0..ROW_BYTES / 32).flat_map(|n| Sha256::digest((at * ROW_BYTES + n).to_be_bytes())).collect();
    ((at % 50).to_be_bytes(), (!at.is_multiple_of(7)).then(row))
}

/// Two orgs with rows set, changed and removed, in tables and in the journal.
pub(crate) async fn fill(dir: &Path) {
    let mut small = options(dir);
    small.write_buffer_bytes = 1;
    let store = Store::open(small).unwrap();
    for n in 1..3 {
        let mut writer = store.writer(&org(n), &[VIEW]).await.unwrap();
        for at in 0..COMMITS {
            let (key, row) = change_at(at);
            drop(writer.submit(commit(&[(&key, row.as_deref())])));
        }
        writer.barrier().await.unwrap();
        drop(writer);
    }
    store.close().await.unwrap();
}

pub(crate) async fn reports(dir: &Path, view: View) -> Vec<VaultReport> {
    let mut found = Vec::new();
    verify(options(dir), &|_: &Address| vec![view], |report| found.push(report)).await.unwrap();
    found
}

pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sound_is_found_sound_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let before = files(dir.path());
    let found = reports(dir.path(), VIEW).await;
    assert_eq!(found.iter().map(|r| r.vault.clone()).collect::<Vec<_>>(), [org(1), org(2)].map(|org| org.to_string()));
    for report in &found {
        assert!(report.is_sound(), "{report:?}");
        assert_eq!((report.partitions, report.transactions), (1, COMMITS));
        assert!(report.rows > 50, "rows, rows of the view, and the partition's own: {}", report.rows);
    }
    assert!(before == files(dir.path()), "a byte has changed");
    let store = open(dir.path());
    assert!(matches!(verify(options(dir.path()), &|_: &Address| Vec::new(), drop).await, Err(StoreError::Locked(_))));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_not_what_its_feed_makes_is_found() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let found = reports(dir.path(), OTHER).await;
    assert!(found.iter().all(|r| r.faults.len() == 1 && r.faults[0].contains("50 rows are not what")), "{found:?}");
}

/// Damages the first vault's files of one kind at many places, one at a time:
/// whatever is not sound is found, in that vault alone, and stays as it is.
async fn check_damage(is_meant: impl Fn(&Path) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let vaults = dir.path().join("data/vaults");
    let all = files(&vaults);
    let mut tried = 0;
    for (path, bytes) in all.iter().filter(|(path, _)| is_meant(path)) {
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let mut damaged = bytes.clone();
        damaged[written / 2] ^= 0x40;
        fs::write(path, &damaged).unwrap();
        let found = reports(dir.path(), VIEW).await;
        assert_eq!(found.iter().filter(|report| !report.is_sound()).count(), 1, "{}: {found:?}", path.display());
        assert!(damaged == fs::read(path).unwrap(), "the damage was changed");
        fs::write(path, bytes).unwrap();
        tried += 1;
    }
    assert!(tried > 0, "there is no such file");
    assert!(reports(dir.path(), VIEW).await.iter().all(VaultReport::is_sound));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_tables_are_found() {
    check_damage(|path| path.components().any(|part| part.as_os_str() == "tables")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_journals_are_found() {
    let has_entries = |path: &Path| fs::read(path).unwrap().iter().any(|byte| *byte != 0);
    check_damage(|path| path.extension().is_some_and(|e| e == "jnl") && has_entries(path)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_gone_is_found() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let vault = fs::read_dir(dir.path().join("data/vaults")).unwrap().map(|entry| entry.unwrap().path());
    fs::remove_dir_all(vault.into_iter().find(|path| path.is_dir()).unwrap()).unwrap();
    let found = reports(dir.path(), VIEW).await;
    assert_eq!(found.iter().filter(|report| report.is_sound()).count(), 1, "{found:?}");
}

#[tokio::test]
async fn nothing_is_made_where_there_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let refused = verify(options(dir.path()), &|_: &Address| Vec::new(), drop).await;
    assert!(matches!(refused, Err(StoreError::Io { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
