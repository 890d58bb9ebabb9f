//! The dynamic supervisor: children by key, made and gone at run time.
//!
//! A start runs beside the supervisor, not in it, so that one child that takes
//! long to start holds no other up. Starts, exits and look-ups cost a few hash
//! look-ups under one short lock.

mod entry;
mod process;
mod starting;
mod table;

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use ractor::ActorCell;
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::clock;
use crate::error::{ChildError, StartError};
use crate::intensity::Intensity;
use crate::probe::Probe;
use crate::quarantine::QuarantinePolicy;
use crate::roster::{ChildCounts, ChildInfo};
use crate::seat::Seat;
use crate::spec::ChildSpec;
use crate::stop::{ended, stop_child};
use crate::strategy::AutoShutdown;
use crate::tree::{Observe, TreeNode};

use entry::{Reservation, Termination};
use process::{Msg, Process};
use table::Table;

/// What happens to a dynamic supervisor whose children crash too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrashLoop {
    /// As in OTP: all restarts count together, and one too many ends the
    /// supervisor with its children.
    Meltdown,
    /// Each key counts alone, temporary children's crashes and failed starts
    /// included, and a key with one too many is held back. The supervisor
    /// never dies of it.
    ///
    /// A temporary child's key is open to one trial start, by `start_child`,
    /// when its hold has passed. The supervisor makes the trial itself for
    /// permanent and transient children.
    Quarantine {
        /// The first hold; each failed trial doubles it.
        base: Duration,
        /// No hold is longer.
        max: Duration,
        /// Keys whose crashes are remembered, at least 1.
        limit_entries: usize,
    },
}

/// What a dynamic supervisor is started from.
#[derive(Debug, Clone)]
pub struct DynamicSpec {
    pub id: Arc<str>,
    /// Of the whole supervisor under `Meltdown`, of each key under
    /// `Quarantine`.
    pub intensity: Intensity,
    pub on_crash_loop: OnCrashLoop,
    /// Between an exit and the restart; `None` restarts at once.
    pub backoff: Option<Backoff>,
    /// `AllSignificant` means the last significant child that is known. Not
    /// with [`OnCrashLoop::Quarantine`], under which no child ends its
    /// supervisor.
    pub auto_shutdown: AutoShutdown,
    /// More are refused with [`StartError::ChildLimit`].
    pub children_max: usize,
    /// How long all children together have to stop when the supervisor stops.
    /// Each is killed earlier if its own time-out is shorter.
    pub shutdown_deadline: Duration,
}

impl DynamicSpec {
    /// OTP's default intensity with `Meltdown`, a million children, 30 s to
    /// stop them.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            intensity: Intensity::default(),
            on_crash_loop: OnCrashLoop::Meltdown,
            backoff: None,
            auto_shutdown: AutoShutdown::Never,
            children_max: 1_000_000,
            shutdown_deadline: Duration::from_secs(30),
        }
    }

    /// Whether this can be started.
    ///
    /// # Errors
    /// [`StartError::InvalidSpec`] for the first contradiction.
    pub fn check(&self) -> Result<(), StartError> {
        self.intensity.check(&self.id)?;
        if self.auto_shutdown != AutoShutdown::Never && self.on_crash_loop != OnCrashLoop::Meltdown {
            return Err(StartError::InvalidSpec {
                child: Arc::clone(&self.id),
                reason: "a supervisor that quarantines has no auto_shutdown",
            });
        }
        Ok(())
    }
}

/// A handle to a dynamic supervisor.
///
/// It stays valid when the supervisor's own supervisor restarts it; children do
/// not survive that, quarantine does.
#[derive(Clone)]
pub struct DynamicSupervisor {
    shared: Arc<Shared>,
}

struct Shared {
    spec: DynamicSpec,
    seat: Seat<Msg>,
    table: Mutex<Table>,
    restarts_total: Counter,
    quarantined: Gauge,
}

