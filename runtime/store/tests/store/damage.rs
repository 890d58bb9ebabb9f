//! A vault that lost something is quarantined; the others go on.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use canopy_domain::{Address, Code, Reader, Refusal};
use canopy_store::{Store, StoreError};

use crate::fixture::{TABLE, commit, open, options, org, put};

/// The directory of the only vault but `other`.
fn vault_dir(dir: &Path, other: Option<&Path>) -> PathBuf {
    let mut entries = fs::read_dir(dir.join("data/vaults")).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.is_dir() && Some(path.as_path()) != other).unwrap()
}

fn journal(vault: &Path) -> PathBuf {
    let mut entries = fs::read_dir(vault.join("db")).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.extension().is_some_and(|e| e == "jnl")).unwrap()
}

/// Where the journal's bytes end: it is allocated beyond.
fn written(journal: &Path) -> u64 {
    let bytes = fs::read(journal).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64
}

/// Flips the lowest bit of a byte.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Damages the vault of `org(1)`; it must be quarantined for `reason`, and
/// `org(2)` served.
async fn check(reason: &str, damage: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    for n in 0..20u32 {
        writer.submit(commit(&[(&n.to_be_bytes(), Some(b"1"))])).await.unwrap();
    }
    drop(writer);
    let damaged = vault_dir(dir.path(), None);
    put(&store, &org(2), b"1").await;
    store.close().await.unwrap();
    damage(&damaged);

    let store = open(dir.path());
    let error = store.reader(&org(1)).await.err().unwrap_or_else(|| panic!("served after: {reason}"));
    assert!(matches!(&error, StoreError::Quarantined { vault, .. } if *vault == org(1).to_string()), "{error}");
    assert!(error.to_string().contains(reason), "`{error}` does not say `{reason}`");
    let refusal = Refusal::from(error);
    assert_eq!(refusal.code, Code::Unavailable);
    assert!(refusal.hint.unwrap().contains("canopy local verify"));
    assert!(matches!(store.writer(&org(1), &[]).await, Err(StoreError::Quarantined { .. })));
    let state = store.observe();
    assert_eq!(state.quarantined.len(), 1);
    assert_eq!(state.quarantined[0].vault, org(1).to_string());
    let mut writer = store.writer(&org(2), &[]).await.unwrap();
    assert_eq!(writer.submit(commit(&[])).await.unwrap(), 2, "others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_journal() {
    for part in [0.0, 0.5, 0.99] {
        check("acknowledged group 20", move |vault| {
            let journal = journal(vault);
            let len = (written(&journal) as f64 * part) as u64;
            OpenOptions::new().write(true).open(&journal).unwrap().set_len(len).unwrap();
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_journal() {
    for part in [0.1, 0.4, 0.6, 0.8] {
        check("", move |vault| {
            let path = journal(vault);
            let at = (written(&path) as f64 * part) as u64;
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let mut byte = [0u8];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x04], at).unwrap();
        })
        .await;
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A batch that was being written when power went: of any of its sectors, the
/// disk may have the new bytes or the old ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_batch_at_the_end_of_the_journal() {
    const SECTOR: usize = 512;
    let (dir, later) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    for _ in 0..20 {
        put(&store, &org(1), b"acknowledged").await;
    }
    store.close().await.unwrap();
    let vault = vault_dir(dir.path(), None);
    let before = fs::read(journal(&vault)).unwrap();
    copy(dir.path(), later.path());
    let store = open(later.path());
    let row: Vec<u8> = (0..4 * SECTOR).map(|at| at.wrapping_mul(2_654_435_761) as u8).collect();
    put(&store, &org(1), &row).await;
    store.close().await.unwrap();
    let after = fs::read(journal(&vault_dir(later.path(), None))).unwrap();
    let end = after.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let start = before.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let sectors: Vec<usize> = (start / SECTOR..end.div_ceil(SECTOR)).collect();
    assert!(sectors.len() > 4);
    // Some of all ways to lose sectors, the first and the last ones among them.
    for lost in (1..1u32 << sectors.len()).step_by(13) {
        let mut torn = after.clone();
        for (_, sector) in sectors.iter().enumerate().filter(|(n, _)| lost & 1 << n != 0) {
            let bytes = sector * SECTOR..(sector + 1) * SECTOR;
            torn.resize(torn.len().max(bytes.end), 0);
            let old: Vec<u8> = bytes.clone().map(|at| before.get(at).copied().unwrap_or(0)).collect();
            torn[bytes].copy_from_slice(&old);
        }
        let at = tempfile::tempdir().unwrap();
        copy(dir.path(), at.path());
        fs::write(journal(&vault_dir(at.path(), None)), torn).unwrap();
        let store = open(at.path());
        let reader = store.reader(&org(1)).await.unwrap_or_else(|error| panic!("lost {lost:b}: {error}"));
        assert_eq!(reader.snapshot().await.unwrap().seq().unwrap(), 20, "lost {lost:b}");
        drop(reader);
        assert_eq!(put(&store, &org(1), b"goes on").await, 21);
        store.close().await.unwrap();
        let store = open(at.path());
        assert_eq!(store.reader(&org(1)).await.unwrap().snapshot().await.unwrap().seq().unwrap(), 21, "lost {lost:b}");
    }
}

/// Where it is acknowledged groups that do not come back, nothing is cut off
/// that somebody may want to look at.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_acknowledged_is_not_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for _ in 0..20 {
        put(&store, &org(1), &[7; 2000]).await;
    }
    store.close().await.unwrap();
    let path = journal(&vault_dir(dir.path(), None));
    // In the row of the last batch.
    let at = usize::try_from(written(&path)).unwrap() - 1000;
    flip(&path, at);
    let damaged = fs::read(&path).unwrap();
    let store = open(dir.path());
    assert!(matches!(store.reader(&org(1)).await, Err(StoreError::Quarantined { .. })));
    assert!(fs::read(&path).unwrap() == damaged, "it is left as it was found");
}

/// It then names an earlier version of the list of keyspaces, in which the
/// feed's is missing: fjall would make a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_what_names_the_keyspaces() {
    check("fails its checksum", |vault| flip(&vault.join("db/keyspaces/0/current"), 0)).await;
}

/// It leads to an offset that no file has: the disk says that the call is
/// wrong, and it is the vault that is.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_where_a_table_has_its_contents() {
    const OFFSET_FROM_END: usize = 16;
    for bit in [62, 63] {
        check("its database", |vault| {
            let tables = fs::read_dir(vault.join("db/keyspaces/0/tables")).unwrap();
            let table = tables.map(|entry| entry.unwrap().path()).next().expect("the list of keyspaces has a table");
            let mut bytes = fs::read(&table).unwrap();
            let at = bytes.len() - OFFSET_FROM_END + bit / 8;
            bytes[at] ^= 1 << (bit % 8);
            fs::write(&table, bytes).unwrap();
        })
        .await;
    }
}

