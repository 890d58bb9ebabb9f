//! What a thief reads off the disk: after many mixed operations, and after shredding, no file holds a
//! text that was written, nor a file's name an address.

use std::path::Path;

use canopy_domain::Address;
use canopy_store::{Store, StoreError, Writer};

use super::finding::{Finding, Kind, Tally, Verdict};
use super::{plan, tree, victim};
use crate::LoadError;

/// Memory for rows that are not in tables yet: small, so that most are in some.
const WRITE_BUFFER_BYTES: u64 = 1 << 20;
/// Operations of a partition before its owner goes and another comes.
const OPERATIONS_PER_OWNER: u64 = 500;
/// Operations in flight.
const IN_FLIGHT: usize = 64;

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

/// Makes `operations`, has keys rotated between them and partitions shredded at the end, and looks through
/// all files before and after that. None are two points without operations.
///
/// # Errors
/// The store refuses something, or a file cannot be read.
pub fn attack(under: &Path, seed: u64, operations: u64) -> Result<Tally, LoadError> {
    let dir = under.join("plaintext");
    let runtime = tokio::runtime::Runtime::new().map_err(LoadError::io("start a runtime"))?;
    let mut tally = Tally::default();
    let options = || victim::options(&dir, WRITE_BUFFER_BYTES);
    let addresses = plan::addresses(seed);
    runtime.block_on(async {
        let store = Store::open(options()).map_err(subject)?;
        tally.acknowledged = work(&store, seed, &addresses, operations).await.map_err(subject)?;
        store.close().await.map_err(subject)
    })?;
    tally.add(&format!("after {operations} operations (seed {seed})"), look(&dir, &addresses)?);
    runtime.block_on(async {
        let store = Store::open(options()).map_err(subject)?;
        shred(&store, &addresses).await.map_err(subject)?;
        store.close().await.map_err(subject)
    })?;
    tally.add(&format!("after shredding (seed {seed})"), look(&dir, &addresses)?);
    std::fs::remove_dir_all(&dir).map_err(LoadError::io("remove the directory"))?;
    Ok(tally)
}

/// Gives how many were acknowledged.
async fn work(store: &Store, seed: u64, addresses: &[Address], operations: u64) -> Result<u64, StoreError> {
    let mut done = vec![0u64; addresses.len()];
    let mut acknowledged = 0;
    let owners = operations.div_ceil(OPERATIONS_PER_OWNER);
    for owner in 0..owners {
        let partition = usize::try_from(owner).unwrap_or(0) % addresses.len();
        let (Some(address), Some(done)) = (addresses.get(partition), done.get_mut(partition)) else { continue };
        let mut writer = store.writer(address, &plan::views(1)).await?;
        let count = OPERATIONS_PER_OWNER.min(operations - owner * OPERATIONS_PER_OWNER);
        acknowledged += own(&mut writer, seed, partition, *done, count).await?;
        *done += count;
        drop(writer);
        match owner % 20 {
            3 => drop(store.rotate_vault_key(address).await?),
            5 => drop(store.rotate_root_key().await?),
            _ => {}
        }
    }
    Ok(acknowledged)
}

async fn own(writer: &mut Writer, seed: u64, partition: usize, from: u64, count: u64) -> Result<u64, StoreError> {
    let mut tickets = Vec::with_capacity(IN_FLIGHT);
    let mut acknowledged = 0;
    for op in from..from + count {
        let live = writer.live();
        let read = |table, key: &[u8]| canopy_domain::Reader::get(&live, table, key);
        let commit = plan::commit(seed, partition, op, writer.next_seq(), read);
        let commit = commit.map_err(|refusal| StoreError::Io { what: "a row".into(), reason: refusal.message })?;
        drop(live);
        tickets.push(writer.submit(commit));
        if tickets.len() == IN_FLIGHT || op + 1 == from + count {
            for ticket in tickets.drain(..) {
                ticket.await?;
                acknowledged += 1;
            }
        }
    }
    let completed: Vec<(u64, u32)> = writer.pending_effects(IN_FLIGHT)?.iter().map(|e| (e.seq, e.n)).collect();
    writer.complete_effects(&completed).await?;
    Ok(acknowledged)
}

/// An account, and an org with its projects.
async fn shred(store: &Store, addresses: &[Address]) -> Result<(), StoreError> {
    let accounts: Vec<Address> = addresses.iter().filter(|a| a.as_str().starts_with("account/")).cloned().collect();
    store.shred_partitions(&accounts).await?;
    if let Some(org) = addresses.first() {
        store.shred_org(org).await?;
    }
    Ok(())
}

fn look(dir: &Path, addresses: &[Address]) -> Result<Verdict, LoadError> {
    let findings = tree::plaintext(dir).map_err(LoadError::io("look through the files"))?;
    let mut verdict = Verdict { findings, ..Verdict::default() };
    for path in tree::files(dir).map_err(LoadError::io("list files"))? {
        let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
        let ids = addresses.iter().flat_map(|address| address.as_str().split('/')).filter(|part| part.len() == 26);
        let named = ids.filter(|id| name.contains(*id));
        verdict.findings.extend(named.map(|id| Finding::new(Kind::Plaintext, format!("{name} is named by {id}"))));
    }
    Ok(verdict)
}
