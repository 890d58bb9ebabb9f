//! The binary: names, exit codes, and the last line.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]

use std::process::{Command, Output};

fn load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_canopy-load")).args(arguments).output().unwrap()
}

/// The object on the last line of stdout.
fn last_line(output: &Output) -> serde_json::Value {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn list_names_scenarios_and_limits() {
    let output = load(&["list"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "edge",
        "commit",
        "chat",
        "start",
        "seal",
        "overload",
        "login",
        "refresh",
        "faults",
        "vaults",
        "baseline",
        "hot_ratio ≥ 0.4 (gate)",
        "empty_ms ≤ 300 (goal)",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[test]
fn an_unknown_scenario_is_refused_with_the_names() {
    let output = load(&["run", "warp"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("edge"));
}

#[test]
fn no_seconds_are_refused() {
    for seconds in ["0", "-1", "NaN", "9999"] {
        assert_eq!(load(&["run", "edge", &format!("--seconds={seconds}")]).status.code(), Some(2), "{seconds}");
    }
}

#[test]
fn a_short_run_against_the_baseline_itself_ends_with_figures() {
    for (scenario, figure) in [("edge", "tls_cpu_ratio"), ("commit", "hot_ratio")] {
        let arguments =
            ["run", scenario, "--subject=baseline", "--seconds=0.2", "--rounds=1", "--connections=4", "--json"];
        let output = load(&arguments);
        let report = last_line(&output);
        assert_eq!(report["scenario"], scenario);
        assert!(report["figures"][figure].as_f64().unwrap() > 0.0, "{report}");
        for count in ["lost", "duplicated", "errors"] {
            assert_eq!(report[count], 0, "{report}");
        }
    }
}

#[test]
fn a_short_chat_loses_nothing() {
    let arguments =
        ["run", "chat", "--subject=baseline", "--seconds=0.2", "--rounds=1", "--connections=10", "--callers=8"];
    let report = last_line(&load(&arguments));
    assert_eq!((&report["lost"], &report["duplicated"], &report["errors"]), (&0.into(), &0.into(), &0.into()));
    assert!(report["figures"]["deliveries_per_cpu_s"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_few_vaults_are_all_found_again() {
    // Data is refused in memory, where the system's own temporary files may be.
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let arguments =
        ["run", "vaults", "--vaults=40", "--open-vaults=8", "--seconds=0.1", "--rounds=1", "--json", "--data"];
    let report = last_line(&load(&[&arguments[..], &[data.path().to_str().unwrap()]].concat()));
    assert_eq!((&report["lost"], &report["duplicated"], &report["errors"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(report["figures"]["open_vaults"], 8.0, "{report}");
    assert!(report["figures"]["boot_ratio"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_few_sessions_all_answer() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let arguments =
        ["run", "actors", "--sessions=400", "--resident=100", "--seconds=0.2", "--rounds=1", "--json", "--data"];
    let report = last_line(&load(&[&arguments[..], &[data.path().to_str().unwrap()]].concat()));
    assert_eq!((&report["lost"], &report["duplicated"], &report["errors"]), (&0.into(), &0.into(), &0.into()));
    assert!(report["figures"]["bytes_per_resident"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn the_self_test_reports_every_planted_fault() {
    let output = load(&["selftest"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    for fault in ["Lost", "Doubled", "Reordered", "Late"] {
        for way in ["simulated stream", "fan-out"] {
            assert!(text.contains(&format!("ok     {way}, planted {fault}")), "{text}");
        }
    }
    assert_eq!(last_line(&output)["errors"], 0);
}
