//! Data directories of every format that was ever released are opened, read
//! back, written to and opened again.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use canopy_domain::{Address, Id, Reader, Secret, View};
use canopy_store::{Store, StoreError, StoreOptions, Unlock};
use prost::Message as _;

use crate::fixture::{all, check_gapless};
use crate::formats_content as content;

/// Unpacks the fixture of a format.
fn unpacked(dir: &Path, format: u32) -> PathBuf {
    let packed = format!("{}/tests/fixtures/format-{format}.tar.gz", env!("CARGO_MANIFEST_DIR"));
    let unzipped = flate2::read::GzDecoder::new(fs::File::open(packed).unwrap());
    let data = dir.join("data");
    tar::Archive::new(unzipped).unpack(&data).unwrap();
    data
}

fn open(data: &Path) -> Result<Store, StoreError> {
    Store::open(StoreOptions::new(data, Unlock::Key(Secret::new(content::KEY))))
}

/// That an address holds what its commits leave, and its feed says how.
async fn check_address(store: &Store, address: &Address) {
    let commits = content::commits(address);
    let snapshot = store.reader(address).await.unwrap().snapshot().await.unwrap();
    assert!(snapshot.seq().unwrap() >= commits.len() as u64, "{address}");
    check_gapless(&snapshot);
    let mut rows = std::collections::BTreeMap::new();
    for (seq, commit) in (1u64..).zip(&commits) {
        let entry = snapshot.transaction(seq).unwrap().unwrap();
        assert_eq!(entry.time_ms, commit.time_ms);
        assert_eq!(entry.request_id, commit.request_id);
        assert_eq!(entry.origin.as_ref(), Some(&commit.origin));
        assert_eq!(entry.changes.len(), commit.changes.len());
        for (change, kept) in commit.changes.iter().zip(&entry.changes) {
            assert_eq!((change.table.into(), &change.before, &change.after), (kept.table, &kept.before, &kept.after));
            assert_eq!(change.key, kept.key);
            match &change.after {
                Some(row) => rows.insert((change.table, change.key.clone()), row.clone()),
                None => rows.remove(&(change.table, change.key.clone())),
            };
        }
    }
    for table in 1..=4u16 {
        let expected: Vec<(Vec<u8>, Bytes)> =
            rows.iter().filter(|((of, _), _)| *of == table).map(|((_, key), row)| (key.clone(), row.clone())).collect();
        let found = all(&snapshot, table);
        assert_eq!(found, expected.into_iter().map(|(key, row)| (key, row.to_vec())).collect::<Vec<_>>(), "{address}");
    }
}

async fn check_views(store: &Store) {
    let snapshot = store.reader(&content::chat()).await.unwrap().snapshot().await.unwrap();
    let texts = all(&snapshot, content::TEXTS.id);
    assert_eq!(texts.len(), 9);
    assert_eq!(texts[0].1, content::message(1, 4).encode_to_vec());
    let events = all(&snapshot, content::EVENTS.id);
    assert_eq!(events.len(), 10, "one of each message that was sent");
    assert!(View::FIRST_ID <= content::EVENTS.id && events.iter().all(|(_, row)| row.is_empty()));
}

/// What the release that wrote the fixture derived from its keys.
fn as_written(format: u32) -> (Id, Vec<u8>, [u8; 16]) {
    let (installation, derived, digest) = match format {
        1 => (
            "1b2ak62ar8sm1m95x406ktr17j",
            "744897277c5c9ef159c9e76b5d31966014fb2e750b458b749126104054710ba9",
            "26f97dae79665bd0362e6322cbf8e411",
        ),
        2 => (
            "1jwng1agpar3e5a61r0e7q3sxm",
            "8aaccc35d086343d3c3ed3480f21b80be446f68443095ba64a0e0d1547cb2e4c",
            "4e4526dbabd87564c5d0ac7c9735d80a",
        ),
        3 => (
            "5mfa7xxn963kek8bkdtnnmjkct",
            "eb7bbae34234aa9830e8bea910ed3826452eea46044c6cd17fc9c91347d0972f",
            "cd8fb72270628edf254b6c4923cfc994",
        ),
        _ => panic!("no fixture of format {format}"),
    };
    let bytes = |hex: &str| -> Vec<u8> {
        hex.as_bytes().chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    };
    (Id::parse(installation).unwrap(), bytes(derived), bytes(digest).try_into().unwrap())
}

async fn check_format(format: u32) {
    let dir = tempfile::tempdir().unwrap();
    let data = unpacked(dir.path(), format);
    let secrets = async |store: &Store| {
        let directory = store.reader(&content::addresses()[0]).await.unwrap().snapshot().await.unwrap();
        (store.installation_id(), store.derive_key("a purpose").to_vec(), directory.digest(b"a name"))
    };
    let store = open(&data).unwrap();
    let before = secrets(&store).await;
    assert_eq!(before, as_written(format), "tokens and look-ups outlive the change of formats");
    for address in content::addresses() {
        check_address(&store, &address).await;
    }
    check_views(&store).await;
    // What was promised is still to be done, and a repeat finds its answer.
    for address in content::addresses() {
        let mut writer = store.writer(&address, &content::views(&address)).await.unwrap();
        let commits = content::commits(&address);
        let expected: usize = commits.iter().map(|commit| commit.effects.len()).sum();
        let pending = writer.pending_effects(10).unwrap();
        assert_eq!(pending.len(), expected);
        if let Some(first) = pending.first() {
            assert_eq!(first.effect.request, content::effect(0).request);
            assert_eq!(writer.wake_at_ms(), Some(content::TIME_MS + 60_000));
        }
        let record = writer.request_record(&content::request_key(2), content::TIME_MS + 9000).unwrap().unwrap();
        assert_eq!((record.reply, record.seq), (content::record(2).reply, 2));
        // Rows under the keys that the old release made, and under new ones.
        let added = crate::fixture::commit(&[(b"zz-added", Some(b"by a later release"))]);
        assert_eq!(writer.submit(added).await.unwrap(), commits.len() as u64 + 1);
    }
    let fresh = crate::fixture::org(99);
    let mut writer = store.writer(&fresh, &[]).await.unwrap();
    writer.submit(crate::fixture::commit(&[(b"a", Some(b"1"))])).await.unwrap();
    drop(writer);
    store.close().await.unwrap();
    drop(store);

    let store = open(&data).unwrap();
    assert_eq!(secrets(&store).await, before);
    for address in content::addresses() {
        let snapshot = store.reader(&address).await.unwrap().snapshot().await.unwrap();
        check_gapless(&snapshot);
        assert_eq!(snapshot.get(1, b"zz-added").unwrap().unwrap(), "by a later release");
        let first = &content::commits(&address)[0];
        let entry = snapshot.transaction(1).unwrap().unwrap();
        assert_eq!(entry.changes[0].after, first.changes[0].after);
    }
    let snapshot = store.reader(&fresh).await.unwrap().snapshot().await.unwrap();
    assert_eq!(snapshot.get(1, b"a").unwrap().unwrap(), "1");
    assert!(store.observe().quarantined.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn format_1() {
    check_format(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn format_2() {
    check_format(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn format_3() {
    check_format(3).await;
}
