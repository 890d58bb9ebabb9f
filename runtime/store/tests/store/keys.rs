//! Keys are rotated and slots change, while the store serves and between
//! starts; no data is lost, and what is old opens nothing.

use std::fs;
use std::path::Path;

use canopy_domain::{Reader, Secret};
use canopy_store::{Store, StoreError, StoreOptions, Unlock};

use crate::fixture::{KEY, TABLE, about, check_gapless, commit, open, options, org};

const OTHER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f000112233445566778899aabbccddeeff";

fn with(dir: &Path, secret: &str) -> Result<Store, StoreError> {
    Store::open(StoreOptions::new(dir.join("data"), Unlock::Key(Secret::new(secret))))
}

async fn write(store: &Store, n: u8, key: &[u8]) {
    let mut writer = store.writer(&org(n), &[]).await.unwrap();
    writer.submit(commit(&[(key, Some(b"1"))])).await.unwrap();
}

async fn check(store: &Store, n: u8, keys: &[&[u8]]) {
    let snapshot = store.reader(&org(n)).await.unwrap().snapshot().await.unwrap();
    for key in keys {
        assert_eq!(snapshot.get(TABLE, key).unwrap().unwrap(), "1", "org {n}, {key:?}");
    }
    assert_eq!(snapshot.seq().unwrap(), keys.len() as u64);
    check_gapless(&snapshot);
}

