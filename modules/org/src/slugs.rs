//! Former slugs: after a rename the old one goes on to lead here for a while,
//! unless it is given to somebody else.

use canopy_proto::org::v1::FormerSlug;

/// How long a former slug leads on.
pub(crate) const FORMER_SLUG_MS: i64 = 90 * 24 * 3_600_000;
/// Former slugs that are kept; the oldest goes first.
pub(crate) const FORMER_SLUGS_MAX: usize = 5;

/// Takes a rename into the list, newest first; gives those that lead here no
/// longer.
pub(crate) fn rename(former: &mut Vec<FormerSlug>, old: &str, new: &str, now_ms: i64) -> Vec<String> {
    former.retain(|slug| slug.slug != new && slug.slug != old);
    former.insert(0, FormerSlug { slug: old.to_owned(), expire_time_ms: now_ms.saturating_add(FORMER_SLUG_MS) });
    let gone = former.split_off(former.len().min(FORMER_SLUGS_MAX));
    gone.into_iter().map(|slug| slug.slug).collect()
}

/// Takes out those whose time has come, and gives them.
pub(crate) fn expire(former: &mut Vec<FormerSlug>, now_ms: i64) -> Vec<String> {
    let (gone, kept) = std::mem::take(former).into_iter().partition(|slug| slug.expire_time_ms <= now_ms);
    *former = kept;
    let gone: Vec<FormerSlug> = gone;
    gone.into_iter().map(|slug| slug.slug).collect()
}

/// When something is to be done next, of a purge (zero for none) and former
/// slugs; zero for never.
pub(crate) fn next_wake_ms(purge_time_ms: i64, former: &[FormerSlug]) -> i64 {
    let times = former.iter().map(|slug| slug.expire_time_ms).chain([purge_time_ms]);
    times.filter(|at_ms| *at_ms > 0).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(former: &[FormerSlug]) -> Vec<&str> {
        former.iter().map(|slug| slug.slug.as_str()).collect()
    }

    #[test]
    fn a_bounded_number_of_slugs_leads_on_for_a_while() {
        let mut former = Vec::new();
        assert_eq!(rename(&mut former, "a", "b", 0), Vec::<String>::new());
        assert_eq!(rename(&mut former, "b", "a", 1), Vec::<String>::new());
        assert_eq!(names(&former), ["b"], "what is in use again is no former one");
        for (n, (old, new)) in [("a", "c"), ("c", "d"), ("d", "e"), ("e", "f")].into_iter().enumerate() {
            assert_eq!(rename(&mut former, old, new, 2 + n as i64), Vec::<String>::new());
        }
        assert_eq!(rename(&mut former, "f", "g", 10), ["b"]);
        assert_eq!(names(&former), ["f", "e", "d", "c", "a"]);
        assert_eq!(next_wake_ms(0, &former), FORMER_SLUG_MS + 2);
        assert_eq!(next_wake_ms(7, &former), 7);
        assert_eq!(expire(&mut former, FORMER_SLUG_MS + 3), ["c", "a"]);
        assert_eq!(names(&former), ["f", "e", "d"]);
        assert_eq!((next_wake_ms(0, &[]), next_wake_ms(9, &[])), (0, 9));
    }
}
