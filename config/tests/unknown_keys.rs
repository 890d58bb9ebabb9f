//! An unknown name is an error that says where it stands and which known name is most like it.

mod sources;
use canopy_config::{ENV_PREFIX, KEYS, RESERVED};
use sources::{Sources, env, file, overrides};

#[track_caller]
fn check(sources: &Sources<'_>, expected: &[&str]) {
    assert_eq!(sources.messages(), expected);
}

const LISTED: &str = "`canopy local config --origin` lists every key";

#[test]
fn in_the_file() {
    check(
        &file("[edge]\nlisten = \"127.0.0.1:1\"\nlisen = 3"),
        &["canopy.toml:3: unknown key `edge.lisen`; did you mean `edge.listen`?"],
    );
    check(&file("\n[edg]\nlisten = \"127.0.0.1:1\""), &["canopy.toml:2: unknown key `edg`; did you mean `edge`?"]);
    check(&file("[log]\ndata_dir = \"d\""), &["canopy.toml:2: unknown key `log.data_dir`; did you mean `data_dir`?"]);
    check(&file("listen = \"127.0.0.1:1\""), &["canopy.toml:1: unknown key `listen`; did you mean `edge.listen`?"]);
    check(
        &file("[actors]\nopen_vaults_max = 9"),
        &["canopy.toml:2: unknown key `actors.open_vaults_max`; did you mean `store.open_vaults_max`?"],
    );
    check(&file("edge = 3"), &["canopy.toml:1: unknown key `edge`; did you mean `[edge]`?"]);
    check(&file("[telephony]"), &[&format!("canopy.toml:1: unknown key `telephony`; {LISTED}")]);
    check(
        &file("[edge.listen]\nport = 3"),
        &["canopy.toml:1: `edge.listen` is a table; allowed: an IP address and a port, \
           such as \"127.0.0.1:7443\" or \"[::1]:7443\""],
    );
}

#[test]
fn dotted_keys_are_the_same_keys() {
    let loaded = file("edge.drain_grace_ms = 7\nlog = { level = \"warn\" }").load();
    let config = loaded.expect("TOML's other spellings").config;
    assert_eq!((config.edge.drain_grace_ms, config.log.level.as_str()), (7, "warn"));
}

#[test]
fn in_the_environment() {
    check(
        &env(&[("CANOPY_EDGE_LISEN", "127.0.0.1:1")]),
        &["environment CANOPY_EDGE_LISEN: unknown key `CANOPY_EDGE_LISEN`; \
           did you mean `CANOPY_EDGE_LISTEN`?"],
    );
    check(
        &env(&[("CANOPY_ROOT_PASSPRASE", "p")]),
        &["environment CANOPY_ROOT_PASSPRASE: unknown key `CANOPY_ROOT_PASSPRASE`; \
           did you mean `CANOPY_ROOT_PASSPHRASE`?"],
    );
    check(
        &env(&[("CANOPY_TELEPHONY", "p")]),
        &[&format!("environment CANOPY_TELEPHONY: unknown key `CANOPY_TELEPHONY`; {LISTED}")],
    );
}

#[test]
fn on_the_command_line() {
    check(&overrides(&[("edge.tsl", "off")]), &["command line: unknown key `edge.tsl`; did you mean `edge.tls`?"]);
    for malformed in ["log.level", "=debug", ""] {
        let error = canopy_config::split_override(malformed).expect_err(malformed);
        assert!(error.to_string().contains("form key=value"), "{error}");
    }
    let pair = canopy_config::split_override("log.level=a=debug,b=info").expect("well formed");
    assert_eq!(pair, ("log.level".to_owned(), "a=debug,b=info".to_owned()));
}

#[test]
fn variable_names_are_unambiguous() {
    let mut names: Vec<String> = KEYS.iter().map(canopy_config::Key::env_name).collect();
    names.extend(RESERVED.iter().map(|reserved| reserved.name.to_owned()));
    assert!(names.iter().all(|name| name.starts_with(ENV_PREFIX)));
    assert!(names.contains(&"CANOPY_EDGE_LISTEN".to_owned()));
    let total = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), total);
}

#[test]
fn all_problems_are_reported_together() {
    let sources = Sources {
        file: Some("[edge]\nlisen = 3\ntls = 4"),
        env: &[("CANOPY_LOGS", "x"), ("CANOPY_EDGE_DRAIN_GRACE_MS", "soon")],
        overrides: &[("edge.nothing_like_it", "1"), ("actors.quarantine_base_ms", "600_000")],
    };
    let printed = sources.load().expect_err("six problems").to_string();
    assert!(printed.starts_with("configuration: 6 problems\n  - "), "{printed}");
    let parts = [
        "`edge.lisen`",
        "`edge.tls` is the integer 4",
        "`CANOPY_LOGS`",
        "`edge.drain_grace_ms` is \"soon\"",
        "`edge.nothing_like_it`",
        "actors.quarantine_base_ms = 600000 (command line)",
    ];
    for part in parts {
        assert!(printed.contains(part), "{part} is missing in: {printed}");
    }
}
