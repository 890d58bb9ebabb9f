//! Crash histories by key, and the keys that are kept from starting.
//!
//! Pure: time comes in. A key's record goes through
//! *free* → (one crash too many) → *held* → (its time has passed, and somebody
//! starts it) → *on trial* → (a crash) → *held* for twice as long, or
//! → (a period without a crash) → forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::doubled;
use crate::intensity::{Intensity, RestartWindow};
use crate::probe::cut;

/// How long crashing keys are held, and how many are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantinePolicy {
    /// The first hold; each failed trial doubles it.
    pub base: Duration,
    /// No hold is longer.
    pub max: Duration,
    /// Keys with a crash history, at least 1. When it is full, the record that
    /// would be forgotten soonest makes room.
    pub limit_entries: usize,
}

/// Why a key may not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) until: Instant,
    pub(crate) last_error: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sentence {
    /// Within the intensity.
    Free,
    /// Not to be started before this.
    HeldUntil(Instant),
}

#[derive(Debug)]
pub(crate) struct Quarantine {
    policy: QuarantinePolicy,
    intensity: Intensity,
    records: HashMap<Arc<str>, Record>,
    /// Every record once, by when it is forgotten; the number breaks ties.
    by_age: BTreeMap<(Instant, u64), Arc<str>>,
    next_number: u64,
    held: usize,
}

#[derive(Debug)]
struct Record {
    window: RestartWindow,
    standing: Standing,
    /// Failed trials; the exponent of the hold.
    level: u32,
    last_error: Arc<str>,
    age: (Instant, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Free,
    Held(Instant),
    Trial,
}

impl Quarantine {
    pub(crate) fn new(policy: QuarantinePolicy, intensity: Intensity) -> Self {
        Self { policy, intensity, records: HashMap::new(), by_age: BTreeMap::new(), next_number: 0, held: 0 }
    }

    /// Whether `key` may start now. Admitting a key whose hold has passed puts
    /// it on trial.
    pub(crate) fn admit(&mut self, key: &str, now: Instant) -> Result<(), Refusal> {
        self.sweep(now);
        let Some(record) = self.records.get_mut(key) else {
            return Ok(());
        };
        match record.standing {
            Standing::Free => Ok(()),
            Standing::Held(until) if now < until => Err(Refusal { until, last_error: Arc::clone(&record.last_error) }),
            Standing::Held(_) | Standing::Trial => {
                if record.standing != Standing::Trial {
                    record.standing = Standing::Trial;
                    self.held -= 1;
                }
                self.remember(key, now);
                Ok(())
            }
        }
    }

    /// Counts a crash of `key`.
    pub(crate) fn crashed(&mut self, key: &Arc<str>, error: &str, now: Instant) -> Sentence {
        self.sweep(now);
        if !self.records.contains_key(key) {
            self.insert(Arc::clone(key), now);
        }
        let Some(record) = self.records.get_mut(key) else {
            return Sentence::Free;
        };
        record.last_error = cut(error.to_owned()).into();
        let level = match record.standing {
            Standing::Held(until) => return Sentence::HeldUntil(until),
            Standing::Trial => record.level.saturating_add(1),
            Standing::Free if record.window.admit(self.intensity, now) => {
                self.remember(key, now);
                return Sentence::Free;
            }
            Standing::Free => 0,
        };
        let until = now + doubled(self.policy.base, self.policy.max, level);
        record.level = level;
        record.standing = Standing::Held(until);
        record.window.clear();
        self.held += 1;
        self.remember(key, until);
        Sentence::HeldUntil(until)
    }

    /// Forgets `key`; false when nothing was known of it.
    pub(crate) fn release(&mut self, key: &str) -> bool {
        let Some(record) = self.records.remove(key) else {
            return false;
        };
        self.by_age.remove(&record.age);
        self.held -= usize::from(matches!(record.standing, Standing::Held(_)));
        true
    }

    /// Keys that are held now or wait for their trial.
    pub(crate) fn held_count(&self) -> usize {
        self.held
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.records
            .iter()
            .filter(|(_, record)| matches!(record.standing, Standing::Held(_)))
            .map(|(key, record)| (key, &record.last_error))
    }

    /// Drops the records whose time has come. Each is dropped once, so that
    /// the cost per crash is that of the index, logarithmic in `limit_entries`.
    pub(crate) fn sweep(&mut self, now: Instant) {
        while let Some(oldest) = self.by_age.first_entry() {
            if oldest.key().0 >= now {
                return;
            }
            let key = oldest.get().clone();
            self.release(&key);
        }
    }

