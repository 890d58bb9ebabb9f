//! What one connection, and one network address, has under way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::Instant;

use super::pool::Share;

/// What an address has under way: of IPv6 the first 64 bits, which is what one customer gets.
#[derive(Debug, Default)]
pub struct AddressLoad {
    /// Calls of nobody in particular, such as sign-ups and log-ins.
    pub calls: Arc<Share>,
    /// Bytes of requests that are being read.
    pub request_bytes: Arc<Share>,
}

/// What one connection has under way; its listener, its calls and its answers count here.
#[derive(Debug)]
pub struct ConnectionLoad {
    /// Its other end's address.
    pub address: Arc<AddressLoad>,
    /// Calls.
    pub calls: Arc<AtomicUsize>,
    /// Subscriptions.
    pub subscriptions: Arc<AtomicUsize>,
    /// Bytes of answers that the client has not taken yet.
    pub answer_bytes: AtomicUsize,
    number: u64,
    opened: Instant,
    preface: AtomicBool,
    /// What answers have given back, for the frame meter.
    credit: AtomicU32,
    /// When a write first found no room, in milliseconds since the connection was opened, plus
    /// one; zero while there is room.
    blocked_ms: AtomicU64,
    /// Answers under way by the parity of the period in which they began.
    answers: [AtomicUsize; 2],
    period: AtomicUsize,
    /// Grows with calls that are refused for want of room, and shrinks faster with others.
    refusals: AtomicU32,
    /// Whether a call was refused since its last turn began, and whether one was not.
    turn: [AtomicBool; 2],
}

/// Refusals in a row after which a connection is read in turns.
const REFUSALS_BORNE: u32 = 32;
/// The most that is remembered of them: an org that may make a few calls makes them in a row, when
/// it has made none for a moment.
const REFUSALS_MAX: u32 = 4 * REFUSALS_BORNE;
/// 2³² over the golden ratio: the fractions of its multiples are spread evenly, however many are
/// taken.
const GOLDEN: u64 = 0x9E37_79B9;
/// How many refusals an answer makes good: a connection is slowed down when more than four of
/// five calls are refused, and no other party that shares it goes unheard.
const ANSWER_WORTH: u32 = 4;

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// HTTP/2 was agreed on, and the preface never came.
    Preface,
    /// The client reads nothing.
    Write,
    /// The client reads, but does not take its answers: it opens no window for them.
    Answer,
}

impl Stall {
    pub(super) const ALL: [Self; 3] = [Self::Preface, Self::Write, Self::Answer];

    /// For metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Preface => "preface_timeout",
            Self::Write => "write_stall",
            Self::Answer => "answer_stall",
        }
    }
}

/// How long a client may do nothing about what is its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) preface: Duration,
    pub(super) write: Duration,
    /// An answer that is older is at most twice as old.
    pub(super) answer: Duration,
}

impl ConnectionLoad {
    /// A connection that has just been accepted; `number` is its own.
    pub fn new(address: Arc<AddressLoad>, number: u64) -> Self {
        Self {
            address,
            number,
            calls: Arc::default(),
            subscriptions: Arc::default(),
            answer_bytes: AtomicUsize::new(0),
            opened: Instant::now(),
            preface: AtomicBool::new(false),
            credit: AtomicU32::new(0),
            blocked_ms: AtomicU64::new(0),
            answers: Default::default(),
            period: AtomicUsize::new(0),
            refusals: AtomicU32::new(0),
            turn: Default::default(),
        }
    }

    /// A call was refused for want of room, or was not. Losing one of two that come together does
    /// not matter.
    pub(super) fn called(&self, refused: bool) {
        let before = self.refusals.load(Ordering::Relaxed);
        let after = if refused { (before + 1).min(REFUSALS_MAX) } else { before.saturating_sub(ANSWER_WORTH) };
        if after != before {
            self.refusals.store(after, Ordering::Relaxed);
        }
        let [refusals, answers] = &self.turn;
        let seen = if refused { refusals } else { answers };
        if !seen.load(Ordering::Relaxed) {
            seen.store(true, Ordering::Relaxed);
        }
    }

    /// Its turn begins. Who had nothing but answers since the last one waits for no other.
    pub(super) fn begin_turn(&self) {
        let [refused, answered] = self.turn.each_ref().map(|seen| seen.swap(false, Ordering::Relaxed));
        if answered && !refused {
            self.forgive();
        }
    }

