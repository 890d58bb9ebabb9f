//! The node: finds or activates the actor at an address and hands it calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use canopy_cluster::Embedded;
use canopy_domain::{Address, Code, Context, Kind, Module, Modules, Principal, Refusal, Settings, TokenIssuer};
use canopy_proto::Access;
use canopy_proto::methods::wakes;
use canopy_proto::system::v1::SetWakeRequest;
use canopy_store::{PartitionReader, Snapshot, Store, StoreError, Writer};
use canopy_supervision::{
    CallError, ChildSpec, DynamicSpec, DynamicSupervisor, Intensity, Mailbox, OnCrashLoop, Probe, Restart, SendError,
    StartError,
};
use parking_lot::Mutex;
use prost::Message;
use ractor::{ActorCell, ActorId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{Budget, Budgets, Reserved};
use crate::call::{Call, Command, CommitHook, Delivered, Turn, aborted};
use crate::shell::{Arguments, Handle, Msg, Note, ShellActor};
use crate::{Passkeys, PasswordHashing, clock};

/// How often a call looks for its actor again when that ended meanwhile.
const TRIES_MAX: usize = 4;
/// How often an activation waits for the actor before it to let go.
const BUSY_TRIES_MAX: u32 = 200;
/// Wait between two of these, in milliseconds.
const BUSY_WAIT_MS: u64 = 5;
/// When a call to a full mailbox may try again, in milliseconds.
const MAILBOX_RETRY_MS: u64 = 50;
/// Notes in one mailbox. A shell has at most one for each effect that it sent.
const NOTES_MAX: usize = 1 << 16;
/// Wake-ups further away than that have no task that waits for them: the wake-ups'
/// clock is right to within seconds.
const NOTED_WAIT_MS_MAX: u64 = 600_000;
/// Actors that are told to passivate at once, for each core, and the wait
/// before the next ones: some 5,000 a second and core, which is as many as can
/// be activated.
const PASSIVATIONS_AT_ONCE: usize = 16;
const PASSIVATIONS_WAIT: Duration = Duration::from_millis(2);
/// Actors that register at once to be woken for trimming, as they passivate:
/// fewer than wait for one actor, which has others to serve, too.
const REGISTRATIONS_AT_ONCE: usize = 256;
/// Addresses whose crashes are remembered.
const CRASHES_REMEMBERED_MAX: usize = 10_000;

/// What a node allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls waiting for one actor.
    pub mailbox_max: usize,
    /// Crashes of one address within the period before it is quarantined.
    pub restarts_max: u32,
    /// The period.
    pub restart_period: Duration,
    /// First quarantine; each further one doubles it.
    pub quarantine_base: Duration,
    /// Longest quarantine.
    pub quarantine_max: Duration,
    /// Idle time after which an actor passivates.
    pub idle: Duration,
}

/// What a node is made of.
pub struct NodeParts {
    /// Where partitions are.
    pub store: Store,
    /// What actors do.
    pub modules: Modules,
    /// What is allowed.
    pub limits: Limits,
    /// Signs tokens.
    pub issuer: Arc<dyn TokenIssuer>,
    /// What decisions rest on.
    pub settings: Settings,
    /// Hashes passwords.
    pub passwords: PasswordHashing,
    /// Speaks WebAuthn.
    pub passkeys: Passkeys,
    /// What it may commit for orgs, to be one of the hooks too; without, as much
    /// as anybody wants.
    pub budgets: Option<Budgets>,
    /// Who hears of commits before they are answered.
    pub hooks: Vec<Arc<dyn CommitHook>>,
}

/// Activates actors and calls them. A cheap handle.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    parts: NodeParts,
    placement: Embedded<Arc<Handle>>,
    tenants: DynamicSupervisor,
    registrations: Arc<Semaphore>,
    stopping: AtomicBool,
}

