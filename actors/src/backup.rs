//! The worker that writes backups, and the queue of those that wait for it.
//!
//! - It owns the files in the backup directory, and the queue.
//! - The queue hears of commits of backups; what they leave to do is put in. The
//!   worker takes an org's after another's, asks each backup what there is to do,
//!   does it, and tells it the end.
//! - It exits with the node, and is restarted if it crashes.
//! - If it dies, its successor begins what it was writing again. After a start
//!   of the node, the backups that still wait to be woken are begun at once.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use canopy_domain::{Address, Change, Code, Kind, Refusal};
use canopy_proto::Method;
use canopy_proto::methods::backup_effects as methods;
use canopy_proto::ops::v1::{Backup, BackupState};
use canopy_proto::system::v1::finish_backup_request::Outcome;
use canopy_proto::system::v1::{
    BackupFile, BackupWork, BeginBackupRequest, BeginBackupResponse, FinishBackupRequest, ReportBackupRequest,
};
use canopy_store::{BackupSummary, StoreError};
use canopy_supervision::{ChildSpec, Probe};
use parking_lot::Mutex;
use prost::Message;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::MissedTickBehavior;

use crate::backup_queue::Queue;
use crate::call::CommitHook;
use crate::{Node, clock};

/// Backups in the queue. One that finds no room asks again when it wakes.
const QUEUE_MAX: usize = 1_024;
/// How often a backup hears that it is being written: several times before it
/// counts its worker as gone.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// How often the end is told where that fails for the moment.
const TELL_TRIES_MAX: u32 = 5;
/// Wait between two of these.
const TELL_WAIT: Duration = Duration::from_millis(200);

struct Work {
    waiting: Queue,
    /// What the worker has taken, and what ends its being written. It stays
    /// when the worker dies.
    running: Option<(Address, Arc<AtomicBool>)>,
    worker: Option<ActorRef<()>>,
}

impl Work {
    fn next(&mut self) -> Option<(Address, Arc<AtomicBool>)> {
        self.running = self.waiting.pop().map(|backup| (backup, Arc::default()));
        self.running.clone()
    }

    /// A worker begins, after one that may have died over its work: that goes
    /// behind what others wait for.
    fn succeed(&mut self, worker: Option<ActorRef<()>>) {
        self.worker = worker;
        if let Some((backup, _)) = self.running.take() {
            self.waiting.push(&backup);
        }
    }
}

struct Inner {
    dir: PathBuf,
    work: Mutex<Work>,
    /// Held while a file is being written, by the thread that does it: should a
    /// worker die, its successor waits for the end of what it began.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The backups that wait for this node's worker. A cheap handle.
#[derive(Clone)]
pub struct Backups(Arc<Inner>);

impl Backups {
    /// An empty queue for files in `dir`, which is made when it is needed.
    pub fn new(dir: PathBuf) -> Self {
        metrics::describe_gauge!("canopy_backup_queue_jobs", "Backups that wait for the worker");
        metrics::describe_counter!("canopy_backup_jobs_total", "Backups that were begun, by how they ended");
        metrics::describe_counter!(
            "canopy_backup_bytes_total",
            metrics::Unit::Bytes,
            "Bytes of backups that are complete"
        );
        metrics::describe_histogram!(
            "canopy_backup_seconds",
            metrics::Unit::Seconds,
            "Time that complete backups took to be written"
        );
        let work = Work { waiting: Queue::new(QUEUE_MAX), running: None, worker: None };
        Self(Arc::new(Inner { dir, work: Mutex::new(work), turn: Arc::default() }))
    }

    /// The worker.
    pub fn worker(&self, node: Node) -> ChildSpec {
        let (backups, probe) = (self.clone(), Probe::new());
        let shared = Arc::clone(&probe);
        let state = move || State { node: node.clone(), backups: backups.clone(), probe: Arc::clone(&shared) };
        ChildSpec::actor("backups", probe, move || (Worker, state()))
    }

    fn push(&self, backup: &Address) {
        let mut work = self.0.work.lock();
        if !work.waiting.push(backup) {
            return;
        }
        gauge(&work);
        if let Some(worker) = &work.worker {
            // One that is gone finds the queue when it is back.
            let _ = worker.send_message(());
        }
    }

    fn next(&self) -> Option<(Address, Arc<AtomicBool>)> {
        let mut work = self.0.work.lock();
        let next = work.next();
        gauge(&work);
        next
    }

    fn cancel(&self, backup: &Address) {
        if let Some((_, cancelled)) = self.0.work.lock().running.as_ref().filter(|(address, _)| address == backup) {
            cancelled.store(true, Ordering::Release);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "at most QUEUE_MAX")]
fn gauge(work: &Work) {
    metrics::gauge!("canopy_backup_queue_jobs").set(work.waiting.len() as f64);
}

impl CommitHook for Backups {
    fn wants(&self, address: &Address) -> bool {
        address.kind() == Some(Kind::Job("backup"))
    }

