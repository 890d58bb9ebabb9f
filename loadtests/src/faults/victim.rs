//! The process under attack: a store, and a seeded workload on it. It says each thing on its standard
//! output before it does it, and again when it is acknowledged; so whatever ends it, what it was
//! promised is known.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use canopy_domain::{Address, Code, Reader, Refusal, Secret};
use canopy_store::{Commit, Store, StoreError, StoreOptions, Ticket, Unlock, Writer};

use super::dice::Dice;
use super::history::Event;
use super::plan;

/// The key of every directory under attack.
pub const KEY: &str = "9f0c1b7a3f2e4d6c8b9a0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5b";
/// Partitions written at a time; each by one task.
const TASKS: usize = 3;
/// Commits that a task makes before it lets its writer go.
const STAY: u64 = 8;
/// How the refusal of a read begins.
pub const READ: &str = "read: ";
/// Refusals after which a victim gives up. A full disk refuses until it has space again.
const REFUSALS_MAX: u64 = 300;

/// One life of a victim.
#[derive(Clone, Debug, clap::Args)]
pub struct Life {
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long)]
    pub seed: u64,
    /// Which life this is: each has operations of its own, and repeats some of those before.
    #[arg(long)]
    pub life: u64,
    /// Commits, after which it closes the store and ends.
    #[arg(long)]
    pub commits: u64,
    /// How many partitions it writes at most.
    #[arg(long, default_value_t = usize::MAX)]
    pub partitions: usize,
    /// Bytes of the write buffer over all vaults: few, so that memtables rotate.
    #[arg(long, default_value_t = 1 << 20)]
    pub write_buffer: u64,
    /// Waits for each answer before the next submission, and writes one partition at a time.
    #[arg(long)]
    pub calm: bool,
}

/// The options of a store under attack.
pub fn options(dir: &Path, write_buffer: u64) -> StoreOptions {
    let mut options = StoreOptions::new(dir, Unlock::Key(Secret::new(KEY)));
    // Fewer than there are vaults, so that they are closed and opened again.
    options.open_vaults_max = TASKS;
    options.write_buffer_bytes = write_buffer;
    options.block_cache_bytes = 1 << 20;
    options.feed_retention_ms = plan::FEED_RETENTION_MS;
    options
}

/// The version that a life's second view has: most rebuild nothing.
pub fn view_version(life: u64) -> u32 {
    1 + u32::try_from(life / 4 % 2).unwrap_or(0)
}

/// Lives. Gives whether it ended by itself.
///
/// # Errors
/// The store cannot be opened or closed.
pub async fn live(life: Life) -> Result<(), StoreError> {
    let (dir, write_buffer) = (life.dir.clone(), life.write_buffer);
    let opened = tokio::task::spawn_blocking(move || Store::open(options(&dir, write_buffer))).await;
    let store = opened.map_err(|e| StoreError::Io { what: "open".into(), reason: e.to_string() })??;
    say(&Event::Ready);
    let addresses = Arc::new(plan::addresses(life.seed));
    let work = Arc::new(Work { next: AtomicU64::new(0), refusals: AtomicU64::new(0), life, store: store.clone() });
    let tasks = if work.life.calm { 1 } else { TASKS };
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let (work, addresses) = (work.clone(), addresses.clone());
            tokio::spawn(async move { work.run(task, tasks, &addresses).await })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|e| StoreError::Io { what: "a task ended".into(), reason: e.to_string() })?;
    }
    store.close().await?;
    say(&Event::Done);
    Ok(())
}

fn say(event: &Event) {
    let mut out = std::io::stdout().lock();
    // The reader may be gone: then nobody counts on it.
    let _ = out.write_all(format!("{event}\n").as_bytes()).and_then(|()| out.flush());
}

struct Work {
    life: Life,
    store: Store,
    /// The next operation of this life.
    next: AtomicU64,
    refusals: AtomicU64,
}

