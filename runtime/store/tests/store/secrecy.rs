//! What a thief of the disk finds, and who can open it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use canopy_domain::{Effect, Reader, Secret};
use canopy_proto::system::v1::RequestRecord;
use canopy_store::{Commit, RequestKey, Store, StoreError, StoreOptions, Unlock};

use crate::fixture::{KEY, TABLE, commit, open, options, org};

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

const MARKER: &str = "the-quick-brown-marker";

#[tokio::test(flavor = "multi_thread")]
async fn no_plaintext_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    // A small budget, so that there are tables as well as a journal.
    let mut opened = options(dir.path());
    opened.write_buffer_bytes = 1;
    let store = Store::open(opened).unwrap();
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    for n in 0..200u32 {
        let text = format!("{MARKER} {n} ").repeat(if n % 2 == 0 { 1 } else { 500 });
        let record = RequestRecord { payload_digest: MARKER.into(), reply: MARKER.into(), seq: 0 };
        let effect =
            Effect { target: org(2), method: "canopy.test.v1.T/M", request: MARKER.into(), outlives_subjects: false };
        let sealed = Commit {
            principal: MARKER.into(),
            request_id: MARKER.into(),
            record: Some((RequestKey::new(MARKER, MARKER, MARKER), record)),
            effects: vec![effect],
            ..commit(&[(&n.to_be_bytes(), Some(text.as_bytes()))])
        };
        writer.submit(sealed).await.unwrap();
    }
    drop(writer);
    store.close().await.unwrap();
    drop(store);
    let org_name = org(1).to_string();
    let all = files(dir.path());
    assert!(all.iter().any(|path| path.extension().is_some_and(|e| e == "jnl")), "{all:?}");
    for path in &all {
        let bytes = fs::read(path).unwrap();
        for text in [MARKER, org_name.as_str(), KEY, "quick-brown"] {
            let shown = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!shown, "`{text}` in {}", path.display());
        }
        assert!(!path.display().to_string().contains(&org_name));
    }
    for path in ["data", "data/keys", "data/vaults"] {
        let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{path}");
    }
    for path in ["data/keys/root.slots", "data/keys/orgs", "data/vaults/index", "data/VERSION", "data/LOCK"] {
        let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
    let store = open(dir.path());
    let snapshot = store.reader(&org(1)).await.unwrap().snapshot().await.unwrap();
    assert!(snapshot.get(TABLE, &199u32.to_be_bytes()).unwrap().unwrap().starts_with(MARKER.as_bytes()));
}

/// Opens with one secret, then with others.
async fn check_unlock(first: fn(&Path) -> Unlock, wrong: fn(&Path) -> Unlock) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = Store::open(StoreOptions::new(&data, first(dir.path()))).unwrap();
    let id = store.installation_id();
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    writer.submit(commit(&[(b"a", Some(b"1"))])).await.unwrap();
    drop(writer);
    store.close().await.unwrap();
    let error = Store::open(StoreOptions::new(&data, wrong(dir.path()))).err().unwrap();
    assert!(matches!(error, StoreError::WrongKey(_)), "{error}");
    let store = Store::open(StoreOptions::new(&data, first(dir.path()))).unwrap();
    assert_eq!(store.installation_id(), id);
    let snapshot = store.reader(&org(1)).await.unwrap().snapshot().await.unwrap();
    assert_eq!(snapshot.get(TABLE, b"a").unwrap().unwrap(), "1");
}

#[tokio::test]
async fn a_wrong_secret_is_told_from_damage() {
    check_unlock(
        |_| Unlock::Passphrase(Secret::new("correct horse")),
        |_| Unlock::Passphrase(Secret::new("correct horsf")),
    )
    .await;
    check_unlock(|_| Unlock::Key(Secret::new(KEY)), |_| Unlock::Key(Secret::new("0".repeat(64)))).await;
    check_unlock(|dir| Unlock::KeyFile(dir.join("key")), |_| Unlock::Key(Secret::new(KEY))).await;
    check_unlock(|dir| Unlock::KeyFile(dir.join("key")), |_| Unlock::Passphrase(Secret::new("guess"))).await;
}

#[tokio::test]
async fn a_key_file_is_made_once_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let (data, key) = (dir.path().join("data"), dir.path().join("key"));
    let open = || Store::open(StoreOptions::new(&data, Unlock::KeyFile(key.clone())));
    drop(open().unwrap());
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&key).unwrap().trim().len(), 64);
    fs::remove_file(&key).unwrap();
    assert!(matches!(open(), Err(StoreError::Io { .. })));
    assert!(!key.exists(), "another key would open nothing");
    let malformed = Unlock::Key(Secret::new("abc"));
    assert!(matches!(Store::open(StoreOptions::new(&data, malformed)), Err(StoreError::MalformedKey(_))));
}