    /// When it is read next, if it is read once in each `period`: connections have different
    /// turns, spread evenly over it however many there are, so that others get theirs in between.
    pub(super) fn next_turn(&self, period: Duration) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let period_ms = milliseconds(period).max(1);
        let now_ms = milliseconds(START.elapsed());
        let fraction = self.number.wrapping_mul(GOLDEN) & u64::from(u32::MAX);
        let phase_ms = (fraction * period_ms) >> 32;
        let past_ms = (now_ms + period_ms - phase_ms) % period_ms;
        *START + Duration::from_millis(now_ms + period_ms - past_ms)
    }

    /// Its refusals no longer count.
    pub(super) fn forgive(&self) {
        self.refusals.store(0, Ordering::Relaxed);
    }

    /// Whether nearly all of its calls are refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) >= REFUSALS_BORNE
    }

    /// Its own number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// For how long it has been open.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The client has said which protocol it speaks.
    pub(super) fn preface_came(&self) {
        self.preface.store(true, Ordering::Release);
    }

    pub(super) fn give_credit(&self, units: u32) {
        // Saturates in effect: the meter takes no more than its maximum.
        if self.credit.load(Ordering::Relaxed) < u32::MAX / 2 {
            self.credit.fetch_add(units, Ordering::Relaxed);
        }
    }

    pub(super) fn take_credit(&self) -> u32 {
        self.credit.swap(0, Ordering::Relaxed)
    }

    /// Whether the client took bytes, or had no room for them.
    pub(super) fn wrote(&self, went: bool) {
        let blocked = self.blocked_ms.load(Ordering::Relaxed);
        if went && blocked != 0 {
            self.blocked_ms.store(0, Ordering::Relaxed);
        } else if !went && blocked == 0 {
            self.blocked_ms.store(milliseconds(self.opened.elapsed()) + 1, Ordering::Relaxed);
        }
    }

    /// Whether the last write found no room.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_ms.load(Ordering::Relaxed) != 0
    }

    /// An answer of so many bytes waits to be taken, until the guard is dropped.
    pub(super) fn answer(self: &Arc<Self>, bytes: usize) -> Waiting {
        self.answer_bytes.fetch_add(bytes, Ordering::AcqRel);
        let period = self.period.load(Ordering::Acquire);
        self.bucket(period).fetch_add(1, Ordering::AcqRel);
        Waiting { load: Arc::clone(self), bytes, period }
    }

    fn bucket(&self, period: usize) -> &AtomicUsize {
        let [even, odd] = &self.answers;
        if period.is_multiple_of(2) { even } else { odd }
    }

    /// Whether it is the client that keeps this connection from going on. `turns` counts how
    /// many periods of [`Patience::answer`] have been looked at.
    pub(super) fn stall(&self, patience: &Patience, turns: &mut u32) -> Option<Stall> {
        let age = self.opened.elapsed();
        if !self.preface.load(Ordering::Acquire) && age >= patience.preface {
            return Some(Stall::Preface);
        }
        let blocked_ms = self.blocked_ms.load(Ordering::Relaxed);
        if blocked_ms != 0 && milliseconds(age) + 1 >= blocked_ms + milliseconds(patience.write) {
            return Some(Stall::Write);
        }
        if age >= patience.answer * (*turns + 1) {
            *turns += 1;
            // What is still there from the period before the last has been waiting for all of it.
            let next = self.period.load(Ordering::Acquire).wrapping_add(1);
            if self.bucket(next).load(Ordering::Acquire) > 0 {
                return Some(Stall::Answer);
            }
            self.period.store(next, Ordering::Release);
        }
        None
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An answer that the client has not taken yet.
#[derive(Debug)]
pub(super) struct Waiting {
    load: Arc<ConnectionLoad>,
    bytes: usize,
    period: usize,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.load.answer_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.load.bucket(self.period).fetch_sub(1, Ordering::AcqRel);
    }
}

/// The addresses that have connections open now.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<IpAddr, (usize, Arc<AddressLoad>)>);

impl Addresses {
    /// Counts a connection, unless its address has `max` already.
    pub(super) fn enter(&mut self, ip: IpAddr, max: usize) -> Option<Arc<AddressLoad>> {
        let (count, load) = self.0.entry(network(ip)).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Arc::clone(load))
    }

    /// A counted connection has ended.
    pub(super) fn leave(&mut self, ip: IpAddr) {
        let network = network(ip);
        if let Some((count, _)) = self.0.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&network);
            }
        }
    }
}

