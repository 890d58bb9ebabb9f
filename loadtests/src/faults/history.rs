//! What a victim said it would do, and what it was told is done: one line each, written before a
//! submission and after its answer, so that it survives the victim.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A line. Partitions are indices of `plan::addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The store is open.
    Ready,
    /// Operation `op` is about to be submitted as transaction `seq`.
    Intent { partition: usize, seq: u64, op: u64 },
    /// It was answered.
    Acknowledged { partition: usize, seq: u64, op: u64 },
    /// Effect `(seq, n)` is about to be completed.
    Completing { partition: usize, seq: u64, n: u32 },
    /// Its completion was answered.
    Completed { partition: usize, seq: u64, n: u32 },
    /// Transaction `seq`, which is operation `op`, is old enough to go, and the feed about to be trimmed.
    Trimming { partition: usize, seq: u64, op: u64 },
    /// It was answered that the feed is kept from here on.
    Trimmed { partition: usize, floor: u64 },
    /// The store refused: the status code's name, and its text.
    Refused { partition: usize, code: String, text: String },
    /// What the victim read was wrong.
    Wrong { partition: usize, text: String },
    /// The work is done, and the store closed.
    Done,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => write!(f, "ready"),
            Self::Intent { partition, seq, op } => write!(f, "intent {partition} {seq} {op}"),
            Self::Acknowledged { partition, seq, op } => write!(f, "ack {partition} {seq} {op}"),
            Self::Completing { partition, seq, n } => write!(f, "completing {partition} {seq} {n}"),
            Self::Completed { partition, seq, n } => write!(f, "completed {partition} {seq} {n}"),
            Self::Trimming { partition, seq, op } => write!(f, "trimming {partition} {seq} {op}"),
            Self::Trimmed { partition, floor } => write!(f, "trimmed {partition} {floor}"),
            Self::Refused { partition, code, text } => {
                write!(f, "refused {partition} {code} {}", text.replace('\n', " "))
            }
            Self::Wrong { partition, text } => write!(f, "wrong {partition} {}", text.replace('\n', " ")),
            Self::Done => write!(f, "done"),
        }
    }
}

impl Event {
    /// Reads a line; `None` for anything else, such as a line cut short.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let word = words.next()?;
        if word == "ready" {
            return Some(Self::Ready);
        }
        if word == "done" {
            return Some(Self::Done);
        }
        let partition = words.next()?.parse().ok()?;
        let second = words.next()?;
        if word == "wrong" {
            let text = [second, words.next().unwrap_or_default()].join(" ");
            return Some(Self::Wrong { partition, text });
        }
        if word == "trimmed" {
            return Some(Self::Trimmed { partition, floor: second.parse().ok()? });
        }
        let third = words.next()?;
        if word == "refused" {
            return Some(Self::Refused { partition, code: second.into(), text: third.into() });
        }
        let seq = second.parse().ok()?;
        Some(match word {
            "intent" => Self::Intent { partition, seq, op: third.parse().ok()? },
            "ack" => Self::Acknowledged { partition, seq, op: third.parse().ok()? },
            "completing" => Self::Completing { partition, seq, n: third.parse().ok()? },
            "trimming" => Self::Trimming { partition, seq, op: third.parse().ok()? },
            "completed" => Self::Completed { partition, seq, n: third.parse().ok()? },
            _ => return None,
        })
    }
}

/// What is known of a partition.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The seqs that an operation was submitted under: more than one where it was tried again.
    pub intents: BTreeMap<u64, BTreeSet<u64>>,
    /// By seq, the operation that was acknowledged.
    pub acknowledged: BTreeMap<u64, u64>,
    pub completing: BTreeSet<(u64, u32)>,
    pub completed: BTreeSet<(u64, u32)>,
    /// By seq, the operations that may have gone from the feed.
    pub trimming: BTreeMap<u64, u64>,
    /// The highest floor that was answered.
    pub floor: u64,
}

/// What is known of all victims of a directory.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub partitions: BTreeMap<usize, Past>,
    /// What victims complained of.
    pub wrong: Vec<String>,
    pub refused: Vec<(String, String)>,
    pub done: bool,
}

impl History {
    pub fn parse(text: &str) -> Self {
        let mut history = Self::default();
        // A line without its end was cut short.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            if let Some(event) = Event::parse(line) {
                history.add(event);
            }
        }
        history
    }

    pub fn add(&mut self, event: Event) {
        let partitions = &mut self.partitions;
        match event {
            Event::Ready => self.done = false,
            Event::Done => self.done = true,
            Event::Intent { partition, seq, op } => {
                partitions.entry(partition).or_default().intents.entry(op).or_default().insert(seq);
            }
            Event::Acknowledged { partition, seq, op } => {
                partitions.entry(partition).or_default().acknowledged.insert(seq, op);
            }
            Event::Completing { partition, seq, n } => {
                partitions.entry(partition).or_default().completing.insert((seq, n));
            }
            Event::Completed { partition, seq, n } => {
                partitions.entry(partition).or_default().completed.insert((seq, n));
            }
            Event::Trimming { partition, seq, op } => {
                partitions.entry(partition).or_default().trimming.insert(seq, op);
            }
            Event::Trimmed { partition, floor } => {
                let past = partitions.entry(partition).or_default();
                past.floor = past.floor.max(floor);
            }
            Event::Refused { code, text, .. } => self.refused.push((code, text)),
            Event::Wrong { partition, text } => self.wrong.push(format!("partition {partition}: {text}")),
        }
    }

    /// Acknowledged transactions.
    pub fn acknowledged(&self) -> usize {
        self.partitions.values().map(|past| past.acknowledged.len()).sum()
    }
}
