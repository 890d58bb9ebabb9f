//! A partition's whole life against a model: commits in flight and durable, first answers, snapshots that are
//! kept, a feed that is followed and trimmed, views that are made again, owners that come and go, and restarts in
//! between.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use canopy_domain::{Address, Change, Order, Reader, Source, Span, View, ViewWrite};
use canopy_proto::system::v1::RequestRecord;
use canopy_store::{Commit, RequestKey, Snapshot, Store, StoreOptions, VaultReport, Writer, salvage, verify};
use proptest::prelude::*;

use crate::fixture::{TABLE, all, commit, open, options, org, put};

/// From one commit to the next, in milliseconds.
const STEP_MS: i64 = 1_000;
/// How long a feed is kept, in milliseconds.
const RETENTION_MS: i64 = 1_000_000;

/// Rows as they stand.
const MIRROR: View = View { id: View::FIRST_ID, name: "mirror", version: 1, source: Source::Rows, apply: mirror };
/// Pointers to changes.
const POINTERS: View =
    View { id: View::FIRST_ID + 1, name: "pointers", version: 1, source: Source::Changes, apply: point };

fn mirror(_: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    let key = change.key.clone();
    writes.push(match &change.after {
        Some(after) => ViewWrite::Put { key, value: after.clone() },
        None => ViewWrite::Delete { key },
    });
}

fn point(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    writes.push(ViewWrite::Put { key: pointer(&change.key, seq, n), value: Bytes::new() });
}

fn pointer(key: &[u8], seq: u64, n: u32) -> Vec<u8> {
    [key, &seq.to_be_bytes(), &n.to_be_bytes()].concat()
}

fn views(version: u32) -> [View; 2] {
    [View { version, ..MIRROR }, View { version, ..POINTERS }]
}

fn time_ms(seq: u64) -> i64 {
    commit(&[]).time_ms + seq as i64 * STEP_MS
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
/// What a commit does, by key: the new row, or none.
type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

#[derive(Debug, Clone)]
enum Step {
    /// A command, perhaps with a request id, perhaps answered before the next.
    Command {
        writes: Writes,
        request: Option<u8>,
        wait: bool,
    },
    /// Keeps a snapshot, to be looked at again after each step.
    Keep,
    /// Reads the feed on from where that was left.
    Follow,
    /// Trims the feed but for its last `keep` entries; what is in flight may be older than those.
    Trim {
        keep: u64,
        wait: bool,
    },
    /// The owner goes, with what it has in flight, and another comes; its vault may be closed in between, and its
    /// views may be of another version.
    Passivate {
        evict: bool,
        rebuild: bool,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    // Short values, and such as are worth compressing.
    let row =
        prop_oneof![prop::collection::vec(any::<u8>(), 0..6), (any::<u8>(), 1..400usize).prop_map(|(b, n)| vec![b; n])];
    let key = prop::collection::vec(0..3u8, 0..3);
    let writes = prop::collection::btree_map(key, prop::option::weighted(0.7, row), 0..5);
    prop_oneof![
        8 => (writes, prop::option::of(0..6u8), any::<bool>())
            .prop_map(|(writes, request, wait)| Step::Command { writes, request, wait }),
        2 => Just(Step::Keep),
        2 => Just(Step::Follow),
        2 => (0..6u64, any::<bool>()).prop_map(|(keep, wait)| Step::Trim { keep, wait }),
        1 => any::<(bool, bool)>().prop_map(|(evict, rebuild)| Step::Passivate { evict, rebuild }),
        1 => Just(Step::Restart),
    ]
}

/// What the partition has to be.
#[derive(Default)]
struct Model {
    /// By seq, from 0 on: the rows behind it.
    states: Vec<Rows>,
    /// By seq, from 1 on.
    writes: Vec<Writes>,
    /// By request, the seq that answered it.
    answered: BTreeMap<u8, u64>,
    /// Up to where the feed was followed.
    cursor: u64,
    /// The last transaction that was let go of.
    trimmed: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.writes.len() as u64
    }

    /// What points to changes that are kept.
    fn pointers(&self, first: u64, last: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let keys =
            |seq: u64| (0u32..).zip(self.writes[seq as usize - 1].keys()).map(move |(n, key)| pointer(key, seq, n));
        let mut pointers: Vec<_> = (first..=last).flat_map(keys).map(|key| (key, Vec::new())).collect();
        pointers.sort();
        pointers
    }

    fn commit(&mut self, writes: &Writes) -> u64 {
        let mut rows = self.states[self.writes.len()].clone();
        for (key, row) in writes {
            match row {
                Some(row) => drop(rows.insert(key.clone(), row.clone())),
                None => drop(rows.remove(key)),
            }
        }
        self.states.push(rows);
        self.writes.push(writes.clone());
        self.last()
    }
}

fn request_key(request: u8) -> RequestKey {
    RequestKey::new("account/x", "Method", &request.to_string())
}

fn answer(request: u8) -> RequestRecord {
    RequestRecord { payload_digest: vec![request; 16].into(), reply: vec![request; 9].into(), seq: 0 }
}

fn rows(reader: &dyn Reader) -> Rows {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: usize::MAX };
    let found = reader.scan(TABLE, span).unwrap();
    found.into_iter().map(|(key, row)| (key.to_vec(), row.to_vec())).collect()
}

