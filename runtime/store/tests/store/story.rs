//! A partition's whole life against a model: commits in flight and durable, first answers, snapshots that are
//! kept, a feed that is followed, owners that come and go, and restarts in between.

use std::collections::BTreeMap;
use std::path::Path;

use canopy_domain::{Order, Reader, Span};
use canopy_proto::system::v1::RequestRecord;
use canopy_store::{Commit, RequestKey, Snapshot, Store, Writer};
use proptest::prelude::*;

use crate::fixture::{TABLE, commit, open, options, org, put};

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
    /// The owner goes, with what it has in flight, and another comes; its vault may be closed in between.
    Passivate {
        evict: bool,
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
        1 => any::<bool>().prop_map(|evict| Step::Passivate { evict }),
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
}

impl Model {
    fn last(&self) -> u64 {
        self.writes.len() as u64
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
fn reopen(dir: &Path) -> Store {
    let mut few = options(dir);
    few.open_vaults_max = 1;
    Store::open(few).unwrap()
}

struct Life {
    store: Store,
    writer: Option<Writer>,
    kept: Vec<Snapshot>,
    model: Model,
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
            let first = writer.request_record(&key, commit(&[]).time_ms).unwrap();
            let expected = self.model.answered.get(&request).map(|seq| RequestRecord { seq: *seq, ..answer(request) });
            assert_eq!(first, expected, "the first answer to request {request}");
            if first.is_some() {
                return;
            }
            record = Some((key, answer(request)));
        }
        let changes: Vec<_> = writes.iter().map(|(key, row)| (key.as_slice(), row.as_deref())).collect();
        let ticket = writer.submit(Commit { record, ..commit(&changes) });
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
        for seq in self.model.cursor + 1..=end {
            let transaction = snapshot.transaction(seq).unwrap().expect("a feed has no gaps");
            let changes = transaction.changes.into_iter();
            let found: Writes = changes.map(|c| (c.key.to_vec(), c.after.map(|row| row.to_vec()))).collect();
            assert_eq!((transaction.seq, &found), (seq, &self.model.writes[seq as usize - 1]));
        }
        assert!(snapshot.transaction(end + 1).unwrap().is_none());
        self.model.cursor = end;
    }

    async fn restart(self, dir: &Path) -> Self {
        let Self { store, writer, kept, model } = self;
        // In flight or not: closing waits for it.
        drop((writer, kept));
        store.close().await.unwrap();
        drop(store);
        let store = reopen(dir);
        let writer = Some(store.writer(&org(1), &[]).await.unwrap());
        let life = Self { store, writer, kept: Vec::new(), model };
        assert_eq!(life.snapshot().await.seq().unwrap(), life.model.last(), "all of it came through");
        life
    }

    async fn check(&self) {
        let writer = self.writer.as_ref().unwrap();
        assert_eq!(writer.next_seq(), self.model.last() + 1);
        assert_eq!(rows(&writer.live()), self.model.states[self.model.writes.len()], "with what is in flight");
        let now = self.snapshot().await;
        for snapshot in self.kept.iter().chain([&now]) {
            let seq = snapshot.seq().unwrap();
            assert!(seq <= self.model.last());
            assert_eq!(rows(snapshot), self.model.states[seq as usize], "a snapshot at {seq}");
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
            let writer = Some(store.writer(&org(1), &[]).await.unwrap());
            let model = Model { states: vec![Rows::new()], ..Model::default() };
            let mut life = Life { store, writer, kept: Vec::new(), model };
            for step in &steps {
                match step {
                    Step::Command { writes, request, wait } => life.command(writes, *request, *wait).await,
                    Step::Keep => life.kept.push(life.snapshot().await),
                    Step::Follow => life.follow().await,
                    Step::Passivate { evict } => {
                        life.writer = None;
                        if *evict {
                            life.kept.clear();
                            put(&life.store, &org(2), b"another vault").await;
                        }
                        life.writer = Some(life.store.writer(&org(1), &[]).await.unwrap());
                    }
                    Step::Restart => life = life.restart(dir.path()).await,
                }
                life.check().await;
            }
            let mut life = life.restart(dir.path()).await;
            life.follow().await;
            life.check().await;
        });
    }
}