    fn committed(&self, address: &Address, _: u64, changes: &[Change]) {
        // An answer that changes nothing brings none: it leaves nothing to do.
        for after in changes.iter().filter_map(|change| change.after.clone()) {
            let Ok(backup) = Backup::decode(after) else { continue };
            if backup.delete_time_ms > 0 {
                self.cancel(address);
                self.push(address);
            } else if backup.state() == BackupState::Pending {
                self.push(address);
            }
        }
    }

    fn found(&self, address: &Address) {
        self.push(address);
    }
}

struct Worker;

struct State {
    node: Node,
    backups: Backups,
    probe: Arc<Probe>,
}

impl Actor for Worker {
    type Msg = ();
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, myself: ActorRef<()>, state: State) -> Result<State, ActorProcessingErr> {
        state.probe.set_state("idle");
        myself.send_message(())?;
        state.backups.0.work.lock().succeed(Some(myself));
        Ok(state)
    }

    async fn handle(&self, _: ActorRef<()>, (): (), state: &mut State) -> Result<(), ActorProcessingErr> {
        while let Some((backup, cancelled)) = state.backups.next() {
            if state.node.is_stopping() {
                // It is begun at the next start.
                break;
            }
            if let Err(refusal) = state.work(&backup, &cancelled).await {
                tracing::warn!(%backup, %refusal, "a backup waits; it is tried again");
                state.probe.set_last_error(refusal.message);
            }
            state.probe.set_state("idle");
        }
        state.probe.handled();
        Ok(())
    }
}

/// A backup that is told to be written.
struct Job<'a> {
    backup: &'a Address,
    /// Whose vault.
    address: Address,
    file: PathBuf,
    attempt: u32,
}

impl State {
    async fn work(&self, backup: &Address, cancelled: &Arc<AtomicBool>) -> Result<(), Refusal> {
        let begin = BeginBackupRequest { backup: backup.to_string(), request_id: String::new() };
        let begun = match self.tell(backup, methods::BEGIN_BACKUP, &begin).await {
            // It was deleted, file and all.
            Err(refusal) if refusal.code == Code::NotFound => return Ok(()),
            begun => BeginBackupResponse::decode(begun?).unwrap_or_default(),
        };
        let file = self.backups.0.dir.join(&begun.file_name);
        if !is_plain(&begun.file_name) {
            return Err(Refusal::new(Code::Internal, format!("`{}` is no file's name", begun.file_name)));
        }
        match begun.work() {
            BackupWork::Unspecified => Ok(()),
            BackupWork::Remove => {
                for path in [file.with_extension("part"), file] {
                    remove(&path).await?;
                }
                self.finish(backup, begun.attempt, Outcome::Removed(true)).await
            }
            BackupWork::Write => {
                let address = Address::parse(&begun.address);
                let address = address.map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
                self.write(&Job { backup, address, file, attempt: begun.attempt }, cancelled).await
            }
        }
    }

    async fn write(&self, job: &Job<'_>, cancelled: &Arc<AtomicBool>) -> Result<(), Refusal> {
        self.probe.set_state(format!("writing a backup of {}", job.address));
        let began_ms = clock::now_ms();
        let written = self.export(job, cancelled).await;
        let (ended, outcome) = match written {
            Ok(summary) => {
                metrics::counter!("canopy_backup_bytes_total").increment(summary.bytes);
                metrics::histogram!("canopy_backup_seconds").record(seconds_since(began_ms));
                let file = BackupFile {
                    cursor: summary.cursor,
                    bytes: summary.bytes,
                    sha256: summary.sha256,
                    snapshot_time_ms: summary.time_ms,
                };
                ("complete", Outcome::File(file))
            }
            Err(StoreError::Interrupted | StoreError::Closed) => ("interrupted", Outcome::PutBack(true)),
            Err(error) => {
                tracing::error!(backup = %job.backup, vault = %job.address, %error, "a backup failed");
                self.probe.set_last_error(error.to_string());
                ("failed", Outcome::Error(told(&error)))
            }
        };
        metrics::counter!("canopy_backup_jobs_total", "outcome" => ended).increment(1);
        match self.finish(job.backup, job.attempt, outcome).await {
            // It was deleted meanwhile: its file is the next thing to do.
            Err(refusal) if matches!(refusal.code, Code::NotFound | Code::FailedPrecondition) => Ok(()),
            finished => finished,
        }
    }

    /// Writes the file on a thread of its own, and says now and then that it
    /// does.
    async fn export(&self, job: &Job<'_>, cancelled: &Arc<AtomicBool>) -> Result<BackupSummary, StoreError> {
        let turn = Arc::clone(&self.backups.0.turn).lock_owned().await;
        let bytes = Arc::new(AtomicU64::new(0));
        let go_on = {
            let (bytes, cancelled, node) = (Arc::clone(&bytes), Arc::clone(cancelled), self.node.clone());
            move |so_far| {
                let _held = &turn;
                bytes.store(so_far, Ordering::Relaxed);
                !cancelled.load(Ordering::Acquire) && !node.is_stopping()
            }
        };
        make_dir(&self.backups.0.dir).await?;
        // A future that is dropped leaves its thread behind: this ends it.
        let _end = EndOnDrop(Arc::clone(cancelled));
        let export = self.node.store().back_up(&job.address, &job.file, clock::now_ms(), go_on);
        let mut export = std::pin::pin!(export);
        let mut reports = tokio::time::interval(REPORT_EVERY);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        reports.reset();
        loop {
            tokio::select! {
                done = &mut export => return done,
                _ = reports.tick() => {
                    self.probe.beat();
                    self.report(job, bytes.load(Ordering::Relaxed), cancelled).await;
                }
            }
        }
    }

