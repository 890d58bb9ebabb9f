//! The way of fuzz targets to the parsers of stored bytes. No part of the
//! interface. Panics where a property does not hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use canopy_proto::system::v1::Transaction;
use prost::Message;

use crate::heads::{self, Heads};
use crate::key::{Key, Nonces};
use crate::keyring::NewKey;
use crate::partition::{Partition, SCHEMA_VERSION};
use crate::seal::{Sealer, Space};
use crate::settled::{self, Files, Print, Settled};

const VAULT: [u8; 16] = [7; 16];
const NAME: [u8; 16] = [9; 16];
const NONCE: [u8; 24] = [3; 24];

fn key() -> Key {
    Key::from_bytes([5; 32])
}

/// A row key and a text, or what is altered about them: sealed and opened they
/// are the same, and a flipped or lost byte is noticed. `data` itself was
/// never sealed and is not opened.
pub fn sealed_value(data: &[u8]) {
    let sealer = Sealer::new(&key(), VAULT, 1);
    assert!(sealer.open(Space::Data, b"key", data).is_err(), "bytes from outside were opened");
    let Some(([key_bytes, at, flip], rest)) = data.split_first_chunk() else { return };
    let (row_key, text) = rest.split_at(rest.len().min(usize::from(*key_bytes)));
    let stored = sealer.seal(Space::Data, row_key, SCHEMA_VERSION, text, NONCE);
    let opened = sealer.open(Space::Data, row_key, &stored).expect("what was sealed opens");
    assert_eq!(opened, text, "what was opened is not what was sealed");
    assert!(sealer.open(Space::Feed, row_key, &stored).is_err(), "opened in another keyspace");
    // Places near both ends, where header, nonce and tag stand, and between.
    let places = stored.len() - 1;
    let at = usize::from(*at) * places.max(255) / 255 % stored.len();
    let mut altered = stored.to_vec();
    if let Some(byte) = altered.get_mut(at) {
        *byte ^= (*flip).max(1);
    }
    assert!(sealer.open(Space::Data, row_key, &altered).is_err(), "an altered byte was not noticed");
    altered.truncate(at);
    assert!(sealer.open(Space::Data, row_key, &altered).is_err(), "a lost end was not noticed");
}

/// A feed entry: bytes that were never sealed are refused; a transaction reads
/// as it was written, behind the entry it was chained to alone.
pub fn feed_entry(data: &[u8]) {
    let partition = Partition::fresh(
        &NewKey { partition: NAME, subject: None, version: 1, outer_version: 1, key: key(), created_ms: 0 },
        VAULT,
    );
    assert!(partition.open_entry(1, data).is_err(), "bytes from outside were opened");
    // What a former release, or a damaged one, may have sealed.
    let place = partition.feed_key(1);
    let sealed = partition.sealer().seal_before(Space::Feed, &place, SCHEMA_VERSION, data, NONCE, &[0; 32]);
    assert!(partition.check_link(&[], 1, &sealed).is_err(), "a chain that was made up was taken");
    // Its parts would stand behind it, and there are none.
    if Transaction::decode(data).is_ok_and(|read| read.changes.iter().any(|change| change.sealed_bytes > 0)) {
        assert!(partition.open_entry(1, &sealed).is_err(), "parts that are not there were read");
        return;
    }
    let (Ok(mut transaction), Ok(read)) = (Transaction::decode(data), partition.open_entry(1, &sealed)) else {
        assert!(Transaction::decode(data).is_err(), "a sealed transaction cannot be read");
        return;
    };
    assert_eq!(read, transaction, "another transaction was read than was sealed");
    transaction.seq = transaction.seq.max(1);
    let seq = transaction.seq;
    let (stored, mac) = partition.seal_entry(&[1; 32], transaction.clone(), &[], &mut Nonces::new());
    let (linked, link) = partition.check_link(&[1; 32], seq, &stored).expect("what was sealed opens");
    assert_eq!((linked, link), (transaction, mac), "another transaction was read than was sealed");
    assert!(partition.check_link(&[2; 32], seq, &stored).is_err(), "chained to another entry");
    assert!(partition.check_link(&[1; 32], seq.wrapping_add(1), &stored).is_err(), "taken at another place");
}

/// How far vaults had come, in the file that `dir` has for it: bytes that were
/// never sealed say nothing, what was sealed says what it holds or nothing,
/// and what is noted is read again.
pub fn heads(dir: &Path, data: &[u8]) {
    let (path, key) = (dir.join("heads"), key());
    let open = || Heads::open(&path, Some(&key)).expect("the file can be read");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("a file can be written");
        open()
    };
    let entries = || {
        let entries = data.chunks_exact(24).filter_map(|entry| entry.split_first_chunk::<16>());
        entries.map(|(vault, group)| (*vault, group.iter().fold(0, |group, byte| group << 8 | u64::from(*byte))))
    };
    let last: BTreeMap<[u8; 16], u64> = entries().collect();
    let (forged, sealed) = (read(data), read(&heads::sealed(&key, data)));
    let is_whole = data.len().is_multiple_of(24);
    for (vault, group) in &last {
        assert_eq!(forged.acknowledged(vault), 0, "bytes from outside were taken");
        assert_eq!(sealed.acknowledged(vault), if is_whole { *group } else { 0 }, "another number was read");
    }
    fs::remove_file(&path).expect("a file can be removed");
    let noting = open();
    let mut most: BTreeMap<[u8; 16], u64> = BTreeMap::new();
    for (vault, group) in entries() {
        noting.note(vault, group);
        let most = most.entry(vault).or_default();
        *most = group.max(*most);
    }
    noting.write(&key).expect("a file can be written");
    let again = open();
    for (vault, group) in most {
        assert_eq!(again.acknowledged(&vault), group, "another number was read than was noted");
    }
}

/// What a clean stop said, in the files that `dir` has for it: only the very
/// text that the index, the heads and the keys of orgs call for is believed.
pub fn settled(dir: &Path, data: &[u8]) {
    let key = key();
    let path = |name: &str| dir.join(name);
    let files = || Files { settled: path("settled"), index: path("index"), heads: path("heads"), orgs: path("orgs") };
    let write = |name: &str, bytes: &[u8]| fs::write(path(name), bytes).expect("a file can be written");
    let (records, index) = data.split_first_chunk::<8>().unwrap_or((&[0; 8], data));
    let records = u64::from_be_bytes(*records);
    write("index", index);
    write("heads", data);
    write("orgs", data);
    let believed = |text: &[u8], orgs: &[u8], index: &[u8]| {
        write("settled", text);
        let settled = Settled::open(files(), Some(&key), orgs);
        assert!(!settled.holds(records.wrapping_add(1), Print::of(index)), "it holds of another number of records");
        Settled::open(files(), Some(&key), orgs).holds(records, Print::of(index))
    };
    let text = files().now(records).expect("the files are there").to_bytes();
    let sealed = settled::sealed(&key, &text);
    assert!(!believed(data, data, index) && !believed(&text, data, index), "what was never sealed is believed");
    assert!(believed(&sealed, data, index), "what holds is not believed");
    assert!(!believed(&settled::sealed(&key, data), data, index), "a made up text is believed");
    let other = [data, b"more"].concat();
    assert!(!believed(&sealed, &other, index), "it is believed of other keys");
    assert!(!believed(&sealed, data, &other), "it is believed of another index");
    write("heads", &other);
    assert!(!believed(&sealed, data, index), "it is believed of other heads");
}
