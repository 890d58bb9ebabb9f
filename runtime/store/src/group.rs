//! Group commit. A submission made while no commit of its vault runs starts
//! one; those made meanwhile wait together and share the next. Where several
//! shared the last group, the next one waits a moment for as many, for those
//! who were just answered are likely to be back: so a group under load is as
//! large as its callers allow, and nobody alone waits for company.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use fjall::{UserKey, UserValue};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::StoreError;
use crate::handle::Handle;
use crate::key::Nonces;
use crate::keyring::{NewKey, PartitionName, SubjectId};
use crate::node::Node;
use crate::partition::{META, Meta, Partition, SCHEMA_VERSION};
use crate::seal::{Sealer, Space};
use crate::vault::Vault;
use prost::Message;

/// How many vaults commit at the same time for each core: while one waits for
/// the disk, another computes. More of them leave each group fewer commits and
/// give the kernel more fsyncs to begin and end: with 256 callers over 32 vaults
/// on two cores, a commit took 51 µs of CPU with one for each core, 56 µs with
/// two, which kept both busy, 63 µs with four and 99 µs with eight (single runs
/// of builds that differed a little: the order is what they show).
const COMMIT_THREADS_PER_CORE: usize = 2;

fn commit_threads_max() -> usize {
    static MAX: LazyLock<usize> = LazyLock::new(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        cores * COMMIT_THREADS_PER_CORE
    });
    *MAX
}

/// Vaults among which a commit is chosen.
const LOOKED_AT_MAX: usize = 16;

/// Longest wait of a commit for others to share its fsync.
const GATHER_MAX: Duration = Duration::from_millis(2);

/// Commits that nobody waits for more of: an fsync shared by so many is cheap.
const GATHERED_MAX: usize = 32;

/// What fjall adds to a row in memory, roughly, in bytes.
const ROW_OVERHEAD_BYTES: usize = 96;

/// A sealed row, or the removal of one.
pub(crate) struct SealedRow {
    pub(crate) space: Space,
    pub(crate) key: UserKey,
    pub(crate) value: Option<UserValue>,
}

/// A partition's new state. Only the last one of a group is sealed and written.
pub(crate) struct Advance {
    pub(crate) partition: Arc<Partition>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) meta: Arc<Meta>,
    /// Of when it was submitted: a later key is in the keyring no sooner than
    /// the submission that brings it.
    sealer: Arc<Sealer>,
}

impl Advance {
    pub(crate) fn new(partition: &Arc<Partition>, handle: &Arc<Handle>, meta: Arc<Meta>) -> Self {
        Self { sealer: partition.sealer(), partition: Arc::clone(partition), handle: Arc::clone(handle), meta }
    }
}

/// What a writer hands to its vault.
pub(crate) struct Submission {
    pub(crate) rows: Vec<SealedRow>,
    pub(crate) advance: Option<Advance>,
    /// Whether it is a feed entry, to be counted.
    pub(crate) is_commit: bool,
    /// Keys that must be durable before the rows.
    pub(crate) new_keys: Vec<NewKey>,
    /// Subjects of the advanced partition whose keys go once this is durable.
    pub(crate) doomed: Vec<SubjectId>,
    /// What the ticket answers.
    pub(crate) seq: u64,
    pub(crate) ticket: Option<oneshot::Sender<Result<u64, StoreError>>>,
}

impl Submission {
    fn bytes(&self) -> usize {
        let value_bytes = |row: &SealedRow| row.value.as_ref().map_or(0, |value| value.len());
        self.rows.iter().map(|row| row.key.len() + value_bytes(row) + ROW_OVERHEAD_BYTES).sum()
    }
}

/// What a submission asks for.
pub(crate) enum Pushed {
    /// A commit must be scheduled.
    Schedule,
    /// A commit that gathers has what it waits for.
    Gathered,
    Nothing,
}

/// Submissions of a vault that are not durable yet.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: VecDeque<(u64, Submission, Instant)>,
    submitted: u64,
    scheduled: bool,
    /// How many a commit that gathers waits for; zero where none does.
    wanted: usize,
    /// How many were answered by the last group or waited when it was durable.
    company: usize,
}

