//! What a victim writes. An operation's content follows from the seed, its partition, its number and
//! the rows it finds, so that whoever reads the feed later can tell what should be in it.

use std::collections::BTreeMap;

use bytes::Bytes;
use canopy_domain::{Address, Change, Effect, Id, Source, View, ViewWrite};
use canopy_proto::system::v1::{Origin, RequestRecord};
use canopy_store::{Commit, RequestKey};

use super::dice::Dice;

/// In every text that an operation writes; nowhere else on earth.
pub const PLANTED: &str = "planted-7q9z";
/// Tables that operations write.
pub const TABLES: [u16; 2] = [1, 7];
/// Rows that one table may have.
const KEYS: u64 = 24;
/// Milliseconds since 1970 of the first transaction: ten seconds before midnight, so that request records
/// are found over the turn of a day.
const START_MS: i64 = 20_371 * 86_400_000 - 10_000;
/// Milliseconds from one transaction of a partition to the next: 864,000 of them are within retention.
const STEP_MS: i64 = 100;
/// Transactions that a feed keeps when it is trimmed.
pub const KEPT: u64 = 20;
/// How long a feed is kept, by the victims' own clock, in milliseconds.
pub const FEED_RETENTION_MS: i64 = KEPT.cast_signed() * STEP_MS;
const METHOD: &str = "canopy.faults.v1.Faults/Write";
/// Lives that one run may have of operations each.
pub const OPERATIONS_PER_LIFE: u64 = 1 << 20;

/// Rows by table and key.
pub type Rows = BTreeMap<(u16, Vec<u8>), Bytes>;

/// The addresses that victims write, of every kind, over nine or so vaults; some share one.
pub fn addresses(seed: u64) -> Vec<Address> {
    let mut dice = Dice::of(&[seed, 1]);
    let mut id = || {
        let bytes = dice.bytes(16);
        Id::from_bytes(*bytes.first_chunk().expect("16 bytes were asked for"))
    };
    let (org, other) = (Address::org(id()), Address::org(id()));
    let project = org.project(id());
    let chat = Address::parse(&format!("{project}/chat")).expect("a module's address");
    vec![
        org,
        project,
        chat,
        other.project(id()),
        other,
        Address::account(id()),
        Address::account(id()),
        Address::session(id()),
        Address::system("directory"),
        Address::system("wakes"),
    ]
}

/// By value, which rows have it: empty rows, of which the key says all.
fn by_value(_: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    let table = change.table.to_be_bytes();
    let key = |row: &Bytes| [&table, row.get(..row.len().min(8)).unwrap_or_default(), &change.key].concat();
    if let Some(before) = &change.before {
        writes.push(ViewWrite::Delete { key: key(before) });
    }
    if let Some(after) = &change.after {
        writes.push(ViewWrite::Put { key: key(after), value: Bytes::new() });
    }
}

/// By key, all changes.
fn changes(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    let key = [&change.key[..], &seq.to_be_bytes(), &n.to_be_bytes()].concat();
    writes.push(ViewWrite::Put { key, value: format!("{seq}.{n}").into() });
}

/// The views of every partition; they are made again when their version changes.
pub fn views(version: u32) -> [View; 2] {
    [
        View { id: View::FIRST_ID + 1, name: "by value", version, source: Source::Rows, apply: by_value },
        View { id: View::FIRST_ID + 2, name: "changes", version, source: Source::Changes, apply: changes },
    ]
}

/// The rows of a view after a change.
pub fn apply_view(view: &View, seq: u64, n: u32, change: &Change, rows: &mut BTreeMap<Vec<u8>, Bytes>) {
    let mut writes = Vec::new();
    (view.apply)(seq, n, change, &mut writes);
    for write in writes {
        match write {
            ViewWrite::Put { key, value } => drop(rows.insert(key, value)),
            ViewWrite::Delete { key } => drop(rows.remove(&key)),
        }
    }
}

/// A key that rows of `table` may have.
pub fn row_key(n: u64) -> Vec<u8> {
    // Some are the start of others, some are next to each other.
    match n % 3 {
        0 => n.to_be_bytes().to_vec(),
        1 => (n - 1).to_be_bytes().iter().copied().chain([0]).collect(),
        _ => vec![0xFF; usize::try_from(n).unwrap_or(0)],
    }
}

