//! The last line, gates and goals.

use canopy_load::report::Report;
use canopy_load::scenario::CATALOG;
use canopy_load::threshold::{Bound, Outcome, Threshold, judge};

const THRESHOLDS: [Threshold; 3] = [
    Threshold::gate("ratio", Bound::AtLeast(0.65)),
    Threshold::goal("ratio", Bound::AtLeast(0.80)),
    Threshold::goal("p99_ratio", Bound::AtMost(1.5)),
];

fn report(figures: &[(&str, f64)]) -> Report {
    let mut report = Report::new("edge");
    for (name, value) in figures {
        report.set(name, *value);
    }
    report
}

#[test]
fn verdicts() {
    use Outcome::{Met, Missed, NotMeasured};
    for (figures, expected, passes) in [
        (&[("ratio", 0.9), ("p99_ratio", 1.2)][..], [Met, Met, Met], true),
        (&[("ratio", 0.65), ("p99_ratio", 1.5)], [Met, Missed, Met], true),
        (&[("ratio", 0.649_9), ("p99_ratio", 1.6)], [Missed, Missed, Missed], false),
        (&[("ratio", 0.7)], [Met, Missed, NotMeasured], true),
        (&[("p99_ratio", 1.0)], [NotMeasured, NotMeasured, Met], false),
        (&[("ratio", f64::NAN), ("p99_ratio", f64::NAN)], [Missed, Missed, Missed], false),
    ] {
        let report = report(figures);
        let outcomes: Vec<Outcome> = judge(&THRESHOLDS, &report).iter().map(|verdict| verdict.outcome).collect();
        assert_eq!(outcomes, expected, "{figures:?}");
        assert_eq!(report.passes(&THRESHOLDS), passes, "{figures:?}");
    }
}

#[test]
fn one_lost_doubled_or_failed_message_fails_the_run() {
    let good = report(&[("ratio", 0.9), ("p99_ratio", 1.0)]);
    assert!(good.passes(&THRESHOLDS));
    for plant in [|r: &mut Report| r.lost = 1, |r: &mut Report| r.duplicated = 1, |r: &mut Report| r.errors = 1] {
        let mut bad = good.clone();
        plant(&mut bad);
        assert!(!bad.passes(&[]), "{bad:?}");
    }
}

#[test]
fn the_last_line_has_the_agreed_shape() {
    let mut report = report(&[("z_first", 1_234.567), ("a_second", 0.123_456), ("whole", 3.0)]);
    report.set("z_first", 2_345.678);
    report.lost = 2;
    let expected = r#"{"scenario":"edge","figures":{"z_first":2346.0,"a_second":0.123,"whole":3.0},"lost":2,"duplicated":0,"errors":0}"#;
    assert_eq!(report.json(), expected);
    assert_eq!(Report::new("x").json(), r#"{"scenario":"x","figures":{},"lost":0,"duplicated":0,"errors":0}"#);
}

#[test]
fn people_see_figures_with_their_verdicts() {
    let text = report(&[("ratio", 0.7)]).human(&THRESHOLDS);
    let line = |name: &str| text.lines().find(|line| line.trim().starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("ratio").contains("gate ≥ 0.65 met, goal ≥ 0.8 MISSED"), "{text}");
    assert!(line("p99_ratio").contains("goal ≤ 1.5 NOT MEASURED"), "{text}");
    assert!(line("lost").contains("gate 0 met"), "{text}");
}

#[test]
fn each_scenario_has_a_name_of_its_own_and_thresholds() {
    let names: std::collections::BTreeSet<&str> = CATALOG.iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), CATALOG.len());
    for scenario in CATALOG {
        assert!(!scenario.thresholds.is_empty(), "{}", scenario.name);
    }
}