impl Node {
    /// A node whose actors will live under [`Node::tenants`].
    pub fn new(parts: NodeParts) -> Self {
        let limits = &parts.limits;
        let mut spec = DynamicSpec::new("tenants");
        spec.intensity = Intensity { restarts_max: limits.restarts_max, period: limits.restart_period };
        spec.on_crash_loop = OnCrashLoop::Quarantine {
            base: limits.quarantine_base,
            max: limits.quarantine_max,
            limit_entries: CRASHES_REMEMBERED_MAX,
        };
        let tenants = DynamicSupervisor::new(spec);
        Self(Arc::new(Inner {
            parts,
            placement: Embedded::default(),
            tenants,
            registrations: Arc::new(Semaphore::new(REGISTRATIONS_AT_ONCE)),
            stopping: AtomicBool::new(false),
        }))
    }

    /// The supervisor of all partitions' actors.
    pub fn tenants(&self) -> &DynamicSupervisor {
        &self.0.tenants
    }

    /// Where partitions are.
    pub fn store(&self) -> &Store {
        &self.0.parts.store
    }

    /// From now on nothing is tried again: what is undelivered waits for the
    /// next start.
    pub fn stop_retrying(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn issuer(&self) -> &dyn TokenIssuer {
        self.0.parts.issuer.as_ref()
    }

    /// What decisions rest on.
    pub fn settings(&self) -> Settings {
        self.0.parts.settings
    }

    /// The kinds of actors that modules make.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &'static str> {
        self.0.parts.modules.owners()
    }

    pub(crate) fn passwords(&self) -> &PasswordHashing {
        &self.0.parts.passwords
    }

    pub(crate) fn passkeys(&self) -> &Passkeys {
        &self.0.parts.passkeys
    }

    /// Bytes of an org for a command, where something limits them.
    async fn reserve(&self, address: &Address, call: &Call) -> Result<Option<Reserved>, Refusal> {
        match self.0.parts.budgets.as_ref().and_then(|budgets| budgets.gate(address, call)) {
            Some(gate) => gate.reserve(self).await,
            None => Ok(None),
        }
    }

    /// What may be committed for the org of an address.
    pub(crate) fn budget(&self, address: &Address) -> Option<Arc<Budget>> {
        Some(self.0.parts.budgets.as_ref()?.of(address)?.1)
    }

    pub(crate) fn hooks(&self) -> &[Arc<dyn CommitHook>] {
        &self.0.parts.hooks
    }

    /// The module that makes the actor at an address.
    ///
    /// # Errors
    /// `UNIMPLEMENTED`: no module makes such actors.
    pub fn module(&self, address: &Address) -> Result<&Arc<Module>, Refusal> {
        let kind = address.kind().map(|kind| kind.name()).unwrap_or_default();
        self.0
            .parts
            .modules
            .get(kind)
            .ok_or_else(|| Refusal::new(Code::Unimplemented, format!("no module serves `{address}`")))
    }

    /// The durable state at an address.
    ///
    /// # Errors
    /// The store failed.
    pub async fn snapshot(&self, address: &Address) -> Result<Snapshot, Refusal> {
        match self.store().try_reader_snapshot(address) {
            Some(snapshot) => Ok(snapshot),
            None => Ok(self.reader(address).await?.snapshot().await?),
        }
    }

    /// Reads and follows the partition at an address.
    ///
    /// # Errors
    /// The store failed.
    pub async fn reader(&self, address: &Address) -> Result<PartitionReader, Refusal> {
        Ok(self.store().reader(address).await?)
    }

    /// Answers a query from durable state, around the mailbox.
    ///
    /// # Errors
    /// The module's refusal, or the store failed.
    pub async fn query(&self, address: &Address, call: &Call) -> Result<Bytes, Refusal> {
        let module = self.module(address)?;
        let prepared = match module.prepares(call.method) {
            true => self.prepare(module, address, call).await?,
            false => Vec::new(),
        };
        let snapshot = self.snapshot(address).await?;
        let cx = Context {
            now_ms: clock::now_ms(),
            entropy: [0; 32],
            address,
            principal: &call.principal,
            origin: &call.origin,
            role: call.role,
            seq: 0,
            prepared: &prepared,
            issuer: self.issuer(),
            settings: self.settings(),
        };
        module.ask(call.method, &snapshot, &call.request, &cx)
    }

