//! Guesses at passwords are held back, and owners are not.

use canopy_actors::{AttemptLimits, Attempts, Tried};
use canopy_domain::{Attempt, Code};

const HERE: &str = "192.0.2.1";
const HOUR_MS: i64 = 3_600_000;
/// When everything begins.
const T: i64 = 1_000_000_000;

fn attempts() -> Attempts {
    Attempts::new(AttemptLimits { account_failures_max: 5, address_failures_max: 50 })
}

fn guess(account: &str) -> Attempt {
    Attempt { account: account.into(), is_known_place: false }
}

fn known(account: &str) -> Attempt {
    Attempt { account: account.into(), is_known_place: true }
}

/// Milliseconds to wait; zero where an attempt is admitted.
fn wait(attempts: &Attempts, attempt: &Attempt, place: &str, now_ms: i64) -> u64 {
    match attempts.admit(attempt, Tried::Password, place, now_ms) {
        Ok(()) => 0,
        Err(refusal) => {
            assert_eq!(refusal.code, Code::ResourceExhausted);
            refusal.retry_after_ms.expect("when to try again")
        }
    }
}

#[test]
fn each_wait_is_twice_the_one_before_up_to_a_limit() {
    let attempts = attempts();
    let mut now_ms = T;
    for _ in 0..5 {
        assert_eq!(wait(&attempts, &known("ada"), HERE, now_ms), 0);
        attempts.failed(&known("ada"), HERE, now_ms);
    }
    let mut waits = Vec::new();
    for _ in 0..13 {
        let wait_ms = wait(&attempts, &known("ada"), HERE, now_ms);
        assert_eq!(wait(&attempts, &known("ada"), HERE, now_ms + 1), wait_ms - 1, "asking does not make it longer");
        waits.push(wait_ms / 1_000);
        now_ms += i64::try_from(wait_ms).expect("a short wait");
        assert_eq!(wait(&attempts, &known("ada"), HERE, now_ms), 0);
        attempts.failed(&known("ada"), HERE, now_ms);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
    // Forgiven by the hour.
    assert!(wait(&attempts, &known("ada"), HERE, now_ms) > 0);
    assert_eq!(wait(&attempts, &known("ada"), HERE, now_ms + 2 * HOUR_MS), 0);
    attempts.failed(&known("ada"), HERE, now_ms + 2 * HOUR_MS);
    assert_eq!(wait(&attempts, &known("ada"), HERE, now_ms + 2 * HOUR_MS), 1_000);
}

/// Who is held back is told of what they tried.
#[test]
fn what_is_held_back_is_named() {
    let attempts = attempts();
    for _ in 0..5 {
        attempts.failed(&guess("ada"), HERE, T);
    }
    for (tried, told) in [
        (Tried::Password, "too many wrong passwords: the next try is in 1 s"),
        (Tried::Passkey, "too many log-ins that failed: the next passkey's turn is in 1 s"),
    ] {
        assert_eq!(attempts.admit(&guess("ada"), tried, HERE, T).expect_err("five were wrong").message, told);
    }
}

#[test]
fn a_right_password_clears_the_accounts_count_there() {
    let attempts = attempts();
    for _ in 0..4 {
        attempts.failed(&guess("ada"), HERE, T);
    }
    attempts.succeeded(&guess("ada"), HERE);
    for _ in 0..4 {
        attempts.failed(&guess("ada"), HERE, T);
    }
    assert_eq!(wait(&attempts, &guess("ada"), HERE, T), 0);
    attempts.failed(&guess("ada"), HERE, T);
    assert!(wait(&attempts, &guess("ada"), HERE, T) > 0);
}

#[test]
fn an_account_is_guarded_against_many_addresses_and_its_owner_goes_on() {
    let attempts = attempts();
    for n in 0..20 {
        let place = format!("198.51.100.{n}");
        assert_eq!(wait(&attempts, &guess("ada"), &place, T), 0);
        attempts.failed(&guess("ada"), &place, T);
    }
    assert_eq!(wait(&attempts, &guess("ada"), "203.0.113.9", T), 1_000, "another address");
    assert_eq!(wait(&attempts, &guess("bob"), "203.0.113.9", T), 0, "another account");
    assert_eq!(wait(&attempts, &known("ada"), HERE, T), 0, "from where the owner has been");
    for _ in 0..40 {
        attempts.failed(&guess("ada"), "198.51.100.99", T);
    }
    assert_eq!(wait(&attempts, &guess("ada"), "203.0.113.9", T), 60_000, "anywhere else, a minute at most");
    assert_eq!(wait(&attempts, &known("ada"), HERE, T), 0);
}

#[test]
fn an_address_is_held_over_all_accounts() {
    let attempts = attempts();
    for n in 0..50 {
        let account = format!("person-{n}");
        assert_eq!(wait(&attempts, &guess(&account), HERE, T), 0);
        attempts.failed(&guess(&account), HERE, T);
        // An own account clears nothing but its own.
        attempts.succeeded(&known("eve"), HERE);
    }
    assert!(wait(&attempts, &guess("ada"), HERE, T) > 0);
    assert_eq!(wait(&attempts, &known("ada"), HERE, T), 0, "who has logged in there before");
    assert_eq!(wait(&attempts, &guess("ada"), "203.0.113.9", T), 0);
}

#[test]
fn ipv6_addresses_of_one_network_are_one() {
    let attempts = attempts();
    for n in 0..5 {
        attempts.failed(&guess("ada"), &format!("2001:db8:0:1::{n}"), T);
    }
    assert!(wait(&attempts, &guess("ada"), "2001:db8:0:1:ffff::1", T) > 0);
    assert_eq!(wait(&attempts, &guess("ada"), "2001:db8:0:2::1", T), 0);
}

#[test]
fn the_installation_is_held_against_everybody_at_once() {
    let attempts = attempts();
    for n in 0..1_000 {
        attempts.failed(&guess(&format!("person-{n}")), &format!("10.0.{}.{}", n / 250, n % 250), T);
    }
    assert_eq!(wait(&attempts, &guess("ada"), HERE, T), 1_000);
    assert_eq!(wait(&attempts, &known("ada"), HERE, T), 0);
}

#[test]
fn what_is_counted_has_a_bound() {
    let attempts = attempts();
    for n in 0..60_000_u32 {
        let bytes = n.to_be_bytes();
        let place = format!("10.{}.{}.{}", bytes[1], bytes[2], bytes[3]);
        attempts.failed(&guess(&format!("person-{n}")), &place, T);
        if n == 10 {
            for _ in 0..10 {
                attempts.failed(&guess("ada"), HERE, T);
            }
        }
    }
    assert!(attempts.len() <= 100_000, "{}", attempts.len());
    assert!(wait(&attempts, &guess("ada"), HERE, T) > 1_000, "who is held back stays so");
}

#[test]
fn a_clock_that_goes_back_holds_nobody_longer() {
    let attempts = attempts();
    for _ in 0..5 {
        attempts.failed(&guess("ada"), HERE, T + 100 * HOUR_MS);
    }
    assert_eq!(wait(&attempts, &guess("ada"), HERE, T), 1_000);
}
