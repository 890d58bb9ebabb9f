//! A bounded number of vaults is open.

use canopy_domain::Reader;
use canopy_store::{Store, StoreError};

use crate::fixture::{TABLE, commit, options, org};

fn open(dir: &std::path::Path) -> Store {
    let mut options = options(dir);
    options.open_vaults_max = 2;
    Store::open(options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vaults_close_and_reopen_within_their_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..6u8 {
        let mut writer = store.writer(&org(n), &[]).await.unwrap();
        writer.submit(commit(&[(b"k", Some(&[n]))])).await.unwrap();
    }
    let mut readers = Vec::new();
    for n in 0..6u8 {
        readers.push(store.reader(&org(n)).await.unwrap());
    }
    for round in 1..4u64 {
        for n in 0..6u8 {
            let durable = readers[n as usize].durable();
            assert_eq!(*durable.borrow(), round);
            let snapshot = readers[n as usize].snapshot().await.unwrap();
            assert_eq!(snapshot.seq().unwrap(), round);
            assert_eq!(snapshot.get(TABLE, b"k").unwrap().unwrap().as_ref(), [n]);
            drop(snapshot);
            let mut writer = store.writer(&org(n), &[]).await.unwrap();
            writer.submit(commit(&[(b"k", Some(&[n]))])).await.unwrap();
            assert_eq!(*durable.borrow(), round + 1, "watched across vaults and writers");
            assert!(store.observe().open_vaults.len() <= 4);
        }
    }
    assert!(store.observe().open_vaults.len() <= 2, "{:?}", store.observe());
}

#[tokio::test(flavor = "multi_thread")]
async fn vaults_in_use_stay_open_up_to_twice_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writers = Vec::new();
    for n in 0..4 {
        let mut writer = store.writer(&org(n), &[]).await.unwrap();
        writer.submit(commit(&[(b"k", Some(b"1"))])).await.unwrap();
        writers.push(writer);
    }
    let error = store.writer(&org(4), &[]).await.err().unwrap();
    assert!(matches!(error, StoreError::TooManyVaults { open: 4, .. }), "{error}");
    assert_eq!(canopy_domain::Refusal::from(error).code, canopy_domain::Code::ResourceExhausted);
    for writer in &mut writers {
        assert_eq!(writer.submit(commit(&[(b"k", Some(b"2"))])).await.unwrap(), 2);
    }
    // One lets go; its place is free.
    writers.remove(0);
    let mut writer = loop {
        // The committer may hold the vault for a moment longer than its ticket.
        match store.writer(&org(4), &[]).await {
            Err(StoreError::TooManyVaults { .. }) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    writer.submit(commit(&[(b"k", Some(b"1"))])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_finishes_what_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    let ticket = writer.submit(commit(&[(b"k", Some(b"1"))]));
    drop(writer);
    store.close().await.unwrap();
    assert_eq!(ticket.await.unwrap(), 1, "what was under way is finished first");
}