/// One vault open at a time, where that can be.
fn few(dir: &Path) -> StoreOptions {
    StoreOptions { open_vaults_max: 1, feed_retention_ms: RETENTION_MS, ..options(dir) }
}

fn reopen(dir: &Path) -> Store {
    Store::open(few(dir)).unwrap()
}

struct Life {
    store: Store,
    writer: Option<Writer>,
    kept: Vec<Snapshot>,
    model: Model,
    version: u32,
}

impl Life {
    async fn snapshot(&self) -> Snapshot {
        self.store.reader(&org(1)).await.unwrap().snapshot().await.unwrap()
    }

    async fn command(&mut self, writes: &Writes, request: Option<u8>, wait: bool) {
        let writer = self.writer.as_mut().unwrap();
        let mut record = None;
        if let Some(request) = request {
            let key = request_key(request);
            let first = writer.request_record(&key, time_ms(writer.next_seq())).unwrap();
            let expected = self.model.answered.get(&request).map(|seq| RequestRecord { seq: *seq, ..answer(request) });
            assert_eq!(first, expected, "the first answer to request {request}");
            if first.is_some() {
                return;
            }
            record = Some((key, answer(request)));
        }
        let changes: Vec<_> = writes.iter().map(|(key, row)| (key.as_slice(), row.as_deref())).collect();
        let time_ms = time_ms(writer.next_seq());
        let ticket = writer.submit(Commit { record, time_ms, ..commit(&changes) });
        let seq = self.model.commit(writes);
        if let Some(request) = request {
            self.model.answered.insert(request, seq);
        }
        if wait {
            assert_eq!(ticket.await.unwrap(), seq);
            assert!(self.snapshot().await.seq().unwrap() >= seq, "what was answered is durable");
        }
    }

    async fn follow(&mut self) {
        let snapshot = self.snapshot().await;
        let end = snapshot.seq().unwrap();
        let cursor = self.model.cursor.max(snapshot.floor().unwrap() - 1);
        for seq in cursor + 1..=end {
            let transaction = snapshot.transaction(seq).unwrap().expect("a feed has no gaps");
            let changes = transaction.changes.into_iter();
            let found: Writes = changes.map(|c| (c.key.to_vec(), c.after.map(|row| row.to_vec()))).collect();
            assert_eq!((transaction.seq, &found), (seq, &self.model.writes[seq as usize - 1]));
        }
        assert!(snapshot.transaction(end + 1).unwrap().is_none());
        self.model.cursor = end;
    }

    async fn trim(&mut self, keep: u64, wait: bool) {
        let writer = self.writer.as_mut().unwrap();
        if wait {
            writer.barrier().await.unwrap();
        }
        let last = self.model.last();
        let trimmed = writer.trim_feed(time_ms(last.saturating_sub(keep)) + RETENTION_MS).unwrap();
        let wanted = last.saturating_sub(keep).saturating_sub(self.model.trimmed);
        assert!(trimmed.entries <= wanted && (!wait || trimmed.entries == wanted), "{} of {wanted}", trimmed.entries);
        self.model.trimmed += trimmed.entries;
        assert_eq!(writer.feed_floor(), self.model.trimmed + 1);
        if wait {
            trimmed.ticket.await.unwrap();
            assert_eq!(self.snapshot().await.floor().unwrap(), self.model.trimmed + 1);
        }
    }

