//! Each edge's snapshot of the grants of every active org. It is loaded from
//! the org's partition, and from then on follows every commit before that
//! commit is answered: a revocation holds when its answer arrives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use canopy_actors::{CommitHook, Node};
use canopy_domain::{Address, Change, Id, Kind, Order, Refusal, Role, Span, State, decode};
use canopy_org::{GRANTS, ORG, PROJECTS};
use canopy_system::SYS_ADMINS;
use parking_lot::{Mutex, RwLock};

use super::admission::Party;
use super::watchers::Watchers;

/// Rows read at once while loading.
const ROWS_MAX: usize = 10_000;
/// Orgs kept; beyond it those that nobody uses now are forgotten.
const ORGS_MAX: usize = 10_000;

/// What is known of one org.
#[derive(Debug, Default)]
struct Known {
    alive: bool,
    projects: HashSet<Id>,
    /// Roles of an account, each with the id of the org or project.
    roles: HashMap<Id, Vec<(Id, Role)>>,
}

/// One org's grants, as of a seq.
pub struct OrgGrants {
    known: RwLock<Known>,
    seq: AtomicU64,
    /// Grows with every change that may take something away.
    version: AtomicU64,
    /// Streams to look again when that version grows.
    pub streams: Watchers,
    /// Counts this org's calls.
    pub party: Party,
}

/// What a caller may do at an org or project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is no such org or project, or no longer; by grants that outlived it the caller holds
    /// this role.
    Absent(Option<Role>),
    /// It exists; the caller holds this role, or none.
    Role(Option<Role>),
}

impl OrgGrants {
    /// What an account may do at the org or project of `scope`.
    pub fn standing(&self, account: Option<Id>, scope: &Address) -> Standing {
        let known = self.known.read();
        let org = scope.org_address().and_then(|org| org.id());
        let project = scope.project_address().and_then(|project| project.id());
        let held = account.and_then(|account| known.roles.get(&account));
        let here = held.into_iter().flatten().filter(|(on, _)| Some(*on) == org || Some(*on) == project);
        let role = here.map(|(_, role)| *role).max_by_key(|role| *role as i32);
        if !known.alive || project.is_some_and(|id| !known.projects.contains(&id)) {
            return Standing::Absent(role);
        }
        Standing::Role(role)
    }

    /// Compare it with an earlier one to learn whether roles may have gone.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn apply(&self, seq: u64, changes: &[Change]) {
        if seq <= self.seq.load(Ordering::Acquire) {
            return;
        }
        let mut known = self.known.write();
        for change in changes {
            let before = change.before.as_ref();
            let after = change.after.as_ref();
            match change.table {
                id if id == GRANTS.id => {
                    if let Some((account, held)) = before.and_then(|row| grant(&GRANTS.row(row.clone()))) {
                        known.roles.entry(account).or_default().retain(|other| *other != held);
                    }
                    if let Some((account, held)) = after.and_then(|row| grant(&GRANTS.row(row.clone()))) {
                        known.roles.entry(account).or_default().push(held);
                    }
                }
                id if id == PROJECTS.id => {
                    if let Some(id) = <[u8; 16]>::try_from(&change.key[..]).ok().map(Id::from_bytes) {
                        if after.is_some() {
                            known.projects.insert(id);
                        } else {
                            known.projects.remove(&id);
                        }
                    }
                }
                id if id == ORG.id => {
                    let org = after.and_then(|row| ORG.row(row.clone()).decode().ok());
                    known.alive = org.is_some_and(|org| org.delete_time_ms == 0);
                }
                _ => {}
            }
        }
        self.seq.store(seq, Ordering::Release);
        drop(known);
        self.version.fetch_add(1, Ordering::AcqRel);
        self.streams.wake();
    }
}

fn grant(row: &canopy_domain::Wire<canopy_proto::org::v1::Grant>) -> Option<(Id, (Id, Role))> {
    let grant = row.decode().ok()?;
    let account = Address::parse(&grant.account).ok()?.id()?;
    let on = Address::parse(&grant.on).ok()?.id()?;
    Some((account, (on, Role::try_from(grant.role).ok()?)))
}

/// Commits that came while an org was being loaded.
type Missed = Vec<(u64, Vec<Change>)>;

enum Entry {
    Loading(Arc<tokio::sync::Mutex<()>>, Missed),
    Loaded(Arc<OrgGrants>),
}

/// The grants of all active orgs, and of the installation.
#[derive(Default)]
pub struct Grants {
    orgs: Mutex<HashMap<Address, Entry>>,
    loaded: RwLock<HashMap<Address, Arc<OrgGrants>>>,
    sys_admins: RwLock<HashSet<Id>>,
}

