//! Threads that hash and do nothing else, at a priority so low that a storm of
//! log-ins leaves the processor to everybody else.
//!
//! Of two threads one runs only when nobody else wants to (`SCHED_IDLE`): it
//! gives way at once. On a server whose processor is wanted all the time it
//! would hardly get on, so what takes it too long is begun anew by the other,
//! which gets a tenth of a core that is wanted all the time (nice 10).
//!
//! Either may be stopped anywhere for long, so it must hold nothing then that
//! others wait for: it takes no lock that others take, and the memory it hashes
//! in is another's to ask for and to give back, for that locks the process's
//! whole address space.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::{Output, Salt};
use argon2::{Argon2, Block, Params};
use canopy_domain::Secret;

/// How long the memory is kept when there is nothing to hash.
pub(crate) const MEMORY_KEPT: Duration = Duration::from_secs(2);

/// What the idle thread may take for a hash, to the quickest one so far, and at
/// least.
const PATIENCE: u32 = 4;
const PATIENCE_MIN: Duration = Duration::from_secs(2);

const ENDED: &str = "a hashing thread has ended";

/// How a thread is scheduled.
#[derive(Clone, Copy)]
enum Priority {
    Idle,
    Low,
}

/// A hash to be made, and what it is made in.
struct Order {
    number: u64,
    argon2: Argon2<'static>,
    password: Secret,
    salt: Salt,
    memory: Vec<Block>,
}

struct Done {
    number: u64,
    thread: usize,
    hash: Result<Output, &'static str>,
    memory: Vec<Block>,
}

/// A thread that waits for an order, with its memory, or is at one.
struct Thread {
    orders: SyncSender<Order>,
    memory: Option<Vec<Block>>,
}

/// Has threads of its own hash for it; its holder waits meanwhile.
pub(crate) struct Hasher {
    /// By [`Priority`].
    threads: [Thread; 2],
    done: Receiver<Done>,
    number: u64,
    /// What the idle thread may take.
    patience: Duration,
}

/// What the idle thread may take, where a hash has taken `quickest`.
pub(crate) fn patience_for(quickest: Duration) -> Duration {
    (quickest * PATIENCE).max(PATIENCE_MIN)
}

impl Hasher {
    /// Starts the `n`-th pair of threads. They end with the handle.
    pub(crate) fn start(n: usize, patience: Duration) -> io::Result<Self> {
        let (deliver, done) = sync_channel(2);
        let start = |thread: usize, priority| {
            let (orders, ordered) = sync_channel(1);
            let deliver = deliver.clone();
            let builder = std::thread::Builder::new().name(format!("argon2-{n}-{thread}"));
            builder.spawn(move || work(thread, priority, &ordered, &deliver))?;
            Ok::<_, io::Error>(Thread { orders, memory: Some(Vec::new()) })
        };
        let threads = [start(0, Priority::Idle)?, start(1, Priority::Low)?];
        Ok(Self { threads, done, number: 0, patience })
    }

    /// The hash of a password. Blocks.
    pub(crate) fn hash(
        &mut self,
        argon2: &Argon2<'static>,
        password: &Secret,
        salt: Salt,
    ) -> Result<Output, &'static str> {
        self.number += 1;
        let begun = Instant::now();
        let mut patience = Some(self.patience);
        // Busy where it has not got on since an earlier order.
        if !self.begin(0, argon2, password, salt)? {
            patience = None;
            self.begin(1, argon2, password, salt)?;
        }
        loop {
            let done = match patience {
                Some(patience) => self.done.recv_timeout(patience.saturating_sub(begun.elapsed())),
                None => self.done.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let Done { number, thread, hash, memory } = match done {
                Ok(done) => done,
                Err(RecvTimeoutError::Timeout) => {
                    patience = None;
                    self.begin(1, argon2, password, salt)?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(ENDED),
            };
            self.take_back(thread, memory);
            if number == self.number {
                self.patience = self.patience.min(patience_for(begun.elapsed()));
                return hash;
            }
            // The other thread's, of an order that was not waited for.
            if patience.is_none() {
                self.begin(thread, argon2, password, salt)?;
            }
        }
    }

    /// Has a thread begin what is ordered, unless it is at work.
    fn begin(
        &mut self,
        thread: usize,
        argon2: &Argon2<'static>,
        password: &Secret,
        salt: Salt,
    ) -> Result<bool, &'static str> {
        let number = self.number;
        let Some((thread, mut memory)) =
            self.threads.get_mut(thread).and_then(|thread| thread.memory.take().map(|memory| (thread, memory)))
        else {
            return Ok(false);
        };
        let blocks = argon2.params().block_count();
        if memory.len() < blocks {
            memory.resize(blocks, Block::new());
        }
        let order = Order { number, argon2: argon2.clone(), password: password.clone(), salt, memory };
        thread.orders.send(order).map(|()| true).map_err(|_| ENDED)
    }

