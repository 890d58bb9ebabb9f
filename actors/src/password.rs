//! Password hashing: Argon2id (RFC 9106) on threads of its own, as many as are
//! configured ([`crate::hashing`]). Who would wait too long for one is refused
//! at once, and one network address takes half of the places at most.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use canopy_domain::{Address, Attempt, Code, Kind, PasswordFit, Refusal, Secret};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::attempts::{AttemptLimits, Attempts, Tried};
use crate::hashing::{self, Hasher, MEMORY_KEPT};
use crate::{BreachedPasswords, clock};

/// Longest wait for a thread: people do not wait longer for a log-in.
const WAIT_MS_MAX: u64 = 5_000;
/// Jobs that wait or are under way, however quick they are.
const JOBS_MAX: usize = 1_024;

type Job = Box<dyn FnOnce(&mut Hasher) + Send>;

/// Hashes and compares passwords, and looks for them among those that leaked.
#[derive(Clone)]
pub struct PasswordHashing {
    inner: Arc<Inner>,
    breached: Option<BreachedPasswords>,
}

struct Inner {
    params: Params,
    /// Compared with where there is no account, so that the answer takes as
    /// long.
    decoy: Secret,
    threads: u64,
    jobs: SyncSender<Job>,
    load: Mutex<Load>,
    attempts: Attempts,
}

/// What there is to do.
struct Load {
    jobs: usize,
    by_place: HashMap<String, usize>,
    /// What a hash takes at present.
    hash_ms: u64,
}

/// A place among the jobs.
struct Place {
    inner: Arc<Inner>,
    place: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut load = self.inner.load.lock();
        load.jobs -= 1;
        if let Some(own) = load.by_place.get_mut(&self.place) {
            *own -= 1;
            if *own == 0 {
                load.by_place.remove(&self.place);
            }
        }
    }
}

impl PasswordHashing {
    /// `memory_kib` KiB and `passes` passes a hash, `threads_max` hashes at
    /// once.
    ///
    /// # Errors
    /// Argon2 does not take these parameters, or no thread can be started.
    pub fn new(memory_kib: u32, passes: u32, threads_max: usize, limits: AttemptLimits) -> Result<Self, Refusal> {
        let params = Params::new(memory_kib, passes, 1, None)
            .map_err(|e| Refusal::invalid("identity.argon2_memory_kib", e.to_string()))?;
        let begun = Instant::now();
        let decoy = phc(&params, |argon2, salt| {
            let mut memory = vec![Block::new(); params.block_count()];
            hashing::hash(argon2, &Secret::new("a password that nobody has"), &salt, &mut memory)
        })?;
        let took = begun.elapsed();
        let load = Load { jobs: 0, by_place: HashMap::new(), hash_ms: whole_ms(took) };
        let (jobs, waiting) = sync_channel(JOBS_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let threads_max = threads_max.max(1);
        for n in 0..threads_max {
            let waiting = Arc::clone(&waiting);
            let hasher = Hasher::start(n, hashing::patience_for(took)).map_err(|e| failed(&e))?;
            let thread = std::thread::Builder::new().name(format!("password-{n}"));
            thread.spawn(move || work(&waiting, hasher)).map_err(|e| failed(&e))?;
        }
        let threads = u64::try_from(threads_max).unwrap_or(u64::MAX);
        let (load, attempts) = (Mutex::new(load), Attempts::new(limits));
        let inner = Arc::new(Inner { params, decoy, threads, jobs, load, attempts });
        Ok(Self { inner, breached: None })
    }

    /// With a list of passwords that leaked; without, none did.
    #[must_use]
    pub fn with_breached(mut self, breached: Option<BreachedPasswords>) -> Self {
        self.breached = breached;
        self
    }

    /// Who has guessed in vain, however they log in.
    pub(crate) fn attempts(&self) -> &Attempts {
        &self.inner.attempts
    }

    /// The PHC string of a new password.
    pub(crate) async fn hash(&self, password: Secret, place: &str) -> Result<Secret, Refusal> {
        let inner = Arc::clone(&self.inner);
        self.run(place, move |hasher| {
            inner.timed(|| phc(&inner.params, |argon2, salt| hasher.hash(argon2, &password, salt)))
        })
        .await
    }

    /// Whether a password is on the list of those that leaked.
    pub(crate) async fn is_breached(&self, password: Secret, place: &str) -> Result<bool, Refusal> {
        match self.breached.clone() {
            Some(breached) => self.run(place, move |_| breached.contains(&password)).await,
            None => Ok(false),
        }
    }

    /// Whether a password fits a PHC string; `None` never does. Looked at once
    /// more when its turn has come: of many guesses at once no more get past
    /// the limit than there are threads.
    pub(crate) async fn verify(
        &self,
        phc: Option<Secret>,
        password: Secret,
        attempt: Attempt,
        place: &str,
    ) -> Result<PasswordFit, Refusal> {
        let admit = |inner: &Inner, attempt: &Attempt, from: &str| {
            let admitted = inner.attempts.admit(attempt, Tried::Password, from, clock::now_ms());
            admitted.map_err(|refusal| concerning_holder(refusal, attempt))
        };
        admit(&self.inner, &attempt, place)?;
        let (inner, from) = (Arc::clone(&self.inner), place.to_owned());
        self.run(place, move |hasher| {
            admit(&inner, &attempt, &from)?;
            let fits = inner.timed(|| verify(phc.as_ref().unwrap_or(&inner.decoy), &password, hasher))?;
            if !fits || phc.is_none() {
                inner.attempts.failed(&attempt, &from, clock::now_ms());
                return Ok(PasswordFit::Wrong);
            }
            inner.attempts.succeeded(&attempt, &from);
            let is_weak = phc.is_some_and(|phc| inner.is_weak(&phc));
            Ok(if is_weak { PasswordFit::RightAndWeak } else { PasswordFit::Right })
        })
        .await
    }

    /// Has a thread do something, unless it would take too long until one can.
    async fn run<T: Send + 'static>(
        &self,
        place: &str,
        work: impl FnOnce(&mut Hasher) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let place = self.inner.take_place(place)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |hasher: &mut Hasher| {
            // Who does not wait any more is not hashed for.
            if reply.is_closed() {
                return;
            }
            let done = work(hasher);
            drop(place);
            let _ = reply.send(done);
        });
        self.inner.jobs.try_send(job).map_err(|e| failed(&e))?;
        answer.await.map_err(|e| failed(&e))?
    }
}