    fn insert(&mut self, key: Arc<str>, now: Instant) {
        while self.records.len() >= self.policy.limit_entries.max(1) {
            let Some((_, soonest)) = self.by_age.pop_first() else {
                break;
            };
            self.release(&soonest);
        }
        let age = self.age(now);
        self.by_age.insert(age, Arc::clone(&key));
        let record = Record {
            window: RestartWindow::default(),
            standing: Standing::Free,
            level: 0,
            last_error: Arc::from(""),
            age,
        };
        self.records.insert(key, record);
    }

    /// Keeps the record for a period from `since` on.
    fn remember(&mut self, key: &str, since: Instant) {
        let age = self.age(since);
        if let Some(record) = self.records.get_mut(key)
            && let Some(key) = self.by_age.remove(&record.age)
        {
            record.age = age;
            self.by_age.insert(age, key);
        }
    }

    fn age(&mut self, since: Instant) -> (Instant, u64) {
        self.next_number += 1;
        (since + self.intensity.period, self.next_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        quarantine: Quarantine,
        origin: Instant,
    }

    impl Scene {
        fn new(restarts_max: u32, limit_entries: usize) -> Self {
            let policy =
                QuarantinePolicy { base: Duration::from_secs(10), max: Duration::from_secs(35), limit_entries };
            let intensity = Intensity { restarts_max, period: Duration::from_secs(5) };
            Self { quarantine: Quarantine::new(policy, intensity), origin: Instant::now() }
        }

        fn at(&self, at_s: u64) -> Instant {
            self.origin + Duration::from_secs(at_s)
        }

        /// `None` when free, else until when the key is held.
        fn crash(&mut self, key: &str, at_s: u64) -> Option<u64> {
            let sentence = self.quarantine.crashed(&key.into(), "boom", self.at(at_s));
            self.invariants();
            match sentence {
                Sentence::Free => None,
                Sentence::HeldUntil(until) => Some((until - self.origin).as_secs()),
            }
        }

        fn admits(&mut self, key: &str, at_s: u64) -> bool {
            let admitted = self.quarantine.admit(key, self.at(at_s)).is_ok();
            self.invariants();
            admitted
        }

        fn invariants(&self) {
            let quarantine = &self.quarantine;
            assert_eq!(quarantine.records.len(), quarantine.by_age.len());
            assert_eq!(quarantine.held, quarantine.held().count());
            assert!(quarantine.records.len() <= quarantine.policy.limit_entries.max(1));
            for (age, key) in &quarantine.by_age {
                assert_eq!(quarantine.records.get(key).map(|record| record.age), Some(*age));
            }
        }
    }

    #[test]
    fn holds_on_one_crash_too_many_and_grows() {
        let mut scene = Scene::new(2, 10);
        assert_eq!([scene.crash("a", 0), scene.crash("a", 1)], [None, None]);
        assert!(scene.admits("a", 1));
        assert_eq!(scene.crash("a", 2), Some(12));
        assert!(!scene.admits("a", 11));
        assert!(scene.admits("a", 12));
        assert_eq!(scene.crash("a", 13), Some(33), "a trial that fails: 20 s");
        assert!(scene.admits("a", 33));
        assert_eq!(scene.crash("a", 34), Some(69), "35 s is the maximum");
        assert!(scene.admits("b", 34), "others are not affected");
        assert_eq!(scene.quarantine.held_count(), 1);
    }

    #[test]
    fn forgets_after_a_quiet_period() {
        let mut scene = Scene::new(1, 10);
        assert_eq!(scene.crash("a", 0), None);
        assert_eq!(scene.crash("a", 6), None, "the first is forgotten");
        assert_eq!(scene.crash("a", 7), Some(17));
        assert!(scene.admits("a", 20));
        // The trial began at 20 and the period is 5: at 26 it has been passed.
        assert_eq!([scene.crash("a", 26), scene.crash("a", 27)], [None, Some(37)]);
        // Nobody asked for it: forgotten a period after the hold.
        assert!(scene.admits("a", 43));
        assert_eq!(scene.quarantine.records.len(), 0);
    }

    #[test]
    fn release_lifts_the_hold_and_the_history() {
        let mut scene = Scene::new(0, 10);
        assert_eq!(scene.crash("a", 0), Some(10));
        assert!(scene.quarantine.release("a"));
        assert!(scene.admits("a", 1));
        assert_eq!(scene.crash("a", 2), Some(12), "level 0 again");
        assert!(!scene.quarantine.release("b"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut scene = Scene::new(5, 3);
        for number in 0..100 {
            scene.crash(&format!("key {number}"), 0);
        }
        assert_eq!(scene.quarantine.records.len(), 3);
        // One that is held is remembered longer than one that is merely counted.
        let mut scene = Scene::new(1, 2);
        scene.crash("bad", 0);
        assert_eq!(scene.crash("bad", 0), Some(10));
        for number in 0..100 {
            scene.crash(&format!("key {number}"), 1);
        }
        assert!(!scene.admits("bad", 2));
    }
}