impl DynamicSupervisor {
    /// A supervisor that is not started yet. Metrics go to the recorder that is
    /// installed now.
    pub fn new(spec: DynamicSpec) -> Self {
        let policy = match spec.on_crash_loop {
            OnCrashLoop::Meltdown => None,
            OnCrashLoop::Quarantine { base, max, limit_entries } => Some(QuarantinePolicy { base, max, limit_entries }),
        };
        let id = || spec.id.to_string();
        let shared = Shared {
            seat: Seat::new(Arc::clone(&spec.id)),
            table: Mutex::new(Table::new(&spec, policy)),
            restarts_total: metrics::counter!(crate::RESTARTS_TOTAL, "supervisor" => id()),
            quarantined: metrics::gauge!(crate::QUARANTINED, "supervisor" => id()),
            spec,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts the supervisor, without children, linked to `parent` if there is
    /// one.
    ///
    /// # Errors
    /// [`StartError::InvalidSpec`], [`StartError::AlreadyStarted`], or what
    /// ractor reports.
    pub async fn start(&self, parent: Option<ActorCell>) -> Result<ActorCell, StartError> {
        self.shared.spec.check()?;
        self.shared.seat.start(Process::new(Arc::clone(&self.shared)), parent).await
    }

    /// This supervisor as a child of a static one: permanent, with
    /// `Shutdown::Infinity` (its own deadline bounds it), and visible to the
    /// parent's `observe`.
    pub fn child_spec(&self) -> ChildSpec {
        let supervisor = self.clone();
        let start = move |parent| {
            let supervisor = supervisor.clone();
            async move { supervisor.start(Some(parent)).await }
        };
        ChildSpec::supervisor(Arc::clone(&self.shared.spec.id), start).probe(Probe::of_subtree(Arc::new(self.clone())))
    }

    /// Starts a child under `key`, which stands for the spec's id. Waits for a
    /// start or stop of the same key that is under way. Once begun, a start is
    /// carried through even if the caller goes away.
    ///
    /// # Errors
    /// * [`StartError::AlreadyStarted`] with the live actor,
    ///   [`StartError::Restarting`], [`StartError::Quarantined`],
    ///   [`StartError::ChildLimit`], [`StartError::NotRunning`];
    /// * [`StartError::InvalidSpec`];
    /// * [`StartError::Ignored`], and then the child is not kept;
    /// * what the child's own start failed with.
    pub async fn start_child(&self, key: impl Into<Arc<str>>, spec: ChildSpec) -> Result<ActorCell, StartError> {
        let key = key.into();
        spec.check(&key, self.shared.spec.auto_shutdown)?;
        loop {
            let reservation = {
                let actor = self.shared.seat.actor().ok_or_else(|| self.shared.seat.not_running())?;
                let mut table = self.shared.table.lock();
                let reservation = table.reserve(&key, &spec, &self.shared.spec, clock::now())?;
                self.shared.report_quarantine(&table);
                reservation.map_started(|ticket| starting::run(&self.shared, actor, ticket, spec.clone()))
            };
            match reservation {
                Reservation::Started(task) => {
                    return task.await.unwrap_or_else(|_| Err(self.shared.seat.not_running()));
                }
                Reservation::Busy(gate) => opened(gate).await,
                Reservation::Ending(cell) => {
                    ended(&cell).await;
                    self.settled().await;
                }
            }
        }
    }

    /// Stops a child by its spec's `shutdown`, and returns when it has ended.
    /// Also takes back a restart that is due. Once begun, the stop is carried
    /// through even if the caller goes away.
    ///
    /// # Errors
    /// [`ChildError::NotFound`].
    pub async fn terminate_child(&self, key: &str) -> Result<(), ChildError> {
        loop {
            let termination = self.shared.table.lock().terminate(key);
            match termination {
                Termination::NotFound => return Err(ChildError::NotFound { key: key.into() }),
                Termination::Done => return Ok(()),
                Termination::Busy { gate, stopping } => {
                    opened(gate).await;
                    if stopping {
                        return Ok(());
                    }
                }
                Termination::Stop { cell, shutdown, gate } => {
                    let shared = Arc::clone(&self.shared);
                    let key = key.to_owned();
                    let stop = async move {
                        stop_child(&key, &cell, shutdown).await;
                        shared.table.lock().stopped(cell.get_id());
                        drop(gate);
                    };
                    // A panic here would be a bug, and shows as one.
                    let _ = ractor::concurrency::spawn(stop).await;
                    return Ok(());
                }
            }
        }
    }

    /// Lifts a key's quarantine and forgets its crashes; false when there was
    /// nothing to lift. A permanent or transient child is started at once.
    pub fn release(&self, key: &str) -> bool {
        let mut table = self.shared.table.lock();
        let (known, due) = table.release(key);
        self.shared.report_quarantine(&table);
        drop(table);
        if let Some(due) = due
            && let Some(actor) = self.shared.seat.actor()
        {
            starting::restart_later(&self.shared, actor, due, Duration::ZERO);
        }
        known
    }

    /// The live actor of a key.
    pub fn child(&self, key: &str) -> Option<ActorCell> {
        self.shared.table.lock().live(key)
    }

    /// At most `limit` children, in no order.
    pub fn which_children(&self, limit: usize) -> Vec<ChildInfo> {
        self.shared.table.lock().infos(limit)
    }

    /// `supervisor:count_children/1`, in constant time. A key that is held
    /// and whose child was temporary is not among them.
    pub fn count_children(&self) -> ChildCounts {
        self.shared.table.lock().counts()
    }

    /// `supervisor:get_childspec/2`. As in OTP, the start of a temporary child
    /// is not kept, and with it, here, its spec.
    pub fn get_childspec(&self, key: &str) -> Option<ChildSpec> {
        self.shared.table.lock().childspec(key)
    }

    /// The running supervisor's cell.
    pub fn cell(&self) -> Option<ActorCell> {
        self.shared.seat.cell()
    }

    /// Gives up starts that are under way, asks all children to stop, the last
    /// started first, kills those that have not by their time-outs or by
    /// `shutdown_deadline`, and stops the supervisor; returns when all have
    /// ended.
    pub async fn stop(&self) {
        self.shared.seat.stop().await;
    }

    /// Returns when the supervisor has ended, for whatever reason.
    pub async fn ended(&self) {
        self.shared.seat.ended().await;
    }

    /// Returns when the supervisor has seen every exit that ractor had reported
    /// to it: exits have priority over messages.
    async fn settled(&self) {
        // Without an answer the supervisor has ended, and the table is empty.
        let _ = self.shared.seat.request(Msg::Settle).await;
    }
}

impl Shared {
    fn report_quarantine(&self, table: &Table) {
        if let Some(held) = table.held_count() {
            // Far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            self.quarantined.set(held as f64);
        }
    }
}

/// A gate opens by being dropped.
async fn opened(mut gate: watch::Receiver<()>) {
    while gate.changed().await.is_ok() {}
}

impl Observe for DynamicSupervisor {
    /// Quarantined keys come first, then children in no order.
    fn observe(&self, depth: usize, children_max: usize) -> TreeNode {
        let mut node = self.shared.seat.node();
        let mut table = self.shared.table.lock();
        table.sweep(clock::now());
        self.shared.report_quarantine(&table);
        node.children_total = table.observed_len() as u64;
        if let Some(depth) = depth.checked_sub(1) {
            node.children = table.nodes(depth, children_max);
        }
        node
    }
}
