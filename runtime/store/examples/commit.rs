//! Durable commits a second: 256 tasks, each waiting for its ticket before its
//! next commit, over 32 vaults and over one. A commit is a change of 200
//! bytes, a request record and a feed entry. Beside it, fjall alone with the
//! same rows, unsealed, and a group commit of 256.
//!
//! `cargo run --release -p canopy-store --example commit`

#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a measurement with numbers of its own")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use canopy_domain::{Address, Change, Id, Secret};
use canopy_proto::system::v1::{Origin, RequestRecord};
use canopy_store::{Commit, RequestKey, Store, StoreOptions, Unlock};
use tokio::sync::Mutex;

const TASKS: u64 = 256;
const SECONDS: u64 = 4;

fn address(n: u64) -> Address {
    let org = Id::from_bytes([7; 16]);
    let mut project = [0u8; 16];
    project[8..].copy_from_slice(&n.to_be_bytes());
    Address::org(org).project(Id::from_bytes(project))
}

fn commit(n: u64, task: u64) -> Commit {
    let id = format!("{task}-{n}");
    Commit {
        time_ms: 1_700_000_000_000,
        principal: "account/01arz3ndektsv4rrffq69g5fav".into(),
        origin: Origin::default(),
        request_id: id.clone(),
        method: "canopy.example.v1.Example/Write",
        changes: vec![Change {
            table: 1,
            key: [task.to_be_bytes(), n.to_be_bytes()].concat(),
            before: None,
            after: Some(noise(n).into()),
            schema_version: 1,
            of_subject: false,
        }],
        effects: Vec::new(),
        wake_at_ms: None,
        shreds: Vec::new(),
        record: Some((
            RequestKey::new("account/01arz3ndektsv4rrffq69g5fav", "canopy.example.v1.Example/Write", &id),
            RequestRecord { payload_digest: vec![1; 16].into(), reply: vec![2; 20].into(), seq: 0 },
        )),
    }
}

fn noise(n: u64) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..200).map(next).collect()
}

async fn ours(vaults: u64) -> Result<f64, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(".")?;
    let store = Store::open(StoreOptions::new(dir.path(), Unlock::Key(Secret::new("ab".repeat(32)))))?;
    let mut writers = Vec::new();
    for n in 0..vaults {
        let mut writer = store.writer(&address(n), &[]).await?;
        writer.submit(commit(0, u64::MAX)).await?;
        writers.push(Arc::new(Mutex::new(writer)));
    }
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let writer = writers[(task % vaults) as usize].clone();
        let done = done.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0.. {
                if started.elapsed() > Duration::from_secs(SECONDS) {
                    break;
                }
                let ticket = writer.lock().await.submit(commit(n, task));
                ticket.await.expect("committed");
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    let state = store.observe();
    println!(
        "canopy  {vaults:>2} vaults: {rate:>8.0} commits/s, {:.1} a group",
        state.commits as f64 / state.groups as f64
    );
    drop(writers);
    store.close().await?;
    Ok(rate)
}

/// fjall with the same rows: a thread per database commits whatever waits.
fn raw(databases: u64) -> Result<f64, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(".")?;
    let per_database = (TASKS / databases) as usize;
    let started = Instant::now();
    let threads: Vec<_> = (0..databases)
        .map(|n| {
            let path = dir.path().join(n.to_string());
            std::thread::spawn(move || -> fjall::Result<u64> {
                let db = fjall::Database::builder(path).worker_threads(1).manual_journal_persist(true).open()?;
                let options = || fjall::KeyspaceCreateOptions::default().max_memtable_size(u64::MAX);
                let (data, feed) = (db.keyspace("data", options)?, db.keyspace("feed", options)?);
                let mut done = 0u64;
                while started.elapsed() < Duration::from_secs(SECONDS) {
                    let mut batch = db.batch().durability(Some(fjall::PersistMode::SyncData));
                    for _ in 0..per_database {
                        batch.insert(&data, [[1; 8], done.to_be_bytes()].concat(), vec![1; 250]);
                        batch.insert(&data, [[2; 8], done.to_be_bytes()].concat(), vec![1; 100]);
                        batch.insert(&feed, [[3; 8], done.to_be_bytes()].concat(), vec![1; 500]);
                        done += 1;
                    }
                    batch.commit()?;
                }
                Ok(done)
            })
        })
        .collect();
    let mut done = 0;
    for thread in threads {
        done += thread.join().expect("no panic")?;
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    println!("fjall   {databases:>2} vaults: {rate:>8.0} commits/s");
    Ok(rate)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for vaults in [32, 1] {
        let base = tokio::task::spawn_blocking(move || raw(vaults).map_err(|e| e.to_string())).await??;
        let rate = ours(vaults).await?;
        println!("        {vaults:>2} vaults: {:.0}% of fjall alone", 100.0 * rate / base);
    }
    Ok(())
}
