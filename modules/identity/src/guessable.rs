//! Passwords that are guessed first: those that many chose before, and those
//! that are made of what others know of their holder.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use canopy_domain::{Refusal, Secret, Step};
use canopy_proto::identity::v1::Account;

/// The 10,000 most frequent passwords of at least 10 characters among ten
/// million that leaked, in small letters, sorted. The file beside it says
/// whence.
static COMMON: LazyLock<HashSet<&str>> = LazyLock::new(|| include_str!("common_passwords.txt").lines().collect());

/// What a guesser tries for any account here: the product, the roles, and what
/// is asked for. `docs/identity.md` has them.
const WORDS: &[&str] = &["canopy", "password", "admin", "owner", "guest", "user"];
/// Shorter parts of names and addresses stand in half of all words.
const WORD_CHARS_MIN: usize = 3;
/// Different characters that a password has beside such words: as many as make
/// the shortest password that OWASP (ASVS 6.2.1) lets stand by itself.
const OTHER_CHARS_MIN: usize = 8;

/// What makes a better one.
const BETTER: &str = "take some words that have nothing to do with each other, or with you";

/// Refuses a password that is guessed first. `field` is where it came from,
/// `account` whose it would be.
///
/// # Errors
/// `INVALID_ARGUMENT`: which of the two it is, and what makes a better one.
pub(crate) fn check(field: &str, password: &str, account: &Account) -> Result<(), Refusal> {
    let password = password.to_lowercase();
    let why = if COMMON.contains(password.as_str()) {
        "is one that many people chose: it is among the first that are tried"
    } else if is_of_known_words(&password, account) {
        "is made of your name, your address or this product's words, and little else"
    } else {
        return Ok(());
    };
    Err(Refusal::invalid(field, why).hint(BETTER))
}

/// Has a password that [`check`] has let through looked up among those that
/// leaked.
pub(crate) fn look_up(password: &str) -> Step {
    Step::FindBreached(Secret::new(password))
}

/// Refuses a password that leaked.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub(crate) fn check_breached(field: &str, is_breached: bool) -> Result<(), Refusal> {
    match is_breached {
        true => Err(Refusal::invalid(field, "is among those that leaked from somewhere: it is tried sooner or later")
            .hint(BETTER)),
        false => Ok(()),
    }
}

fn is_of_known_words(password: &str, account: &Account) -> bool {
    let own = format!("{} {}", account.email, account.display_name).to_lowercase();
    let own = own.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() >= WORD_CHARS_MIN);
    let mut words: Vec<&str> = own.chain(WORDS.iter().copied()).filter(|word| password.contains(word)).collect();
    if words.is_empty() {
        return false;
    }
    words.sort_by_key(|word| Reverse(word.len()));
    let rest = words.into_iter().fold(password.to_owned(), |rest, word| rest.replace(word, " "));
    let others: BTreeSet<char> = rest.chars().filter(|c| !c.is_whitespace()).collect();
    others.len() < OTHER_CHARS_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_of_passwords_that_could_be_chosen() {
        let text = include_str!("common_passwords.txt");
        assert_eq!((COMMON.len(), text.lines().count()), (10_000, 10_000));
        let lines = || text.lines();
        assert!(lines().zip(lines().skip(1)).all(|(a, b)| a < b), "sorted, each once");
        assert!(lines().all(|line| line.chars().count() >= 10 && line == line.to_lowercase()));
    }

    #[test]
    fn words_that_others_know_do_not_make_a_password() {
        let account = Account {
            email: "ada.lovelace@analytical.example".into(),
            display_name: "Ada King, Countess of Lovelace".into(),
            ..Account::default()
        };
        let is_known = |password: &str| is_of_known_words(&password.to_lowercase(), &account);
        for password in
            ["canopycanopy", "Canopy2026!", "ada.lovelace", "AdaLovelace1815", "analytical-ada", "Countess!!!!!!!!!"]
        {
            assert!(is_known(password), "{password}");
        }
        for password in
            ["canopy-development", "lovelace writes programs", "correct horse battery", "!!!!!!!!!!", "of of of of of"]
        {
            assert!(!is_known(password), "{password}");
        }
        // Without a name there are the product's words alone.
        assert!(is_of_known_words("canopy-admin-1", &Account::default()));
        assert!(!is_of_known_words("adalovelace1815", &Account::default()));
    }
}
