//! A vault in a file, and in another place after that.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use canopy_domain::{Address, Effect, Reader, Secret};
use canopy_proto::system::v1::RequestRecord;
use canopy_store::{
    BackupSummary, Commit, RequestKey, RestoreOptions, Store, StoreError, StoreOptions, Unlock, export_keys, restore,
};

use crate::fixture::{KEY, TABLE, all, check_gapless, commit, open, options, org};

const TIME_MS: i64 = 1_700_000_000_000;

/// Commits with all that a partition may hold.
async fn fill(store: &Store, address: &Address, commits: u32) {
    let mut writer = store.writer(address, &[]).await.unwrap();
    let mut tickets = Vec::new();
    for n in 0..commits {
        let record = RequestRecord { payload_digest: "digest".into(), reply: n.to_string().into(), seq: 0 };
        let effect = Effect {
            target: org(9),
            method: "canopy.test.v1.Test/Do",
            request: "please".into(),
            outlives_subjects: false,
        };
        tickets.push(writer.submit(Commit {
            record: Some((RequestKey::new("somebody", "canopy.test.v1.Test/Write", &n.to_string()), record)),
            effects: vec![effect],
            ..commit(&[(&n.to_be_bytes(), Some(&[7; 900])), (&(n / 2).to_be_bytes(), Some(b"again"))])
        }));
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

async fn back_up(store: &Store, address: &Address, to: &Path) -> Result<BackupSummary, StoreError> {
    store.back_up(address, to, TIME_MS, |_| true).await
}

fn restoring(dir: &Path, backups: &[PathBuf]) -> RestoreOptions {
    RestoreOptions {
        backups: backups.to_vec(),
        bundle: dir.join("keys.bundle"),
        unlock: Unlock::Key(Secret::new(KEY)),
        to: dir.join("restored"),
        without_shredded: false,
    }
}

/// What is in a directory, but for what is being restored.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

/// Two vaults in backups, and their keys in a bundle.
async fn made(dir: &Path, commits: u32) -> Vec<PathBuf> {
    let store = open(dir);
    let backups = vec![dir.join("one.backup"), dir.join("two.backup")];
    for (n, path) in (1u8..).zip(&backups) {
        fill(&store, &org(n), commits).await;
        let summary = back_up(&store, &org(n), path).await.unwrap();
        assert_eq!(summary.vault, org(n).to_string());
        assert_eq!((summary.cursor, summary.transactions), (commits.into(), commits.into()));
        assert_eq!(summary.bytes, fs::metadata(path).unwrap().len());
        assert_eq!(store.verify_backup(&org(n), path, |_| true).await.unwrap(), summary);
    }
    store.close().await.unwrap();
    drop(store);
    let exported = export_keys(&options(dir), &dir.join("keys.bundle")).unwrap();
    assert_eq!((exported.orgs, exported.vaults), (3, 2), "and the installation's");
    backups
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_is_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let backups = made(dir.path(), 700).await;
    let summaries = restore(&restoring(dir.path(), &backups)).unwrap();
    assert_eq!(summaries.len(), 2);

    let source = open(dir.path());
    let copy = Store::open(StoreOptions::new(dir.path().join("restored"), Unlock::Key(Secret::new(KEY)))).unwrap();
    assert_eq!(copy.installation_id(), source.installation_id());
    for n in 1..3 {
        let there = source.reader(&org(n)).await.unwrap().snapshot().await.unwrap();
        let here = copy.reader(&org(n)).await.unwrap().snapshot().await.unwrap();
        assert_eq!(here.seq().unwrap(), 700);
        check_gapless(&here);
        assert_eq!(all(&here, TABLE), all(&there, TABLE));
        for seq in 1..=700 {
            assert_eq!(here.transaction(seq).unwrap(), there.transaction(seq).unwrap());
        }
        drop((here, there));
        // The first answer is repeated, effects are not forgotten, and it goes on.
        let mut writer = copy.writer(&org(n), &[]).await.unwrap();
        let key = RequestKey::new("somebody", "canopy.test.v1.Test/Write", "699");
        assert_eq!(writer.request_record(&key, TIME_MS).unwrap().unwrap().reply, "699");
        assert_eq!(writer.pending_effects(1000).unwrap().len(), 700);
        assert_eq!(writer.submit(commit(&[])).await.unwrap(), 701);
        drop(writer);
        // Backups of both are the same but for what came since.
        let again = dir.path().join(format!("again-{n}.backup"));
        assert_eq!(back_up(&copy, &org(n), &again).await.unwrap().cursor, 701);
    }
    copy.close().await.unwrap();
    drop(copy);
    Store::open(StoreOptions::new(dir.path().join("restored"), Unlock::Key(Secret::new(KEY)))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fill(&store, &org(1), 50).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut writer = store.writer(&org(1), &[]).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                writer.submit(commit(&[(b"k", Some(b"1")), (b"l", Some(b"2"))])).await.unwrap();
            }
        }
    });
    for n in 0..10 {
        // Each is checked as it is written: a torn one would not end at its cursor.
        let path = dir.path().join(format!("{n}.backup"));
        let summary = back_up(&store, &org(1), &path).await.unwrap();
        assert!(summary.cursor >= 50);
        assert_eq!(store.verify_backup(&org(1), &path, |_| true).await.unwrap(), summary);
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_and_every_cut_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fill(&store, &org(1), 3).await;
    let path = dir.path().join("one.backup");
    back_up(&store, &org(1), &path).await.unwrap();
    let bytes = fs::read(&path).unwrap();
    let damaged = dir.path().join("damaged.backup");
    let mut cases: Vec<Vec<u8>> = Vec::new();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x20;
        cases.push(flipped);
    }
    cases.extend((0..bytes.len()).step_by(7).map(|len| bytes[..len].to_vec()));
    cases.push([bytes.as_slice(), b"x"].concat());
    for (n, case) in cases.iter().enumerate() {
        fs::write(&damaged, case).unwrap();
        let error = store.verify_backup(&org(1), &damaged, |_| true).await.expect_err(&format!("case {n}"));
        assert!(matches!(error, StoreError::BackupDamaged { .. }), "case {n}: {error}");
    }
    fill(&store, &org(2), 1).await;
    let error = store.verify_backup(&org(2), &path, |_| true).await.unwrap_err();
    assert!(matches!(error, StoreError::BackupDamaged { .. }), "of another vault: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_writes_to_nothing_that_exists_and_leaves_nothing_when_it_fails() {
    let dir = tempfile::tempdir().unwrap();
    let backups = made(dir.path(), 20).await;
    let before = names(dir.path());
    let live = RestoreOptions { to: dir.path().join("data"), ..restoring(dir.path(), &backups) };
    assert!(matches!(restore(&live), Err(StoreError::Exists(_))), "never over live data");
    let wrong = Unlock::Key(Secret::new("0".repeat(64)));
    let wrong = RestoreOptions { unlock: wrong, ..restoring(dir.path(), &backups) };
    assert!(matches!(restore(&wrong), Err(StoreError::WrongKey(_))));
    let twice = restoring(dir.path(), &[backups[0].clone(), backups[0].clone()]);
    assert!(matches!(restore(&twice), Err(StoreError::BackupDamaged { .. })));
    let mut bytes = fs::read(&backups[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&backups[1], bytes).unwrap();
    assert!(matches!(restore(&restoring(dir.path(), &backups)), Err(StoreError::BackupDamaged { .. })));
    assert_eq!(names(dir.path()), before);
    assert!(matches!(export_keys(&options(dir.path()), &dir.path().join("keys.bundle")), Err(StoreError::Exists(_))));
    restore(&restoring(dir.path(), &backups[..1])).unwrap();
    assert!(matches!(restore(&restoring(dir.path(), &backups[..1])), Err(StoreError::Exists(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_missing_are_named_and_left_out_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (known, later) = (Address::system("directory"), Address::system("wakes"));
    let store = open(dir.path());
    fill(&store, &known, 5).await;
    store.close().await.unwrap();
    drop(store);
    export_keys(&options(dir.path()), &dir.path().join("keys.bundle")).unwrap();
    // A partition of the same vault, and another vault, that the bundle does not know.
    let store = open(dir.path());
    fill(&store, &later, 5).await;
    fill(&store, &org(1), 5).await;
    let backups = [dir.path().join("system.backup"), dir.path().join("org.backup")];
    for (address, path) in [&known, &org(1)].into_iter().zip(&backups) {
        back_up(&store, address, path).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let error = restore(&restoring(dir.path(), &backups[1..])).unwrap_err();
    assert!(error.to_string().contains("no keys for the vault"), "{error}");
    let error = restore(&restoring(dir.path(), &backups[..1])).unwrap_err();
    assert!(error.to_string().contains("the keys of a partition are missing"), "{error}");
    let lenient = RestoreOptions { without_shredded: true, ..restoring(dir.path(), &backups[..1]) };
    assert_eq!(restore(&lenient).unwrap()[0].unreadable, 1);
    let copy = Store::open(StoreOptions::new(dir.path().join("restored"), Unlock::Key(Secret::new(KEY)))).unwrap();
    assert_eq!(copy.reader(&known).await.unwrap().snapshot().await.unwrap().seq().unwrap(), 5);
    assert_eq!(copy.reader(&later).await.unwrap().snapshot().await.unwrap().seq().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_off_or_not_there_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let to = dir.path().join("one.backup");
    let before = names(dir.path());
    assert!(matches!(back_up(&store, &org(1), &to).await, Err(StoreError::NothingThere(_))));
    fill(&store, &org(1), 600).await;
    let broken_off = store.back_up(&org(1), &to, TIME_MS, |_| false).await;
    assert!(matches!(broken_off, Err(StoreError::Interrupted)), "{broken_off:?}");
    assert_eq!(names(dir.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_vault_is_not_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fill(&store, &org(1), 3).await;
    store.close().await.unwrap();
    let vaults = fs::read_dir(dir.path().join("data/vaults")).unwrap().map(|entry| entry.unwrap().path());
    let vault = vaults.into_iter().find(|path| path.is_dir()).unwrap();
    fs::write(vault.join("head"), [0xAA; 128]).unwrap();
    let store = open(dir.path());
    let error = back_up(&store, &org(1), &dir.path().join("one.backup")).await.unwrap_err();
    assert!(matches!(error, StoreError::Quarantined { .. }), "{error}");
}
