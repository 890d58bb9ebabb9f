//! Opens a directory after an attack and compares all of it with what its victims were promised.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use bytes::Bytes;
use canopy_domain::{Address, Change, Order, Reader, Refusal, Source, Span};
use canopy_proto::system::v1::Transaction;
use canopy_store::{Commit, Snapshot, Store, StoreError, Writer};
use serde::{Deserialize, Serialize};

use super::finding::{Finding, Kind, Verdict};
use super::history::{History, Past};
use super::plan::{self, Rows};
use super::victim;

/// What to inspect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inspection {
    pub dir: PathBuf,
    /// The lines of all its victims.
    pub log: PathBuf,
    pub seed: u64,
    /// The life whose views are expected.
    pub life: u64,
    /// Commits to each healthy partition afterwards, which nobody records: for copies.
    pub probe: bool,
    /// Whether bits were flipped: what only removes is in no feed, so that a damaged removal is not missed. What was
    /// trimmed may stand again, as it was, where nobody reads it.
    pub rotten: bool,
    /// Makes views again, of rows and by replaying each feed, chain and all.
    pub replay: bool,
}

/// More effects than any partition has pending.
const EFFECTS_MAX: usize = 1_000_000;
/// The life of what inspections themselves write.
const PROBE_LIFE: u64 = 1 << 40;

/// Inspects; the store is closed again when this returns.
pub async fn inspect(inspection: &Inspection) -> Verdict {
    let mut verdict = Verdict::default();
    let history = match std::fs::read_to_string(&inspection.log) {
        Ok(text) => History::parse(&text),
        Err(error) => {
            verdict.findings.push(Finding::new(Kind::Unnamed, format!("the log cannot be read: {error}")));
            return verdict;
        }
    };
    let options = victim::options(&inspection.dir, 1 << 20);
    let opened = tokio::task::spawn_blocking(move || Store::open(options)).await;
    let store = match opened {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => {
            verdict.refused = Some(error.to_string());
            return verdict;
        }
        Err(error) => {
            verdict.findings.push(Finding::new(Kind::Panic, format!("while the store was opened: {error}")));
            return verdict;
        }
    };
    let addresses = plan::addresses(inspection.seed);
    for (partition, past) in &history.partitions {
        let Some(address) = addresses.get(*partition) else { continue };
        let mut look = Look { inspection, address, partition: *partition, past, verdict: &mut verdict };
        if let Err(trouble) = look.inspect(&store).await {
            look.note(trouble);
        }
    }
    let state = store.observe();
    verdict.quarantined.extend(state.quarantined.into_iter().map(|vault| (vault.vault, vault.reason)));
    settle_unnamed(&mut verdict);
    if let Err(error) = store.close().await {
        verdict.findings.push(Finding::new(Kind::Hang, format!("the store does not close: {error}")));
    }
    verdict
}

/// Damage that was reported under a vault's name is fine where that vault is in quarantine now.
fn settle_unnamed(verdict: &mut Verdict) {
    let quarantined = &verdict.quarantined;
    verdict.findings.retain(|finding| {
        let named = vault_named(&finding.text).is_some_and(|vault| quarantined.contains_key(vault));
        !(finding.kind == Kind::Unnamed && named)
    });
}

/// The vault that an error's text names.
fn vault_named(text: &str) -> Option<&str> {
    text.split_once("vault `")?.1.split_once('`').map(|(vault, _)| vault)
}

/// Why a look at a partition ended early.
enum Trouble {
    Refused(String),
    Found(Finding),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<Refusal> for Trouble {
    fn from(error: Refusal) -> Self {
        Self::Refused(error.message)
    }
}

impl From<Finding> for Trouble {
    fn from(finding: Finding) -> Self {
        Self::Found(finding)
    }
}

/// A partition as its feed says it is.
#[derive(Default)]
struct Replay {
    rows: Rows,
    views: [BTreeMap<Vec<u8>, Bytes>; 2],
    /// The seq of each operation.
    ops: HashMap<u64, u64>,
    effects: BTreeMap<(u64, u32), Bytes>,
    wake_at_ms: Option<i64>,
    floor: u64,
    last: u64,
}

struct Look<'a> {
    inspection: &'a Inspection,
    address: &'a Address,
    partition: usize,
    past: &'a Past,
    verdict: &'a mut Verdict,
}