impl Grants {
    /// Reads who administers the installation.
    ///
    /// # Errors
    /// The store failed.
    pub async fn load_sys_admins(&self, node: &Node) -> Result<(), Refusal> {
        let snapshot = node.snapshot(&Address::system("installation")).await?;
        let all = Span { prefix: &[], after: None, order: Order::Ascending, limit: ROWS_MAX };
        for (key, _) in State(&snapshot).scan(&SYS_ADMINS, all)? {
            self.sys_admins.write().extend(<[u8; 16]>::try_from(&key[..]).ok().map(Id::from_bytes));
        }
        Ok(())
    }

    /// Whether an account administers the installation.
    pub fn is_sys_admin(&self, account: Option<Id>) -> bool {
        account.is_some_and(|id| self.sys_admins.read().contains(&id))
    }

    /// The grants of an org, loaded if need be.
    ///
    /// # Errors
    /// The store failed.
    pub async fn org(&self, node: &Node, org: &Address) -> Result<Arc<OrgGrants>, Refusal> {
        if let Some(grants) = self.loaded.read().get(org) {
            return Ok(Arc::clone(grants));
        }
        let turn = {
            let mut orgs = self.orgs.lock();
            match orgs.entry(org.clone()).or_insert_with(|| Entry::Loading(Arc::default(), Missed::new())) {
                Entry::Loaded(grants) => return Ok(Arc::clone(grants)),
                Entry::Loading(turn, _) => Arc::clone(turn),
            }
        };
        let _turn = turn.lock().await;
        if let Some(Entry::Loaded(grants)) = self.orgs.lock().get(org) {
            return Ok(Arc::clone(grants));
        }
        // Commits are noted from before the snapshot is taken, so none is
        // missed; those that the snapshot holds are told by their seq.
        let snapshot = node.snapshot(org).await?;
        let state = State(&snapshot);
        let grants = Arc::new(OrgGrants {
            known: RwLock::new(read(&state)?),
            seq: AtomicU64::new(state.seq()?),
            version: AtomicU64::new(0),
            streams: Watchers::default(),
            party: Party::default(),
        });
        let mut orgs = self.orgs.lock();
        if let Some(Entry::Loading(_, missed)) = orgs.insert(org.clone(), Entry::Loaded(Arc::clone(&grants))) {
            for (seq, changes) in missed {
                grants.apply(seq, &changes);
            }
        }
        let mut loaded = self.loaded.write();
        loaded.insert(org.clone(), Arc::clone(&grants));
        if loaded.len() > ORGS_MAX {
            loaded.retain(|address, kept| address == org || Arc::strong_count(kept) > 2);
            orgs.retain(|address, entry| matches!(entry, Entry::Loading(..)) || loaded.contains_key(address));
        }
        Ok(grants)
    }
}

fn read(state: &State<'_>) -> Result<Known, Refusal> {
    let mut known = Known::default();
    if let Some(org) = state.read(&ORG, &[0])? {
        known.alive = org.delete_time_ms == 0;
    }
    each(state, &GRANTS, |_, row| {
        if let Some((account, held)) = grant(&row) {
            known.roles.entry(account).or_default().push(held);
        }
        Ok(())
    })?;
    each(state, &PROJECTS, |key, row| {
        if decode(&row)?.delete_time_ms == 0 {
            known.projects.extend(<[u8; 16]>::try_from(key).ok().map(Id::from_bytes));
        }
        Ok(())
    })?;
    Ok(known)
}

fn each<T: canopy_domain::Row>(
    state: &State<'_>,
    table: &canopy_domain::Table<T>,
    mut visit: impl FnMut(&[u8], canopy_domain::Wire<T>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let span = Span { prefix: &[], after: after.as_deref(), order: Order::Ascending, limit: ROWS_MAX };
        let rows = state.scan(table, span)?;
        let more = rows.len() == ROWS_MAX;
        after = rows.last().map(|(key, _)| key.to_vec());
        for (key, row) in rows {
            visit(&key, row)?;
        }
        if !more {
            return Ok(());
        }
    }
}

impl CommitHook for Grants {
    fn wants(&self, address: &Address) -> bool {
        matches!(address.kind(), Some(Kind::Org | Kind::System("installation")))
    }

    fn committed(&self, address: &Address, seq: u64, changes: &[Change]) {
        if address.kind() == Some(Kind::System("installation")) {
            for change in changes.iter().filter(|change| change.table == SYS_ADMINS.id) {
                let Some(id) = <[u8; 16]>::try_from(&change.key[..]).ok().map(Id::from_bytes) else { continue };
                let mut sys_admins = self.sys_admins.write();
                if change.after.is_some() {
                    sys_admins.insert(id)
                } else {
                    sys_admins.remove(&id)
                };
            }
            return;
        }
        match self.orgs.lock().get_mut(address) {
            Some(Entry::Loaded(grants)) => grants.apply(seq, changes),
            Some(Entry::Loading(_, missed)) => missed.push((seq, changes.to_vec())),
            None => {}
        }
    }
}
