//! A bad value is an error that says where it came from, what it was and what is allowed.

mod sources;
use sources::{Sources, env, file, overrides};

#[track_caller]
fn check(sources: &Sources<'_>, expected: &[&str]) {
    assert_eq!(sources.messages(), expected);
}

#[test]
fn wrong_types_in_the_file() {
    let grace = "allowed: an integer from 0 to 600000 ms";
    for (value, found) in [
        ("\"10\"", "the string \"10\""),
        ("1.5", "a float"),
        ("true", "a boolean"),
        ("1979-05-27", "a date or time"),
        ("[1, 2]", "the list [the integer 1, the integer 2] of 2 items"),
        ("{ a = 1 }", "a table"),
        ("-1", "the integer -1"),
        ("0xFFFFFFFF", "the integer 4294967295"),
    ] {
        let text = format!("# first line\n[edge]\n\ndrain_grace_ms = {value}");
        let expected = format!("canopy.toml:4: `edge.drain_grace_ms` is {found}; {grace}");
        check(&file(&text), &[&expected]);
    }
    check(
        &file("[edge]\ntls = \"on\"\nlisten = \"localhost:80\"\nhostnames = \"a\"\r\nmetrics = 1"),
        &[
            "canopy.toml:3: `edge.listen` is the string \"localhost:80\"; allowed: an IP address and \
             a port, such as \"127.0.0.1:7443\" or \"[::1]:7443\"",
            "canopy.toml:2: `edge.tls` is the string \"on\"; allowed: one of \"local-ca\", \"files\", \"off\"",
            "canopy.toml:4: `edge.hostnames` is the string \"a\"; allowed: a list, with commas between, of 1 to 64 \
             host names (letters, digits, `-` and `.`) or IP addresses",
            "canopy.toml:5: `edge.metrics` is the integer 1; allowed: one of \"loopback\", \
             \"authorised\", \"off\"",
        ],
    );
}

#[test]
fn numbers_as_text() {
    for (text, permitted) in [
        ("10", true),
        ("1_0", true),
        ("+10", true),
        ("", false),
        ("ten", false),
        ("1__0", false),
        ("_10", false),
        ("10_", false),
        ("10ms", false),
        ("0x10", false),
        (" 10", false),
        ("-1", false),
        ("1.0", false),
        ("99999999999999999999999999999999999999999999", false),
    ] {
        let loaded = env(&[("CANOPY_EDGE_DRAIN_GRACE_MS", text)]).load();
        let read = loaded.ok().map(|loaded| loaded.config.edge.drain_grace_ms);
        assert_eq!(read, permitted.then_some(10), "{text:?}");
    }
}

#[test]
fn log_filters() {
    for (text, permitted) in [
        ("info", true),
        ("WARN", true),
        ("info,canopy_store::vault=debug, hyper=off", true),
        ("canopy=trace", true),
        ("inof", false),
        ("", false),
        ("info,", false),
        ("=debug", false),
        ("canopy=loud", false),
        ("canopy[span]=debug", false),
    ] {
        let loaded = overrides(&[("log.level", text)]).load();
        assert_eq!(loaded.is_ok(), permitted, "{text:?}");
    }
}

#[test]
fn host_names() {
    for (text, permitted) in [
        ("localhost", true),
        ("a.example.org, b-1.example", true),
        ("192.0.2.1,2001:db8::1", true),
        ("a..b", false),
        ("-a", false),
        ("a-", false),
        ("a b", false),
        ("a_b", false),
        ("*.example.org", false),
        ("https://a", false),
        ("a,,b", false),
    ] {
        let loaded = overrides(&[("edge.hostnames", text)]).load();
        assert_eq!(loaded.is_ok(), permitted, "{text:?}");
    }
    let loaded = file("edge.hostnames = [\"a.example\", \"b.example\"]").load();
    assert_eq!(loaded.expect("a list").config.edge.hostnames, ["a.example", "b.example"]);
}

#[test]
fn paths_have_no_control_characters() {
    check(
        &file("data_dir = \"a\\u0000b\""),
        &["canopy.toml:1: `data_dir` is the string \"a\\0b\"; allowed: a path of at most 4096 bytes \
           without control characters"],
    );
}

#[test]
fn long_values_are_cut() {
    let messages = overrides(&[("edge.listen", &"ü".repeat(1000))]).messages();
    let message = messages.first().expect("one problem");
    assert!(message.contains(&format!("{:?}…", "ü".repeat(64))), "{message}");
    assert!(!message.contains(&"ü".repeat(65)), "{message}");
}

#[test]
fn a_bad_value_is_one_even_if_overridden() {
    let sources = Sources {
        file: Some("edge.drain_grace_ms = true"),
        overrides: &[("edge.drain_grace_ms", "5")],
        ..Sources::default()
    };
    check(
        &sources,
        &["canopy.toml:1: `edge.drain_grace_ms` is a boolean; \
           allowed: an integer from 0 to 600000 ms"],
    );
}

#[test]
fn what_is_not_toml_names_its_line() {
    for (text, line) in [("a = 1\nb = \n", 2), ("[edge]\n\nlisten", 3), ("[edge]\n[edge]\n", 2)] {
        let messages = file(text).messages();
        let expected = format!("canopy.toml:{line}: not TOML: ");
        assert!(messages.len() == 1 && messages.iter().all(|m| m.starts_with(&expected)), "{messages:?}");
    }
}

#[test]
fn a_file_that_is_named_must_be_there_and_be_text() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let binary = directory.path().join("binary.toml");
    std::fs::write(&binary, b"a = \"\xff\"").expect("a temporary file");
    for path in [directory.path().join("absent.toml"), binary, directory.path().to_owned()] {
        let request = canopy_config::LoadRequest { file: Some(path.clone()), env: [], overrides: vec![] };
        let error = canopy_config::load(request).expect_err("nothing to read").to_string();
        assert!(error.contains(&format!("{}: cannot be read: ", path.display())), "{error}");
        assert!(error.contains("CANOPY_CONFIG"), "{error}");
    }
}

#[test]
fn pages_of_passkeys() {
    for (text, permitted) in [
        ("https://canopy.example.org", true),
        ("https://canopy.example.org:8443, http://localhost:7443", true),
        ("", true),
        ("http://canopy.example.org", false),
        ("https://192.0.2.1", false),
        ("https://canopy.example.org/", false),
        ("https://canopy.example.org:0", false),
        ("https://canopy.example.org:https", false),
        ("canopy.example.org", false),
        ("https://a.example,,https://b.example", false),
    ] {
        let loaded = overrides(&[("identity.passkey_origins", text), ("mail.link_base", "")]).load();
        let wrong = loaded.err().map(|e| e.to_string()).filter(|e| !e.contains("passkey_rp_id"));
        assert_eq!(wrong.is_none(), permitted, "{text:?}: {wrong:?}");
    }
    for (text, permitted) in [("", true), ("example.org", true), ("192.0.2.1", false), ("https://a.example", false)] {
        let loaded = overrides(&[("identity.passkey_rp_id", text)]).load();
        assert_eq!(loaded.is_ok(), permitted, "{text:?}");
    }
}
