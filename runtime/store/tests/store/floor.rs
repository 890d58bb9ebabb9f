//! The retention floor: what is older goes, bounded and whole, and what is left is proven from there on.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use canopy_domain::{Address, Change, Reader, Secret, Source, View, ViewWrite};
use canopy_store::{
    Commit, RestoreOptions, SalvageReport, Store, StoreError, StoreOptions, Ticket, Unlock, VaultReport, Writer,
    export_keys, restore, salvage, verify,
};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use crate::fixture::{KEY, TABLE, about, all, check_gapless, commit, options, org};
use crate::verify::{COMMITS, change_at, files};

/// From one commit to the next, in milliseconds.
const STEP_MS: i64 = 1_000;
/// How long a feed is kept, in milliseconds: a hundred commits.
const RETENTION_MS: i64 = 100 * STEP_MS;
/// Entries that go at once.
const AT_ONCE: u64 = 256;

/// Pointers to changes.
const POINTERS: View = View { id: View::FIRST_ID, name: "pointers", version: 1, source: Source::Changes, apply: point };
/// Rows, by what is in them.
const BY_VALUE: View =
    View { id: View::FIRST_ID + 1, name: "by value", version: 1, source: Source::Rows, apply: by_value };

fn point(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    if change.after.is_some() {
        let key = [&change.key[..], &seq.to_be_bytes(), &n.to_be_bytes()].concat();
        writes.push(ViewWrite::Put { key, value: Bytes::new() });
    }
}

fn by_value(_: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    let key = |row: &Bytes| [row, &change.key[..]].concat();
    writes.extend(change.before.iter().map(|row| ViewWrite::Delete { key: key(row) }));
    writes.extend(change.after.iter().map(|row| ViewWrite::Put { key: key(row), value: row.clone() }));
}

fn views(version: u32) -> [View; 2] {
    [View { version, ..POINTERS }, View { version, ..BY_VALUE }]
}

fn keeping(dir: &Path) -> StoreOptions {
    StoreOptions { feed_retention_ms: RETENTION_MS, ..options(dir) }
}

fn time_ms(seq: u64) -> i64 {
    commit(&[]).time_ms + seq as i64 * STEP_MS
}

/// Transaction `seq`: it changes one of 50 rows, and tells what was there.
fn change(seq: u64) -> Commit {
    let row = |seq: u64| Bytes::from(format!("{:03} of {seq}", seq % 7));
    let mut commit = commit(&[(&(seq % 50).to_be_bytes(), Some(&row(seq)))]);
    commit.changes[0].before = seq.checked_sub(50).filter(|before| *before > 0).map(row);
    Commit { time_ms: time_ms(seq), ..commit }
}

fn submit(writer: &mut Writer, count: u64) -> Vec<Ticket> {
    (0..count).map(|_| writer.submit(change(writer.next_seq()))).collect()
}

async fn writer(store: &Store) -> Writer {
    store.writer(&org(1), &views(1)).await.unwrap()
}

/// Trims until nothing more is due at `now_ms`; gives how many went each time.
async fn trim(writer: &mut Writer, now_ms: i64) -> Vec<u64> {
    let mut went = Vec::new();
    loop {
        let trimmed = writer.trim_feed(now_ms).unwrap();
        went.push(trimmed.entries);
        trimmed.ticket.await.unwrap();
        if trimmed.next_ms.is_none_or(|next_ms| next_ms > now_ms) {
            return went;
        }
    }
}

/// A vault of so many commits, of which the last hundred are kept, and its row keys and values.
async fn trimmed(dir: &Path, commits: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut small = keeping(dir);
    small.write_buffer_bytes = 1;
    let store = Store::open(small).unwrap();
    let mut writer = writer(&store).await;
    drop(submit(&mut writer, commits));
    writer.barrier().await.unwrap();
    trim(&mut writer, time_ms(commits)).await;
    let rows = all(&writer.live(), TABLE);
    assert_eq!(writer.feed_floor(), commits - 99);
    drop(writer);
    store.close().await.unwrap();
    rows
}

