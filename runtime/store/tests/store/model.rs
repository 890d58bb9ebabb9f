//! Scans over durable and pending rows, against a map.

use std::collections::BTreeMap;

use canopy_domain::{Order, Reader, Span};
use proptest::prelude::*;

use crate::fixture::{TABLE, commit, open, org};

#[derive(Debug, Clone)]
struct Scan {
    prefix: Vec<u8>,
    after: Option<Vec<u8>>,
    descending: bool,
    limit: usize,
}

impl Scan {
    fn span(&self) -> Span<'_> {
        let order = if self.descending { Order::Descending } else { Order::Ascending };
        Span { prefix: &self.prefix, after: self.after.as_deref(), order, limit: self.limit }
    }

    fn of(&self, model: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let beyond = |key: &Vec<u8>| match &self.after {
            None => true,
            Some(after) if self.descending => key < after,
            Some(after) => key > after,
        };
        let rows = model.iter().filter(|(key, _)| key.starts_with(&self.prefix) && beyond(key));
        let mut rows: Vec<_> = rows.map(|(k, v)| (k.clone(), v.clone())).collect();
        if self.descending {
            rows.reverse();
        }
        rows.truncate(self.limit);
        rows
    }
}

/// Few bytes, the extremes among them, so that keys meet.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x7F, 0xFE, 0xFF]), 0..4)
}

fn scan() -> impl Strategy<Value = Scan> {
    let prefix = prop::collection::vec(prop::sample::select(vec![0u8, 1, 0xFF]), 0..3);
    (prefix, prop::option::of(key()), any::<bool>(), 0..12usize).prop_map(|(prefix, after, descending, limit)| Scan {
        prefix,
        after,
        descending,
        limit,
    })
}

type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn writes() -> impl Strategy<Value = Vec<(Writes, bool)>> {
    let value = prop::collection::vec(any::<u8>(), 0..8);
    let write = (key(), prop::option::weighted(0.7, value));
    prop::collection::vec((prop::collection::vec(write, 0..6), any::<bool>()), 1..12)
}

fn rows(reader: &dyn Reader, scan: &Scan) -> Vec<(Vec<u8>, Vec<u8>)> {
    let found = reader.scan(TABLE, scan.span()).unwrap();
    found.into_iter().map(|(key, row)| (key.to_vec(), row.to_vec())).collect()
}

fn row(reader: &dyn Reader, key: &[u8]) -> Option<Vec<u8>> {
    reader.get(TABLE, key).unwrap().map(|row| row.to_vec())
}

/// More than an owner makes before it keeps rows.
const WARM_UP_COMMITS: usize = 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn scans_agree_with_a_map(commits in writes(), scans in prop::collection::vec(scan(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            let mut writer = store.writer(&org(1), &[]).await.unwrap();
            // A neighbour in the same tables must never show.
            let mut neighbour = store.writer(&org(2), &[]).await.unwrap();
            neighbour.submit(commit(&[(b"", Some(b"theirs")), (&[0xFF; 3], Some(b"theirs"))])).await.unwrap();
            // An owner that has worked for a while keeps what it reads.
            for _ in 0..WARM_UP_COMMITS {
                writer.submit(commit(&[])).await.unwrap();
            }
            let mut model = BTreeMap::new();
            for (writes, wait) in &commits {
                for (key, _) in writes {
                    assert_eq!(row(&writer.live(), key), model.get(key).cloned(), "before {key:?}");
                }
                let changes: Vec<_> = writes.iter().map(|(k, v)| (k.as_slice(), v.as_deref())).collect();
                let ticket = writer.submit(commit(&changes));
                for (key, value) in writes {
                    match value {
                        Some(value) => drop(model.insert(key.clone(), value.clone())),
                        None => drop(model.remove(key)),
                    }
                }
                for (key, _) in writes {
                    assert_eq!(row(&writer.live(), key), model.get(key).cloned(), "after {key:?}");
                }
                if *wait {
                    ticket.await.unwrap();
                }
                for scan in &scans {
                    assert_eq!(rows(&writer.live(), scan), scan.of(&model), "live {scan:?}");
                }
            }
            writer.barrier().await.unwrap();
            let snapshot = writer.reader().snapshot().await.unwrap();
            assert_eq!(snapshot.seq().unwrap(), (WARM_UP_COMMITS + commits.len()) as u64);
            for scan in &scans {
                assert_eq!(rows(&snapshot, scan), scan.of(&model), "durable {scan:?}");
            }
        });
    }
}
