//! Finds what a delivery stream lost, doubled, reordered or held back.
//!
//! Every message carries a [`Stamp`]: its sender, the sender's running number and the time it was
//! sent. Each subscriber keeps a [`Ledger`]; a delivery in order costs one comparison, and memory
//! grows with senders and with open gaps (bounded), not with messages.

mod stamp;
mod track;

pub use stamp::{STAMP_BYTES, Stamp};
pub use track::{GAPS_MAX, Track};

/// What a ledger, or many of them, found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages delivered, doubles included.
    pub received: u64,
    /// Sent, never delivered.
    pub lost: u64,
    /// Delivered again.
    pub duplicated: u64,
    /// Delivered after a later message of the same sender.
    pub reordered: u64,
    /// Delivered later than the ledger's limit after they were sent.
    pub late: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.late += other.late;
    }
}

/// One subscriber's record of what it was delivered. Senders number their messages from 0.
#[derive(Clone, Debug)]
pub struct Ledger {
    late_after_ns: u64,
    received: u64,
    late: u64,
    tracks: Vec<Track>,
}

impl Ledger {
    /// A message is late when it comes more than `late_after_ns` nanoseconds after it was sent.
    pub fn new(late_after_ns: u64) -> Self {
        Self { late_after_ns, received: 0, late: 0, tracks: Vec::new() }
    }

    /// Enters a delivery at `now_ns`; returns its latency in nanoseconds.
    pub fn observe(&mut self, stamp: &Stamp, now_ns: u64) -> u64 {
        let sender = usize::from(stamp.sender);
        if sender >= self.tracks.len() {
            self.tracks.resize_with(sender + 1, Track::default);
        }
        if let Some(track) = self.tracks.get_mut(sender) {
            track.observe(stamp.number);
        }
        self.received += 1;
        let latency_ns = now_ns.saturating_sub(stamp.sent_ns);
        self.late += u64::from(latency_ns > self.late_after_ns);
        latency_ns
    }

    /// Closes the books: `sent` holds how many messages each sender has sent, by sender.
    /// A number that its sender never sent counts as duplicated: something made it up.
    pub fn tally(&self, sent: &[u64]) -> Tally {
        let mut tally = Tally { received: self.received, late: self.late, ..Tally::default() };
        let none = Track::default();
        for sender in 0..self.tracks.len().max(sent.len()) {
            let track = self.tracks.get(sender).unwrap_or(&none);
            let sent = sent.get(sender).copied().unwrap_or(0);
            tally.lost += track.lost(sent);
            tally.duplicated += track.duplicated() + track.invented(sent);
            tally.reordered += track.reordered();
        }
        tally
    }
}
