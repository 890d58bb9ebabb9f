//! The worker that destroys the keys of purged accounts, orgs and projects, and of
//! sessions that their accounts have forgotten.
//!
//! - It owns nothing: what there is to do stands in `system/purges`.
//! - A hook on that actor's commits tells it to look there.
//! - It exits with the node, and is restarted if it crashes.
//! - If it dies, its successor looks again: what it does can be done twice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use canopy_domain::{Address, Change, Code, Kind, Refusal};
use canopy_proto::methods::purges as methods;
use canopy_proto::system::v1::{FinishPurgeRequest, ListPurgesRequest, ListPurgesResponse};
use canopy_supervision::{ChildSpec, Probe};
use parking_lot::Mutex;
use prost::Message;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::Node;
use crate::call::CommitHook;

/// Purges read at once.
const READ_MAX: u32 = 100;
/// Parts whose keys are destroyed at once: their vaults serve nobody else
/// meanwhile.
const PARTS_AT_ONCE: usize = 32;
/// Wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

struct Inner {
    /// Of backups, whose files go with their org.
    backup_dir: PathBuf,
    worker: Mutex<Option<ActorRef<()>>>,
}

/// The purges of this node. A cheap handle.
#[derive(Clone)]
pub struct Purges(Arc<Inner>);

impl Purges {
    /// For a node that keeps its backups in `backup_dir`.
    pub fn new(backup_dir: PathBuf) -> Self {
        metrics::describe_counter!("canopy_purges_total", "Accounts, orgs and projects whose keys were destroyed");
        Self(Arc::new(Inner { backup_dir, worker: Mutex::default() }))
    }

    /// The worker.
    pub fn worker(&self, node: Node) -> ChildSpec {
        let (purges, probe) = (self.clone(), Probe::new());
        let shared = Arc::clone(&probe);
        let state = move || State { node: node.clone(), purges: purges.clone(), probe: Arc::clone(&shared) };
        ChildSpec::actor("purges", probe, move || (Worker, state()))
    }
}

impl CommitHook for Purges {
    fn wants(&self, address: &Address) -> bool {
        address.kind() == Some(Kind::System("purges"))
    }

    fn committed(&self, _: &Address, _: u64, changes: &[Change]) {
        // An end of its own work removes a row: that is nothing to look for.
        if changes.iter().any(|change| change.before.is_none())
            && let Some(worker) = &*self.0.worker.lock()
        {
            // One that is gone looks when it is back.
            let _ = worker.send_message(());
        }
    }
}

struct Worker;

struct State {
    node: Node,
    purges: Purges,
    probe: Arc<Probe>,
}

impl Actor for Worker {
    type Msg = ();
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, myself: ActorRef<()>, state: State) -> Result<State, ActorProcessingErr> {
        state.probe.set_state("idle");
        myself.send_message(())?;
        *state.purges.0.worker.lock() = Some(myself);
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<()>, (): (), state: &mut State) -> Result<(), ActorProcessingErr> {
        if let Err(refusal) = state.work().await {
            tracing::warn!(%refusal, "a purge waits; it is tried again");
            state.probe.set_last_error(refusal.message);
            myself.send_after(RETRY, || ());
        }
        state.probe.set_state("idle");
        state.probe.handled();
        Ok(())
    }
}

impl State {
    /// Does all that there is to do.
    async fn work(&self) -> Result<(), Refusal> {
        let this = Address::system("purges");
        loop {
            let request = ListPurgesRequest { limit: READ_MAX }.encode_to_vec().into();
            let answer = self.node.ask(&this, methods::LIST_PURGES.path, request, &this, "").await?;
            let pending = ListPurgesResponse::decode(answer).unwrap_or_default().purges;
            if pending.is_empty() || self.node.is_stopping() {
                return Ok(());
            }
            let mut sessions = Vec::new();
            for purge in pending {
                let address = Address::parse(&purge.address);
                let address = address.map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
                if address.kind() == Some(Kind::Session) {
                    sessions.push(address);
                    continue;
                }
                self.probe.set_state(format!("destroying the keys of {address}"));
                let key_fingerprints = self.shred(&address, &purge.parts).await?;
                self.finish(&address, key_fingerprints).await?;
                metrics::counter!("canopy_purges_total").increment(1);
                tracing::info!(%address, "purged: its keys are destroyed");
            }
            for some in sessions.chunks(PARTS_AT_ONCE) {
                self.probe.set_state(format!("destroying the keys of {} sessions", some.len()));
                self.node.store().shred_partitions(some).await?;
                for address in some {
                    self.finish(address, Vec::new()).await?;
                }
            }
        }
    }

    async fn finish(&self, address: &Address, key_fingerprints: Vec<bytes::Bytes>) -> Result<(), Refusal> {
        let this = Address::system("purges");
        let finish = FinishPurgeRequest { address: address.to_string(), key_fingerprints, request_id: String::new() };
        let request = finish.encode_to_vec().into();
        self.node.ask(&this, methods::FINISH_PURGE.path, request, &this, "").await.map(drop)
    }

    async fn shred(&self, address: &Address, parts: &[String]) -> Result<Vec<bytes::Bytes>, Refusal> {
        let store = self.node.store();
        let fingerprints = if address.kind() == Some(Kind::Org) {
            let fingerprints = store.shred_org(address).await?;
            self.remove_backups(address).await?;
            fingerprints
        } else if address.kind() == Some(Kind::Account) {
            let parts = parts.iter().filter_map(|part| Address::parse(part).ok());
            let all: Vec<_> = [address.clone()].into_iter().chain(parts).collect();
            let mut fingerprints = Vec::new();
            for some in all.chunks(PARTS_AT_ONCE) {
                fingerprints.extend(store.shred_partitions(some).await?);
            }
            fingerprints
        } else {
            // Of kinds that it never had there is no vault.
            let below = self.node.owners().filter_map(|kind| Address::parse(&format!("{address}/{kind}")).ok());
            let all: Vec<_> = [address.clone()].into_iter().chain(below).collect();
            store.shred_partitions(&all).await?
        };
        Ok(fingerprints.iter().map(|fingerprint| bytes::Bytes::copy_from_slice(fingerprint)).collect())
    }

    /// What nobody can open any more, and whose jobs are gone.
    async fn remove_backups(&self, org: &Address) -> Result<(), Refusal> {
        let Some(id) = org.id() else { return Ok(()) };
        let failed = |e: std::io::Error| Refusal::new(Code::Unavailable, format!("backups cannot be removed: {e}"));
        let mut entries = match tokio::fs::read_dir(&self.purges.0.backup_dir).await {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        let prefix = format!("{id}-");
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                match tokio::fs::remove_file(entry.path()).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
