//! A bounded thing that many parties share: places for calls, bytes of memory.
//!
//! How much one party may hold depends on how much is free (dynamic thresholds, as switches
//! share packet memory): at most [`GREED`] times it. A party alone gets to hold four fifths of
//! all; `n` parties that all want more than there is get equal parts; and there is always
//! something left, so that who holds nothing is let in at once. It costs two atomic additions
//! and no party ever needs to be looked up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A party may hold so many times what is free.
const GREED: usize = 4;

/// What there is, and how much of it is held.
#[derive(Debug)]
pub struct Pool {
    max: usize,
    held: Arc<AtomicUsize>,
}

/// What one party holds of one pool.
#[derive(Debug, Default)]
pub struct Share(AtomicUsize);

impl Share {
    /// How much it holds now.
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// A part of a pool in a party's hands, given back when dropped.
#[derive(Debug)]
pub struct Part {
    pool: Arc<AtomicUsize>,
    share: Arc<Share>,
    amount: usize,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.share.0.fetch_sub(self.amount, Ordering::AcqRel);
        self.pool.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

/// Why a party gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// All of it is held.
    Empty,
    /// The party holds its fair share, and others may come.
    FairShare,
}

impl Pool {
    /// A pool of `max`, nothing of it held.
    pub fn new(max: usize) -> Self {
        Self { max, held: Arc::default() }
    }

    /// Its size.
    pub fn max(&self) -> usize {
        self.max
    }

    /// How much is held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Takes `amount` for a party. What it would have to share is never refused to who holds
    /// nothing.
    ///
    /// # Errors
    /// [`Scarce`].
    pub fn take(&self, share: &Arc<Share>, amount: usize) -> Result<Part, Scarce> {
        let own = share.0.fetch_add(amount, Ordering::AcqRel) + amount;
        let mut scarce = Scarce::Empty;
        // What is refused is never counted, not for a moment: it would be in another's way.
        let taken = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            let held = held.checked_add(amount)?;
            let free = self.max.checked_sub(held)?;
            scarce = Scarce::FairShare;
            (own == amount || own <= free.saturating_mul(GREED)).then_some(held)
        });
        match taken {
            Ok(_) => Ok(Part { pool: Arc::clone(&self.held), share: Arc::clone(share), amount }),
            Err(_) => {
                share.0.fetch_sub(amount, Ordering::AcqRel);
                Err(scarce)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one at a time until it is refused.
    fn fill(pool: &Pool, share: &Arc<Share>) -> (Vec<Part>, Scarce) {
        let mut parts = Vec::new();
        loop {
            match pool.take(share, 1) {
                Ok(part) => parts.push(part),
                Err(scarce) => return (parts, scarce),
            }
        }
    }

    #[test]
    fn one_party_gets_four_fifths_and_the_next_is_let_in() {
        for (max, expected) in [(1, 1), (2, 1), (5, 4), (100, 80), (8_192, 6_553)] {
            let pool = Pool::new(max);
            let noisy = Arc::default();
            let (held, why) = fill(&pool, &noisy);
            assert_eq!(held.len(), expected, "of {max}");
            assert_eq!(why, if max == 1 { Scarce::Empty } else { Scarce::FairShare });
            if max > 1 {
                assert!(pool.take(&Arc::default(), 1).is_ok(), "somebody quiet, of {max}");
            }
        }
    }

    #[test]
    fn parties_that_want_everything_get_equal_parts() {
        for parties in [2, 3, 10] {
            let pool = Pool::new(1_000);
            let shares: Vec<Arc<Share>> = (0..parties).map(|_| Arc::default()).collect();
            let mut held: Vec<Vec<Part>> = shares.iter().map(|_| Vec::new()).collect();
            // In turns, each giving one back before it asks for as many as it gets.
            for _ in 0..2_000 {
                for (share, held) in shares.iter().zip(&mut held) {
                    held.pop();
                    while held.len() < pool.max() {
                        match pool.take(share, 1) {
                            Ok(part) => held.push(part),
                            Err(_) => break,
                        }
                    }
                }
            }
            let counts: Vec<usize> = held.iter().map(Vec::len).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 5, "{counts:?}");
            assert!(pool.held() < 1_000, "something is always left: {counts:?}");
            assert!(pool.held() >= 800, "and most is used: {counts:?}");
        }
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let pool = Pool::new(10);
        let share = Arc::default();
        for _ in 0..100 {
            let (held, _) = fill(&pool, &share);
            assert_eq!(held.len(), 8);
            drop(held);
            assert_eq!((pool.held(), share.held()), (0, 0));
        }
        assert_eq!(pool.take(&share, 11).unwrap_err(), Scarce::Empty, "more than there is");
        assert_eq!((pool.held(), share.held()), (0, 0));
    }
}