    fn take_back(&mut self, thread: usize, memory: Vec<Block>) {
        if let Some(thread) = self.threads.get_mut(thread) {
            thread.memory = Some(memory);
        }
    }

    /// Gives the memory back until it is needed again.
    pub(crate) fn rest(&mut self) {
        while let Ok(Done { thread, .. }) = self.done.try_recv() {
            self.take_back(thread, Vec::new());
        }
        self.threads.iter_mut().filter_map(|thread| thread.memory.as_mut()).for_each(|memory| *memory = Vec::new());
    }
}

fn work(thread: usize, priority: Priority, orders: &Receiver<Order>, deliver: &SyncSender<Done>) {
    if let Err(error) = priority.take() {
        tracing::warn!(%error, "passwords are hashed at the usual priority");
    }
    while let Ok(Order { number, argon2, password, salt, mut memory }) = orders.recv() {
        let hash = hash(&argon2, &password, &salt, &mut memory);
        if deliver.send(Done { number, thread, hash, memory }).is_err() {
            return;
        }
    }
}

impl Priority {
    /// Gives it to this thread.
    #[cfg(target_os = "linux")]
    fn take(self) -> Result<(), String> {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
        match self {
            Self::Low => rustix::process::setpriority_process(None, 10).map_err(|e| e.to_string()),
            Self::Idle => thread_priority::set_thread_priority_and_policy(
                thread_priority::thread_native_id(),
                ThreadPriority::Min,
                ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle),
            )
            .map_err(|e| format!("{e:?}")),
        }
    }

    /// Elsewhere it would be the whole process's.
    #[cfg(not(target_os = "linux"))]
    fn take(self) -> Result<(), String> {
        Ok(())
    }
}

/// The hash of a password, here and now.
pub(crate) fn hash(
    argon2: &Argon2<'_>,
    password: &Secret,
    salt: &Salt,
    memory: &mut [Block],
) -> Result<Output, &'static str> {
    let mut bytes = [0; Output::MAX_LENGTH];
    let len = argon2.params().output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let out = bytes.get_mut(..len).ok_or("a hash is asked for that is too long")?;
    argon2
        .hash_password_into_with_memory(password.expose().as_bytes(), salt, out, memory)
        .map_err(|_| "Argon2 refuses its parameters")?;
    Output::new(out).map_err(|_| "a hash is too short or too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_right_whichever_thread_makes_it() {
        let argon2 = Argon2::from(Params::new(64, 1, 1, None).unwrap());
        // Without patience the other thread begins at once, and what is done too late is of no use.
        for patience in [Duration::ZERO, Duration::from_secs(3600)] {
            let mut hasher = Hasher::start(0, patience).unwrap();
            for n in 0..50u32 {
                let (password, salt) = (Secret::new(n.to_string()), Salt::generate());
                let expected = hash(&argon2, &password, &salt, &mut vec![Block::new(); 64]);
                assert!(expected.is_ok());
                assert_eq!(hasher.hash(&argon2, &password, salt), expected);
                if n % 10 == 0 {
                    hasher.rest();
                }
            }
        }
    }

    #[test]
    fn refused_parameters_are_no_hash() {
        let argon2 = Argon2::from(Params::new(64, 1, 1, Some(100)).unwrap());
        let mut hasher = Hasher::start(0, Duration::ZERO).unwrap();
        assert!(hasher.hash(&argon2, &Secret::new("password"), Salt::generate()).is_err());
    }
}
