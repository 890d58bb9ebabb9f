//! What could be a secret is never shown, wherever it was put by mistake.

mod sources;
use canopy_config::{Disclosure, KEYS};
use sources::{Sources, env, file, overrides};

const SECRET: &str = "hunter2-7f3a9c";

#[track_caller]
fn check_error(sources: &Sources<'_>) {
    let error = sources.load().expect_err("a misplaced secret");
    for printed in [error.to_string(), format!("{error:?}")] {
        assert!(!printed.contains(SECRET), "{printed}");
    }
}

#[test]
fn errors_do_not_repeat_it() {
    // In a key that stands where a secret is easily put.
    check_error(&env(&[("CANOPY_STORE_ROOT_KEY", SECRET)]));
    check_error(&overrides(&[("store.root_key", SECRET)]));
    check_error(&file(&format!("store.root_key = \"{SECRET}\"")));
    check_error(&file(&format!("edge.key_file = \"{SECRET}\\n\"")));
    check_error(&file(&format!("edge.key_file = [\"{SECRET}\"]")));
    // In a key that does not exist.
    check_error(&env(&[("CANOPY_ROOT_PASSPHRAS", SECRET)]));
    check_error(&overrides(&[("root_passphrase", SECRET)]));
    check_error(&file(&format!("root_key = \"{SECRET}\"")));
    check_error(&file(&format!("[root]\nkey = \"{SECRET}\"")));
    // On a line that is not TOML.
    check_error(&file(&format!("root_key = {SECRET}")));
    check_error(&file(&format!("root_key = \"{SECRET}")));
    check_error(&file(&format!("log.level = \"info\" {SECRET}")));
    let malformed = canopy_config::split_override(SECRET).expect_err("no `=`");
    assert!(!format!("{malformed} {malformed:?}").contains(SECRET));
}

#[test]
fn explain_says_only_that_it_is_set() {
    let secrets: Vec<_> = KEYS.iter().filter(|key| key.disclosure == Disclosure::Secret).collect();
    assert!(secrets.len() >= 2);
    for key in secrets {
        assert_eq!(key.type_name, "path", "{} may only say where its secret is", key.path);
        for (value, shown) in [(SECRET, "(set)"), ("", "(not set)")] {
            let loaded = overrides(&[(key.path, value)]).load().expect("a path");
            let rows = loaded.explain();
            let row = rows.iter().find(|row| row.key == key.path).expect("every key has a row");
            assert_eq!((row.value.as_str(), row.default.as_str()), (shown, "(not set)"));
            let printed = serde_json::to_string(&rows).expect("rows serialise");
            assert!(!printed.contains(SECRET), "{printed}");
        }
    }
}

#[test]
fn reserved_secrets_go_nowhere() {
    let variables = [("CANOPY_ROOT_PASSPHRASE", SECRET), ("CANOPY_ROOT_KEY", SECRET)];
    let loaded = env(&variables).load().expect("reserved");
    assert!(!format!("{loaded:?} {:?}", loaded.explain()).contains(SECRET));
}

#[test]
fn other_values_are_explained_in_full() {
    let sources = Sources {
        file: Some("\nedge.drain_grace_ms = 7"),
        env: &[("CANOPY_EDGE_HOSTNAMES", "a.example,b.example")],
        ..Sources::default()
    };
    let rows = sources.load().expect("permitted").explain();
    assert!(rows.iter().map(|row| row.key).eq(KEYS.iter().map(|key| key.path)));
    let row = |key: &str| {
        let row = rows.iter().find(|row| row.key == key).expect("every key has a row");
        let mut json = serde_json::to_value(row).expect("a row serialises");
        let fields = json.as_object_mut().expect("a row is an object");
        assert!(fields.remove("doc").is_some_and(|doc| doc.is_string()));
        json
    };
    let mut grace = row("edge.drain_grace_ms");
    let origin = grace.as_object_mut().and_then(|fields| fields.remove("origin"));
    let origin = origin.expect("every row has an origin");
    assert!(origin.as_str().is_some_and(|text| text.ends_with("canopy.toml:2")), "{origin}");
    let expected = serde_json::json!({
        "key": "edge.drain_grace_ms", "value": "7", "default": "10000", "unit": "ms",
    });
    assert_eq!(grace, expected);
    let expected = serde_json::json!({
        "key": "edge.hostnames",
        "value": "[\"a.example\", \"b.example\"]",
        "origin": "environment CANOPY_EDGE_HOSTNAMES",
        "default": "[\"localhost\"]",
        "unit": null,
    });
    assert_eq!(row("edge.hostnames"), expected);
    let expected = serde_json::json!({
        "key": "store.root_key", "value": "\"key-file\"", "origin": "default",
        "default": "\"key-file\"", "unit": null,
    });
    assert_eq!(row("store.root_key"), expected);
}