    /// Has the actor at an address do a command; returns when it is durable.
    ///
    /// # Errors
    /// The module's refusal; `RESOURCE_EXHAUSTED`: the mailbox is full, or the
    /// org's bytes are used up;
    /// `UNAVAILABLE`: quarantined, or the store failed.
    pub async fn command(&self, address: &Address, call: Call) -> Result<Bytes, Refusal> {
        self.command_in_turn(address, call, &Arc::default()).await
    }

    /// As [`Node::command`]; until its actor has begun the command, `turn` can give it up.
    ///
    /// # Errors
    /// As [`Node::command`]; `DEADLINE_EXCEEDED`: it was given up.
    pub async fn command_in_turn(&self, address: &Address, call: Call, turn: &Arc<Turn>) -> Result<Bytes, Refusal> {
        match self.command_of_owner(address, call, turn).await {
            // Whoever has its tokens hears what they hear of any session that is over.
            Err(refusal) if refusal.code == Code::FailedPrecondition && self.is_shredded_session(address).await => {
                Err(Refusal::new(Code::Unauthenticated, "the session has ended").hint("log in again"))
            }
            answer => answer,
        }
    }

    async fn is_shredded_session(&self, address: &Address) -> bool {
        address.kind() == Some(Kind::Session) && self.store().is_shredded(address).await
    }

    async fn command_of_owner(&self, address: &Address, call: Call, turn: &Arc<Turn>) -> Result<Bytes, Refusal> {
        let module = self.module(address)?;
        let (_reserved, refused) = match self.reserve(address, &call).await {
            Ok(reserved) => (reserved, None),
            // It may be the repeat of what was done.
            Err(refusal) if !call.request_id.is_empty() => (None, Some(refusal)),
            Err(refusal) => return Err(refusal),
        };
        let prepared = Arc::new(match refused {
            Some(_) => Vec::new(),
            None => self.prepare(module, address, &call).await?,
        });
        let call = Arc::new(call);
        for _ in 0..TRIES_MAX {
            let handle = self.activate(address).await?;
            handle.used_ms.store(clock::now_ms(), Ordering::Relaxed);
            let span = tracing::debug_span!("decide", %address, method = call.method);
            let (asked, ready, turn) = (Arc::clone(&call), Arc::clone(&prepared), Arc::clone(turn));
            let refused = refused.clone();
            let command = |reply| Msg::Command(Box::new(Command::new(asked, ready, span, turn, refused, reply)));
            let answer = handle.calls.call(command);
            match answer.await {
                Ok(Delivered::Answered(answer)) => return answer,
                Err(CallError::Full) => return Err(mailbox_full(address, handle.calls.messages_max())),
                Err(CallError::Aborted) => return Err(aborted()),
                Ok(Delivered::NotTaken) | Err(CallError::Closed) => {
                    self.vacate(address, handle.calls.cell().get_id());
                }
            }
        }
        Err(Refusal::new(Code::Aborted, format!("`{address}` restarted several times while this waited"))
            .hint("try again with the same request id: it is done once"))
    }

    /// Calls an actor on another one's behalf.
    ///
    /// # Errors
    /// As [`Node::query`] and [`Node::command`].
    pub async fn ask(
        &self,
        target: &Address,
        method: &'static str,
        request: Bytes,
        from: &Address,
        request_id: &str,
    ) -> Result<Bytes, Refusal> {
        let call = Call {
            method,
            request,
            principal: Principal::Actor(from.clone()),
            origin: canopy_domain::Origin::default(),
            role: None,
            request_id: request_id.to_owned(),
        };
        let rule = canopy_proto::rules().get(method);
        match rule.map(|rule| rule.access) {
            Some(Access::Query) => self.query(target, &call).await,
            Some(Access::Command) => Box::pin(self.command(target, call)).await,
            _ => Err(Refusal::new(Code::Unimplemented, format!("{method} is not for actors to call"))),
        }
    }

