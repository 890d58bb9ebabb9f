//! Where this crate deliberately does otherwise than OTP, as its documentation
//! says: both traces are pinned, so that neither side changes unnoticed.

use crate::scenario::Scenario;
use crate::{erlang, perform};

fn check(text: &str, otp: &[&str], ours: &[&str]) {
    let scenario = &Scenario::parse_all(text)[0];
    // From the last step on.
    let end = |trace: &[String]| -> Vec<String> {
        let last = trace.iter().rposition(|line| line.starts_with('>')).expect("a step");
        trace[last + 1..].to_vec()
    };
    assert_eq!(end(&erlang::perform(std::slice::from_ref(scenario))[0]), otp, "OTP");
    assert_eq!(end(&perform::perform(scenario)), ours, "this crate");
}

#[test]
fn a_meltdown_is_no_normal_end() {
    check(
        "== a\nsup root one_for_one 1/10\nsup inner one_for_one 0/10 in=root transient\nworker a in=inner\n> crash a",
        &["exit a crash", "exit inner meltdown", ": root[inner-]"],
        &["exit a crash", "exit inner meltdown", "start inner", "start a", ": root[inner[a]]"],
    );
}

/// OTP keeps a place for nobody, which nothing can take away again.
#[test]
fn a_member_that_declines_its_restart_is_forgotten() {
    check(
        "== a\nsup root one_for_one 1/10\npool p 1/10 in=root\nmember p\n> spawn p 1\n> decline p/1 1\n> crash p/1\n> count p",
        &["= 1 0 1", ": root[p{-}]"],
        &["= 0 0 0", ": root[p{}]"],
    );
}