impl Look<'_> {
    fn found(&mut self, kind: Kind, text: impl std::fmt::Display) {
        let text = format!("partition {} ({}): {text}", self.partition, self.address);
        self.verdict.findings.push(Finding::new(kind, text));
    }

    fn note(&mut self, trouble: Trouble) {
        match trouble {
            // Settled at the end, when it is known what is in quarantine.
            Trouble::Refused(text) => self.found(Kind::Unnamed, text),
            Trouble::Found(finding) => self.found(finding.kind, finding.text),
        }
    }

    async fn inspect(&mut self, store: &Store) -> Result<(), Trouble> {
        let snapshot = store.reader(self.address).await?.snapshot().await?;
        let replay = self.feed(&snapshot)?;
        self.acknowledged(&replay);
        self.rows(&snapshot, &replay)?;
        drop(snapshot);
        let version = victim::view_version(self.inspection.life);
        let writer = store.writer(self.address, &plan::views(version)).await?;
        self.writer(&writer, &replay, version)?;
        drop(writer);
        if self.inspection.replay {
            // Another version is made again from the feed, each link of its chain checked.
            let other = version + 100;
            let writer = store.writer(self.address, &plan::views(other)).await?;
            self.views(&writer.live(), &replay, other)?;
        }
        if self.inspection.probe {
            self.probe(store, &replay).await?;
        }
        Ok(())
    }

    /// Reads the feed from its floor, behind what is known to have stood below; every transaction must be
    /// one that was submitted, on the rows that those before it left.
    fn feed(&mut self, snapshot: &Snapshot) -> Result<Replay, Trouble> {
        let (last, floor) = (snapshot.seq()?, snapshot.floor()?);
        let mut replay = Replay { last, floor, ..Replay::default() };
        if floor < self.past.floor {
            self.found(Kind::Lost, format!("the feed was trimmed up to {}, and begins at {floor}", self.past.floor));
        }
        for seq in 1..floor {
            let Some(op) = self.past.trimming.get(&seq) else {
                return Err(Finding::new(Kind::Lost, format!("nobody trimmed {seq}, and the floor is {floor}")).into());
            };
            match snapshot.transaction(seq)? {
                Some(transaction) if self.inspection.rotten => {
                    self.transaction(seq, &transaction, &mut replay)?;
                    continue;
                }
                Some(_) => self.found(Kind::Misread, format!("transaction {seq} is there, below the floor {floor}")),
                None => {}
            }
            self.expected(seq, *op, &mut replay)?;
        }
        for seq in floor..=last {
            let Some(transaction) = snapshot.transaction(seq)? else {
                return Err(Finding::new(Kind::Lost, format!("the feed has a gap at {seq} of {last}")).into());
            };
            self.transaction(seq, &transaction, &mut replay)?;
            self.verdict.transactions += 1;
        }
        if snapshot.transaction(last + 1)?.is_some() {
            self.found(Kind::Misread, format!("the feed goes on behind its end, {last}"));
        }
        Ok(replay)
    }

    fn transaction(&mut self, seq: u64, transaction: &Transaction, replay: &mut Replay) -> Result<(), Trouble> {
        let misread = |text: String| Trouble::Found(Finding::new(Kind::Misread, text));
        let Some(op) = plan::op_of(&transaction.request_id) else {
            return Err(misread(format!("transaction {seq} is none of ours: `{}`", transaction.request_id)));
        };
        let intended = self.past.intents.get(&op).is_some_and(|seqs| seqs.contains(&seq));
        if !intended {
            self.found(Kind::Misread, format!("transaction {seq} holds operation {op}, which was not submitted there"));
        }
        let expected = self.expected(seq, op, replay)?;
        let is_same = transaction.seq == seq
            && transaction.time_ms == expected.time_ms
            && transaction.principal == expected.principal
            && transaction.origin.as_ref() == Some(&expected.origin)
            && transaction.method == expected.method
            && transaction.changes.len() == expected.changes.len()
            && transaction.changes.iter().zip(&expected.changes).all(|(found, expected)| {
                found.table == u32::from(expected.table)
                    && found.key == expected.key
                    && found.before == expected.before
                    && found.after == expected.after
                    && found.schema_version == expected.schema_version
            });
        if !is_same {
            return Err(misread(format!("transaction {seq} is not operation {op} as it was submitted")));
        }
        Ok(())
    }

    /// Operation `op` as transaction `seq`, behind those that were replayed.
    fn expected(&mut self, seq: u64, op: u64, replay: &mut Replay) -> Result<Commit, Trouble> {
        if let Some(first) = replay.ops.insert(op, seq) {
            self.found(Kind::Doubled, format!("operation {op} is transaction {first} and {seq}"));
        }
        let rows = &replay.rows;
        let read = |table, key: &[u8]| Ok::<_, Trouble>(rows.get(&(table, key.to_vec())).cloned());
        let expected = plan::commit(self.inspection.seed, self.partition, op, seq, read)?;
        let views = plan::views(1);
        for (n, change) in (0u32..).zip(&expected.changes) {
            for (view, rows) in views.iter().zip(&mut replay.views) {
                if seq >= replay.floor || view.source == Source::Rows {
                    plan::apply_view(view, seq, n, change, rows);
                }
            }
            apply(change, &mut replay.rows);
        }
        for (n, effect) in (0u32..).zip(&expected.effects) {
            replay.effects.insert((seq, n), effect.request.clone());
        }
        replay.wake_at_ms = expected.wake_at_ms.or(replay.wake_at_ms);
        Ok(expected)
    }

    fn acknowledged(&mut self, replay: &Replay) {
        for (seq, op) in &self.past.acknowledged {
            match replay.ops.get(op) {
                Some(found) if found == seq => {}
                Some(found) => {
                    self.found(Kind::Misread, format!("operation {op} was acknowledged as {seq} and is {found}"));
                }
                None => {
                    let last = replay.last;
                    self.found(Kind::Lost, format!("operation {op}, acknowledged as {seq}; the feed ends at {last}"));
                }
            }
        }
    }

    /// Rows by scan and by key, those too that must not be there.
    fn rows(&mut self, reader: &dyn Reader, replay: &Replay) -> Result<(), Trouble> {
        for table in plan::TABLES {
            let found: BTreeMap<Vec<u8>, Bytes> = all(reader, table)?;
            let rows = replay.rows.iter().filter(|((of, _), _)| *of == table);
            let expected: BTreeMap<Vec<u8>, Bytes> = rows.map(|((_, key), row)| (key.clone(), row.clone())).collect();
            self.compare(&format!("table {table}"), &expected, &found);
            for key in plan::row_keys() {
                if reader.get(table, &key)? != expected.get(&key).cloned() {
                    self.found(Kind::Misread, format!("table {table}, key {key:02x?}: read by itself"));
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, what: &str, expected: &BTreeMap<Vec<u8>, Bytes>, found: &BTreeMap<Vec<u8>, Bytes>) {
        if expected != found {
            let missing = expected.keys().filter(|key| !found.contains_key(*key)).count();
            let stray = found.keys().filter(|key| !expected.contains_key(*key)).count();
            let wrong = expected.iter().filter(|(key, row)| found.get(*key).is_some_and(|found| found != *row)).count();
            let of = expected.len();
            self.found(
                Kind::Misread,
                format!("{what}: of {of} rows {missing} are missing, {wrong} wrong, and {stray} stray"),
            );
        }
    }

    fn views(&mut self, reader: &dyn Reader, replay: &Replay, version: u32) -> Result<(), Trouble> {
        for (view, expected) in plan::views(version).iter().zip(&replay.views) {
            let found = all(reader, view.id)?;
            self.compare(&format!("view `{}` {version}", view.name), expected, &found);
        }
        Ok(())
    }

    /// What only an owner sees: first answers, effects, wishes.
    fn writer(&mut self, writer: &Writer, replay: &Replay, version: u32) -> Result<(), Trouble> {
        let (seed, partition, last) = (self.inspection.seed, self.partition, replay.last);
        if writer.next_seq() != last + 1 {
            self.found(Kind::Misread, format!("the writer goes on at {}, the feed at {last}", writer.next_seq()));
        }
        self.views(&writer.live(), replay, version)?;
        for op in self.past.intents.keys() {
            let found = writer.request_record(&plan::request_key(partition, *op), plan::time_ms(last))?;
            let seq = replay.ops.get(op).copied();
            let expected = plan::reply(seed, partition, *op).zip(seq).map(|(mut record, seq)| {
                record.seq = seq;
                record
            });
            if found != expected {
                let found = found.map(|record| record.seq);
                self.found(Kind::Misread, format!("operation {op} at {seq:?}: its first answer is {found:?}"));
            }
        }
        let pending = writer.pending_effects(EFFECTS_MAX)?;
        let pending: BTreeMap<_, _> = pending.into_iter().map(|e| ((e.seq, e.n), e.effect.request)).collect();
        for (place, effect) in &replay.effects {
            match pending.get(place) {
                Some(found) if self.past.completed.contains(place) => {
                    let _ = found;
                    self.found(Kind::Doubled, format!("effect {place:?} was completed, and is pending again"));
                }
                Some(found) if found != effect => self.found(Kind::Misread, format!("effect {place:?} is another")),
                Some(_) => {}
                None if self.past.completing.contains(place) => {}
                None => self.found(Kind::Lost, format!("effect {place:?}")),
            }
        }
        for place in pending.keys().filter(|place| !replay.effects.contains_key(*place)) {
            self.found(Kind::Misread, format!("effect {place:?} comes from no transaction"));
        }
        if writer.wake_at_ms() != replay.wake_at_ms {
            let (found, expected) = (writer.wake_at_ms(), replay.wake_at_ms);
            self.found(Kind::Misread, format!("it asks to wake at {found:?}, not at {expected:?}"));
        }
        Ok(())
    }

    /// That it goes on.
    async fn probe(&mut self, store: &Store, replay: &Replay) -> Result<(), Trouble> {
        let mut writer = store.writer(self.address, &plan::views(1)).await?;
        let (op, seq) = (PROBE_LIFE, replay.last + 1);
        let live = writer.live();
        let commit = plan::commit(self.inspection.seed, self.partition, op, seq, |table, key| live.get(table, key))?;
        drop(live);
        writer.submit(commit).await?;
        let read = writer.reader().snapshot().await?.transaction(seq)?;
        if read.is_none_or(|read| plan::op_of(&read.request_id) != Some(op)) {
            self.found(Kind::Misread, format!("transaction {seq}, committed after the attack, is not there"));
        }
        Ok(())
    }
}

fn apply(change: &Change, rows: &mut Rows) {
    let place = (change.table, change.key.clone());
    match &change.after {
        Some(after) => drop(rows.insert(place, after.clone())),
        None => drop(rows.remove(&place)),
    }
}

fn all(reader: &dyn Reader, table: u16) -> Result<BTreeMap<Vec<u8>, Bytes>, Trouble> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: usize::MAX };
    let rows = reader.scan(table, span)?;
    Ok(rows.into_iter().map(|(key, row)| (key.to_vec(), row)).collect())
}