impl Queue {
    /// Adds one; gives its position, and what is to be done about it.
    pub(crate) fn push(&mut self, submission: Submission) -> (u64, Pushed) {
        self.submitted += 1;
        self.waiting.push_back((self.submitted, submission, Instant::now()));
        let pushed = if !std::mem::replace(&mut self.scheduled, true) {
            Pushed::Schedule
        } else if self.wanted > 0 && self.waiting.len() >= self.wanted {
            self.wanted = 0;
            Pushed::Gathered
        } else {
            Pushed::Nothing
        };
        (self.submitted, pushed)
    }

    /// Position of the last submission.
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted
    }
}

/// The threads that commit: some of Tokio's for blocking work, for as long as
/// there is something to commit.
#[derive(Default)]
pub(crate) struct Committer(Mutex<CommitterState>);

#[derive(Default)]
struct CommitterState {
    ready: VecDeque<Arc<Vault>>,
    running: usize,
}

impl Committer {
    /// Has a vault's queue committed.
    pub(crate) fn schedule(node: &Arc<Node>, vault: Arc<Vault>) {
        let mut state = node.committer.0.lock();
        state.ready.push_back(vault);
        if state.running < commit_threads_max() {
            state.running += 1;
            drop(state);
            let node = node.clone();
            node.runtime.clone().spawn_blocking(move || node.committer.run());
        }
    }

    fn run(&self) {
        loop {
            let vault = {
                let mut state = self.0.lock();
                // A vault whose company is still on its way lets others go first.
                let complete = state.ready.iter().take(LOOKED_AT_MAX).position(|vault| vault.has_gathered());
                match state.ready.remove(complete.unwrap_or(0)) {
                    Some(vault) => vault,
                    None => {
                        state.running -= 1;
                        return;
                    }
                }
            };
            if vault.commit_group() {
                self.0.lock().ready.push_back(vault);
            }
        }
    }
}