    async fn restart(self, dir: &Path) -> Self {
        let Self { store, writer, kept, model, version } = self;
        // In flight or not: closing waits for it.
        drop((writer, kept));
        store.close().await.unwrap();
        drop(store);
        let store = reopen(dir);
        let writer = Some(store.writer(&org(1), &views(version)).await.unwrap());
        let life = Self { store, writer, kept: Vec::new(), model, version };
        let snapshot = life.snapshot().await;
        assert_eq!(snapshot.seq().unwrap(), life.model.last(), "all of it came through");
        assert_eq!(snapshot.floor().unwrap(), life.model.trimmed + 1, "and what went is gone");
        assert_eq!(snapshot.check_feed().unwrap(), life.model.last() - life.model.trimmed);
        drop(snapshot);
        life
    }

    async fn check(&self) {
        let writer = self.writer.as_ref().unwrap();
        assert_eq!(writer.next_seq(), self.model.last() + 1);
        let live = writer.live();
        let (last, first) = (self.model.last(), self.model.trimmed + 1);
        assert_eq!(rows(&live), self.model.states[last as usize], "with what is in flight");
        assert_eq!(all(&live, MIRROR.id), all(&live, TABLE));
        assert_eq!(all(&live, POINTERS.id), self.model.pointers(first, last));
        assert_eq!(live.floor().unwrap(), first);
        assert!(live.transaction(first - 1).unwrap().is_none());
        let now = self.snapshot().await;
        for snapshot in self.kept.iter().chain([&now]) {
            let seq = snapshot.seq().unwrap();
            assert!(seq <= self.model.last());
            assert_eq!(rows(snapshot), self.model.states[seq as usize], "a snapshot at {seq}");
            assert_eq!(all(snapshot, MIRROR.id), all(snapshot, TABLE), "a snapshot at {seq}");
            let first = snapshot.floor().unwrap();
            assert!(first <= self.model.trimmed + 1);
            assert_eq!(all(snapshot, POINTERS.id), self.model.pointers(first, seq), "from {first} to {seq}");
            assert!(snapshot.transaction(first - 1).unwrap().is_none());
            assert!((first..=seq).all(|seq| snapshot.transaction(seq).unwrap().is_some()), "from {first} to {seq}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_partition_is_what_its_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            drop(open(dir.path()));
            let store = reopen(dir.path());
            let writer = Some(store.writer(&org(1), &views(1)).await.unwrap());
            let model = Model { states: vec![Rows::new()], ..Model::default() };
            let mut life = Life { store, writer, kept: Vec::new(), model, version: 1 };
            for step in &steps {
                match step {
                    Step::Command { writes, request, wait } => life.command(writes, *request, *wait).await,
                    Step::Keep => life.kept.push(life.snapshot().await),
                    Step::Follow => life.follow().await,
                    Step::Trim { keep, wait } => life.trim(*keep, *wait).await,
                    Step::Passivate { evict, rebuild } => {
                        life.writer = None;
                        life.version += u32::from(*rebuild);
                        if *evict {
                            life.kept.clear();
                            put(&life.store, &org(2), b"another vault").await;
                        }
                        life.writer = Some(life.store.writer(&org(1), &views(life.version)).await.unwrap());
                    }
                    Step::Restart => life = life.restart(dir.path()).await,
                }
                life.check().await;
            }
            let mut life = life.restart(dir.path()).await;
            life.follow().await;
            life.check().await;
            let Life { store, writer, kept, .. } = life;
            drop((writer, kept));
            store.close().await.unwrap();
            drop(store);
            let views_of = |address: &Address| if *address == org(1) { views(1).to_vec() } else { Vec::new() };
            let mut found = Vec::new();
            verify(few(dir.path()), &views_of, |report| found.push(report)).await.unwrap();
            assert!(found.iter().all(VaultReport::is_sound), "{found:?}");
            let mut salvaged = Vec::new();
            salvage(few(dir.path()), &dir.path().join("salvaged"), |report| salvaged.push(report.found)).await.unwrap();
            assert_eq!(salvaged, found, "all of it is taken over as it is");
        });
    }
}
