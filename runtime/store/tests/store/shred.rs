//! What was shredded cannot be read again, by nobody and from no copy; its
//! neighbours stay, and the feed still says that something was there.

use std::fs;
use std::path::{Path, PathBuf};

use canopy_domain::{Address, Change, Code, Effect, Id, Reader, Refusal, Source, View, ViewWrite};
use canopy_proto::system::v1::RequestRecord;
use canopy_store::{Commit, RequestKey, Snapshot, Store, StoreError};

use crate::fixture::{TABLE, about, all, check_gapless, commit, open, org};

const FIRST: [u8; 16] = [0xA1; 16];
const SECOND: [u8; 16] = [0xB2; 16];

fn copy(_: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    if let Some(after) = &change.after {
        writes.push(ViewWrite::Put { key: change.key.clone(), value: after.clone() });
    }
}

const COPIES: View = View { id: View::FIRST_ID, name: "copies", version: 1, source: Source::Changes, apply: copy };

fn key(subject: [u8; 16], n: u8) -> Vec<u8> {
    [&subject[..], &[n]].concat()
}

fn request(subject: [u8; 16]) -> RequestKey {
    RequestKey::new("p", "m", &format!("{subject:?}"))
}

/// A row of a subject, with an effect and a first answer that tell of it.
fn row(subject: [u8; 16], n: u8) -> Commit {
    let text = format!("text {n} of {}", subject[0]);
    let record = RequestRecord { payload_digest: vec![1; 16].into(), reply: text.clone().into(), seq: 0 };
    let effect = Effect { target: org(9), method: "m", request: text.clone().into(), outlives_subjects: false };
    let news = Effect { target: org(9), method: "news", request: "no text".into(), outlives_subjects: true };
    let key = key(subject, n);
    Commit {
        record: Some((request(subject), record)),
        effects: vec![effect, news],
        ..about(&[(&key, Some(text.as_bytes()))])
    }
}

fn shred(subject: [u8; 16]) -> Commit {
    Commit { shreds: vec![subject], ..commit(&[]) }
}

async fn filled(dir: &Path) -> Store {
    let store = open(dir);
    let mut writer = store.writer(&org(1), &[COPIES]).await.unwrap();
    for n in 0..3 {
        writer.submit(row(FIRST, n)).await.unwrap();
        writer.submit(row(SECOND, n)).await.unwrap();
    }
    writer.submit(commit(&[(b"plain", Some(b"stays"))])).await.unwrap();
    store
}

async fn snapshot(store: &Store, address: &Address) -> Snapshot {
    store.reader(address).await.unwrap().snapshot().await.unwrap()
}

