//! Requests and bytes a second, by governor's GCRA: one compare-and-swap a call.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};

/// What a party may have each second; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Calls, with as many at once after a quiet second.
    pub requests_per_s: Option<NonZeroU32>,
    /// Bytes of requests, answers and events.
    pub bytes_per_s: Option<NonZeroU32>,
    /// The largest request: it has to fit into what may come at once.
    pub request_bytes_max: u32,
}

/// Which of them was reached, and after how long there is room again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// The time to wait.
    Requests(Duration),
    /// The time to wait.
    Bytes(Duration),
}

/// The runtime's clock, which tests can hold.
#[derive(Debug, Clone, Copy, Default)]
struct RuntimeClock;

impl Clock for RuntimeClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        tokio::time::Instant::now().into_std()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<std::time::Instant>>;

/// One party's rates.
#[derive(Debug)]
pub struct Rates {
    requests: Option<Limiter>,
    bytes: Option<Bytes>,
}

#[derive(Debug)]
struct Bytes {
    limiter: Limiter,
    at_once: NonZeroU32,
    /// Sent without asking, for an answer is as long as it is: paid before anything else.
    owed: AtomicU64,
}

impl Rates {
    /// Rates under these limits.
    pub fn new(limits: &RateLimits) -> Self {
        let limiter = |per_s: NonZeroU32, at_once: NonZeroU32| {
            RateLimiter::direct_with_clock(Quota::per_second(per_s).allow_burst(at_once), RuntimeClock)
        };
        Self {
            requests: limits.requests_per_s.map(|per_s| limiter(per_s, per_s)),
            bytes: limits.bytes_per_s.map(|per_s| {
                let at_once = NonZeroU32::new(limits.request_bytes_max).unwrap_or(per_s).max(per_s);
                Bytes { limiter: limiter(per_s, at_once), at_once, owed: AtomicU64::new(0) }
            }),
        }
    }

    /// Lets a request of so many bytes through.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn request(&self, bytes: usize) -> Result<(), Exceeded> {
        // Bytes first: a request that they refuse must not count as one.
        if let Some(limit) = &self.bytes {
            limit.pay(bytes).map_err(Exceeded::Bytes)?;
        }
        match &self.requests {
            Some(limiter) => limiter.check().map_err(|until| Exceeded::Requests(wait(&until))),
            None => Ok(()),
        }
    }

    /// Takes note of bytes that were sent.
    pub fn sent(&self, bytes: usize) {
        if let Some(limit) = &self.bytes
            && limit.pay(bytes).is_err()
        {
            limit.owed.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::AcqRel);
        }
    }

    /// Lets bytes be sent that can also be sent later.
    ///
    /// # Errors
    /// How long to wait.
    pub fn send(&self, bytes: usize) -> Result<(), Duration> {
        self.bytes.as_ref().map_or(Ok(()), |limit| limit.pay(bytes))
    }
}

fn wait(until: &NotUntil<std::time::Instant>) -> Duration {
    until.wait_time_from(RuntimeClock.now())
}

impl Bytes {
    /// Pays for so many bytes, after what is owed.
    fn pay(&self, bytes: usize) -> Result<(), Duration> {
        loop {
            let owed = self.owed.load(Ordering::Acquire);
            if owed == 0 {
                break;
            }
            let part = self.part(owed);
            self.take(part)?;
            let settle = |owed: u64| Some(owed.saturating_sub(part));
            let _ = self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, settle);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let part = self.part(bytes);
        self.take(part)?;
        self.owed.fetch_add(bytes - part, Ordering::AcqRel);
        Ok(())
    }

    /// As much of it as may come at once.
    fn part(&self, bytes: u64) -> u64 {
        bytes.min(u64::from(self.at_once.get()))
    }

    fn take(&self, part: u64) -> Result<(), Duration> {
        let part = u32::try_from(part).ok().and_then(NonZeroU32::new);
        // It fits into what may come at once, so the outer result is `Ok`.
        let taken = part.map_or(Ok(()), |part| self.limiter.check_n(part).unwrap_or(Ok(())));
        taken.map_err(|until| wait(&until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(requests: u32, bytes: u32) -> Rates {
        let (requests_per_s, bytes_per_s) = (NonZeroU32::new(requests), NonZeroU32::new(bytes));
        Rates::new(&RateLimits { requests_per_s, bytes_per_s, request_bytes_max: 100 })
    }

    /// How many requests of so many bytes go through at once.
    fn burst(rates: &Rates, bytes: usize) -> usize {
        (0..).take_while(|_| rates.request(bytes).is_ok()).take(10_000).count()
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_go_through_as_the_limit_says() {
        // Requests and bytes a second, bytes of each, how many at once, and per second after.
        for (requests, bytes, each, at_once, per_s) in [
            (10, 0, 1_000, 10, 10),
            (0, 1_000, 10, 100, 100),
            (0, 10, 100, 1, 0),
            (5, 1_000, 10, 5, 5),
            (50, 100, 10, 10, 10),
            (0, 0, 1_000, 10_000, 10_000),
        ] {
            let rates = rates(requests, bytes);
            let case = format!("{requests} requests, {bytes} bytes a second, of {each}");
            assert_eq!(burst(&rates, each), at_once, "{case}");
            for _ in 0..3 {
                tokio::time::advance(Duration::from_secs(1)).await;
                assert_eq!(burst(&rates, each), per_s, "{case}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_wait_is_enough_and_no_more() {
        let rates = rates(4, 0);
        assert_eq!(burst(&rates, 0), 4);
        let Err(Exceeded::Requests(wait)) = rates.request(0) else { panic!("it goes through") };
        assert_eq!(wait, Duration::from_millis(250));
        tokio::time::advance(wait - Duration::from_millis(1)).await;
        assert!(rates.request(0).is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(rates.request(0).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_paid_for_before_the_next_request() {
        let rates = rates(0, 1_000);
        rates.sent(3_500);
        assert!(matches!(rates.request(1), Err(Exceeded::Bytes(_))));
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(rates.request(1).is_err(), "there still is a debt");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(rates.request(1).is_ok());
        assert_eq!(rates.send(2_000).map_err(|wait| wait.is_zero()), Err(false), "events wait");
    }
}
