//! This crate and OTP's supervisor, side by side.

use crate::scenario::{Scenario, compare};
use crate::{erlang, model, perform, random};

/// Written down, by subject.
const WRITTEN: &[&str] = &[
    include_str!("scenarios/strategies.txt"),
    include_str!("scenarios/intensity.txt"),
    include_str!("scenarios/significant.txt"),
    include_str!("scenarios/shutdown.txt"),
    include_str!("scenarios/starts.txt"),
    include_str!("scenarios/requests.txt"),
    include_str!("scenarios/nested.txt"),
    include_str!("scenarios/pools.txt"),
];

/// Random scenarios, beside those that are written down.
const RANDOM: u64 = 200;

fn check(scenarios: &[Scenario]) {
    let traces = erlang::perform(scenarios);
    let mut differences = Vec::new();
    for (scenario, trace) in scenarios.iter().zip(&traces) {
        let ours = perform::perform(scenario);
        differences.extend(compare(scenario, [("OTP", trace), ("this crate", &ours)]).err());
    }
    assert!(differences.is_empty(), "{} of {}\n{}", differences.len(), traces.len(), differences.join("\n"));
}

#[test]
fn written_scenarios() {
    let scenarios: Vec<Scenario> = WRITTEN.iter().flat_map(|text| Scenario::parse_all(text)).collect();
    assert!(scenarios.len() >= 40, "{} scenarios", scenarios.len());
    check(&scenarios);
}

/// The traces of the model, too, which the crate is held against in many more.
#[test]
fn random_scenarios() {
    let seeds = random::seeds(RANDOM);
    let (scenarios, expected): (Vec<_>, Vec<_>) = seeds.map(random::scenario).unzip();
    let traces = erlang::perform(&scenarios);
    for ((scenario, trace), expected) in scenarios.iter().zip(&traces).zip(&expected) {
        if let Err(difference) = compare(scenario, [("OTP", trace), ("the model", expected)]) {
            panic!("{difference}");
        }
    }
    check(&scenarios);
}

/// Whatever the model says has to be what the crate does.
#[test]
fn a_trace_that_differs_is_found() {
    let scenario = Scenario::parse_all("== a\nsup root one_for_one 1/10\nworker a in=root\n> crash a\n");
    let mut expected = model::perform(&scenario[0]);
    let ours = perform::perform(&scenario[0]);
    assert_eq!(compare(&scenario[0], [("a", &expected), ("b", &ours)]), Ok(()));
    expected.retain(|line| line != "exit a crash");
    assert!(compare(&scenario[0], [("a", &expected), ("b", &ours)]).is_err());
}
