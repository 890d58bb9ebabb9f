//! Guesses at passwords, counted where they are compared.
//!
//! A wrong guess counts for the account and the network address together, for
//! the account, for the address, and for the installation. Each counter lets
//! some through and then makes the next guess wait: a second, then twice as
//! long each time, up to a limit. Who has to wait is told so before anything is
//! compared, and what they send meanwhile counts for nothing. A counter halves
//! with each quiet hour. An account that does not exist is counted like one
//! that does.
//!
//! Nobody is locked out by others: an address from which the account has been
//! logged in to before is held by its own count alone. From anywhere else the
//! owner waits a minute at most while others guess at the account.
//!
//! Counters live in memory, for whoever could restart a server need not guess.

use std::collections::HashMap;
use std::net::IpAddr;

use canopy_domain::{Attempt, Code, Refusal};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Counters kept, of some 50 bytes. A thousand hashes a second fill them in
/// half a minute; then those go that hold nobody back.
const COUNTERS_MAX: usize = 100_000;
/// The first wait; each further one is twice as long.
const WAIT_MS_MIN: i64 = 1_000;
/// Time in which a counter halves.
const HALF_LIFE_MS: i64 = 3_600_000;
/// How many times as many an account may fail from all addresses together as
/// from one.
const ADDRESSES: u32 = 4;
/// Failures of the whole installation before strangers to an account wait.
const INSTALLATION_FAILURES_MAX: u32 = 1_000;

/// How many wrong guesses are let through before the next one has to wait.
#[derive(Debug, Clone, Copy)]
pub struct AttemptLimits {
    /// At one account, from one network address.
    pub account_failures_max: u32,
    /// From one network address, at any accounts.
    pub address_failures_max: u32,
}

impl Default for AttemptLimits {
    fn default() -> Self {
        Self { account_failures_max: 5, address_failures_max: 50 }
    }
}

/// What is not compared where somebody has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// A password.
    Password,
    /// A passkey's answer, which is counted as passwords are.
    Passkey,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    /// One account from one address.
    Pair,
    Account,
    Address,
    Installation,
}

impl Scope {
    /// The longest wait.
    const fn wait_ms_max(self) -> i64 {
        match self {
            Self::Pair | Self::Address => 900_000,
            // It is what the account's owner waits for, too.
            Self::Account | Self::Installation => 60_000,
        }
    }
}

type Key = (Scope, [u8; 16]);

#[derive(Debug, Clone, Copy)]
struct Counter {
    failures: u32,
    last_ms: i64,
}

impl Counter {
    fn failures_at(self, now_ms: i64) -> u32 {
        let halvings = ((now_ms - self.last_ms) / HALF_LIFE_MS).clamp(0, 31);
        self.failures >> halvings
    }
}

/// Counts wrong guesses. The present comes in as an argument.
#[derive(Debug, Default)]
pub struct Attempts {
    limits: AttemptLimits,
    counters: Mutex<HashMap<Key, Counter>>,
}

fn key(scope: Scope, parts: [&str; 2]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let mut key = [0; 16];
    for (to, from) in key.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    (scope, key)
}

/// Who has one address of an IPv6 network has all of its /64.
fn network(place: &str) -> String {
    match place.parse() {
        Ok(IpAddr::V6(address)) => format!("{}/64", address.to_bits() >> 64),
        _ => place.to_owned(),
    }
}

/// All counters of an attempt.
fn keys(attempt: &Attempt, place: &str) -> [Key; 4] {
    let network = network(place);
    [
        key(Scope::Pair, [&attempt.account, &network]),
        key(Scope::Account, [&attempt.account, ""]),
        key(Scope::Address, ["", &network]),
        key(Scope::Installation, ["", ""]),
    ]
}

impl Attempts {
    /// Nobody has guessed yet.
    pub fn new(limits: AttemptLimits) -> Self {
        Self { limits, counters: Mutex::default() }
    }

    /// Whether what was tried may be compared now.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, with the time to wait.
    pub fn admit(&self, attempt: &Attempt, tried: Tried, place: &str, now_ms: i64) -> Result<(), Refusal> {
        let counters = self.counters.lock();
        let holds = |(scope, _): &&Key| *scope == Scope::Pair || !attempt.is_known_place;
        let keys = keys(attempt, place);
        let waits = keys.iter().filter(holds).filter_map(|key| {
            let counter = counters.get(key)?;
            let wait_ms = self.wait_ms(key.0, counter.failures_at(now_ms));
            // A clock that went back makes nobody wait longer.
            Some((counter.last_ms.min(now_ms) + wait_ms) - now_ms)
        });
        let wait_ms = waits.max().and_then(|wait_ms| u64::try_from(wait_ms).ok()).unwrap_or(0);
        if wait_ms == 0 {
            return Ok(());
        }
        metrics::counter!("canopy_actors_attempts_refused_total").increment(1);
        let (failed, next) = match tried {
            Tried::Password => ("wrong passwords", "try"),
            Tried::Passkey => ("log-ins that failed", "passkey's turn"),
        };
        let message = format!("too many {failed}: the next {next} is in {} s", wait_ms.div_ceil(1_000));
        Err(Refusal::new(Code::ResourceExhausted, message)
            .retry_after_ms(wait_ms)
            .hint("wait, or log in from where you have before; nothing was compared"))
    }

    /// A password was wrong.
    pub fn failed(&self, attempt: &Attempt, place: &str, now_ms: i64) {
        let mut counters = self.counters.lock();
        for key in keys(attempt, place) {
            let failures = counters.get(&key).map_or(0, |counter| counter.failures_at(now_ms));
            if failures == 0 && counters.len() >= COUNTERS_MAX {
                self.make_room(&mut counters, now_ms);
            }
            counters.insert(key, Counter { failures: failures.saturating_add(1), last_ms: now_ms });
        }
    }

    /// A password was right: the owner, and no guesser, sits there. The
    /// address's own count stays, for who has an account of their own may
    /// guess at others'.
    pub fn succeeded(&self, attempt: &Attempt, place: &str) {
        let [pair, ..] = keys(attempt, place);
        self.counters.lock().remove(&pair);
    }

    /// Counters that there are.
    pub fn len(&self) -> usize {
        self.counters.lock().len()
    }

    /// Whether nobody has guessed wrong lately.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn free(&self, scope: Scope) -> u32 {
        match scope {
            Scope::Pair => self.limits.account_failures_max,
            Scope::Account => self.limits.account_failures_max.saturating_mul(ADDRESSES),
            Scope::Address => self.limits.address_failures_max,
            Scope::Installation => INSTALLATION_FAILURES_MAX.max(self.limits.address_failures_max),
        }
    }

    fn wait_ms(&self, scope: Scope, failures: u32) -> i64 {
        match failures.checked_sub(self.free(scope)) {
            Some(beyond) => scope.wait_ms_max().min(WAIT_MS_MIN << beyond.min(20)),
            None => 0,
        }
    }

    /// Forgets who holds nobody back; where all do, everybody.
    fn make_room(&self, counters: &mut HashMap<Key, Counter>, now_ms: i64) {
        counters.retain(|(scope, _), counter| self.wait_ms(*scope, counter.failures_at(now_ms)) > 0);
        if counters.len() >= COUNTERS_MAX {
            counters.clear();
        }
    }
}