/// Commits and reads until told to stop; gives how many commits there were.
fn busy(store: &Store, n: u8) -> (tokio::sync::watch::Sender<bool>, tokio::task::JoinHandle<u64>) {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let store = store.clone();
    let task = tokio::spawn(async move {
        let mut writer = store.writer(&org(n), &[]).await.unwrap();
        let mut done = 0u64;
        while !*stopped.borrow() {
            let seq = writer.submit(commit(&[(&done.to_be_bytes(), Some(b"1"))])).await.unwrap();
            let snapshot = store.reader(&org(n)).await.unwrap().snapshot().await.unwrap();
            assert!(snapshot.seq().unwrap() >= seq);
            assert_eq!(snapshot.get(TABLE, &done.to_be_bytes()).unwrap().unwrap(), "1");
            done += 1;
        }
        done
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_rotates_while_commits_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = options(dir.path());
    opened.open_vaults_max = 2;
    let store = Store::open(opened).unwrap();
    let purpose = store.derive_key("tokens").to_vec();
    for n in 1..6 {
        write(&store, n, b"before").await;
    }
    let (stop, task) = busy(&store, 9);
    while store.reader(&org(9)).await.unwrap().snapshot().await.unwrap().seq().unwrap() < 3 {
        tokio::task::yield_now().await;
    }
    let fingerprints = || store.org_keys().unwrap().into_iter().map(|key| key.fingerprint).collect::<Vec<_>>();
    let before = fingerprints();
    for round in 2..5 {
        assert_eq!(store.rotate_root_key().await.unwrap(), round);
        for n in [1, 2, 9] {
            // Some vaults are open, some are closed.
            assert_eq!(store.rotate_org_key(Some(&org(n))).await.unwrap(), round);
            assert_eq!(store.rotate_vault_key(&org(n)).await.unwrap(), round);
        }
        write(&store, 1, &[round as u8]).await;
    }
    stop.send(true).unwrap();
    let done = task.await.unwrap();
    let after = fingerprints();
    assert_eq!(after.len(), before.len());
    assert_eq!(after.iter().filter(|key| before.contains(key)).count(), 3, "only the orgs not rotated keep theirs");
    let vaults = store.vault_keys(Some(&org(1))).await.unwrap();
    assert_eq!((vaults.len(), vaults[0].version), (1, 4));
    assert!(matches!(store.rotate_org_key(Some(&org(77))).await, Err(StoreError::NoKeys(_))));
    assert!(matches!(store.rotate_vault_key(&org(77)).await, Err(StoreError::NoKeys(_))));
    store.close().await.unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.derive_key("tokens").to_vec(), purpose, "tokens outlive every rotation");
    check(&store, 1, &[b"before", &[2], &[3], &[4]]).await;
    for n in 2..6 {
        check(&store, n, &[b"before"]).await;
    }
    let snapshot = store.reader(&org(9)).await.unwrap().snapshot().await.unwrap();
    assert_eq!(snapshot.seq().unwrap(), done);
    check_gapless(&snapshot);
    drop(snapshot);
    write(&store, 9, b"after").await;
    assert!(store.observe().quarantined.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_come_and_go_and_the_last_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, 1, b"a").await;
    let file = dir.path().join("other.key");
    let second = store.add_key_slot(Unlock::Key(Secret::new(OTHER))).await.unwrap();
    let third = store.add_key_slot(Unlock::KeyFile(file.clone())).await.unwrap();
    assert_eq!((second, third, store.key_slots().len()), (2, 3, 3));
    assert!(store.key_slots()[0].is_own && !store.key_slots()[1].is_own);
    store.close().await.unwrap();
    drop(store);

    let store = with(dir.path(), OTHER).unwrap();
    check(&store, 1, &[b"a"]).await;
    // The new root key is in every slot, though one secret alone was given.
    store.rotate_root_key().await.unwrap();
    store.remove_key_slot(1).await.unwrap();
    assert!(matches!(store.remove_key_slot(1).await, Err(StoreError::Slot(_))), "there is none");
    store.close().await.unwrap();
    drop(store);

    assert!(matches!(with(dir.path(), KEY), Err(StoreError::WrongKey(_))));
    let by_file = StoreOptions::new(dir.path().join("data"), Unlock::KeyFile(file));
    let store = Store::open(by_file).unwrap();
    check(&store, 1, &[b"a"]).await;
    store.remove_key_slot(2).await.unwrap();
    let error = store.remove_key_slot(3).await.unwrap_err();
    assert!(error.to_string().contains("only key slot"), "{error}");
    for n in 0..15u32 {
        store.add_key_slot(Unlock::Key(Secret::new(format!("{n:064x}")))).await.unwrap();
    }
    assert!(matches!(store.add_key_slot(Unlock::Key(Secret::new(OTHER))).await, Err(StoreError::Slot(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_the_slots_opens_nothing_that_is_current() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, 1, b"a").await;
    let slots = dir.path().join("data/keys/root.slots");
    let old = fs::read(&slots).unwrap();
    store.rotate_root_key().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let new = fs::read(&slots).unwrap();
    fs::write(&slots, old).unwrap();
    assert!(matches!(with(dir.path(), KEY), Err(StoreError::CorruptFile { .. })));
    fs::write(&slots, new).unwrap();
    check(&with(dir.path(), KEY).unwrap(), 1, &[b"a"]).await;
}

/// A rotation of the root key that ends after any of its writes goes on with
/// the next start: whichever of the files stand as they were before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_the_root_key_survives_a_crash_at_each_step() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(dir.path());
    for n in 1..4 {
        write(&store, n, b"a").await;
    }
    store.add_key_slot(Unlock::Key(Secret::new(OTHER))).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let files = ["keys/root.slots", "keys/orgs", "vaults/index"];
    let read = || files.map(|file| fs::read(data.join(file)).unwrap());
    for crash_after in 0..=3usize {
        let before = read();
        // Each step replaces one file; the slots are written first and last.
        let steps = rotation_steps(dir.path(), crash_after).await;
        assert_ne!(steps, before);
        let store = with(dir.path(), OTHER).unwrap();
        for n in 1..4 {
            check(&store, n, &[b"a"]).await;
        }
        store.close().await.unwrap();
        drop(store);
        let store = with(dir.path(), KEY).unwrap();
        assert_eq!(store.org_keys().unwrap()[0].version, 2 + crash_after as u32, "it was finished by the start");
        store.close().await.unwrap();
    }
}

/// Stops a rotation after its first write of the slots and `more` files, by a
/// file that cannot be replaced: a directory stands where it is written.
async fn rotation_steps(dir: &Path, more: usize) -> [Vec<u8>; 3] {
    let data = dir.join("data");
    let store = with(dir, KEY).unwrap();
    let obstacles = [("keys", "orgs.new"), ("vaults", "index.new"), ("keys", "root.new")];
    if let Some((place, name)) = obstacles.get(more) {
        let obstacle = data.join(place).join(name);
        if more == 2 {
            // The slots are written first, too: the obstacle comes between.
            let watched = data.join("vaults/index");
            let before = fs::read(&watched).unwrap();
            let task = {
                let store = store.clone();
                tokio::spawn(async move { store.rotate_root_key().await })
            };
            while fs::read(&watched).unwrap() == before && !task.is_finished() {
                tokio::task::yield_now().await;
            }
            // Made too late, the rotation has ended well, which is fine too.
            let _ = fs::create_dir(&obstacle);
            let _ = task.await.unwrap();
        } else {
            fs::create_dir(&obstacle).unwrap();
            assert!(store.rotate_root_key().await.is_err());
        }
        let _ = fs::remove_dir(&obstacle);
    } else {
        store.rotate_root_key().await.unwrap();
    }
    let _ = store.close().await;
    drop(store);
    ["keys/root.slots", "keys/orgs", "vaults/index"].map(|file| fs::read(data.join(file)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_an_orgs_key_is_finished_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let project = org(1).project(canopy_domain::Id::from_bytes([2; 16]));
    write(&store, 1, b"a").await;
    let mut writer = store.writer(&project, &[]).await.unwrap();
    writer.submit(commit(&[(b"a", Some(b"1"))])).await.unwrap();
    drop(writer);
    // One of the two keyrings cannot be replaced.
    let vaults = fs::read_dir(dir.path().join("data/vaults")).unwrap().map(|entry| entry.unwrap().path());
    let vaults: Vec<_> = vaults.filter(|path| path.is_dir()).collect();
    assert_eq!(vaults.len(), 2);
    let obstacle = vaults[0].join("keyring.new");
    fs::create_dir(&obstacle).unwrap();
    assert!(store.rotate_org_key(Some(&org(1))).await.is_err());
    let versions = |store: &Store| {
        let keys = store.org_keys().unwrap().into_iter().filter(|key| key.of == org(1).to_string());
        keys.map(|key| key.version).collect::<Vec<_>>()
    };
    assert_eq!(versions(&store), [1, 2], "both stay while one vault is under the first");
    check(&store, 1, &[b"a"]).await;
    store.close().await.unwrap();
    drop(store);
    fs::remove_dir(&obstacle).unwrap();
    let store = open(dir.path());
    assert_eq!(versions(&store), [2]);
    check(&store, 1, &[b"a"]).await;
    let snapshot = store.reader(&project).await.unwrap().snapshot().await.unwrap();
    assert_eq!(snapshot.get(TABLE, b"a").unwrap().unwrap(), "1");
}

/// A new key is in use once it is made, also where the commit that it was made for is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_commit_loses_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    let subject = |n: u8| [n; 17];
    writer.submit(about(&[(&subject(1), Some(b"1"))])).await.unwrap();
    let first = subject(1);
    for n in 2..5 {
        store.rotate_vault_key(&org(1)).await.unwrap();
        let refused = [(first.as_slice(), Some(b"1".as_slice())), (b"no subject", Some(b"1"))];
        let error = writer.submit(about(&refused)).await.unwrap_err();
        assert!(matches!(error, StoreError::NoSubject(_)), "{error}");
        writer.submit(about(&[(&subject(1), Some(&[n]))])).await.unwrap();
        writer.submit(commit(&[(b"own", Some(&[n]))])).await.unwrap();
    }
    drop(writer);
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    let snapshot = store.reader(&org(1)).await.unwrap().snapshot().await.unwrap();
    check_gapless(&snapshot);
    for key in [subject(1).as_slice(), b"own"] {
        assert_eq!(snapshot.get(TABLE, key).unwrap().unwrap(), &[4u8][..]);
    }
}