/// That the first subject is gone, and everything else is there.
async fn check_gone(store: &Store) {
    let snapshot = snapshot(store, &org(1)).await;
    assert_eq!(snapshot.get(TABLE, &key(FIRST, 0)).unwrap(), None);
    for table in [TABLE, COPIES.id] {
        let rows = all(&snapshot, table);
        assert_eq!(rows.len(), 4, "{table}: {rows:?}");
        assert!(rows.iter().all(|(key, _)| !key.starts_with(&FIRST)));
    }
    check_gapless(&snapshot);
    let mut shredded = 0;
    for seq in 1..=snapshot.seq().unwrap() {
        for change in snapshot.transaction(seq).unwrap().unwrap().changes {
            let is_first = change.key.starts_with(&FIRST);
            assert_eq!(change.shredded, is_first);
            assert_eq!(change.after.is_none(), is_first, "it is marked, and no deletion");
            shredded += u32::from(change.shredded);
        }
    }
    assert_eq!(shredded, 3);
    assert_eq!(snapshot.subject_fingerprints(&FIRST).unwrap(), Vec::<[u8; 32]>::new());
    assert_eq!(snapshot.subject_fingerprints(&SECOND).unwrap().len(), 1);
    drop(snapshot);
    let mut writer = store.writer(&org(1), &[COPIES]).await.unwrap();
    let effects = writer.pending_effects(100).unwrap();
    let (outliving, others) = effects.into_iter().partition::<Vec<_>, _>(|pending| pending.effect.method == "news");
    assert_eq!(others.len(), 3, "those about the others");
    assert_eq!(outliving.len(), 6, "and those that tell nothing of it");
    let now_ms = 1_700_000_000_000;
    let error = writer.request_record(&request(FIRST), now_ms).unwrap_err();
    assert!(matches!(error, StoreError::AnswerShredded));
    assert_eq!(Refusal::from(error).code, Code::FailedPrecondition);
    assert!(writer.request_record(&request(SECOND), now_ms).unwrap().is_some());
    for again in [row(FIRST, 9), shred(FIRST)] {
        assert!(matches!(writer.submit(again).await, Err(StoreError::Shredded(_))), "nothing more is written of it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_goes_and_its_neighbours_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let before = snapshot(&store, &org(1)).await;
    let fingerprints = before.subject_fingerprints(&FIRST).unwrap();
    assert_eq!(before.get(TABLE, &key(FIRST, 0)).unwrap().unwrap(), "text 0 of 161");
    drop(before);
    let mut writer = store.writer(&org(1), &[COPIES]).await.unwrap();
    let seq = writer.submit(shred(FIRST)).await.unwrap();
    drop(writer);
    let after = snapshot(&store, &org(1)).await;
    let entry = after.transaction(seq).unwrap().unwrap();
    assert_eq!(entry.shreds.len(), 1);
    assert_eq!(entry.shreds[0].subject, &FIRST[..]);
    assert_eq!(entry.shreds[0].fingerprints, fingerprints.iter().map(|f| f.to_vec()).collect::<Vec<_>>());
    drop(after);
    check_gone(&store).await;
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    check_gone(&store).await;
    // The chain is whole: a view of another version is made from the feed.
    let newer = View { version: 2, ..COPIES };
    drop(store.writer(&org(1), &[newer]).await.unwrap());
    assert_eq!(all(&snapshot(&store, &org(1)).await, COPIES.id).len(), 4);
}

fn keyring(dir: &Path) -> PathBuf {
    let mut entries = fs::read_dir(dir.join("data/vaults")).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.is_dir()).unwrap().join("keyring")
}

#[tokio::test(flavor = "multi_thread")]
async fn older_data_with_the_new_keyring_tells_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.close().await.unwrap();
    drop(store);
    let vault = keyring(dir.path()).parent().unwrap().to_owned();
    let (db, kept) = (vault.join("db"), dir.path().join("kept"));
    copy_dir(&db, &kept);
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[COPIES]).await.unwrap();
    writer.submit(shred(FIRST)).await.unwrap();
    drop(writer);
    store.close().await.unwrap();
    drop(store);
    // The data as it was before, with heads that know of no more, and the
    // valid root key: as a thief would put it together.
    fs::remove_dir_all(&db).unwrap();
    copy_dir(&kept, &db);
    let head = vault.join("head");
    let mut slots = fs::read(&head).unwrap();
    slots[..64].fill(0);
    fs::write(&head, &slots).unwrap();
    let _ = fs::remove_file(dir.path().join("data/heads"));
    let store = open(dir.path());
    match store.reader(&org(1)).await {
        // Group 8 was in the slot that is gone: the vault looks whole.
        Ok(reader) => {
            let snapshot = reader.snapshot().await.unwrap();
            assert_eq!(snapshot.get(TABLE, &key(FIRST, 0)).unwrap(), None);
            assert_eq!(snapshot.get(TABLE, &key(SECOND, 0)).unwrap().unwrap(), "text 0 of 178");
            assert!(snapshot.transaction(1).unwrap().unwrap().changes[0].shredded);
        }
        Err(error) => panic!("{error}"),
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_dir(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shred_that_a_crash_interrupted_is_finished_when_the_vault_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let keyring = keyring(dir.path());
    let (before, obstacle) = (fs::read(&keyring).unwrap(), keyring.with_extension("new"));
    // The commit becomes durable, and the keyring cannot be written anew.
    fs::create_dir(&obstacle).unwrap();
    let mut writer = store.writer(&org(1), &[COPIES]).await.unwrap();
    assert!(writer.submit(shred(FIRST)).await.is_err());
    drop(writer);
    let _ = store.close().await;
    drop(store);
    fs::remove_dir(&obstacle).unwrap();
    let during = fs::read(&keyring).unwrap();
    assert!(
        during.starts_with(&before) && during.len() > before.len(),
        "the keys are there, and what is to become of them"
    );
    let store = open(dir.path());
    check_gone(&store).await;
    assert!(!fs::read(&keyring).unwrap().starts_with(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shred_whose_commit_never_was_shreds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.close().await.unwrap();
    drop(store);
    let vault = keyring(dir.path()).parent().unwrap().to_owned();
    let kept = dir.path().join("kept");
    copy_dir(&vault.join("db"), &kept);
    let (head, heads) = (vault.join("head"), dir.path().join("data/heads"));
    let (noted, all_noted) = (fs::read(&head).unwrap(), fs::read(&heads).unwrap());
    let store = open(dir.path());
    let obstacle = vault.join("keyring.new");
    fs::create_dir(&obstacle).unwrap();
    let mut writer = store.writer(&org(1), &[COPIES]).await.unwrap();
    assert!(writer.submit(shred(FIRST)).await.is_err());
    drop(writer);
    let _ = store.close().await;
    drop(store);
    // As after a loss of power before the batch was durable.
    fs::remove_dir(&obstacle).unwrap();
    fs::remove_dir_all(vault.join("db")).unwrap();
    copy_dir(&kept, &vault.join("db"));
    fs::write(&head, noted).unwrap();
    fs::write(&heads, all_noted).unwrap();
    let store = open(dir.path());
    assert_eq!(snapshot(&store, &org(1)).await.get(TABLE, &key(FIRST, 0)).unwrap().unwrap(), "text 0 of 161");
    // And nothing later with the same group number does.
    let mut writer = store.writer(&org(1), &[COPIES]).await.unwrap();
    writer.submit(commit(&[])).await.unwrap();
    drop(writer);
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(snapshot(&store, &org(1)).await.get(TABLE, &key(FIRST, 0)).unwrap().unwrap(), "text 0 of 161");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_answer_about_two_subjects_goes_with_either() {
    for gone in [FIRST, SECOND] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut writer = store.writer(&org(1), &[]).await.unwrap();
        let record = RequestRecord { payload_digest: vec![1; 16].into(), reply: "moved".into(), seq: 0 };
        let both = about(&[(&key(FIRST, 1), Some(b"from")), (&key(SECOND, 1), Some(b"to"))]);
        let id = RequestKey::new("p", "m", "move");
        writer.submit(Commit { record: Some((id, record)), ..both }).await.unwrap();
        drop(writer);
        let mut writer = store.writer(&org(1), &[]).await.unwrap();
        assert_eq!(writer.request_record(&id, 1_700_000_000_000).unwrap().unwrap().reply, "moved");
        writer.submit(shred(gone)).await.unwrap();
        drop(writer);
        let writer = store.writer(&org(1), &[]).await.unwrap();
        assert!(matches!(writer.request_record(&id, 1_700_000_000_000), Err(StoreError::AnswerShredded)));
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    let keys: Vec<_> = (0..9u8).map(|n| [n; 16]).collect();
    let rows: Vec<(&[u8], Option<&[u8]>)> = keys.iter().map(|key| (&key[..], Some(&b"x"[..]))).collect();
    assert!(matches!(writer.submit(about(&rows)).await, Err(StoreError::TooManySubjects { .. })));
    assert!(matches!(writer.submit(about(&[(b"short", Some(b"x"))])).await, Err(StoreError::NoSubject(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_goes_with_all_versions_of_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.rotate_vault_key(&org(1)).await.unwrap();
    let mut writer = store.writer(&org(1), &[COPIES]).await.unwrap();
    writer.submit(about(&[(&key(FIRST, 0), Some(b"under a new key"))])).await.unwrap();
    assert_eq!(snapshot(&store, &org(1)).await.subject_fingerprints(&FIRST).unwrap().len(), 2);
    writer.submit(shred(FIRST)).await.unwrap();
    drop(writer);
    let rows = all(&snapshot(&store, &org(1)).await, TABLE);
    assert!(rows.len() == 4 && rows.iter().all(|(key, _)| !key.starts_with(&FIRST)));
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_and_orgs_go_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let accounts: Vec<Address> = (0..40u8).map(|n| Address::account(Id::from_bytes([n; 16]))).collect();
    let project = org(1).project(Id::from_bytes([7; 16]));
    for address in accounts.iter().chain([&project, &org(1), &org(2)]) {
        let mut writer = store.writer(address, &[]).await.unwrap();
        writer.submit(commit(&[(b"a", Some(address.as_str().as_bytes()))])).await.unwrap();
    }
    let mut held = store.writer(&accounts[0], &[]).await.unwrap();
    let reader = store.reader(&accounts[0]).await.unwrap();
    let kept = reader.snapshot().await.unwrap();
    let gone = [accounts[0].clone(), accounts[1].clone()];
    let fingerprints = store.shred_partitions(&gone).await.unwrap();
    assert_eq!(fingerprints.len(), 2);
    assert_eq!(store.shred_partitions(&gone).await.unwrap(), fingerprints, "again, with the same result");
    assert!(matches!(held.submit(commit(&[])).await, Err(StoreError::Shredded(_))));
    assert!(matches!(reader.snapshot().await, Err(StoreError::Shredded(_))));
    // Whoever was reading is told so, and takes nobody else's vault for damaged.
    assert_eq!(kept.transaction(1).unwrap_err().code, Code::FailedPrecondition);
    assert!(store.observe().quarantined.is_empty());
    drop((held, kept));
    let vaults = |dir: &Path| fs::read_dir(dir.join("data/vaults")).unwrap().count();
    let before = vaults(dir.path());
    let keys = store.org_keys().unwrap();
    let org_key = keys.iter().find(|key| key.of == org(1).to_string()).unwrap().fingerprint;
    let mut held = store.writer(&project, &[]).await.unwrap();
    assert_eq!(store.shred_org(&org(1)).await.unwrap(), [org_key]);
    assert_eq!(store.shred_org(&org(1)).await.unwrap(), [org_key]);
    assert!(held.submit(commit(&[])).await.is_err());
    drop(held);
    assert_eq!(vaults(dir.path()), before - 2);
    store.close().await.unwrap();
    drop(store);

    let store = open(dir.path());
    for address in &gone {
        assert!(matches!(store.reader(address).await, Err(StoreError::Shredded(_))));
        assert!(matches!(store.writer(address, &[]).await, Err(StoreError::Shredded(_))));
    }
    for address in [&org(1), &project] {
        assert!(matches!(store.writer(address, &[]).await, Err(StoreError::Shredded(_))), "it is not made again");
        assert_eq!(store.reader(address).await.unwrap().snapshot().await.unwrap().seq().unwrap(), 0);
    }
    for address in accounts.iter().skip(2).chain([&org(2)]) {
        let snapshot = snapshot(&store, address).await;
        assert_eq!(snapshot.get(TABLE, b"a").unwrap().unwrap(), address.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_org_whose_end_a_crash_interrupted_is_gone_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(dir.path());
    for n in [1, 2] {
        let mut writer = store.writer(&org(n), &[]).await.unwrap();
        writer.submit(commit(&[(b"a", Some(b"1"))])).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let kept = dir.path().join("kept");
    copy_dir(&data.join("vaults"), &kept);
    let store = open(dir.path());
    store.shred_org(&org(1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    // The key is destroyed, and the vaults are all still there.
    fs::remove_dir_all(data.join("vaults")).unwrap();
    copy_dir(&kept, &data.join("vaults"));
    let store = open(dir.path());
    assert_eq!(fs::read_dir(data.join("vaults")).unwrap().count(), 2, "one vault and the index");
    assert_eq!(snapshot(&store, &org(2)).await.get(TABLE, b"a").unwrap().unwrap(), "1");
    assert!(matches!(store.writer(&org(1), &[]).await, Err(StoreError::Shredded(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_org_whose_vault_could_not_be_removed_is_gone_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let vaults = dir.path().join("data/vaults");
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    writer.submit(commit(&[(b"a", Some(b"1"))])).await.unwrap();
    drop(writer);
    let is_vault = |path: &std::path::PathBuf| path.is_dir();
    let vault = fs::read_dir(&vaults).unwrap().map(|entry| entry.unwrap().path()).find(is_vault).unwrap();
    let (keyring, kept) = (vault.join("keyring"), dir.path().join("kept"));
    fs::rename(&keyring, &kept).unwrap();
    fs::create_dir(&keyring).unwrap();
    assert!(store.shred_org(&org(1)).await.is_err());
    fs::remove_dir(&keyring).unwrap();
    fs::rename(&kept, &keyring).unwrap();
    // A clean stop, but for the work that is left.
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(!vault.exists());
    assert!(matches!(store.writer(&org(1), &[]).await, Err(StoreError::Shredded(_))));
}