/// Every key that rows may have.
pub fn row_keys() -> impl Iterator<Item = Vec<u8>> {
    (0..KEYS).map(row_key)
}

/// An operation's text: short, long enough to be compressed, or random.
fn row(dice: &mut Dice, partition: usize, op: u64) -> Bytes {
    let head = format!("{:02}{PLANTED} {partition}.{op} user{op}@{PLANTED}.example ", dice.below(100));
    match dice.below(30) {
        // A few make up most of the bytes, so that memtables are written out.
        7 => [head.as_bytes(), &dice.bytes(40_000)].concat().into(),
        0 => Bytes::new(),
        1..=3 => [head.as_bytes(), &dice.bytes(900)].concat().into(),
        4 => [head.as_bytes(), &dice.bytes(9_000)].concat().into(),
        5 | 6 => head.repeat(40).into(),
        _ => head.into(),
    }
}

/// An operation's request id, by which its feed entry is known again.
pub fn request_id(partition: usize, op: u64) -> String {
    format!("{PLANTED}-{partition}-{op}")
}

/// The reverse of [`request_id`].
pub fn op_of(request_id: &str) -> Option<u64> {
    request_id.strip_prefix(PLANTED)?.rsplit('-').next()?.parse().ok()
}

fn principal(partition: usize) -> String {
    format!("account/{PLANTED}-{partition}")
}

/// Under what an operation's first answer is kept, for those that keep one.
pub fn request_key(partition: usize, op: u64) -> RequestKey {
    RequestKey::new(&principal(partition), METHOD, &request_id(partition, op))
}

/// What an operation answers, for those that keep it.
pub fn reply(seed: u64, partition: usize, op: u64) -> Option<RequestRecord> {
    let mut dice = Dice::of(&[seed, partition as u64, op, 2]);
    dice.percent(60).then(|| RequestRecord {
        payload_digest: dice.bytes(16).into(),
        reply: format!("{PLANTED} answer {partition}.{op}").into(),
        seq: 0,
    })
}

/// When transaction `seq` was made, by the victims' own clock.
pub fn time_ms(seq: u64) -> i64 {
    START_MS.saturating_add(i64::try_from(seq).unwrap_or(0).saturating_mul(STEP_MS))
}

/// The effects of an operation.
pub fn effects(seed: u64, partition: usize, op: u64) -> Vec<Effect> {
    let mut dice = Dice::of(&[seed, partition as u64, op, 3]);
    let count = if dice.percent(25) { 1 + dice.below(2) } else { 0 };
    let effect = |n| Effect {
        target: Address::system("directory"),
        method: METHOD,
        request: format!("{PLANTED} effect {partition}.{op}.{n}").into(),
        outlives_subjects: false,
    };
    (0..count).map(effect).collect()
}

/// Operation `op` as transaction `seq`, on the rows that `read` finds.
///
/// # Errors
/// Those of `read`.
pub fn commit<E>(
    seed: u64,
    partition: usize,
    op: u64,
    seq: u64,
    mut read: impl FnMut(u16, &[u8]) -> Result<Option<Bytes>, E>,
) -> Result<Commit, E> {
    let mut dice = Dice::of(&[seed, partition as u64, op, 4]);
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..dice.below(4) {
        let table = *dice.pick(&TABLES).expect("there are tables");
        let key = row_key(dice.below(KEYS));
        let after = row(&mut dice, partition, op);
        let delete = dice.percent(25);
        if changes.iter().any(|change| change.table == table && change.key == key) {
            continue;
        }
        let before = read(table, &key)?;
        let after = (before.is_none() || !delete).then_some(after);
        changes.push(Change { table, key, before, after, schema_version: 1, of_subject: false });
    }
    Ok(Commit {
        time_ms: time_ms(seq),
        principal: principal(partition),
        origin: Origin {
            peer: format!("{PLANTED}.192.0.2.1"),
            client: format!("{PLANTED} client"),
            session: format!("session/{PLANTED}"),
        },
        request_id: request_id(partition, op),
        method: METHOD,
        changes,
        effects: effects(seed, partition, op),
        shreds: Vec::new(),
        wake_at_ms: dice.percent(10).then(|| time_ms(op)),
        record: reply(seed, partition, op).map(|record| (request_key(partition, op), record)),
    })
}
