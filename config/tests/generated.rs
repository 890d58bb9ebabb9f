//! The checked-in texts are those that the table of keys gives.

mod sources;
use std::path::Path;

use canopy_config::{KEYS, NodeConfig, SECTIONS};
use sources::file;

/// Fails if the file is out of date, and brings it up to date for the next commit.
#[track_caller]
fn check(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::fs::read_to_string(&path).ok().as_deref() != Some(expected) {
        std::fs::write(&path, expected).expect("the folder of this crate can be written");
        panic!("config/{name} was out of date and has been written anew: commit it");
    }
}

#[test]
fn the_example_is_up_to_date() {
    check("canopy.example.toml", &canopy_config::example());
}

#[test]
fn the_reference_is_up_to_date() {
    check("REFERENCE.md", &canopy_config::reference());
}

#[test]
fn the_example_changes_nothing_commented_out_or_in() {
    let example = canopy_config::example();
    let loaded = file(&example).load().expect("only sections and comments");
    assert_eq!(loaded.config, NodeConfig::default());

    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    let active: Vec<&str> =
        example.lines().map(|line| if is_setting(line) { line.trim_start_matches('#') } else { line }).collect();
    let loaded = file(&active.join("\n")).load().expect("the defaults are permitted");
    assert_eq!(loaded.config, NodeConfig::default());
    for key in KEYS {
        let origin = loaded.origins.get(key.path).to_string();
        assert!(origin.contains("canopy.toml:"), "{} is missing in the example", key.path);
    }
}

#[test]
fn every_key_and_section_is_described() {
    let docs = KEYS.iter().map(|key| (key.path, key.doc()));
    for (name, doc) in docs.chain(SECTIONS.iter().map(|section| (section.name, section.doc()))) {
        assert!(doc.ends_with('.') && doc.len() > 10, "{name}: {doc:?}");
        assert!(!doc.contains('|'), "{name}: would end a cell of the reference");
    }
}