impl Inner {
    fn take_place(self: &Arc<Self>, place: &str) -> Result<Place, Refusal> {
        let mut load = self.load.lock();
        let at_once = usize::try_from(WAIT_MS_MAX * self.threads / load.hash_ms).unwrap_or(JOBS_MAX);
        let jobs_max = at_once.clamp(2, JOBS_MAX);
        let own = load.by_place.get(place).copied().unwrap_or(0);
        if load.jobs >= jobs_max || own >= jobs_max / 2 {
            metrics::counter!("canopy_actors_hashes_refused_total").increment(1);
            let jobs = u64::try_from(load.jobs).unwrap_or(u64::MAX);
            let wait_ms = jobs.saturating_mul(load.hash_ms) / self.threads;
            return Err(Refusal::new(Code::ResourceExhausted, "too many passwords wait to be compared")
                .retry_after_ms(wait_ms.clamp(100, WAIT_MS_MAX))
                .hint("nothing was done: try again later"));
        }
        load.jobs += 1;
        *load.by_place.entry(place.to_owned()).or_default() += 1;
        Ok(Place { inner: Arc::clone(self), place: place.to_owned() })
    }

    /// Hashes, and takes note of what that took.
    fn timed<T>(&self, hashing: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = hashing();
        let took_ms = whole_ms(begun.elapsed());
        let mut load = self.load.lock();
        load.hash_ms = (load.hash_ms * 7 + took_ms).div_ceil(8);
        done
    }

    /// Whether a hash was made with less memory or fewer passes than is asked
    /// for now.
    fn is_weak(&self, phc: &Secret) -> bool {
        let stored = PasswordHash::new(phc.expose()).ok().and_then(|stored| Params::try_from(&stored).ok());
        stored.is_some_and(|stored| stored.m_cost() < self.params.m_cost() || stored.t_cost() < self.params.t_cost())
    }
}

/// The holder of the account should know of it, where there is one.
fn concerning_holder(refusal: Refusal, attempt: &Attempt) -> Refusal {
    match Address::parse(&attempt.account) {
        Ok(account) if account.kind() == Some(Kind::Account) => refusal.concerning(account),
        _ => refusal,
    }
}

/// Milliseconds, at least one.
fn whole_ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// A thread's life: it ends with the last handle that could send a job.
fn work(waiting: &Mutex<Receiver<Job>>, mut hasher: Hasher) {
    loop {
        // Whoever of the threads has the lock waits for the next job.
        let job = match waiting.try_lock_for(MEMORY_KEPT) {
            Some(waiting) => waiting.recv_timeout(MEMORY_KEPT),
            None => Err(RecvTimeoutError::Timeout),
        };
        match job {
            Ok(job) => job(&mut hasher),
            Err(RecvTimeoutError::Timeout) => hasher.rest(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn failed(e: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, format!("hashing failed: {e}"))
}

/// The PHC string of what is hashed under a fresh salt.
fn phc(
    params: &Params,
    hash: impl FnOnce(&Argon2<'static>, Salt) -> Result<Output, &'static str>,
) -> Result<Secret, Refusal> {
    let (algorithm, version, salt) = (Algorithm::Argon2id, Version::V0x13, Salt::generate());
    let argon2 = Argon2::new(algorithm, version, params.clone());
    let phc = PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(params).map_err(|e| failed(&e))?,
        salt: Some(salt),
        hash: Some(hash(&argon2, salt).map_err(|e| failed(&e))?),
    };
    Ok(Secret::new(phc.to_string()))
}

/// Whether a password fits a PHC string.
fn verify(phc: &Secret, password: &Secret, hasher: &mut Hasher) -> Result<bool, Refusal> {
    let unreadable =
        |e: &dyn std::fmt::Display| Refusal::new(Code::Internal, format!("a stored password hash cannot be read: {e}"));
    let stored = PasswordHash::new(phc.expose()).map_err(|e| unreadable(&e))?;
    let (Some(salt), Some(expected)) = (stored.salt, &stored.hash) else {
        return Err(unreadable(&"it has no salt or no hash"));
    };
    let algorithm = Algorithm::try_from(stored.algorithm.as_str()).map_err(|e| unreadable(&e))?;
    let version = stored.version.map_or(Ok(Version::default()), Version::try_from).map_err(|e| unreadable(&e))?;
    let params = Params::try_from(&stored).map_err(|e| unreadable(&e))?;
    let output = hasher.hash(&Argon2::new(algorithm, version, params), password, salt).map_err(|e| failed(&e))?;
    // Compared in constant time.
    Ok(output == *expected)
}