    async fn report(&self, job: &Job<'_>, bytes: u64, cancelled: &AtomicBool) {
        let report = ReportBackupRequest {
            backup: job.backup.to_string(),
            attempt: job.attempt,
            bytes,
            request_id: String::new(),
        };
        match self.tell(job.backup, methods::REPORT_BACKUP, &report).await {
            Ok(_) => {}
            Err(refusal) if matches!(refusal.code, Code::NotFound | Code::FailedPrecondition) => {
                cancelled.store(true, Ordering::Release);
            }
            Err(refusal) => tracing::debug!(backup = %job.backup, %refusal, "a report is lost; the next one follows"),
        }
    }

    /// Tells a backup what came of it. Should that fail for long, it misses its
    /// worker and is begun again.
    async fn finish(&self, backup: &Address, attempt: u32, outcome: Outcome) -> Result<(), Refusal> {
        let finish = FinishBackupRequest {
            backup: backup.to_string(),
            attempt,
            outcome: Some(outcome),
            request_id: String::new(),
        };
        let mut tries = 1;
        loop {
            match self.tell(backup, methods::FINISH_BACKUP, &finish).await {
                Err(refusal) if tries < TELL_TRIES_MAX && is_passing(refusal.code) => tries += 1,
                told => return told.map(drop),
            }
            tokio::time::sleep(TELL_WAIT).await;
        }
    }

    async fn tell<Q: Message, R>(&self, backup: &Address, method: Method<Q, R>, request: &Q) -> Result<Bytes, Refusal> {
        let request = request.encode_to_vec().into();
        self.node.ask(backup, method.path, request, &Address::system("backups"), "").await
    }
}

struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::Aborted)
}

#[allow(clippy::cast_precision_loss, reason = "no backup takes so long that it matters")]
fn seconds_since(began_ms: i64) -> f64 {
    (clock::now_ms() - began_ms).max(0) as f64 / 1_000.0
}

/// Whether a name is that of a file, and leads nowhere else.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

/// What people of an org are told: nothing of the server's directories.
fn told(error: &StoreError) -> String {
    match error {
        StoreError::NothingThere(_) => "nothing has been stored there".into(),
        StoreError::DiskFull { .. } => "the server's disk is full".into(),
        StoreError::Quarantined { .. } | StoreError::Corrupt { .. } => {
            "the vault is damaged: whoever runs the server sees how".into()
        }
        StoreError::Shredded(_) => "its keys were destroyed".into(),
        _ => "the server could not write it: its log has the reason".into(),
    }
}

/// A directory for nobody else.
async fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let made = tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).await;
    made.map_err(|e| StoreError::Io { what: format!("cannot make `{}`", dir.display()), reason: e.to_string() })
}

async fn remove(path: &Path) -> Result<(), Refusal> {
    match tokio::fs::remove_file(path).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Refusal::new(Code::Unavailable, format!("cannot remove `{}`: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use canopy_domain::Id;

    use super::*;

    fn backup(n: u8) -> Address {
        Address::parse(&format!("org/{0}/job/backup/{0}", Id::from_bytes([n; 16]))).unwrap()
    }

    #[test]
    fn what_a_worker_died_over_is_its_successors() {
        let mut work = Work { waiting: Queue::new(10), running: None, worker: None };
        work.succeed(None);
        assert!(work.next().is_none());
        for n in 1..=2 {
            work.waiting.push(&backup(n));
        }
        let (first, cancelled) = work.next().unwrap();
        assert_eq!(first, backup(1));
        work.succeed(None);
        let order: Vec<_> = std::iter::from_fn(|| work.next()).map(|(backup, _)| backup).collect();
        assert_eq!(order, [backup(2), backup(1)]);
        assert!(!cancelled.load(Ordering::Acquire));
        work.succeed(None);
        assert!(work.next().is_none(), "what was done is not done again");
    }

    #[test]
    fn what_a_start_finds_waits_for_the_worker() {
        let backups = Backups::new(PathBuf::new());
        let org = backup(1).org_address().unwrap();
        assert!(backups.wants(&backup(1)) && !backups.wants(&org));
        for n in [1, 2, 1] {
            backups.found(&backup(n));
        }
        let order: Vec<_> = std::iter::from_fn(|| backups.next()).map(|(backup, _)| backup).collect();
        assert_eq!(order, [backup(1), backup(2)]);
    }

    #[test]
    fn names_lead_nowhere_else() {
        for (name, plain) in [
            ("a-b.backup", true),
            ("", false),
            (".", false),
            ("..", false),
            ("/a", false),
            ("a/b", false),
            ("../a", false),
            ("a/", false),
        ] {
            assert_eq!(is_plain(name), plain, "{name:?}");
        }
    }
}
