//! Command line over environment over file over default, and the origin says which.

mod sources;
use canopy_config::{NodeConfig, Origin};
use sources::{Sources, overrides};

#[test]
fn the_strongest_source_wins() {
    for present in 0..8_u8 {
        let (in_file, in_env, in_flag) = (present & 1 != 0, present & 2 != 0, present & 4 != 0);
        let loaded = Sources {
            file: in_file.then_some("[edge]\n\ndrain_grace_ms = 1"),
            env: if in_env { &[("CANOPY_EDGE_DRAIN_GRACE_MS", "2")] } else { &[] },
            overrides: if in_flag { &[("edge.drain_grace_ms", "3")] } else { &[] },
        }
        .load()
        .expect("every value is permitted");
        let expected = match (in_flag, in_env, in_file) {
            (true, _, _) => (3, "command line"),
            (_, true, _) => (2, "environment CANOPY_EDGE_DRAIN_GRACE_MS"),
            (_, _, true) => (1, "canopy.toml:3"),
            _ => (10_000, "default"),
        };
        let origin = loaded.origins.get("edge.drain_grace_ms").to_string();
        assert_eq!(loaded.config.edge.drain_grace_ms, expected.0, "sources {present:03b}");
        assert!(origin.ends_with(expected.1), "sources {present:03b}: {origin}");
        assert_eq!(loaded.origins.get("edge.listen"), &Origin::Default);
    }
}

#[test]
fn the_last_override_of_a_key_wins() {
    let pairs = [("log.level", "warn"), ("log.level", "debug")];
    let loaded = overrides(&pairs).load().expect("both are permitted");
    assert_eq!(loaded.config.log.level, "debug");
}

#[test]
fn nothing_set_is_the_default() {
    let loaded = Sources::default().load().expect("the defaults are within the bounds");
    assert_eq!(loaded.config, NodeConfig::default());
    assert!(loaded.explain().iter().all(|row| row.origin == Origin::Default));
    assert!(loaded.explain().iter().all(|row| row.value == row.default));
}

#[test]
fn variables_of_others_and_reserved_ones_are_passed_over() {
    let variables = [
        ("PATH", "/bin"),
        ("CANOPYEDGE", "x"),
        ("CANOPY_CONFIG", "/etc/canopy.toml"),
        ("CANOPY_CONTEXT", "home"),
        ("CANOPY_TOKEN", "t"),
        ("CANOPY_ROOT_PASSPHRASE", "p"),
        ("CANOPY_ROOT_KEY", "k"),
        ("CANOPY_LOG", "debug"),
    ];
    let loaded = sources::env(&variables).load().expect("none of them is a key");
    assert_eq!(loaded.config, NodeConfig::default());
}

#[test]
fn dev_changes_what_it_says_and_nothing_else() {
    let dev = NodeConfig::dev();
    assert!(dev.edge.listen.ip().is_loopback());
    let mut expected = NodeConfig::default();
    expected.edge.tls = canopy_config::TlsMode::Off;
    expected.identity.sign_up = canopy_config::SignUp::Open;
    expected.identity.argon2_memory_kib = 19_456;
    expected.identity.argon2_passes = 2;
    assert_eq!(dev, expected);
}

#[test]
fn the_root_key_stands_in_the_data_directory_unless_told_otherwise() {
    let path = |pairs: &[(&str, &str)]| {
        let config = overrides(pairs).load().expect("permitted").config;
        config.root_key_path().map(|path| path.display().to_string())
    };
    assert_eq!(path(&[("data_dir", "/srv/c")]).as_deref(), Some("/srv/c/root.key"));
    assert_eq!(path(&[("store.root_key_file", "/run/k")]).as_deref(), Some("/run/k"));
    assert_eq!(path(&[("store.root_key", "passphrase")]), None);
    assert_eq!(path(&[("store.root_key", "environment")]), None);
}