impl Work {
    async fn run(&self, task: usize, tasks: usize, addresses: &[Address]) {
        let mut dice = Dice::of(&[self.life.seed, self.life.life, task as u64, 5]);
        let count = addresses.len().min(self.life.partitions.max(1));
        // Another start in each life, so that few partitions are not always the same ones.
        let start = Dice::of(&[self.life.seed, self.life.life, 6]).index(addresses.len());
        let mine: Vec<usize> =
            (0..count).filter(|n| n % tasks == task).map(|n| (start + n) % addresses.len()).collect();
        while self.next.load(Ordering::Relaxed) < self.life.commits
            && self.refusals.load(Ordering::Relaxed) < REFUSALS_MAX
        {
            let Some((partition, address)) = dice.pick(&mine).and_then(|n| Some((*n, addresses.get(*n)?))) else {
                return;
            };
            if let Err(error) = self.visit(partition, address, &mut dice).await {
                self.refused(partition, error);
                if let Err(error) = self.read(address).await {
                    say(&Event::Refused {
                        partition,
                        code: format!("{:?}", error.code),
                        text: format!("{READ}{error}"),
                    });
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads what is durable, as whoever only reads goes on doing.
    async fn read(&self, address: &Address) -> Result<(), Refusal> {
        let snapshot = self.store.reader(address).await?.snapshot().await?;
        match snapshot.seq()? {
            0 => Ok(()),
            last => snapshot.transaction(last).map(drop),
        }
    }

    fn refused(&self, partition: usize, error: Refusal) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        say(&Event::Refused { partition, code: format!("{:?}", error.code), text: error.message });
    }

    /// Takes the writer of a partition, commits a few times, and lets it go.
    async fn visit(&self, partition: usize, address: &Address, dice: &mut Dice) -> Result<(), Refusal> {
        let views = plan::views(view_version(self.life.life));
        let mut writer = self.store.writer(address, &views).await?;
        let mut visit = Visit { work: self, partition, tickets: Vec::new() };
        let stay = 1 + dice.below(STAY);
        for _ in 0..stay {
            let made = self.next.fetch_add(1, Ordering::Relaxed);
            if made >= self.life.commits {
                break;
            }
            visit.operate(&mut writer, made, dice)?;
            if self.life.calm || dice.percent(20) {
                visit.settle(&writer).await?;
            }
        }
        visit.settle(&writer).await?;
        if dice.percent(40) {
            visit.complete(&mut writer, dice).await?;
        }
        if dice.percent(25) {
            visit.trim(&mut writer, dice).await?;
        }
        // Passivation, in many orders of reader and writer.
        let reader = writer.reader();
        let last = writer.next_seq() - 1;
        let keep = dice.percent(50).then_some(writer);
        let seen = reader.snapshot().await?.seq()?;
        drop(keep);
        if seen < last {
            visit.wrong(format!("a reader saw {seen} after {last} was acknowledged"));
        }
        Ok(())
    }
}

struct Visit<'a> {
    work: &'a Work,
    partition: usize,
    tickets: Vec<(u64, u64, Ticket)>,
}

impl Visit<'_> {
    fn wrong(&self, text: String) {
        say(&Event::Wrong { partition: self.partition, text });
    }

    /// A new operation, or a repeat of one that may or may not have been made.
    fn operate(&mut self, writer: &mut Writer, made: u64, dice: &mut Dice) -> Result<(), Refusal> {
        let (seed, partition) = (self.work.life.seed, self.partition);
        let life = self.work.life.life;
        let mut op = life * plan::OPERATIONS_PER_LIFE + made;
        if dice.percent(20) {
            let earlier = life - dice.below(3).min(life);
            op = earlier * plan::OPERATIONS_PER_LIFE + dice.below(self.work.life.commits.min(made + 50));
        }
        let seq = writer.next_seq();
        match (
            plan::reply(seed, partition, op),
            writer.request_record(&plan::request_key(partition, op), plan::time_ms(seq))?,
        ) {
            (None, Some(_)) => {
                self.wrong(format!("operation {op} has an answer and never kept one"));
                return Ok(());
            }
            (Some(expected), Some(found)) => {
                if (&found.reply, &found.payload_digest) != (&expected.reply, &expected.payload_digest) {
                    self.wrong(format!("operation {op} is answered with another reply than its first"));
                }
                return Ok(());
            }
            // Without a record, nothing tells a repeat from the first: it is made by its own life, once.
            (None, None) if op != life * plan::OPERATIONS_PER_LIFE + made => return Ok(()),
            (_, None) => {}
        }
        let live = writer.live();
        let commit: Commit = plan::commit(seed, partition, op, seq, |table, key| live.get(table, key))?;
        drop(live);
        say(&Event::Intent { partition, seq, op });
        let ticket = writer.submit(commit);
        self.tickets.push((seq, op, ticket));
        Ok(())
    }

    /// Waits for every answer.
    async fn settle(&mut self, writer: &Writer) -> Result<(), Refusal> {
        let mut failed = None;
        for (seq, op, ticket) in std::mem::take(&mut self.tickets) {
            match ticket.await {
                Ok(answered) => {
                    if answered != seq {
                        self.wrong(format!("operation {op} was submitted as {seq} and answered as {answered}"));
                    }
                    if failed.is_some() {
                        self.wrong(format!("operation {op} was committed after one before it failed"));
                    }
                    say(&Event::Acknowledged { partition: self.partition, seq, op });
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            if !writer.is_failed() && !matches!(error, StoreError::Closed) {
                self.wrong("a commit failed, and its writer goes on".into());
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Has the feed trimmed, all of which is durable: and says before what will be gone.
    async fn trim(&self, writer: &mut Writer, dice: &mut Dice) -> Result<(), Refusal> {
        let (partition, last) = (self.partition, writer.next_seq() - 1);
        let live = writer.live();
        for seq in live.floor()?..=last.saturating_sub(plan::KEPT) {
            let op = live.transaction(seq)?.and_then(|transaction| plan::op_of(&transaction.request_id));
            match op {
                Some(op) => say(&Event::Trimming { partition, seq, op }),
                None => self.wrong(format!("transaction {seq} is not there, before it was trimmed")),
            }
        }
        drop(live);
        let trimmed = writer.trim_feed(plan::time_ms(last))?;
        if dice.percent(70) {
            trimmed.ticket.await?;
            say(&Event::Trimmed { partition, floor: writer.feed_floor() });
        }
        Ok(())
    }

    /// Completes some of the oldest effects.
    async fn complete(&self, writer: &mut Writer, dice: &mut Dice) -> Result<(), Refusal> {
        let pending = writer.pending_effects(5)?;
        let done: Vec<(u64, u32)> =
            pending.iter().map(|effect| (effect.seq, effect.n)).filter(|_| dice.percent(70)).collect();
        let partition = self.partition;
        for (seq, n) in &done {
            say(&Event::Completing { partition, seq: *seq, n: *n });
        }
        writer.complete_effects(&done).await?;
        for (seq, n) in &done {
            say(&Event::Completed { partition, seq: *seq, n: *n });
        }
        Ok(())
    }
}

/// Whether a refusal is one that a failing disk may give.
pub fn is_clean(code: &str) -> bool {
    [Code::ResourceExhausted, Code::Unavailable].iter().any(|clean| format!("{clean:?}") == code)
}
