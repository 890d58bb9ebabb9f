//! Rows that an owner has read lately, as its next decision sees them. Nobody
//! else changes its partition, so a row stays right until the owner itself
//! sets it: what every command of an actor looks at (the channel that a
//! message goes to) is read from the database and opened once.

use std::collections::HashMap;

use bytes::Bytes;
use fjall::UserKey;

/// Rows kept. Beyond it all are forgotten: whoever is still asked for is soon
/// back.
const ROWS_MAX: usize = 64;
/// Bytes of keys and values kept, so that a busy actor costs no more than a
/// few idle ones.
const BYTES_MAX: usize = 64 << 10;
/// Submissions of an owner before it keeps anything: one that is activated for
/// a call or two stays small.
const SUBMISSIONS_MIN: u32 = 16;

#[derive(Default)]
pub(crate) struct RecentRows {
    rows: HashMap<UserKey, Option<Bytes>>,
    bytes: usize,
    submissions: u32,
}

impl RecentRows {
    /// The row at a stored key, where it is known: it may be known to be
    /// absent.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.rows.get(key).cloned()
    }

    /// Keeps what was read.
    pub(crate) fn keep(&mut self, key: &[u8], row: Option<&Bytes>) {
        let bytes = key.len() + row.map_or(0, Bytes::len);
        if self.submissions < SUBMISSIONS_MIN || bytes > BYTES_MAX / 4 {
            return;
        }
        if self.rows.len() >= ROWS_MAX || self.bytes + bytes > BYTES_MAX {
            self.forget();
        }
        self.bytes += bytes;
        self.rows.insert(key.into(), row.cloned());
    }

    /// Takes over what the owner sets. Rows that nobody read stay unknown.
    pub(crate) fn set<'a>(&mut self, rows: impl Iterator<Item = (&'a UserKey, &'a Option<Bytes>)>) {
        self.submissions = self.submissions.saturating_add(1);
        if self.rows.is_empty() {
            return;
        }
        for (key, row) in rows {
            if let Some(known) = self.rows.get_mut(key) {
                let len = |row: &Option<Bytes>| row.as_ref().map_or(0, Bytes::len);
                self.bytes = self.bytes + len(row) - len(known);
                known.clone_from(row);
            }
        }
        if self.bytes > BYTES_MAX {
            self.forget();
        }
    }

    /// Forgets everything.
    pub(crate) fn forget(&mut self) {
        self.rows.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    fn warm() -> RecentRows {
        let mut recent = RecentRows::default();
        for _ in 0..SUBMISSIONS_MIN {
            recent.set(std::iter::empty());
        }
        recent
    }

    #[test]
    fn keeps_nothing_for_an_owner_that_hardly_works() {
        let mut recent = RecentRows::default();
        recent.keep(b"a", Some(&row(1)));
        assert_eq!(recent.get(b"a"), None);
    }

    #[test]
    fn follows_what_the_owner_sets() {
        let mut recent = warm();
        recent.keep(b"a", Some(&row(1)));
        recent.keep(b"b", None);
        let set = [(UserKey::from("a"), None), (UserKey::from("b"), Some(row(9))), (UserKey::from("c"), Some(row(2)))];
        recent.set(set.iter().map(|(key, row)| (key, row)));
        assert_eq!(recent.get(b"a"), Some(None));
        assert_eq!(recent.get(b"b"), Some(Some(row(9))));
        assert_eq!(recent.get(b"c"), None, "nobody has read it");
        assert_eq!(recent.bytes, 1 + 1 + 9);
    }

    #[test]
    fn is_bounded_in_rows_and_bytes() {
        let mut recent = warm();
        for n in 0..10 * ROWS_MAX {
            recent.keep(&n.to_be_bytes(), Some(&row(10)));
            assert!(recent.rows.len() <= ROWS_MAX);
        }
        recent.keep(b"large", Some(&row(BYTES_MAX / 4)));
        assert_eq!(recent.get(b"large"), None, "one row is no reason to forget the others");
        for n in 0..100u8 {
            recent.keep(&[n], Some(&row(BYTES_MAX / 8)));
            assert!(recent.bytes <= BYTES_MAX);
        }
        let key = [99u8];
        recent.set([(UserKey::from(&key), Some(row(BYTES_MAX)))].iter().map(|(key, row)| (key, row)));
        assert!(recent.bytes <= BYTES_MAX);
    }
}
