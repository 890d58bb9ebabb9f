//! `docs/asvs.md` says of every requirement of OWASP ASVS's chapters on people, sessions, roles and
//! tokens how it is met, and which test shows it. That the list is whole and that the tests exist
//! is checked here; that they show what they should is for who reads both.

use std::collections::{BTreeMap, BTreeSet};

use crate::house_source::{Source, functions, tree};

/// Ids and levels, from the standard.
const REQUIREMENTS: &str = include_str!("asvs_5_0.txt");
/// Where the table stands.
const TABLE: &str = "docs/asvs.md";
/// What may be left out, as it was agreed on: how the text of such a row begins.
const EXCEPTIONS: &[&str] = &["federated log-in", "SMS and telephone", "physical identity proofing"];

/// A row of the table.
struct Row {
    id: String,
    level: String,
    state: String,
    how: String,
    tests: Vec<String>,
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let [id, level, _, state, how, tests] = <[String; 6]>::try_from(cells).ok()?;
    let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    id.starts_with(|c: char| c.is_ascii_digit()).then_some(Row { id, level, state, how, tests })
}

fn rows(text: &str) -> Vec<Row> {
    text.lines().filter(|line| line.starts_with('|')).filter_map(row).collect()
}

/// The tests of a file, as the table calls them: `identity_tokens::sign_up_is_as_configured`.
fn tests_of(source: &Source) -> Vec<String> {
    let stem = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let lines: Vec<&str> = source.code.lines().collect();
    let is_test = |line: usize| {
        let mut attributes = lines[..line - 1].iter().rev().take_while(|above| above.trim_start().starts_with('#'));
        attributes.any(|attribute| attribute.contains("#[test]") || attribute.contains("#[tokio::test"))
    };
    let found = functions(&source.code).into_iter().filter(|function| is_test(function.line));
    found.map(|function| format!("{stem}::{}", function.name)).collect()
}

fn faults(table: &[Row], tests: &BTreeSet<String>) -> Vec<String> {
    let required = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
    let mut required: BTreeMap<&str, &str> = required.filter_map(|line| line.split_once(' ')).collect();
    let mut faults = Vec::new();
    for row in table {
        let id = row.id.as_str();
        match required.remove(id) {
            Some(level) if level == row.level => {}
            Some(level) => faults.push(format!("{id} is of level {level}, and the table says {}", row.level)),
            None => faults.push(format!("{id} stands there twice, or is no requirement")),
        }
        match (row.state.as_str(), row.tests.is_empty()) {
            ("met", false) | ("not met", true) => {}
            ("met", true) => faults.push(format!("{id} is met, and no test shows it")),
            ("not met", false) => faults.push(format!("{id} is not met, and has a test")),
            ("exception", _) if EXCEPTIONS.iter().any(|allowed| row.how.starts_with(allowed)) => {}
            ("exception", _) => faults.push(format!("{id} is none of the exceptions {EXCEPTIONS:?}")),
            (other, _) => faults.push(format!("{id} is neither met, not met nor an exception: `{other}`")),
        }
        let absent = row.tests.iter().filter(|test| !tests.contains(*test));
        faults.extend(absent.map(|test| format!("{id}: there is no test `{test}`")));
    }
    faults.extend(required.keys().map(|id| format!("{id} is missing")));
    faults
}

#[test]
fn every_requirement_is_answered_and_its_tests_exist() {
    let tree = tree();
    let tests = tree.iter().filter(|source| source.path.ends_with(".rs")).flat_map(tests_of).collect();
    let table = tree.iter().find(|source| source.path == TABLE).expect("the table");
    let faults = faults(&rows(&table.text), &tests);
    assert!(faults.is_empty(), "{TABLE}:\n{}", faults.join("\n"));
}

/// What the check is for is found.
#[test]
fn a_table_that_is_not_true_is_told() {
    let tests = BTreeSet::from(["a::real".to_owned()]);
    let told = |line: &str| -> String {
        let about: Vec<String> =
            faults(&rows(line), &tests).into_iter().filter(|f| !f.ends_with("is missing")).collect();
        about.join("; ")
    };
    assert_eq!(told("| 6.1.1 | 1 | x | met | y | `a::real` |"), "");
    assert_eq!(told("| 6.8.1 | 2 | x | exception | federated log-in: there is none | |"), "");
    assert_eq!(told("| 6.1.1 | 1 | x | met | y | `a::gone` |"), "6.1.1: there is no test `a::gone`");
    assert_eq!(told("| 6.1.1 | 1 | x | met | y | |"), "6.1.1 is met, and no test shows it");
    assert!(told("| 6.1.1 | 2 | x | met | y | `a::real` |").contains("is of level 1"));
    assert!(told("| 6.9.1 | 2 | x | met | y | `a::real` |").contains("is no requirement"));
    assert!(told("| 6.1.1 | 1 | x | exception | too hard | |").contains("none of the exceptions"));
    assert!(told("| 6.1.1 | 1 | x | soon | y | |").contains("neither met"));
    let line = "| 6.1.1 | 1 | x | met | y | `a::real` |";
    assert!(told(&format!("{line}\n{line}")).contains("stands there twice"));
    assert_eq!(faults(&[], &tests).len(), 86, "as many as the chapters have");

    let source = Source::new("x/tests/a.rs", "#[test]\n#[cfg(unix)]\nfn real() {}\nfn other() {}\n");
    assert_eq!(tests_of(&source), ["a::real"]);
}
