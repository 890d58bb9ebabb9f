//! Many submitters over several partitions of one vault.

use std::sync::Arc;

use canopy_domain::{Address, Id, Reader};
use tokio::sync::Mutex;

use crate::fixture::{TABLE, check_gapless, commit, open, org};

/// Sessions that share a shard, hence a vault.
fn neighbours(count: usize) -> Vec<Address> {
    let shard = |address: &Address| {
        use sha2::{Digest, Sha256};
        Sha256::digest(address.as_str().as_bytes())[0] % 16
    };
    let sessions = (0u32..).map(|n| {
        let mut id = [0u8; 16];
        id[12..].copy_from_slice(&n.to_be_bytes());
        Address::session(Id::from_bytes(id))
    });
    sessions.filter(|address| shard(address) == 3).take(count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn seqs_are_gapless_and_in_order_under_64_submitters() {
    const EACH: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writers = Vec::new();
    for address in neighbours(4) {
        writers.push(Arc::new(Mutex::new(store.writer(&address, &[]).await.unwrap())));
    }
    let mut tasks = Vec::new();
    for task in 0..64u64 {
        let writer = writers[(task % 4) as usize].clone();
        tasks.push(tokio::spawn(async move {
            let mut last = 0;
            for n in 0..EACH {
                let (seq, ticket) = {
                    let mut writer = writer.lock().await;
                    let key = [task.to_be_bytes(), n.to_be_bytes()].concat();
                    (writer.next_seq(), writer.submit(commit(&[(&key, Some(&n.to_be_bytes()))])))
                };
                assert_eq!(ticket.await.unwrap(), seq);
                assert!(seq > last);
                last = seq;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for writer in &writers {
        let writer = writer.lock().await;
        let snapshot = writer.reader().snapshot().await.unwrap();
        assert_eq!(snapshot.seq().unwrap(), 16 * EACH);
        check_gapless(&snapshot);
        assert_eq!(crate::fixture::all(&snapshot, TABLE).len(), 16 * EACH as usize);
    }
    let state = store.observe();
    assert_eq!(state.commits, 64 * EACH);
    assert_eq!(state.open_vaults, ["shard/03"]);
    assert!(state.groups < state.commits, "{} groups for {} commits", state.groups, state.commits);
    assert!(state.bytes > 0);
    assert!(serde_json::to_string(&state).unwrap().contains("shard/03"));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_bounded_by_count_and_bytes() {
    for (commits_max, bytes_max) in [(8, usize::MAX), (usize::MAX, 16 << 10)] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::fixture::options(dir.path());
        options.group_commits_max = commits_max;
        options.group_bytes_max = bytes_max;
        let store = canopy_store::Store::open(options).unwrap();
        let mut writer = store.writer(&org(1), &[]).await.unwrap();
        for n in 0..256u32 {
            let noise: Vec<u8> = (0..2048u32).map(|i| (i.wrapping_mul(n + 7919) >> 5) as u8).collect();
            drop(writer.submit(commit(&[(&n.to_be_bytes(), Some(&noise))])));
        }
        writer.barrier().await.unwrap();
        let state = store.observe();
        // 8 commits of 2 kB are 16 kB, so both bounds need 32 groups or so.
        assert!(state.groups >= 32, "{} groups, at most {commits_max} or {bytes_max} bytes", state.groups);
        assert_eq!(state.commits, 256);
    }
}