async fn reports(dir: &Path) -> Vec<VaultReport> {
    let mut found = Vec::new();
    verify(keeping(dir), &|_: &Address| views(1).to_vec(), |report| found.push(report)).await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_go_so_many_at_once_and_the_rest_is_chained() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(keeping(dir.path())).unwrap();
    let mut writer = writer(&store).await;
    submit(&mut writer, 700).pop().unwrap().await.unwrap();
    let before = writer.reader().snapshot().await.unwrap();
    let rows = all(&writer.live(), TABLE);

    let untouched = writer.trim_feed(time_ms(100)).unwrap();
    assert_eq!((untouched.entries, untouched.next_ms), (0, Some(time_ms(101))), "the first is as old a step later");
    let first = writer.trim_feed(time_ms(700)).unwrap();
    assert_eq!((first.entries, first.next_ms), (AT_ONCE, Some(time_ms(700))), "there are more");
    assert_eq!(trim(&mut writer, time_ms(700)).await, [AT_ONCE, 600 - 2 * AT_ONCE]);
    let last = writer.trim_feed(time_ms(700)).unwrap();
    assert_eq!((last.entries, last.next_ms), (0, Some(time_ms(701))));

    assert_eq!(writer.next_seq(), 701, "it takes no seq");
    assert_eq!(before.floor().unwrap(), 1);
    assert!(before.transaction(1).unwrap().is_some(), "who reads an older state reads all of it");
    let now = writer.reader().snapshot().await.unwrap();
    for reader in [&writer.live() as &dyn Reader, &now] {
        assert_eq!(reader.floor().unwrap(), 601);
        check_gapless(reader);
        assert_eq!(all(reader, TABLE), rows);
        assert_eq!(all(reader, BY_VALUE.id).len(), 50);
        assert_eq!(all(reader, POINTERS.id).len(), 100, "pointers go with what they point to");
    }
    assert_eq!(now.check_feed().unwrap(), 100);
    drop((before, now, writer));
    store.close().await.unwrap();
    drop(store);
    assert!(reports(dir.path()).await.iter().all(|report| report.is_sound() && report.transactions == 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_idle_goes_whole_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(keeping(dir.path())).unwrap();
    let mut here = writer(&store).await;
    submit(&mut here, 10).pop().unwrap().await.unwrap();
    let late = here.trim_feed(time_ms(10) + RETENTION_MS).unwrap();
    assert_eq!((late.entries, late.next_ms), (10, None));
    late.ticket.await.unwrap();
    drop(here);
    store.close().await.unwrap();
    drop(store);
    assert!(reports(dir.path()).await.iter().all(|report| report.is_sound() && report.transactions == 0));

    let store = Store::open(keeping(dir.path())).unwrap();
    let mut here = writer(&store).await;
    assert_eq!((here.next_seq(), here.feed_floor()), (11, 11));
    submit(&mut here, 3).pop().unwrap().await.unwrap();
    let snapshot = here.reader().snapshot().await.unwrap();
    check_gapless(&snapshot);
    assert_eq!((snapshot.floor().unwrap(), snapshot.check_feed().unwrap()), (11, 3));
    drop((here, snapshot));
    store.close().await.unwrap();
    drop(store);
    assert!(reports(dir.path()).await.iter().all(VaultReport::is_sound));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_retention_all_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(options(dir.path())).unwrap();
    let mut writer = writer(&store).await;
    submit(&mut writer, 3).pop().unwrap().await.unwrap();
    let trimmed = writer.trim_feed(i64::MAX).unwrap();
    assert_eq!((trimmed.entries, trimmed.next_ms, writer.feed_floor()), (0, None, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clock_that_was_ahead_dated_goes_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(keeping(dir.path())).unwrap();
    let mut writer = writer(&store).await;
    let ahead = |seq| Commit { time_ms: time_ms(1_000_000), ..change(seq) };
    writer.submit(ahead(1)).await.unwrap();
    let alone = writer.trim_feed(time_ms(2) + RETENTION_MS).unwrap();
    assert_eq!((alone.entries, alone.next_ms), (0, Some(time_ms(2) + 2 * RETENTION_MS)), "its time is not known");
    writer.submit(change(2)).await.unwrap();
    writer.submit(ahead(3)).await.unwrap();
    writer.submit(change(4)).await.unwrap();
    let with_the_second = writer.trim_feed(time_ms(2) + RETENTION_MS).unwrap();
    assert_eq!((with_the_second.entries, with_the_second.next_ms), (2, Some(time_ms(4) + RETENTION_MS)));
    assert_eq!(trim(&mut writer, time_ms(4) + RETENTION_MS).await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pointers_to_what_was_shredded_go_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(keeping(dir.path())).unwrap();
    let mut writer = writer(&store).await;
    let subject = [0xA1; 16];
    let commit = |commit: Commit, seq| Commit { time_ms: time_ms(seq), ..commit };
    writer.submit(commit(about(&[(&subject, Some(b"of somebody"))]), 1)).await.unwrap();
    writer.submit(commit(about(&[(&[0xB2; 16], Some(b"of another"))]), 2)).await.unwrap();
    let mut shred = change(3);
    shred.shreds = vec![subject];
    writer.submit(shred).await.unwrap();
    assert_eq!(all(&writer.reader().snapshot().await.unwrap(), POINTERS.id).len(), 3, "their keys are all there is");
    assert_eq!(trim(&mut writer, time_ms(2) + RETENTION_MS).await, [2]);
    assert_eq!(all(&writer.reader().snapshot().await.unwrap(), POINTERS.id).len(), 1);
    drop(writer);
    store.close().await.unwrap();
    drop(store);
    assert!(reports(dir.path()).await.iter().all(VaultReport::is_sound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_what_is_left_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let rows = trimmed(dir.path(), 400).await;
    let (backup, bundle, to) = (dir.path().join("backup"), dir.path().join("keys"), dir.path().join("restored"));
    let store = Store::open(keeping(dir.path())).unwrap();
    let summary = store.back_up(&org(1), &backup, 1, |_| true).await.unwrap();
    assert_eq!((summary.cursor, summary.transactions), (400, 100));
    assert_eq!(store.verify_backup(&org(1), &backup, |_| true).await.unwrap(), summary);
    store.close().await.unwrap();
    drop(store);
    export_keys(&options(dir.path()), &bundle).unwrap();
    let unlock = Unlock::Key(Secret::new(KEY));
    let wanted = RestoreOptions { backups: vec![backup], bundle, unlock, to: to.clone(), without_shredded: false };
    assert_eq!(restore(&wanted).unwrap(), [summary]);

    let store = Store::open(StoreOptions { dir: to, ..keeping(dir.path()) }).unwrap();
    let mut writer = writer(&store).await;
    let snapshot = writer.reader().snapshot().await.unwrap();
    check_gapless(&snapshot);
    assert_eq!((snapshot.floor().unwrap(), snapshot.check_feed().unwrap()), (301, 100));
    assert_eq!(all(&snapshot, TABLE), rows);
    drop(snapshot);
    submit(&mut writer, 1).pop().unwrap().await.unwrap();
    assert_eq!(trim(&mut writer, time_ms(401)).await, [1], "and it goes on being trimmed");
}

/// The first keys and rows of the feed, and the row that says where it begins.
struct Raw {
    data: Keyspace,
    feed: Keyspace,
    entries: Vec<Vec<u8>>,
    floor: Option<Vec<u8>>,
}

fn vault(dir: &Path) -> PathBuf {
    let mut entries = fs::read_dir(dir.join("data/vaults")).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.is_dir()).unwrap()
}

/// Changes the database behind the store's back.
fn tamper(dir: &Path, change: impl FnOnce(&Raw, &mut fjall::OwnedWriteBatch)) {
    let db = Database::builder(vault(dir).join("db")).journal_compression(CompressionType::None).open().unwrap();
    let [data, feed] = ["data", "feed"].map(|name| db.keyspace(name, KeyspaceCreateOptions::default).unwrap());
    let snapshot = db.snapshot();
    let keys = |keyspace: &Keyspace| snapshot.iter(keyspace).map(|row| row.key().unwrap().to_vec()).collect::<Vec<_>>();
    let floor = keys(&data).into_iter().find(|key| key[16..] == [0xFF, 0x03]);
    let raw = Raw { entries: keys(&feed), floor, data, feed };
    let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
    change(&raw, &mut batch);
    batch.commit().unwrap();
}

/// What `verify`, a backup and `salvage` say of a vault that was tampered with. What salvage made of it is sound, and has
/// the rows that were there.
async fn check_damage(
    commits: u64,
    change: impl FnOnce(&Raw, &mut fjall::OwnedWriteBatch),
) -> (VaultReport, SalvageReport) {
    let dir = tempfile::tempdir().unwrap();
    let rows = trimmed(dir.path(), commits).await;
    tamper(dir.path(), change);
    let [report] = reports(dir.path()).await.try_into().unwrap();
    let store = Store::open(keeping(dir.path())).unwrap();
    let backup = store.back_up(&org(1), &dir.path().join("backup"), 1, |_| true).await;
    assert!(backup.is_err(), "{report:?}");
    // Where it is damaged at its end, it does not close either.
    let _ = store.close().await;
    drop(store);

    let to = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    salvage(keeping(dir.path()), &to.path().join("data"), |report| found.push(report)).await.unwrap();
    let [salvaged] = found.try_into().unwrap();
    assert!(!salvaged.quarantined, "{salvaged:?}");
    let store = Store::open(keeping(to.path())).unwrap();
    let mut writer = writer(&store).await;
    let snapshot = writer.reader().snapshot().await.unwrap();
    check_gapless(&snapshot);
    snapshot.check_feed().unwrap();
    assert_eq!(all(&snapshot, TABLE), rows, "{salvaged:?}");
    assert_eq!(all(&snapshot, BY_VALUE.id).len(), 50);
    drop(snapshot);
    writer.submit(commit(&[(b"new", Some(b"row"))])).await.unwrap();
    drop(writer);
    store.close().await.unwrap();
    drop(store);
    let after = reports(to.path()).await;
    assert!(after.iter().all(VaultReport::is_sound), "{after:?}");
    (report, salvaged)
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_missing_above_the_floor_are_found() {
    for missing in [0, 1, 50, 99] {
        let (report, salvaged) =
            check_damage(400, |raw, batch| batch.remove(&raw.feed, raw.entries[missing].clone())).await;
        assert!(report.faults.iter().any(|fault| fault.contains("its feed")), "{missing}: {report:?}");
        assert!(!salvaged.found.is_sound(), "{missing}: {salvaged:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_whose_floor_nobody_raised_is_found() {
    // All of a feed is there, and then its first entries are not.
    let (report, _) = check_damage(100, |raw, batch| {
        assert!(raw.floor.is_none());
        raw.entries[..10].iter().for_each(|key| batch.remove(&raw.feed, key.clone()));
    })
    .await;
    assert!(report.faults[0].contains("its feed goes from transaction 0 to 11"), "{report:?}");
    // The floor is forgotten, or cannot be read.
    let (report, _) = check_damage(400, |raw, batch| batch.remove(&raw.data, raw.floor.clone().unwrap())).await;
    assert!(report.faults.iter().any(|fault| fault.contains("goes from transaction 0 to 301")), "{report:?}");
    let (report, salvaged) =
        check_damage(400, |raw, batch| batch.insert(&raw.data, raw.floor.clone().unwrap(), vec![7; 60])).await;
    assert!(report.faults.iter().any(|fault| fault.contains("goes from transaction 0 to 301")), "{report:?}");
    let told = |fault: &String| fault.contains("with transaction 302, from here on");
    assert!(salvaged.found.faults.iter().any(told), "{salvaged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_feed_still_tells_of_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    trimmed(dir.path(), 400).await;
    // Each of the 50 rows was set within the last hundred commits.
    let mut removed = 0;
    tamper(dir.path(), |raw, batch| {
        let name = &raw.entries[0][..16];
        for n in 0..3u64 {
            batch.remove(&raw.data, [name, &TABLE.to_be_bytes(), &n.to_be_bytes()].concat());
            removed += 1;
        }
    });
    let [report] = reports(dir.path()).await.try_into().unwrap();
    // Rows of the view that were made of them are of nothing now.
    assert!(report.faults[0].contains("3 rows are not what the feed says, and 3 that"), "{removed}: {report:?}");
}

/// Smaller tables are mostly what fjall keeps beside rows, of which a scan reads nothing.
const TABLE_BYTES_MIN: usize = 16 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_what_is_left_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = keeping(dir.path());
    small.write_buffer_bytes = 1 << 20;
    let store = Store::open(small).unwrap();
    let mut here = writer(&store).await;
    for at in 0..COMMITS {
        let (key, row) = change_at(at);
        let mut change = commit(&[(&key, row.as_deref())]);
        change.changes[0].before = at.checked_sub(50).and_then(|before| change_at(before).1).map(Bytes::from);
        drop(here.submit(Commit { time_ms: time_ms(here.next_seq()), ..change }));
    }
    here.barrier().await.unwrap();
    trim(&mut here, time_ms(COMMITS)).await;
    drop(here);
    store.close().await.unwrap();
    drop(store);

    let (mut tables, mut journals) = (0, 0);
    for (path, bytes) in files(&vault(dir.path())) {
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let is_table = path.components().any(|part| part.as_os_str() == "tables") && bytes.len() > TABLE_BYTES_MIN;
        let is_journal = path.extension().is_some_and(|e| e == "jnl") && written > 0;
        if !(is_table || is_journal) {
            continue;
        }
        let mut damaged = bytes.clone();
        damaged[written / 2] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let found = reports(dir.path()).await;
        assert!(!found[0].is_sound(), "{}: {found:?}", path.display());
        fs::write(&path, &bytes).unwrap();
        tables += usize::from(is_table);
        journals += usize::from(is_journal);
    }
    assert!(tables > 0 && journals > 0, "{tables} tables, {journals} journals");
    assert!(reports(dir.path()).await.iter().all(VaultReport::is_sound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_fails_the_trim_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    trimmed(dir.path(), 400).await;
    tamper(dir.path(), |raw, batch| batch.insert(&raw.feed, raw.entries[3].clone(), vec![1; 200]));
    let store = Store::open(keeping(dir.path())).unwrap();
    let mut writer = writer(&store).await;
    let refused = writer.trim_feed(time_ms(500)).err().unwrap();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
    assert_eq!(store.observe().quarantined.len(), 1, "it is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_before_the_floor_stays_or_is_told_to_be_gone() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(keeping(dir.path())).unwrap();
    let mut here = writer(&store).await;
    let old = commit(&[(b"old", Some(b"of before")), (b"older", Some(b"of before, too"))]);
    here.submit(Commit { time_ms: time_ms(1), ..old }).await.unwrap();
    submit(&mut here, 199).pop().unwrap().await.unwrap();
    assert_eq!(trim(&mut here, time_ms(200)).await, [100]);
    let mut rows = all(&here.live(), TABLE);
    assert_eq!(rows.len(), 52);
    drop(here);
    store.close().await.unwrap();
    drop(store);
    assert!(reports(dir.path()).await.iter().all(VaultReport::is_sound));

    tamper(dir.path(), |raw, batch| {
        let key = [&raw.entries[0][..16], &TABLE.to_be_bytes(), b"old"].concat();
        batch.insert(&raw.data, key, vec![9; 80]);
    });
    assert!(!reports(dir.path()).await[0].is_sound());
    salvage(keeping(dir.path()), &to.path().join("data"), |report| assert!(!report.found.is_sound())).await.unwrap();
    let store = Store::open(keeping(to.path())).unwrap();
    let here = writer(&store).await;
    rows.retain(|(key, _)| key != b"old");
    assert_eq!(all(&here.live(), TABLE), rows, "the others stay, those of before the floor too");
    let snapshot = here.reader().snapshot().await.unwrap();
    let [gone] = snapshot.transaction(201).unwrap().expect("made by the salvage").changes.try_into().unwrap();
    assert_eq!((gone.table, &gone.key[..], gone.after), (u32::from(TABLE), &b"old"[..], None));
    assert_eq!((snapshot.floor().unwrap(), snapshot.check_feed().unwrap()), (101, 101));
    drop((here, snapshot));
    store.close().await.unwrap();
    drop(store);
    assert!(reports(to.path()).await.iter().all(VaultReport::is_sound));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_again_below_the_floor_goes_with_the_next_trims() {
    let dir = tempfile::tempdir().unwrap();
    trimmed(dir.path(), 800).await;
    let entry = |name: &[u8], seq: u64| [name, &seq.to_be_bytes()].concat();
    tamper(dir.path(), |raw, batch| {
        assert_eq!(raw.entries.len(), 100);
        (100..500).for_each(|seq| batch.insert(&raw.feed, entry(&raw.entries[0][..16], seq), vec![7; 60]));
    });
    let [report] = reports(dir.path()).await.try_into().unwrap();
    assert!(report.is_sound() && report.transactions == 100, "nobody reads them: {report:?}");
    let to = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    salvage(keeping(dir.path()), &to.path().join("data"), |report| found.push(report)).await.unwrap();
    assert!(found.iter().all(|report| report.found.is_sound()), "{found:?}");
    tamper(to.path(), |raw, _| assert_eq!(raw.entries.len(), 100));

    let store = Store::open(keeping(dir.path())).unwrap();
    let backup = store.back_up(&org(1), &dir.path().join("backup"), 1, |_| true).await.unwrap();
    assert_eq!(backup.transactions, 100, "they are in no backup either");
    let mut writer = writer(&store).await;
    submit(&mut writer, 20).pop().unwrap().await.unwrap();
    assert_eq!(trim(&mut writer, time_ms(810)).await, [10]);
    assert_eq!(trim(&mut writer, time_ms(820)).await, [10]);
    drop(writer);
    store.close().await.unwrap();
    drop(store);
    tamper(dir.path(), |raw, _| assert_eq!(raw.entries[0], entry(&raw.entries[0][..16], 721)));
}