impl Vault {
    /// Commits the next group; tells whether another waits.
    fn commit_group(self: &Arc<Self>) -> bool {
        let Some((position, first, mut group)) = self.next_group() else {
            return false;
        };
        let (size, started) = (group.len(), Instant::now());
        let written = if self.is_failed() {
            Err(StoreError::CommitFailed { vault: self.name.to_string(), reason: "an earlier commit failed".into() })
        } else {
            // fjall asserts where it finds itself inconsistent.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.write_group(&mut group))).unwrap_or_else(
                |_| {
                    let reason = "the database panicked".into();
                    Err(StoreError::CommitFailed { vault: self.name.to_string(), reason })
                },
            )
        };
        match written {
            Ok(bytes) => {
                let commits = group.iter().filter(|s| s.is_commit).count() as u64;
                self.durable_up_to(position);
                for handle in advanced(&mut group).into_values() {
                    handle.handle.publish(handle.meta.seq);
                }
                // Before the tickets, so that whoever has an answer is counted.
                if bytes > 0 {
                    let now = Instant::now();
                    self.node.figures.group(
                        commits,
                        bytes,
                        now.duration_since(first).as_secs_f64(),
                        now.duration_since(started).as_secs_f64(),
                    );
                    tracing::debug!(vault = %self.name, commits, bytes, "group committed");
                }
                for submission in group {
                    if let Some(ticket) = submission.ticket {
                        // Nobody may be waiting any more.
                        let _ = ticket.send(Ok(submission.seq));
                    }
                }
                if bytes > 0 {
                    self.maintain();
                }
            }
            Err(error) => {
                // The overlays are void from here on; `is_failed` says so to
                // the writers before their tickets do.
                self.fail(&error);
                for submission in group {
                    if let Some(ticket) = submission.ticket {
                        let _ = ticket.send(Err(error.clone()));
                    }
                }
            }
        }
        let mut queue = self.queue.lock();
        queue.company = size + queue.waiting.len();
        queue.scheduled = !queue.waiting.is_empty();
        queue.scheduled
    }

    fn next_group(&self) -> Option<(u64, Instant, Vec<Submission>)> {
        let options = &self.node.options;
        let mut queue = self.queue.lock();
        self.gather(&mut queue);
        let mut group = Vec::with_capacity(queue.waiting.len().min(options.group_commits_max));
        let (mut bytes, mut last, mut first) = (0, 0, None);
        while group.len() < options.group_commits_max.max(1) && bytes < options.group_bytes_max.max(1) {
            let Some((position, submission, since)) = queue.waiting.pop_front() else {
                break;
            };
            bytes += submission.bytes();
            last = position;
            first.get_or_insert(since);
            group.push(submission);
        }
        if first.is_none() {
            queue.scheduled = false;
        }
        Some((last, first?, group))
    }

    /// Whether a commit would wait for nobody.
    fn has_gathered(&self) -> bool {
        let queue = self.queue.lock();
        let since = queue.waiting.front().map(|(_, _, since)| *since);
        queue.waiting.len() >= self.wanted(&queue) || since.is_none_or(|since| since.elapsed() >= GATHER_MAX)
    }

    /// How many a commit waits for.
    fn wanted(&self, queue: &Queue) -> usize {
        queue.company.min(self.node.options.group_commits_max).min(GATHERED_MAX)
    }

    /// Waits for those who shared the last group and have been answered: their
    /// commits would else miss this group and need another fsync.
    fn gather(&self, queue: &mut MutexGuard<'_, Queue>) {
        let Some((_, _, first)) = queue.waiting.front() else { return };
        let until = *first + GATHER_MAX;
        queue.wanted = self.wanted(queue);
        while queue.waiting.len() < queue.wanted {
            if self.gathered.wait_until(queue, until).timed_out() {
                break;
            }
        }
        queue.wanted = 0;
    }

    /// Writes a group and makes it durable; gives its bytes, 0 for a group
    /// that only waited.
    fn write_group(self: &Arc<Self>, group: &mut [Submission]) -> Result<u64, StoreError> {
        let rows: usize = group.iter().map(|s| s.rows.len()).sum();
        let advances = group.iter().filter(|s| s.advance.is_some()).count();
        if rows + advances == 0 {
            return Ok(0);
        }
        let failed = |error: std::io::Error| StoreError::commit(&self.name, &error);
        let disk = self.disk_or_new()?;
        let mut writer = disk.writer();

        self.write_keys(&mut writer, group).map_err(failed)?;

        let mut bytes = 0;
        let mut batch = disk.batch(rows + advances + 1);
        // Rows of one key share fjall's seqno: the last one stands.
        for submission in group.iter_mut() {
            bytes += submission.bytes();
            for row in submission.rows.drain(..) {
                let keyspace = disk.keyspace(row.space);
                match row.value {
                    Some(value) => batch.insert(keyspace, row.key, value),
                    None => batch.remove(keyspace, row.key),
                }
            }
        }
        let mut nonces = Nonces::new();
        for advance in last_advances(group).into_values() {
            let key = advance.partition.row_key(META, &[]);
            let text = advance.meta.encode_to_vec();
            let value = advance.sealer.seal(Space::Data, &key, SCHEMA_VERSION, &text, nonces.take());
            bytes += key.len() + value.len() + ROW_OVERHEAD_BYTES;
            batch.insert(&disk.data, key, value);
        }
        let (key, value) = writer.group_row(&self.keys.sealer);
        batch.insert(&disk.data, key, value);

        batch.commit().map_err(|e| failed(crate::disk::io_error(e)))?;
        let number = writer.committed(bytes as u64).map_err(failed)?;
        self.node.heads.note(self.id, number);
        self.shred_doomed(&mut writer, group)?;
        Ok(bytes as u64)
    }
}

fn last_advances(group: &[Submission]) -> HashMap<PartitionName, &Advance> {
    group.iter().filter_map(|s| s.advance.as_ref()).map(|a| (a.partition.name, a)).collect()
}

fn advanced(group: &mut [Submission]) -> HashMap<PartitionName, Advance> {
    group.iter_mut().filter_map(|s| s.advance.take()).map(|a| (a.partition.name, a)).collect()
}