    /// Has the system activate an address in time; zero takes that back.
    pub(crate) async fn set_wake(&self, address: &Address, time_ms: i64) -> Result<(), Refusal> {
        let request = SetWakeRequest { address: address.to_string(), time_ms, request_id: String::new() };
        let target = Address::system("wakes");
        let request = request.encode_to_vec().into();
        self.ask(&target, wakes::SET_WAKE.path, request, address, "").await.map(drop)
    }

    /// A turn to register as one of many that passivate, if there is one now.
    pub(crate) fn registration(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.registrations).try_acquire_owned().ok()
    }

    /// Whether an address was destroyed, and so has nothing to wake up for.
    pub(crate) async fn forget_wake_if_shredded(&self, address: &Address) -> bool {
        if !self.store().is_shredded(address).await {
            return false;
        }
        if let Err(refusal) = self.set_wake(address, 0).await {
            tracing::debug!(%address, %refusal, "its wake-up is forgotten when it is due");
        }
        true
    }

    /// Tells an actor something of its own work, activating it if need be.
    pub(crate) async fn note(&self, address: &Address, note: Note) {
        for _ in 0..TRIES_MAX {
            let handle = match self.activate(address).await {
                Ok(handle) => handle,
                Err(_) if self.forget_wake_if_shredded(address).await => return,
                Err(refusal) => {
                    tracing::warn!(%address, ?note, %refusal, "note lost; it is made up for at the next activation");
                    return;
                }
            };
            match handle.notes.try_send(Msg::Note(note.clone())) {
                Ok(()) => return,
                // It crashed since, and nobody has called it: its successor is told.
                Err(SendError::Closed { .. }) => self.vacate(address, handle.calls.cell().get_id()),
                Err(error) => {
                    tracing::warn!(%address, ?note, %error, "note lost; it is made up for at the next activation");
                    return;
                }
            }
        }
    }

    /// Wakes an actor at a time that is near, as long as this node runs. Of a
    /// time that is not, the wake-ups' clock takes care.
    pub(crate) fn note_at(&self, address: &Address, at_ms: i64) {
        let (node, address) = (self.clone(), address.clone());
        let wait_ms = u64::try_from(at_ms - clock::now_ms()).unwrap_or(0);
        if wait_ms > NOTED_WAIT_MS_MAX {
            return;
        }
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            node.note(&address, Note::Wake(None)).await;
        });
    }

    pub(crate) async fn open_writer(&self, address: &Address, module: &Module) -> Result<Writer, Refusal> {
        for _ in 0..BUSY_TRIES_MAX {
            match self.store().writer(address, module.views()).await {
                Err(StoreError::Busy(_)) => tokio::time::sleep(Duration::from_millis(BUSY_WAIT_MS)).await,
                other => return Ok(other?),
            }
        }
        Err(Refusal::new(Code::Unavailable, format!("`{address}` is still held by its last actor")).retry_after_ms(500))
    }

    /// The handle of the actor at an address, activated if need be.
    pub(crate) async fn activate(&self, address: &Address) -> Result<Arc<Handle>, Refusal> {
        if let Some(handle) = self.0.placement.active(address) {
            return Ok(handle);
        }
        let slot = self.0.placement.slot(address);
        let _activation = slot.activation().await;
        if let Some(handle) = slot.handle() {
            return Ok(handle);
        }
        let module = Arc::clone(self.module(address)?);
        let writer = self.open_writer(address, &module).await?;
        let probe = Probe::new();
        let arguments =
            Arguments { node: self.clone(), address: address.clone(), module, writer, probe: Arc::clone(&probe) };
        let handle = self.start(address, arguments, probe).await?;
        slot.set(Some(Arc::clone(&handle)));
        metrics::counter!("canopy_actors_activations_total").increment(1);
        Ok(handle)
    }

    async fn start(&self, address: &Address, arguments: Arguments, probe: Arc<Probe>) -> Result<Arc<Handle>, Refusal> {
        let made = Arc::new(Mutex::new(None));
        let (arguments, started) = (Arc::new(Mutex::new(Some(arguments))), Arc::clone(&made));
        let spec = ChildSpec::worker(address.as_str(), move |supervisor: ActorCell| {
            let (arguments, started) = (arguments.lock().take(), Arc::clone(&started));
            async move {
                let arguments =
                    arguments.ok_or_else(|| StartError::Failed { error: "a temporary child starts once".into() })?;
                let spawned = ractor::Actor::spawn_linked(None, ShellActor, arguments, supervisor).await;
                let (actor, _) = spawned.map_err(|e| StartError::Failed { error: e.to_string() })?;
                *started.lock() = Some(actor.clone());
                Ok(actor.get_cell())
            }
        })
        .restart(Restart::Temporary)
        .probe(Arc::clone(&probe));
        self.0.tenants.start_child(address.as_str(), spec).await.map_err(|error| refuse_start(address, &error))?;
        let actor = made.lock().take();
        let actor = actor.ok_or_else(|| Refusal::new(Code::Internal, "a started actor has no handle"))?;
        let calls = Mailbox::new(address.as_str(), actor.clone(), self.0.parts.limits.mailbox_max);
        let notes = Mailbox::new(address.as_str(), actor, NOTES_MAX);
        probe.watch(&calls);
        Ok(Arc::new(Handle { calls, notes, used_ms: AtomicI64::new(clock::now_ms()) }))
    }

    /// Frees an address whose actor ends or has ended.
    pub(crate) fn vacate(&self, address: &Address, actor: ActorId) {
        self.0.placement.slot(address).clear_if(|handle| handle.calls.cell().get_id() == actor);
    }

    /// Has idle actors of one of the placement's [`canopy_cluster::PARTS`] passivate, a few at
    /// a time: each looks into its vault as it goes, and callers of others would
    /// wait behind all of them.
    pub(crate) async fn sweep(&self, part: usize) {
        let idle_ms = i64::try_from(self.0.parts.limits.idle.as_millis()).unwrap_or(i64::MAX);
        let before_ms = clock::now_ms().saturating_sub(idle_ms);
        let is_idle = |handle: &Arc<Handle>| handle.used_ms.load(Ordering::Relaxed) < before_ms;
        let at_once = PASSIVATIONS_AT_ONCE * std::thread::available_parallelism().map_or(1, usize::from);
        for (told, (address, handle)) in self.0.placement.look_through(part, is_idle).into_iter().enumerate() {
            if told > 0 && told.is_multiple_of(at_once) {
                tokio::time::sleep(PASSIVATIONS_WAIT).await;
            }
            // Somebody may have called while others were told.
            if is_idle(&handle)
                && matches!(handle.notes.try_send(Msg::Note(Note::Passivate)), Err(SendError::Closed { .. }))
            {
                self.vacate(&address, handle.calls.cell().get_id());
            }
        }
    }
}

fn mailbox_full(address: &Address, messages_max: usize) -> Refusal {
    metrics::counter!("canopy_actors_mailbox_full_total").increment(1);
    Refusal::new(Code::ResourceExhausted, format!("`{address}` has {messages_max} calls waiting, which is its limit"))
        .retry_after_ms(MAILBOX_RETRY_MS)
        .hint("send fewer calls at once to one place")
}

fn refuse_start(address: &Address, error: &StartError) -> Refusal {
    let refusal = Refusal::new(Code::Unavailable, format!("`{address}` cannot start: {error}"));
    match error.retry_after() {
        Some(wait) => refusal
            .retry_after_ms(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
            .hint("it crashed too often and is held back; an operator sees why in `canopy observe`"),
        None => refusal,
    }
}