/// What one customer gets: an address, or of IPv6 a /64.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_customer() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ] {
            let mut addresses = Addresses::default();
            let (one, other): (IpAddr, IpAddr) = (one.parse().unwrap(), other.parse().unwrap());
            assert!(addresses.enter(one, 1).is_some());
            assert_eq!(addresses.enter(other, 1).is_none(), same, "{one} and {other}");
            addresses.leave(one);
            assert!(addresses.enter(one, 1).is_some(), "{one} after its connection ended");
        }
    }

    #[test]
    fn addresses_without_connections_are_forgotten() {
        let mut addresses = Addresses::default();
        for n in 0..100_u32 {
            let ip = IpAddr::from(n.to_be_bytes());
            assert!(addresses.enter(ip, 3).is_some());
            addresses.leave(ip);
        }
        assert!(addresses.0.is_empty());
    }

    const PATIENCE: Patience =
        Patience { preface: Duration::from_secs(3), write: Duration::from_secs(5), answer: Duration::from_secs(10) };

    /// What a look each second for `seconds` says first, and when.
    async fn watch(load: &ConnectionLoad, turns: &mut u32, seconds: u64) -> Option<(u64, Stall)> {
        for second in 1..=seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            if let Some(stall) = load.stall(&PATIENCE, turns) {
                return Some((second, stall));
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn the_turns_of_refused_connections_are_spread_over_the_period() {
        const PERIOD: Duration = Duration::from_millis(1000);
        for (first, count) in [(0, 2), (7, 3), (1_000_000, 32), (u64::MAX - 50, 100)] {
            let loads =
                (0..count).map(|n: u32| ConnectionLoad::new(Arc::default(), u64::wrapping_add(first, n.into())));
            let loads: Vec<ConnectionLoad> = loads.collect();
            let now = Instant::now();
            let mut turns: Vec<Duration> = loads.iter().map(|load| load.next_turn(PERIOD) - now).collect();
            assert!(turns.iter().all(|turn| !turn.is_zero() && *turn <= PERIOD), "{turns:?}");
            turns.sort();
            let around = turns.first().map(|first| *first + PERIOD);
            let gaps = turns.iter().zip(turns.iter().skip(1).chain(&around)).map(|(turn, next)| *next - *turn);
            // Of a golden spiral's gaps the widest is less than three times the mean.
            let widest = gaps.max().unwrap();
            assert!(widest < PERIOD * 3 / count, "{widest:?} of {count} from {first}");
            tokio::time::advance(loads[1].next_turn(PERIOD) - now).await;
            assert_eq!(loads[1].next_turn(PERIOD) - Instant::now(), PERIOD, "one turn in each");
        }
    }

    #[test]
    fn who_had_nothing_but_answers_in_a_turn_waits_for_no_other() {
        for (outcomes, expected) in
            [(&[][..], true), (&[false; 3], false), (&[true; 3], true), (&[false, false, true], true)]
        {
            let load = ConnectionLoad::new(Arc::default(), 7);
            for _ in 0..REFUSALS_MAX {
                load.called(true);
            }
            load.begin_turn();
            for refused in outcomes {
                load.called(*refused);
            }
            load.begin_turn();
            assert_eq!(load.is_refused(), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn who_is_nearly_always_refused_is_told_apart() {
        for (refused_of_ten, expected) in [(0, false), (5, false), (8, false), (9, true), (10, true)] {
            let load = ConnectionLoad::new(Arc::default(), 7);
            for n in 0..500 {
                load.called(n % 10 < refused_of_ten);
            }
            assert_eq!(load.is_refused(), expected, "{refused_of_ten} of ten");
            for _ in 0..REFUSALS_MAX {
                load.called(false);
            }
            assert!(!load.is_refused(), "answers make it good");
            for _ in 0..REFUSALS_MAX {
                load.called(true);
            }
            assert!(load.is_refused());
            load.forgive();
            assert!(!load.is_refused());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_stall_is_told_after_its_time_and_not_before() {
        let fresh = || Arc::new(ConnectionLoad::new(Arc::default(), 7));
        let load = fresh();
        assert_eq!(watch(&load, &mut 0, 60).await, Some((3, Stall::Preface)));

        let load = fresh();
        load.preface_came();
        assert_eq!(watch(&load, &mut 0, 600).await, None, "idle is no stall");

        let load = fresh();
        load.preface_came();
        load.wrote(false);
        assert_eq!(watch(&load, &mut 0, 4).await, None);
        load.wrote(true);
        load.wrote(false);
        load.wrote(false);
        assert_eq!(watch(&load, &mut 0, 60).await, Some((5, Stall::Write)));

        let load = fresh();
        load.preface_came();
        let mut turns = 0;
        for _ in 0..5 {
            let answer = load.answer(7);
            assert_eq!(load.answer_bytes.load(Ordering::Acquire), 7);
            assert_eq!(watch(&load, &mut turns, 9).await, None, "each is taken in time");
            drop(answer);
        }
        let _stuck = load.answer(7);
        let (second, stall) = watch(&load, &mut turns, 60).await.expect("an answer that is never taken");
        assert!((10..=20).contains(&second), "{second}");
        assert_eq!(stall, Stall::Answer);
    }
}
