use std::ops::Range;

/// Open gaps a track remembers. A stream with more is broken beyond counting: the oldest gap is
/// written off as lost, and what fills it later counts as duplicated.
pub const GAPS_MAX: usize = 256;

/// The numbers of one sender, as one subscriber received them.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// One above the highest number received.
    next: u64,
    /// Numbers below `next` that have not come, ascending, disjoint, none empty.
    gaps: Vec<Range<u64>>,
    written_off: u64,
    duplicated: u64,
    reordered: u64,
}

impl Track {
    #[inline]
    pub fn observe(&mut self, number: u64) {
        if number == self.next {
            self.next += 1;
        } else {
            self.observe_out_of_turn(number);
        }
    }

    #[cold]
    fn observe_out_of_turn(&mut self, number: u64) {
        if number > self.next {
            if self.gaps.len() == GAPS_MAX {
                let oldest = self.gaps.remove(0);
                self.written_off += oldest.end - oldest.start;
            }
            self.gaps.push(self.next..number);
            self.next = number.saturating_add(1);
            return;
        }
        let Some(position) = self.gaps.iter().position(|gap| gap.contains(&number)) else {
            self.duplicated += 1;
            return;
        };
        self.reordered += 1;
        let gap = self.gaps.remove(position);
        for part in [number + 1..gap.end, gap.start..number] {
            if !part.is_empty() {
                self.gaps.insert(position, part);
            }
        }
    }

    /// Of the first `sent` numbers, how many never came.
    pub fn lost(&self, sent: u64) -> u64 {
        let open: u64 = self.gaps.iter().map(|gap| gap.end.min(sent).saturating_sub(gap.start)).sum();
        open + self.written_off + sent.saturating_sub(self.next)
    }

    /// Numbers received at or above `sent`.
    pub fn invented(&self, sent: u64) -> u64 {
        let missing: u64 = self.gaps.iter().map(|gap| gap.end.saturating_sub(gap.start.max(sent))).sum();
        self.next.saturating_sub(sent).saturating_sub(missing)
    }

    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Gaps held in memory, at most [`GAPS_MAX`] and one that a late message split.
    pub fn gaps(&self) -> usize {
        self.gaps.len()
    }
}
