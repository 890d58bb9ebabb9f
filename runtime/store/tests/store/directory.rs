//! Whose directory it is.

use std::fs;

use canopy_domain::Reader;
use canopy_store::{Store, StoreError};

use crate::fixture::{open, options, org, put};

#[tokio::test]
async fn a_second_opening_is_refused_until_the_first_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(Store::open(options(dir.path())), Err(StoreError::Locked(_))));
    store.close().await.unwrap();
    open(dir.path());
}

#[tokio::test]
async fn other_formats_and_foreign_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.close().await.unwrap();
    let version = dir.path().join("data/VERSION");
    assert_eq!(fs::read_to_string(&version).unwrap(), "canopy 4\n");
    fs::write(&version, "canopy 5\n").unwrap();
    let error = Store::open(options(dir.path())).err().unwrap();
    assert!(matches!(&error, StoreError::NewerFormat { found, .. } if found == "canopy 5"), "{error}");
    assert!(error.to_string().contains("newer release"));
    fs::write(&version, "something else\n").unwrap();
    let error = Store::open(options(dir.path())).err().unwrap();
    assert!(matches!(&error, StoreError::CorruptFile { path, .. } if *path == version), "{error}");

    let foreign = tempfile::tempdir().unwrap();
    fs::create_dir(foreign.path().join("data")).unwrap();
    fs::write(foreign.path().join("data/thesis.txt"), "years of work").unwrap();
    assert!(matches!(Store::open(options(foreign.path())), Err(StoreError::NotOurs(_))));
    assert_eq!(fs::read_dir(foreign.path().join("data")).unwrap().count(), 1, "and left as they are");
}

#[tokio::test]
async fn files_of_the_installation_that_are_damaged_are_named() {
    for (file, at) in [("keys/root.slots", 40), ("keys/orgs", 40), ("vaults/index", 4)] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for n in 1..3 {
            put(&store, &org(n), b"1").await;
        }
        store.close().await.unwrap();
        let path = dir.path().join("data").join(file);
        let bytes = fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(&path, flipped).unwrap();
        let error = Store::open(options(dir.path())).err().unwrap();
        assert!(matches!(&error, StoreError::CorruptFile { path: p, .. } if *p == path), "{file}: {error}");
        fs::write(&path, bytes).unwrap();
        let store = open(dir.path());
        assert_eq!(store.reader(&org(1)).await.unwrap().snapshot().await.unwrap().seq().unwrap(), 1);
    }
}

#[tokio::test]
async fn directories_are_compared_with_the_index_unless_the_last_stop_was_clean() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, &org(1), b"1").await;
    store.close().await.unwrap();
    let unfinished = dir.path().join("data/vaults/00112233445566778899aabbccddeeff");
    fs::create_dir(&unfinished).unwrap();
    let store = open(dir.path());
    put(&store, &org(1), b"2").await;
    assert!(unfinished.exists(), "nobody looks for what a clean stop does not leave");
    store.close().await.unwrap();
    let store = open(dir.path());
    put(&store, &org(2), b"1").await;
    let settled = dir.path().join("data/settled");
    assert!(!settled.exists(), "a crash from here on may leave a directory");
    store.close().await.unwrap();
    assert!(settled.exists());
    // As a crash would have left it.
    fs::remove_file(&settled).unwrap();
    let store = open(dir.path());
    assert!(!unfinished.exists());
    for n in [1, 2] {
        assert!(store.reader(&org(n)).await.unwrap().snapshot().await.unwrap().seq().unwrap() > 0);
    }
}

#[tokio::test]
async fn a_lost_index_is_made_again_and_unfinished_vaults_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, &org(1), b"1").await;
    store.close().await.unwrap();
    let vaults = dir.path().join("data/vaults");
    fs::remove_file(vaults.join("index")).unwrap();
    let unfinished = vaults.join("00112233445566778899aabbccddeeff");
    fs::create_dir(&unfinished).unwrap();
    let store = open(dir.path());
    assert!(!unfinished.exists());
    assert_eq!(store.reader(&org(1)).await.unwrap().snapshot().await.unwrap().seq().unwrap(), 1);
}