/// fjall asserts what it finds there, and an assertion that fails while a
/// database is opened may end the process: it is looked at before.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_what_a_keyspace_says_of_itself() {
    for keyspace in ["0", "1", "2"] {
        for at in [0, 7, 8, 9, 20] {
            check("its database", |vault| {
                let directory = vault.join("db/keyspaces").join(keyspace);
                let current = fs::read(directory.join("current")).unwrap();
                let number = u64::from_le_bytes(*current.first_chunk().unwrap());
                flip(&directory.join(format!("v{number}")), at);
            })
            .await;
            check("its database", |vault| flip(&vault.join("db/keyspaces").join(keyspace).join("current"), at)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyspace_that_is_gone() {
    for keyspace in ["0", "1", "2"] {
        check("its database", |vault| {
            let path = vault.join("db/keyspaces").join(keyspace);
            fs::remove_file(path.join("current")).unwrap();
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_rolled_back_behind_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, &org(1), b"1").await;
    store.close().await.unwrap();
    let vault = vault_dir(dir.path(), None);
    let old = fs::read(journal(&vault)).unwrap();
    let store = open(dir.path());
    put(&store, &org(1), b"2").await;
    store.close().await.unwrap();
    fs::write(journal(&vault), old).unwrap();
    let store = open(dir.path());
    let error = store.reader(&org(1)).await.err().unwrap();
    assert!(error.to_string().contains("acknowledged group 2, and only 1"), "{error}");
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Sets the vault of `address` back by a commit, its own head included.
async fn check_set_back(address: Address, other: Address) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, &address, b"1").await;
    let vault = vault_dir(dir.path(), None);
    put(&store, &other, b"1").await;
    store.close().await.unwrap();
    let older = dir.path().join("older");
    copy_dir(&vault, &older);

    let store = open(dir.path());
    put(&store, &address, b"2").await;
    store.close().await.unwrap();
    fs::remove_dir_all(&vault).unwrap();
    copy_dir(&older, &vault);

    let store = open(dir.path());
    let error = store.reader(&address).await.err().unwrap();
    assert!(matches!(error, StoreError::Quarantined { .. }), "{error}");
    assert!(error.to_string().contains("set back to an older copy: it acknowledged group 2, and only 1"), "{error}");
    assert_eq!(store.reader(&other).await.unwrap().snapshot().await.unwrap().seq().unwrap(), 1, "others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_vault_that_was_set_back_is_noticed() {
    check_set_back(org(1), org(2)).await;
    check_set_back(Address::system("directory"), org(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_list_of_heads_keeps_nobody_from_being_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, &org(1), b"1").await;
    store.close().await.unwrap();
    fs::write(dir.path().join("data/heads"), b"nonsense").unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    assert_eq!(writer.submit(commit(&[])).await.unwrap(), 2);
    drop(writer);
    store.close().await.unwrap();
    assert!(fs::read(dir.path().join("data/heads")).unwrap().starts_with(b"canopy heads 1\n"), "and it is made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_keyrings_and_databases_that_are_missing_or_damaged() {
    check("head", |vault| fs::remove_file(vault.join("head")).unwrap()).await;
    check("neither slot of its head is authentic", |vault| {
        fs::write(vault.join("head"), [0xAA; 128]).unwrap();
    })
    .await;
    check("keyring", |vault| fs::remove_file(vault.join("keyring")).unwrap()).await;
    check("keyring", |vault| {
        let mut bytes = fs::read(vault.join("keyring")).unwrap();
        bytes[60] ^= 1;
        fs::write(vault.join("keyring"), bytes).unwrap();
    })
    .await;
    check("database is missing", |vault| fs::remove_dir_all(vault.join("db")).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_slot_of_a_head_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    writer.submit(commit(&[])).await.unwrap();
    writer.submit(commit(&[])).await.unwrap();
    drop(writer);
    store.close().await.unwrap();
    let head = vault_dir(dir.path(), None).join("head");
    OpenOptions::new().write(true).open(head).unwrap().write_all_at(&[0xAA; 64], 0).unwrap();
    let store = open(dir.path());
    assert_eq!(store.reader(&org(1)).await.unwrap().snapshot().await.unwrap().seq().unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_without_a_partitions_key_is_no_empty_partition() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, &org(1), b"1").await;
    store.close().await.unwrap();
    let keyring = vault_dir(dir.path(), None).join("keyring");
    let bytes = fs::read(&keyring).unwrap();
    // The partition's record is the last: it goes as if torn.
    fs::write(&keyring, &bytes[..bytes.len() - 3]).unwrap();
    let store = open(dir.path());
    for error in [store.writer(&org(1), &[]).await.err(), store.reader(&org(1)).await.err()] {
        let error = error.expect("never served as if nothing had been there");
        assert!(matches!(error, StoreError::Quarantined { .. }), "{error}");
        assert_eq!(Refusal::from(error).code, Code::Unavailable);
    }
}

/// Flips a bit in the last record of a file, `back` bytes before its end.
fn flip_near_end(path: &Path, back: usize) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - back;
    bytes[at] ^= 0x10;
    fs::write(path, &bytes).unwrap();
    bytes
}

/// A flipped bit in the last record of `file` (of the keyring of `org(2)`, or
/// of the installation's own files), after which `org(2)` is in quarantine,
/// `org(1)` served, and every byte kept.
async fn check_last_record(file: Option<&str>, reason: &str) {
    for back in [3, 20, 60] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        put(&store, &org(1), b"1").await;
        let first = vault_dir(dir.path(), None);
        put(&store, &org(2), b"1").await;
        store.close().await.unwrap();
        let path = match file {
            Some(file) => dir.path().join("data").join(file),
            None => vault_dir(dir.path(), Some(&first)).join("keyring"),
        };
        let flipped = flip_near_end(&path, back);
        for _ in 0..2 {
            let store = open(dir.path());
            let refused = [store.writer(&org(2), &[]).await.err(), store.reader(&org(2)).await.err()];
            for error in refused {
                let error = error.expect("never served as if nothing had been there");
                assert!(matches!(error, StoreError::Quarantined { .. }), "{error}");
                assert!(error.to_string().contains(reason), "{error}");
            }
            assert_eq!(store.observe().quarantined[0].vault, org(2).to_string());
            put(&store, &org(1), b"2").await;
            store.close().await.unwrap();
            assert_eq!(fs::read(&path).unwrap(), flipped, "it may still be repaired");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_key_of_a_keyring_is_not_taken_for_a_torn_one() {
    check_last_record(None, "a record of its keyring cannot be read").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_key_of_an_org_is_not_taken_for_a_torn_one() {
    check_last_record(Some("keys/orgs"), "the key of its org is missing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_the_index_lost_is_found_by_its_keyring() {
    for back in [3, 20, 60, 150] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        put(&store, &org(1), b"1").await;
        put(&store, &org(2), b"1").await;
        store.close().await.unwrap();
        flip_near_end(&dir.path().join("data/vaults/index"), back);
        let store = open(dir.path());
        for n in [1, 2] {
            assert_eq!(put(&store, &org(n), b"2").await, 2);
        }
    }
}

/// What a crash tore while it was appended, in any shape, is in nobody's way.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_torn_and_nobody_needs_is_cut_off() {
    for torn in [&b"\0\0\0"[..], b"\0\0\0\0\0\0\0\0\0\0\0\0sector", b"\0\0\0\x04\xff\xff\xff\xfbkeys12345678", b"junk"]
    {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        put(&store, &org(1), b"1").await;
        store.close().await.unwrap();
        let data = dir.path().join("data");
        let files = [data.join("keys/orgs"), data.join("vaults/index"), vault_dir(dir.path(), None).join("keyring")];
        let whole = files.each_ref().map(|file| fs::read(file).unwrap());
        for (file, bytes) in files.iter().zip(&whole) {
            fs::write(file, [bytes, torn].concat()).unwrap();
        }
        let store = open(dir.path());
        assert_eq!(put(&store, &org(1), b"2").await, 2);
        assert_eq!(files.each_ref().map(|file| fs::read(file).unwrap()), whole);
        put(&store, &org(2), b"1").await;
        store.close().await.unwrap();
        let store = open(dir.path());
        assert_eq!(put(&store, &org(2), b"2").await, 2);
    }
}

/// The largest table of a vault.
fn table(vault: &Path) -> PathBuf {
    let keyspaces = fs::read_dir(vault.join("db/keyspaces")).unwrap().map(|entry| entry.unwrap().path().join("tables"));
    let tables = keyspaces.filter(|dir| dir.is_dir()).flat_map(|dir| fs::read_dir(dir).unwrap());
    tables.map(|entry| entry.unwrap().path()).max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// A vault that opens, and is damaged where only a read comes: the read fails, and from there on the vault is in
/// quarantine, for those too who had it open.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_read_finds() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(dir.path());
    small.write_buffer_bytes = 1;
    let store = Store::open(small).unwrap();
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    for n in 0..64u32 {
        // Of bytes that do not compress: the middle of the table is then in the middle of rows.
        let row: Vec<u8> =
            (0..30_000u32).map(|at| ((n * 30_000 + at).wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        writer.submit(commit(&[(&n.to_be_bytes(), Some(&row))])).await.unwrap();
    }
    drop(writer);
    let vault = vault_dir(dir.path(), None);
    put(&store, &org(2), b"1").await;
    store.close().await.unwrap();
    drop(store);
    let table = table(&vault);
    let file = OpenOptions::new().read(true).write(true).open(&table).unwrap();
    let (mut byte, at) = ([0u8], file.metadata().unwrap().len() / 2);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();

    let store = open(dir.path());
    let snapshot = store.reader(&org(1)).await.unwrap().snapshot().await.unwrap();
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    assert!(store.observe().quarantined.is_empty());
    let read = |n: u32| snapshot.get(TABLE, &n.to_be_bytes()).and(snapshot.transaction(u64::from(n) + 1));
    let error = (0..64).find_map(|n| read(n).err()).expect("a bit of them is flipped");
    assert!(error.message.contains("is damaged"), "{error:?}");
    assert_eq!(store.observe().quarantined[0].vault, org(1).to_string());
    assert!(writer.submit(commit(&[])).await.is_err(), "nothing is added to damage");
    let again = store.reader(&org(1)).await.unwrap().snapshot().await;
    assert!(matches!(again, Err(StoreError::Quarantined { .. })));
    drop((writer, snapshot));
    assert!(matches!(store.writer(&org(1), &[]).await, Err(StoreError::Quarantined { .. })));
    assert_eq!(store.observe().quarantined.len(), 1, "once");
    assert_eq!(put(&store, &org(2), b"2").await, 2, "others go on");
}
