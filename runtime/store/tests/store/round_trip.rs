//! What was committed is there, durable before it is visible, and there again
//! after the store was closed and opened.

use canopy_domain::{Reader, Refusal};
use canopy_store::StoreError;

use crate::fixture::{TABLE, all, check_gapless, commit, open, org};

#[tokio::test(flavor = "multi_thread")]
async fn commits_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let big = vec![b'x'; 100_000];
    {
        let store = open(dir.path());
        let mut writer = store.writer(&org(1), &[]).await.unwrap();
        assert_eq!(writer.next_seq(), 1);
        assert_eq!(writer.submit(commit(&[(b"a", Some(b"1")), (b"b", Some(&big))])).await.unwrap(), 1);
        // The same key twice in one commit, and again in the next: the last stands.
        let rows: crate::fixture::Rows<'_> = &[(b"c", Some(b"1")), (b"c", Some(b"2")), (b"d", Some(b"")), (b"d", None)];
        assert_eq!(writer.submit(commit(rows)).await.unwrap(), 2);
        let first = writer.submit(commit(&[(b"a", None), (b"e", None)]));
        let second = writer.submit(commit(&[(b"e", Some(b"5"))]));
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (3, 4));
        assert_eq!(writer.submit(commit(&[])).await.unwrap(), 5, "an empty commit takes a seq");
        drop(writer);
        store.close().await.unwrap();
        assert!(matches!(store.writer(&org(1), &[]).await, Err(StoreError::Closed)));
    }
    let store = open(dir.path());
    let reader = store.reader(&org(1)).await.unwrap();
    assert_eq!(*reader.durable().borrow(), 5);
    let snapshot = reader.snapshot().await.unwrap();
    let expected = [(b"b".to_vec(), big), (b"c".to_vec(), b"2".to_vec()), (b"e".to_vec(), b"5".to_vec())];
    assert_eq!(all(&snapshot, TABLE), expected);
    assert_eq!(snapshot.get(TABLE, b"c").unwrap().unwrap(), "2");
    assert_eq!(snapshot.get(TABLE, b"d").unwrap(), None);
    check_gapless(&snapshot);
    let transaction = snapshot.transaction(2).unwrap().unwrap();
    assert_eq!(transaction.principal, "account/01arz3ndektsv4rrffq69g5fav");
    assert_eq!(transaction.origin.as_ref().unwrap().peer, "192.0.2.1");
    assert_eq!(transaction.request_id, "r1");
    assert_eq!(transaction.changes.len(), 4);
    assert_eq!(store.writer(&org(1), &[]).await.unwrap().next_seq(), 6);
}

#[tokio::test]
async fn nothing_is_visible_before_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    writer.submit(commit(&[(b"k", Some(b"old"))])).await.unwrap();
    let reader = writer.reader();
    let before = reader.snapshot().await.unwrap();
    let durable = reader.durable();
    let mut tickets = Vec::new();
    for n in 2..=50u64 {
        tickets.push(writer.submit(commit(&[(b"k", Some(&n.to_be_bytes()))])));
        // Whatever a reader sees is a transaction's whole state.
        let snapshot = reader.snapshot().await.unwrap();
        let row = snapshot.get(TABLE, b"k").unwrap().unwrap();
        match snapshot.seq().unwrap() {
            1 => assert_eq!(row, "old"),
            seq => assert_eq!(row, seq.to_be_bytes().as_slice()),
        }
        assert!(snapshot.seq().unwrap() <= writer.live().seq().unwrap());
        // The owner sees what it submitted, at once.
        assert_eq!(writer.live().get(TABLE, b"k").unwrap().unwrap(), n.to_be_bytes().as_slice());
        assert_eq!(writer.live().seq().unwrap(), n);
        assert_eq!(writer.live().transaction(n).unwrap().unwrap().seq, n);
    }
    for (ticket, seq) in tickets.into_iter().zip(2..) {
        assert_eq!(ticket.await.unwrap(), seq);
        assert!(*durable.borrow() >= seq, "published before the ticket");
        assert!(reader.snapshot().await.unwrap().seq().unwrap() >= seq);
    }
    assert_eq!(before.get(TABLE, b"k").unwrap().unwrap(), "old", "a snapshot stays as it is");
    assert_eq!(before.seq().unwrap(), 1);
}

#[tokio::test]
async fn an_address_that_never_committed_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let reader = store.reader(&org(9)).await.unwrap();
    let snapshot = reader.snapshot().await.unwrap();
    assert_eq!((snapshot.seq().unwrap(), all(&snapshot, TABLE).len()), (0, 0));
    assert!(store.try_reader_snapshot(&org(9)).is_none());
    assert_eq!(store.observe().vaults, 0, "reading makes nothing");
    let mut writer = store.writer(&org(9), &[]).await.unwrap();
    assert_eq!(writer.live().seq().unwrap(), 0);
    assert!(writer.live().get(TABLE, b"a").unwrap().is_none());
    assert_eq!(store.observe().vaults, 0, "nor does a writer without a commit");
    let mut durable = reader.durable();
    writer.submit(commit(&[(b"a", Some(b"1"))])).await.unwrap();
    assert_eq!(store.observe().vaults, 1);
    assert_eq!(*durable.wait_for(|seq| *seq == 1).await.unwrap(), 1);
    assert_eq!(store.try_reader_snapshot(&org(9)).unwrap().seq().unwrap(), 1);
}

#[tokio::test]
async fn an_address_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    let error = store.writer(&org(1), &[]).await.err().unwrap();
    assert!(matches!(error, StoreError::Busy(_)), "{error}");
    assert_eq!(Refusal::from(error).code, canopy_domain::Code::Unavailable);
    // A writer that takes over finds what the last one left under way.
    let ticket = writer.submit(commit(&[(b"a", Some(b"1"))]));
    drop(writer);
    let writer = store.writer(&org(1), &[]).await.unwrap();
    assert_eq!((writer.next_seq(), ticket.await.unwrap()), (2, 1));
}

#[tokio::test]
async fn tables_of_the_store_are_not_for_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    let mut bad = commit(&[(b"a", Some(b"1"))]);
    bad.changes[0].table = 0xFF00;
    assert!(matches!(writer.submit(bad).await, Err(StoreError::ReservedTable(0xFF00))));
    assert_eq!(writer.submit(commit(&[(b"a", Some(b"1"))])).await.unwrap(), 1, "and cost no seq");
    assert!(writer.live().get(0xFF00, b"").unwrap().is_none());
}
