//! Backups that wait for the worker: an org after the other, so that one with
//! many holds nobody up; within an org, as they came.

use std::collections::VecDeque;

use canopy_domain::Address;

/// Those of one org.
struct Line {
    org: Option<Address>,
    /// Never empty.
    waiting: VecDeque<Address>,
}

/// A bounded queue with a place for everybody.
pub(crate) struct Queue {
    /// In the order of their turns.
    lines: VecDeque<Line>,
    len: usize,
    len_max: usize,
}

impl Queue {
    pub(crate) fn new(len_max: usize) -> Self {
        Self { lines: VecDeque::new(), len: 0, len_max }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn line(&mut self, org: Option<&Address>) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.org.as_ref() == org)
    }

    /// Puts a backup behind those of its org, unless it waits already. Whether
    /// it waits now: where the queue is full, an org has its place from the one
    /// with the most, as long as that has more than it would have.
    pub(crate) fn push(&mut self, backup: &Address) -> bool {
        let org = backup.org_address();
        let line = self.line(org.as_ref());
        if line.as_ref().is_some_and(|line| line.waiting.contains(backup)) {
            return true;
        }
        let held = line.map_or(0, |line| line.waiting.len());
        if self.len >= self.len_max {
            let longest = self.lines.iter_mut().max_by_key(|line| line.waiting.len());
            let Some(longest) = longest.filter(|line| line.waiting.len() > held + 1) else { return false };
            longest.waiting.pop_back();
            self.len -= 1;
        }
        self.len += 1;
        match self.line(org.as_ref()) {
            Some(line) => line.waiting.push_back(backup.clone()),
            None => self.lines.push_back(Line { org, waiting: VecDeque::from([backup.clone()]) }),
        }
        true
    }

    /// The next one; its org's next turn is after all others'.
    pub(crate) fn pop(&mut self) -> Option<Address> {
        let mut line = self.lines.pop_front()?;
        let next = line.waiting.pop_front();
        self.len -= 1;
        if !line.waiting.is_empty() {
            self.lines.push_back(line);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use canopy_domain::Id;
    use proptest::prelude::*;

    use super::*;

    fn backup(org: u8, n: u8) -> Address {
        let [org, backup] = [org, n].map(|n| Id::from_bytes([n; 16]));
        Address::parse(&format!("org/{org}/job/backup/{backup}")).unwrap()
    }

    fn popped(queue: &mut Queue) -> Vec<Address> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn one_with_many_holds_nobody_up() {
        let mut queue = Queue::new(1_024);
        for n in 0..100 {
            assert!(queue.push(&backup(1, n)));
        }
        for (org, n) in [(2, 1), (3, 1), (2, 2), (1, 0), (2, 1)] {
            assert!(queue.push(&backup(org, n)));
        }
        assert_eq!(queue.len(), 103, "what waits already waits once");
        let order = popped(&mut queue);
        let first = [(1, 0), (2, 1), (3, 1), (1, 1), (2, 2), (1, 2), (1, 3)].map(|(org, n)| backup(org, n));
        assert_eq!(order[..7], first);
        assert_eq!((order.len(), queue.len()), (103, 0));
    }

    #[test]
    fn who_holds_nothing_is_let_in() {
        let mut queue = Queue::new(3);
        for n in 0..3 {
            assert!(queue.push(&backup(1, n)));
        }
        assert!(!queue.push(&backup(1, 3)), "it has all there is");
        assert!(queue.push(&backup(2, 0)) && queue.push(&backup(3, 0)));
        assert!(!queue.push(&backup(4, 0)), "all have one");
        assert_eq!(popped(&mut queue), [(1, 0), (2, 0), (3, 0)].map(|(org, n)| backup(org, n)));
    }

    proptest! {
        /// Against a list of each org's backups.
        #[test]
        fn nobody_is_served_twice_while_another_waits(
            steps in prop::collection::vec(prop::option::weighted(0.6, (0u8..5, 0u8..8)), 0..200),
            len_max in 1usize..20,
        ) {
            let mut queue = Queue::new(len_max);
            let mut model: BTreeMap<u8, VecDeque<u8>> = BTreeMap::new();
            // Orgs that were served since each has waited for its turn.
            let mut served: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
            for step in steps {
                let before: usize = model.values().map(VecDeque::len).sum();
                let Some((org, n)) = step else {
                    let next = queue.pop();
                    let org = model.keys().copied().find(|org| {
                        model[org].front().map(|n| backup(*org, *n)) == next
                    });
                    prop_assert_eq!(org.is_some(), before > 0, "{:?} is no org's next", next);
                    let Some(org) = org else { continue };
                    for (other, served) in served.iter_mut().filter(|(other, _)| **other != org) {
                        prop_assert!(served.insert(org), "{org} is served twice while {other} waits");
                    }
                    let line = model.get_mut(&org).unwrap();
                    line.pop_front();
                    if line.is_empty() {
                        model.remove(&org);
                        served.remove(&org);
                    } else {
                        served.insert(org, BTreeSet::new());
                    }
                    continue;
                };
                let held = model.get(&org).map_or(0, VecDeque::len);
                let most = model.values().map(VecDeque::len).max().unwrap_or(0);
                let waited = model.get(&org).is_some_and(|line| line.contains(&n));
                let has_room = before < len_max || most > held + 1;
                prop_assert_eq!(queue.push(&backup(org, n)), waited || has_room);
                if !waited && has_room {
                    if before >= len_max {
                        // Of several with the most, the last one in turn.
                        let (_, line) = model.iter_mut().find(|(other, line)| {
                            line.len() == most && !queue.holds(&backup(**other, *line.back().unwrap()))
                        }).unwrap();
                        line.pop_back();
                    }
                    model.entry(org).or_default().push_back(n);
                    served.entry(org).or_default();
                }
                prop_assert_eq!(queue.len(), model.values().map(VecDeque::len).sum::<usize>());
                prop_assert!(queue.len() <= len_max);
            }
        }
    }

    impl Queue {
        fn holds(&self, backup: &Address) -> bool {
            self.lines.iter().any(|line| line.waiting.contains(backup))
        }
    }
}
