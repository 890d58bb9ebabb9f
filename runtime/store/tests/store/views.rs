//! Views follow their feed, and are made again when their version changes.

use canopy_domain::{Change, Source, View, ViewWrite};

use crate::fixture::{all, commit, open, org};

const VIEW: u16 = View::FIRST_ID + 1;

/// By value, which keys have it; empty rows.
fn by_value(_: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    if let Some(before) = &change.before {
        writes.push(ViewWrite::Delete { key: [before.as_ref(), &change.key].concat() });
    }
    if let Some(after) = &change.after {
        writes.push(ViewWrite::Put { key: [after.as_ref(), &change.key].concat(), value: Default::default() });
    }
}

/// By key, the last change.
fn last_change(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    writes.push(ViewWrite::Put { key: change.key.clone(), value: format!("{seq}.{n}").into() });
}

const FIRST: View = View { id: VIEW, name: "test", version: 1, source: Source::Changes, apply: by_value };
const SECOND: View = View { id: VIEW, name: "test", version: 2, source: Source::Changes, apply: last_change };

fn rows(expected: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    expected.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_is_replayed_from_the_feed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[FIRST]).await.unwrap();
    let ticket = writer.submit(commit(&[(b"k", Some(b"red")), (b"l", Some(b"red"))]));
    assert_eq!(all(&writer.live(), VIEW), rows(&[("redk", ""), ("redl", "")]), "before it is durable");
    ticket.await.unwrap();
    let mut change = commit(&[(b"k", Some(b"blue"))]);
    change.changes[0].before = Some("red".into());
    writer.submit(change).await.unwrap();
    let expected = rows(&[("bluek", ""), ("redl", "")]);
    assert_eq!(all(&writer.live(), VIEW), expected);
    assert_eq!(all(&writer.reader().snapshot().await.unwrap(), VIEW), expected);
    // More than a chunk, to be dropped and replayed.
    for n in 0..600u32 {
        drop(writer.submit(commit(&[(&n.to_be_bytes(), Some(b"x"))])));
    }
    writer.barrier().await.unwrap();
    drop(writer);
    store.close().await.unwrap();
    drop(store);

    let store = open(dir.path());
    let writer = store.writer(&org(1), &[FIRST]).await.unwrap();
    assert_eq!(all(&writer.live(), VIEW).len(), 602, "the same version stays");
    drop(writer);
    let mut writer = store.writer(&org(1), &[SECOND]).await.unwrap();
    let found = all(&writer.reader().snapshot().await.unwrap(), VIEW);
    assert_eq!(found.len(), 602);
    assert!(found.contains(&rows(&[("k", "2.0")])[0]) && found.contains(&rows(&[("l", "1.1")])[0]));
    assert!(!found.contains(&rows(&[("redl", "")])[0]), "old rows are gone");
    assert_eq!(writer.next_seq(), 603, "a rebuild takes no seq");
    writer.submit(commit(&[(b"l", Some(b"y"))])).await.unwrap();
    assert!(all(&writer.live(), VIEW).contains(&rows(&[("l", "603.0")])[0]));
    drop(writer);
    // A view that is new to a partition with a feed.
    let other = View { id: VIEW + 1, ..FIRST };
    let writer = store.writer(&org(1), &[SECOND, other]).await.unwrap();
    assert_eq!(all(&writer.live(), VIEW + 1).len(), 603, "603 changes, 601 of them without `before`");
    assert_eq!(all(&writer.live(), VIEW).len(), 602);
}
