//! Directories, addresses and commits for the tests.

use std::path::Path;

use bytes::Bytes;
use canopy_domain::{Address, Change, Id, Order, Reader, Secret, Span};
use canopy_proto::system::v1::Origin;
use canopy_store::{Commit, Store, StoreOptions, Unlock};

pub(crate) const TABLE: u16 = 1;
pub(crate) const KEY: &str = "5d1c0b7a3f2e4d6c8b9a0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a";

pub(crate) fn options(dir: &Path) -> StoreOptions {
    StoreOptions::new(dir.join("data"), Unlock::Key(Secret::new(KEY)))
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(options(dir)).unwrap()
}

pub(crate) fn org(n: u8) -> Address {
    Address::org(Id::from_bytes([n; 16]))
}

/// Sets the row `a` of an address in a commit of its own; gives its seq.
pub(crate) async fn put(store: &Store, address: &Address, value: &[u8]) -> u64 {
    let mut writer = store.writer(address, &[]).await.unwrap();
    writer.submit(commit(&[(b"a", Some(value))])).await.unwrap()
}

/// What [`commit`] changes: keys, and their rows; none for a removal.
pub(crate) type Rows<'a> = &'a [(&'a [u8], Option<&'a [u8]>)];

pub(crate) fn commit(rows: Rows<'_>) -> Commit {
    let change = |(key, after): &(&[u8], Option<&[u8]>)| Change {
        table: TABLE,
        key: key.to_vec(),
        before: None,
        after: after.map(Bytes::copy_from_slice),
        schema_version: 1,
        of_subject: false,
    };
    Commit {
        time_ms: 1_700_000_000_000,
        principal: "account/01arz3ndektsv4rrffq69g5fav".into(),
        origin: Origin { peer: "192.0.2.1".into(), client: "test".into(), session: String::new() },
        request_id: "r1".into(),
        method: "canopy.test.v1.Test/Write",
        changes: rows.iter().map(change).collect(),
        effects: Vec::new(),
        wake_at_ms: None,
        shreds: Vec::new(),
        record: None,
    }
}

/// As [`commit`], of rows whose keys start with a subject's id.
pub(crate) fn about(rows: Rows<'_>) -> Commit {
    let mut commit = commit(rows);
    commit.changes.iter_mut().for_each(|change| change.of_subject = true);
    commit
}

pub(crate) fn all(reader: &dyn Reader, table: u16) -> Vec<(Vec<u8>, Vec<u8>)> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: usize::MAX };
    let rows = reader.scan(table, span).unwrap();
    rows.into_iter().map(|(key, row)| (key.to_vec(), row.to_vec())).collect()
}

/// That the feed has every seq from its floor to its end, and no other.
pub(crate) fn check_gapless(reader: &dyn Reader) {
    let floor = reader.floor().unwrap();
    for seq in floor..=reader.seq().unwrap() {
        assert_eq!(reader.transaction(seq).unwrap().unwrap().seq, seq);
    }
    assert!(reader.transaction(reader.seq().unwrap() + 1).unwrap().is_none());
    assert!(reader.transaction(floor - 1).unwrap().is_none());
}
