//! Very many sessions and their actors, in this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use canopy_actors::{Call, Node, now_ms, sweeper};
use canopy_domain::{Address, Code, Draft, Id, Origin, Principal, Reader as _, Table, Wire, decode};
use canopy_proto::identity::v1::{LogOutRequest, LogOutResponse, Session};
use canopy_proto::methods::identity;
use canopy_proto::system::v1::{Origin as StoredOrigin, RefreshVerifier};
use canopy_store::{Commit, Store};
use prost::Message as _;

use crate::LoadError;
use crate::faults::dice::Dice;

/// The session module's tables, each with one row under [`SELF`].
const SESSION: Table<Session> = Table::new(1, "session", 1);
const VERIFIER: Table<RefreshVerifier> = Table::new(2, "refresh_verifier", 1);
const SELF: [u8; 1] = [0];
/// First commits under way at once: several full groups for each of the shards.
const MAKERS: u64 = 4_096;

fn subject(error: impl ToString) -> LoadError {
    LoadError::Subject(error.to_string())
}

fn id(kind: u64, number: u64) -> Id {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(Dice::of(&[7, kind, number]).bytes(16)) {
        *to = from;
    }
    Id::from_bytes(bytes)
}

fn address(number: u64) -> Address {
    Address::session(id(1, number))
}

/// What a log-in and a log-out leave of a session.
fn first_commit(number: u64) -> Commit {
    let (address, now_ms) = (address(number), now_ms());
    let account = Address::account(id(2, number)).to_string();
    let session = Session {
        name: address.to_string(),
        account: account.clone(),
        device: "canopy-load".into(),
        create_time_ms: now_ms,
        refresh_time_ms: now_ms,
        end_time_ms: now_ms,
        ..Session::default()
    };
    let verifier = RefreshVerifier {
        current: vec![1; 32].into(),
        family: vec![2; 32].into(),
        expire_time_ms: now_ms,
        ..RefreshVerifier::default()
    };
    let mut draft = Draft::default();
    draft.insert(&SESSION, SELF, &Wire::new(&session));
    draft.insert(&VERIFIER, SELF, &Wire::new(&verifier));
    Commit {
        time_ms: now_ms,
        principal: account,
        origin: StoredOrigin::default(),
        request_id: String::new(),
        method: identity::LOG_IN.path,
        changes: draft.into_parts().changes,
        effects: Vec::new(),
        wake_at_ms: None,
        shreds: Vec::new(),
        record: None,
    }
}

/// Makes the first commit of each session.
///
/// # Errors
/// The first one that fails.
pub async fn populate(dir: &Path, count: u64) -> Result<(), LoadError> {
    let store = super::commit::open_store(dir).await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut makers: tokio::task::JoinSet<Result<(), LoadError>> = tokio::task::JoinSet::new();
    for _ in 0..MAKERS.min(count) {
        let (store, next) = (store.clone(), next.clone());
        makers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                make(&store, number).await?;
            }
        });
    }
    while let Some(made) = makers.join_next().await {
        made.map_err(subject)??;
    }
    store.close().await.map_err(subject)
}

async fn make(store: &Store, number: u64) -> Result<(), LoadError> {
    let mut writer = store.writer(&address(number), &[]).await.map_err(subject)?;
    writer.submit(first_commit(number)).await.map(drop).map_err(subject)
}

/// A node with sessions.
pub struct Sessions {
    node: Node,
    missing: AtomicU64,
}

impl Sessions {
    /// A node over what [`populate`] made, whose actors end when they are idle for so long.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn open(dir: &Path, idle: Duration, sweep_every: Duration) -> Result<Arc<Self>, LoadError> {
        let node = super::commit::start(dir, idle).await?;
        // Under the node's own dynamic supervisor: it ends with the sessions.
        let sweeper = sweeper(node.clone(), sweep_every);
        node.tenants().start_child("sweeper", sweeper).await.map_err(subject)?;
        Ok(Arc::new(Self { node, missing: AtomicU64::new(0) }))
    }

    /// Actors that live.
    pub fn resident(&self) -> usize {
        self.node.tenants().count_children().active.saturating_sub(1)
    }

    /// Sessions that were not as they had been committed.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    /// Reads a session around its actor.
    ///
    /// # Errors
    /// The store failed.
    pub async fn seq(&self, number: u64) -> Result<u64, LoadError> {
        self.node.snapshot(&address(number)).await.map_err(subject)?.seq().map_err(subject)
    }

    /// Has a session's actor answer a command that changes nothing: it has ended already.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn ask(&self, number: u64) -> Result<(), LoadError> {
        let address = address(number);
        let request = LogOutRequest { name: address.to_string(), request_id: String::new() };
        let call = Call {
            method: identity::LOG_OUT.path,
            request: request.encode_to_vec().into(),
            principal: Principal::Nobody,
            origin: Origin::default(),
            role: None,
            request_id: String::new(),
        };
        let answer = match self.node.command(&address, call).await {
            Ok(answer) => answer,
            Err(refusal) if refusal.code == Code::NotFound => {
                self.missing.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(refusal) => return Err(subject(refusal)),
        };
        let session = LogOutResponse::decode(answer).map_err(subject)?.session.unwrap_or_default();
        let session: Session = decode(&session).map_err(subject)?;
        if session.name == request.name {
            Ok(())
        } else {
            Err(LoadError::Subject(format!("`{}` answers as `{}`", request.name, session.name)))
        }
    }

    /// Ends the actors and closes the store.
    ///
    /// # Errors
    /// The store does not close.
    pub async fn close(&self) -> Result<(), LoadError> {
        self.node.tenants().stop().await;
        self.node.store().close().await.map_err(subject)
    }
}
