//! Values that are each right, and wrong together.

mod sources;
use canopy_config::Problem;
use sources::{Sources, file, overrides};

/// The keys of each contradiction; any other problem fails the test.
#[track_caller]
fn check(pairs: &[(&str, &str)], expected: &[&[&str]]) {
    let problems = overrides(pairs).problems();
    let found: Vec<&[&str]> = problems
        .iter()
        .map(|problem| match problem {
            Problem::Conflict { keys, .. } => keys.as_slice(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(found, expected, "{pairs:?}");
}

#[test]
fn plaintext_stays_on_the_machine() {
    let refused: &[&[&str]] = &[&["edge.tls", "edge.listen"]];
    for (listen, expected) in [
        ("127.0.0.1:80", &[] as &[&[&str]]),
        ("127.9.9.9:80", &[]),
        ("[::1]:80", &[]),
        ("0.0.0.0:80", refused),
        ("[::]:80", refused),
        ("192.0.2.1:80", refused),
    ] {
        check(&[("edge.tls", "off"), ("edge.listen", listen)], expected);
        check(&[("edge.listen", listen)], &[]);
    }
}

#[test]
fn tls_from_files_needs_both_files() {
    let (cert, key): (&[&str], &[&str]) = (&["edge.tls", "edge.cert_file"], &["edge.tls", "edge.key_file"]);
    let files = ("edge.tls", "files");
    check(&[files], &[cert, key]);
    check(&[files, ("edge.cert_file", "c.pem")], &[key]);
    check(&[files, ("edge.key_file", "k.pem")], &[cert]);
    check(&[files, ("edge.cert_file", "c.pem"), ("edge.key_file", "k.pem")], &[]);
    check(&[files, ("edge.cert_file", ""), ("edge.key_file", "k.pem")], &[cert]);
}

#[test]
fn the_smaller_is_not_the_larger() {
    for (small, large, smaller, larger) in [
        ("edge.deadline_default_ms", "edge.deadline_max_ms", "7000", "7001"),
        ("admission.per_org_in_flight_max", "admission.commands_in_flight_max", "300", "301"),
        ("admission.per_connection_in_flight_max", "admission.per_org_in_flight_max", "70", "71"),
        ("actors.quarantine_base_ms", "actors.quarantine_max_ms", "70", "71"),
        ("store.feed_retention_s", "identity.delete_grace_s", "864000", "864001"),
        ("store.feed_retention_s", "org.delete_grace_s", "864000", "864001"),
    ] {
        check(&[(small, smaller), (large, smaller)], &[]);
        check(&[(small, smaller), (large, larger)], &[]);
        check(&[(small, larger), (large, smaller)], &[&[small, large]]);
    }
}

#[test]
fn the_message_says_what_whence_and_what_to_do() {
    let sources = Sources {
        file: Some("[edge]\nlisten = \"0.0.0.0:7443\""),
        env: &[("CANOPY_EDGE_TLS", "off")],
        ..Sources::default()
    };
    let expected = "without TLS, passwords and tokens would cross the network in the clear: \
                    edge.tls = \"off\" (environment CANOPY_EDGE_TLS), \
                    edge.listen = \"0.0.0.0:7443\" (canopy.toml:2); \
                    listen on a loopback address such as 127.0.0.1, \
                    or set edge.tls to \"local-ca\" or \"files\"";
    assert_eq!(sources.messages(), [expected]);
}

#[test]
fn a_failed_value_contradicts_nothing() {
    let problems = file("[edge]\ntls = \"off\"\nlisten = \"0.0.0.0\"").problems();
    assert!(matches!(problems.as_slice(), [Problem::BadValue { key: "edge.listen", .. }]), "{problems:?}");

    // The file's deadline_max_ms is lost with its syntax: the override cannot be judged.
    let sources = Sources {
        file: Some("[edge]\ndeadline_max_ms = 900_000\n]"),
        overrides: &[("edge.deadline_default_ms", "600_000")],
        ..Sources::default()
    };
    let problems = sources.problems();
    assert!(matches!(problems.as_slice(), [Problem::Syntax { .. }]), "{problems:?}");
}

#[test]
fn mail_goes_through_the_network_protected() {
    let refused: &[&[&str]] = &[&["mail.smtp_tls", "mail.smtp_host"]];
    for (host, expected) in [
        ("localhost", &[] as &[&[&str]]),
        ("127.0.0.1", &[]),
        ("::1", &[]),
        ("mail.example.org", refused),
        ("192.0.2.1", refused),
    ] {
        check(&[("mail.mode", "smtp"), ("mail.smtp_tls", "off"), ("mail.smtp_host", host)], expected);
        check(&[("mail.smtp_tls", "off"), ("mail.smtp_host", host)], &[]);
        check(&[("mail.mode", "smtp"), ("mail.smtp_host", host)], &[]);
    }
}

#[test]
fn verification_needs_mail() {
    let refused: &[&[&str]] = &[&["mail.verification", "mail.mode"]];
    check(&[("mail.verification", "required"), ("mail.mode", "none")], refused);
    for verification in ["auto", "off"] {
        check(&[("mail.verification", verification), ("mail.mode", "none")], &[]);
    }
    check(&[("mail.verification", "required")], &[]);
}

#[test]
fn senders_and_links_have_a_form() {
    let bad = |key: &str, value: &str| {
        let problems = overrides(&[(key, value)]).problems();
        assert!(matches!(problems.as_slice(), [Problem::BadValue { .. }]), "{key} = {value:?}: {problems:?}");
    };
    for from in ["", "canopy", "@localhost", "canopy@", "Canopy <canopy>", "canopy@local host", "a@b\r\nBcc: c@d"] {
        bad("mail.from", from);
    }
    for base in ["canopy.example.org", "ftp://a", "https://", "https://a/#x", "https://a b"] {
        bad("mail.link_base", base);
    }
    check(&[("mail.from", "Canopy, of Acme <canopy@acme.example>"), ("mail.link_base", "https://a.example/b/")], &[]);
}

#[test]
fn devices_are_known_by_tls() {
    let devices = ("edge.admin_client_ca_file", "devices.pem");
    check(&[devices, ("edge.tls", "off")], &[&["edge.tls", "edge.admin_client_ca_file"]]);
    check(&[devices], &[]);
}

#[test]
fn a_passkey_is_asked_for_where_there_can_be_one() {
    let strength = |asked| ("identity.log_in_strength", asked);
    let id = ("identity.passkey_rp_id", "example.org");
    check(&[strength("passkey")], &[&["identity.log_in_strength", "identity.passkey_rp_id"]]);
    check(&[strength("passkey"), id], &[]);
    check(&[strength("passkey"), ("mail.link_base", "https://canopy.example.org")], &[]);
    check(&[strength("two-factors")], &[]);
}

#[test]
fn passkeys_are_for_a_domain_and_what_is_under_it() {
    let refused: &[&[&str]] = &[&["identity.passkey_rp_id", "identity.passkey_origins"]];
    for (id, links, expected) in [
        ("example.org", "", &[] as &[&[&str]]),
        ("example.org", "https://canopy.example.org/pages", &[]),
        ("Example.org", "https://EXAMPLE.org", &[]),
        ("example.org", "https://notexample.org", refused),
        ("canopy.example.org", "https://example.org", refused),
        ("", "https://canopy.example.org", &[]),
        // No place for passkeys, and no mistake.
        ("", "https://192.0.2.1/", &[]),
        ("", "http://canopy.example.org", &[]),
    ] {
        check(&[("identity.passkey_rp_id", id), ("mail.link_base", links)], expected);
    }
}

#[test]
fn where_passkeys_are_made_is_said_once() {
    let site = |pairs: &[(&str, &str)]| overrides(pairs).load().expect("a configuration").config.passkey_site();
    let made = |id: &str, origin: &str| Some((id.to_owned(), vec![origin.to_owned()]));
    assert_eq!(site(&[]), None);
    for links in ["https://192.0.2.1", "http://canopy.example.org"] {
        assert_eq!(site(&[("mail.link_base", links)]), None, "{links}");
    }
    let links = ("mail.link_base", "https://canopy.example.org:8443/pages");
    let id = ("identity.passkey_rp_id", "Example.org");
    assert_eq!(site(&[links]), made("canopy.example.org", "https://canopy.example.org:8443"));
    assert_eq!(site(&[links, id]), made("example.org", "https://canopy.example.org:8443"));
    assert_eq!(site(&[id]), made("example.org", "https://Example.org"));
    let localhost = ("mail.link_base", "http://localhost:7443");
    assert_eq!(site(&[localhost]), made("localhost", "http://localhost:7443"));
}
