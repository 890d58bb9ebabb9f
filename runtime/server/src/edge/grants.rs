//! Each edge's snapshot of the grants of every active org. It is loaded from
//! the org's partition, and from then on follows every commit before that
//! commit is answered: a revocation holds when its answer arrives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use canopy_actors::{CommitHook, Node};
use canopy_domain::{Address, Change, Id, Kind, Order, Refusal, Role, Span, State, Wire};
use canopy_org::{GRANTS, ORG, PROJECTS, QUOTA};
use canopy_proto::org::v1::{Grant, Org, Project, Quota};
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
    org: Life,
    requires_second_factor: bool,
    projects: HashMap<Id, Life>,
    roles: HashMap<Id, Held>,
}

/// How an org or project is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Life {
    /// It answers everything.
    Living,
    /// It is read-only.
    Archived,
    /// It is hidden until it is undeleted or purged.
    Deleted,
    /// There is none, or no longer.
    #[default]
    Absent,
}

impl Life {
    fn of(archive_time_ms: i64, delete_time_ms: i64, purge_time_ms: i64) -> Self {
        match (archive_time_ms, delete_time_ms, purge_time_ms) {
            (0, 0, _) => Life::Living,
            (_, 0, _) => Life::Archived,
            // Deleted by a release that had no way back.
            (_, _, 0) => Life::Absent,
            _ => Life::Deleted,
        }
    }
}

/// An account's roles: for each org or project, by its id, a bit for each.
/// Sorted, so that a person with a thousand costs no more than one with one.
#[derive(Debug, Default)]
struct Held(Vec<(Id, u8)>);

impl Held {
    fn bit(role: Role) -> u8 {
        1 << (role as i32).clamp(0, 7)
    }

    fn add(&mut self, on: Id, role: Role) {
        match self.0.binary_search_by_key(&on, |(id, _)| *id) {
            Ok(at) => self.0.get_mut(at).into_iter().for_each(|(_, roles)| *roles |= Self::bit(role)),
            Err(at) => self.0.insert(at, (on, Self::bit(role))),
        }
    }

    fn remove(&mut self, on: Id, role: Role) {
        if let Ok(at) = self.0.binary_search_by_key(&on, |(id, _)| *id)
            && let Some((_, roles)) = self.0.get_mut(at)
        {
            *roles &= !Self::bit(role);
            if *roles == 0 {
                self.0.remove(at);
            }
        }
    }

    /// The highest of the roles held there, whatever others there are.
    fn highest(&self, on: Id) -> Option<Role> {
        let at = self.0.binary_search_by_key(&on, |(id, _)| *id).ok()?;
        self.0.get(at).and_then(|(_, roles)| Self::highest_in(*roles))
    }

    fn highest_of_all(&self) -> Option<Role> {
        Self::highest_in(self.0.iter().fold(0, |all, (_, roles)| all | roles))
    }

    fn highest_in(roles: u8) -> Option<Role> {
        Role::try_from(i32::try_from(roles.checked_ilog2()?).ok()?).ok()
    }
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
pub struct Standing {
    /// How it is: as gone as the org is, at least.
    pub life: Life,
    /// The caller's highest role there; of something absent, by grants that outlived it.
    pub role: Option<Role>,
    /// The caller's highest role at the whole org.
    pub org_role: Option<Role>,
    /// Whether the org is for sessions alone that have shown two factors.
    pub requires_second_factor: bool,
}

impl OrgGrants {
    /// What an account may do at the org or project of `scope`; of an org, where
    /// roles `within` it count, also by what it may do at any of its projects.
    pub fn standing(&self, account: Option<Id>, scope: &Address, within: bool) -> Standing {
        let known = self.known.read();
        let org = scope.org_address().and_then(|org| org.id());
        let project = scope.project_address().and_then(|project| project.id());
        let held = account.and_then(|account| known.roles.get(&account));
        let highest = |on: Option<Id>| held?.highest(on?);
        let org_role = highest(org);
        let anywhere = held.filter(|_| within && project.is_none()).and_then(Held::highest_of_all);
        let role = [org_role, highest(project), anywhere].into_iter().flatten().max_by_key(|role| *role as i32);
        let of_project = project.map(|id| known.projects.get(&id).copied().unwrap_or_default());
        Standing {
            life: of_project.map_or(known.org, |life| life.max(known.org)),
            role,
            org_role,
            requires_second_factor: known.requires_second_factor,
        }
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
                    if let Some((account, (on, role))) = before.and_then(|row| grant(&GRANTS.row(row.clone())))
                        && let Some(held) = known.roles.get_mut(&account)
                    {
                        held.remove(on, role);
                        if held.0.is_empty() {
                            known.roles.remove(&account);
                        }
                    }
                    if let Some((account, (on, role))) = after.and_then(|row| grant(&GRANTS.row(row.clone()))) {
                        known.roles.entry(account).or_default().add(on, role);
                    }
                }
                id if id == PROJECTS.id => {
                    if let Some(id) = <[u8; 16]>::try_from(&change.key[..]).ok().map(Id::from_bytes) {
                        match after {
                            Some(row) => known.projects.insert(id, of_project(&PROJECTS.row(row.clone()))),
                            None => known.projects.remove(&id),
                        };
                    }
                }
                id if id == ORG.id => {
                    let org = after.map_or((Life::Absent, false), |row| of_org(&ORG.row(row.clone())));
                    (known.org, known.requires_second_factor) = org;
                }
                id if id == QUOTA.id => {
                    let row = after.map(|row| QUOTA.row(row.clone()));
                    self.party.set_requests_per_s_max(requests_per_s_max(row.as_ref()));
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

/// A row that cannot be read shows nothing.
fn of_org(row: &Wire<Org>) -> (Life, bool) {
    row.decode().map_or((Life::Absent, false), |org| {
        let life = Life::of(org.archive_time_ms, org.delete_time_ms, org.purge_time_ms);
        (life, org.require_second_factor())
    })
}

/// The org's own calls a second, where its quota sets any.
fn requests_per_s_max(row: Option<&Wire<Quota>>) -> Option<u32> {
    let max = row?.decode().ok()?.requests_per_s_max?;
    Some(u32::try_from(max).unwrap_or(u32::MAX))
}

fn of_project(row: &Wire<Project>) -> Life {
    let life = |project: Project| Life::of(project.archive_time_ms, project.delete_time_ms, project.purge_time_ms);
    row.decode().map_or(Life::Absent, life)
}

fn grant(row: &Wire<Grant>) -> Option<(Id, (Id, Role))> {
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
            party: Party::new(org.clone()),
        });
        grants.party.set_requests_per_s_max(requests_per_s_max(state.get(&QUOTA, &[0])?.as_ref()));
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
    if let Some(row) = state.get(&ORG, &[0])? {
        (known.org, known.requires_second_factor) = of_org(&row);
    }
    each(state, &GRANTS, |_, row| {
        if let Some((account, (on, role))) = grant(&row) {
            known.roles.entry(account).or_default().add(on, role);
        }
        Ok(())
    })?;
    each(state, &PROJECTS, |key, row| {
        let id = <[u8; 16]>::try_from(key).ok().map(Id::from_bytes);
        known.projects.extend(id.map(|id| (id, of_project(&row))));
        Ok(())
    })?;
    Ok(known)
}

fn each<T: canopy_domain::Row>(
    state: &State<'_>,
    table: &canopy_domain::Table<T>,
    mut visit: impl FnMut(&[u8], Wire<T>) -> Result<(), Refusal>,
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
