//! The known name most like an unknown one.

/// Edits that a misspelling may take: this many, or a third of its length if that is more. With two, any
/// two words of three letters would be alike.
const EDITS_MIN: usize = 1;

/// The candidate with the fewest edits to `name`; a candidate with the same last part wins, since
/// the right key in the wrong section is the commonest mistake.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    let edits_max = EDITS_MIN.max(name.chars().count() / 3);
    candidates
        .into_iter()
        .map(|candidate| {
            let edits = strsim::damerau_levenshtein(name, candidate);
            let moved = last(candidate) == last(name);
            (if moved { 0 } else { edits }, edits, candidate)
        })
        .filter(|(rank, ..)| *rank <= edits_max)
        .min()
        .map(|(.., candidate)| candidate)
}
