//! The local certificate authority: what the first run leaves on disk, and when the
//! node's certificate is made anew.

#![allow(clippy::disallowed_methods, reason = "certificates are made for the real clock, which TLS clients check")]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::edge::{Server, connect_tls, connect_tls_as, echo, local_certificate, loopback, names, secure, within};
use canopy::edge::authority::{Authority, AuthorityError, NodeNames};
use canopy::edge::listener::Options;
use http::Version;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_client_that_trusts_the_ca_of_the_first_run_connects() {
    let data_dir = tempfile::tempdir().unwrap();
    let (authority, certificate) = local_certificate(data_dir.path());
    let server = Server::start(Options::new(loopback(), secure(certificate)), echo);
    for (version, shown) in [(Version::HTTP_2, "HTTP/2.0"), (Version::HTTP_11, "HTTP/1.1")] {
        for name in ["localhost", "127.0.0.1", "::1"] {
            let mut client = within(connect_tls_as(server.address, authority.ca_pem(), version, name)).await.unwrap();
            let answer = within(client.get()).await.unwrap();
            assert_eq!(answer, (200, format!("{} true {shown}", client.local)));
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_trusts_another_ca_is_not_fooled() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, certificate) = local_certificate(ours.path());
    let (other, _) = local_certificate(theirs.path());
    let server = Server::start(Options::new(loopback(), secure(certificate)), echo);
    let refused = within(connect_tls(server.address, other.ca_pem(), Version::HTTP_2)).await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(std::io::ErrorKind::InvalidData));
    server.stop().await;
}

#[test]
fn keys_are_private_and_the_ca_certificate_is_not() {
    let data_dir = tempfile::tempdir().unwrap();
    let tls = data_dir.path().join("tls");
    fs::create_dir(&tls).unwrap();
    fs::set_permissions(&tls, fs::Permissions::from_mode(0o755)).unwrap();
    local_certificate(data_dir.path());
    for (file, expected) in [("", 0o700), ("ca.pem", 0o644), ("ca.key", 0o600), ("node.pem", 0o600)] {
        assert_eq!(mode(&tls.join(file)), expected, "{file:?}");
    }
    let mut files: Vec<_> = fs::read_dir(&tls).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["ca.key", "ca.pem", "node.pem"], "no temporary file is left");
}

#[test]
fn the_ca_may_sign_leaves_and_nothing_else() {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let data_dir = tempfile::tempdir().unwrap();
    let (authority, certificate) = local_certificate(data_dir.path());
    let (_, pem) = x509_parser::pem::parse_x509_pem(authority.ca_pem().as_bytes()).unwrap();
    let ca = pem.parse_x509().unwrap();
    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert!(ca.raw_serial().len() >= 16);

    let leaf = certificate.current();
    let leaf = leaf.certified().end_entity_cert().unwrap();
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let purpose = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purpose.server_auth && !purpose.client_auth && !purpose.any);
    assert_eq!(leaf.issuer(), ca.subject());
}

#[test]
fn the_fingerprint_is_what_openssl_prints() {
    use sha2::{Digest, Sha256};
    let data_dir = tempfile::tempdir().unwrap();
    let (authority, _) = local_certificate(data_dir.path());
    let (_, pem) = x509_parser::pem::parse_x509_pem(authority.ca_pem().as_bytes()).unwrap();
    let expected: Vec<_> = Sha256::digest(&pem.contents).iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(authority.fingerprint().to_string(), expected.join(":"));
    let read = Authority::open(data_dir.path()).unwrap();
    assert_eq!(read.fingerprint(), authority.fingerprint());
    assert_eq!(fs::read_to_string(read.ca_path()).unwrap(), authority.ca_pem());
}

#[test]
fn first_runs_at_the_same_time_make_one_authority() {
    let data_dir = tempfile::tempdir().unwrap();
    let start = std::sync::Barrier::new(8);
    let found: Vec<_> = std::thread::scope(|scope| {
        let run = || {
            start.wait();
            let now = SystemTime::now();
            let authority = Authority::open_or_create(data_dir.path(), now).unwrap();
            let node = authority.node_credential(&names(&[]), now).unwrap();
            (authority.fingerprint(), node.summary().serial.clone())
        };
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
}

/// After each step: is the certificate still the one from before the step?
#[test]
fn a_new_certificate_is_made_when_names_or_time_ask_for_it() {
    let data_dir = tempfile::tempdir().unwrap();
    let made = SystemTime::now();
    let authority = Authority::open_or_create(data_dir.path(), made).unwrap();
    let ca = authority.fingerprint();
    let mut serial = authority.node_credential(&names(&["a.example"]), made).unwrap().summary().serial.clone();
    let steps = [
        ("nothing changed", vec!["a.example"], made, true),
        ("the same name in other letters", vec!["A.Example."], made, true),
        ("a loopback address it has anyway", vec!["a.example", "127.0.0.1"], made, true),
        ("60 days less a minute old", vec!["a.example"], made + DAY * 60 - Duration::from_secs(60), true),
        ("60 days and a minute old", vec!["a.example"], made + DAY * 60 + Duration::from_secs(60), false),
        ("the new one", vec!["a.example"], made + DAY * 61, true),
        ("a name more", vec!["a.example", "*.b.example"], made + DAY * 61, false),
        ("an address more", vec!["a.example", "*.b.example", "10.0.0.7"], made + DAY * 61, false),
        ("names less", vec!["a.example"], made + DAY * 61, false),
        ("long expired", vec!["a.example"], made + DAY * 1000, false),
        ("a clock that went back", vec!["a.example"], made + DAY * 61, false),
    ];
    for (step, hostnames, now, kept) in steps {
        let authority = Authority::open_or_create(data_dir.path(), now).unwrap();
        assert_eq!(authority.fingerprint(), ca, "{step}");
        let wanted = names(&hostnames);
        let node = authority.node_credential(&wanted, now).unwrap();
        let summary = node.summary();
        assert_eq!(summary.serial == serial, kept, "{step}");
        assert!(summary.not_before <= now && summary.not_after >= now + DAY * 30, "{step}");
        assert!(summary.not_after <= now + DAY * 90, "{step}");
        serial.clone_from(&summary.serial);
    }
}

#[test]
fn a_certificate_never_outlives_its_ca() {
    let data_dir = tempfile::tempdir().unwrap();
    let made = SystemTime::now();
    let authority = Authority::open_or_create(data_dir.path(), made).unwrap();
    let end = authority.summary().not_after;
    assert!(end > made + DAY * 3650 && end < made + DAY * 3654);
    let near = end - DAY * 10;
    let first = authority.node_credential(&names(&[]), near).unwrap();
    assert_eq!(first.summary().not_after, end);
    let again = authority.node_credential(&names(&[]), near + DAY).unwrap();
    assert_eq!(again.summary().serial, first.summary().serial, "nothing better can be had");
    let late = authority.node_credential(&names(&[]), end + DAY);
    assert!(matches!(late, Err(AuthorityError::NotValid { .. })), "{late:?}");
    let late = Authority::open_or_create(data_dir.path(), end + DAY);
    assert!(matches!(late, Err(AuthorityError::NotValid { .. })), "{late:?}");
}

#[test]
fn a_published_ca_is_never_replaced() {
    type Damage = fn(&Path);
    type Expected = fn(&AuthorityError) -> bool;
    let cases: [(&str, Damage, Expected); 4] = [
        (
            "no key",
            |tls| fs::remove_file(tls.join("ca.key")).unwrap(),
            |error| matches!(error, AuthorityError::KeyMissing { .. }),
        ),
        (
            "an exposed key",
            |tls| {
                fs::set_permissions(tls.join("ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
            },
            |error| matches!(error, AuthorityError::KeyExposed { mode: 0o640, .. }),
        ),
        (
            "a damaged certificate",
            |tls| fs::write(tls.join("ca.pem"), "-----BEGIN CERTIFICATE-----\n!").unwrap(),
            |error| matches!(error, AuthorityError::Damaged { .. }),
        ),
        (
            "the key of another",
            |tls| {
                let other = tempfile::tempdir().unwrap();
                Authority::open_or_create(other.path(), SystemTime::now()).unwrap();
                fs::copy(other.path().join("tls/ca.key"), tls.join("ca.key")).unwrap();
            },
            |error| matches!(error, AuthorityError::Mismatch { .. }),
        ),
    ];
    for (case, damage, expected) in cases {
        let data_dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        Authority::open_or_create(data_dir.path(), now).unwrap();
        let tls = data_dir.path().join("tls");
        damage(&tls);
        let before = fs::read(tls.join("ca.pem")).unwrap();
        let error = Authority::open_or_create(data_dir.path(), now).unwrap_err();
        assert!(expected(&error), "{case}: {error:?}");
        assert_eq!(fs::read(tls.join("ca.pem")).unwrap(), before, "{case}");
    }
}

#[test]
fn what_can_be_made_again_is() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 4] = [
        ("a missing node certificate", |tls| {
            fs::remove_file(tls.join("node.pem")).unwrap();
        }),
        ("a damaged node certificate", |tls| {
            fs::write(tls.join("node.pem"), "x").unwrap();
        }),
        ("an exposed node key", |tls| {
            fs::set_permissions(tls.join("node.pem"), fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("the node of another authority", |tls| {
            let other = tempfile::tempdir().unwrap();
            local_certificate(other.path());
            fs::copy(other.path().join("tls/node.pem"), tls.join("node.pem")).unwrap();
        }),
    ];
    for (case, damage) in cases {
        let data_dir = tempfile::tempdir().unwrap();
        let (_, certificate) = local_certificate(data_dir.path());
        let before = certificate.current().summary().serial.clone();
        let node = data_dir.path().join("tls/node.pem");
        damage(&data_dir.path().join("tls"));
        let damaged = fs::read(&node).ok();
        let (_, certificate) = local_certificate(data_dir.path());
        assert_ne!(fs::read(&node).ok(), damaged, "{case}");
        assert_ne!(certificate.current().summary().serial, before, "{case}");
        assert_eq!(mode(&node), 0o600, "{case}");
    }
}

#[test]
fn a_first_run_that_was_cut_off_is_finished() {
    let data_dir = tempfile::tempdir().unwrap();
    let tls = data_dir.path().join("tls");
    let now = SystemTime::now();
    Authority::open_or_create(data_dir.path(), now).unwrap();
    let key = fs::read(tls.join("ca.key")).unwrap();
    fs::remove_file(tls.join("ca.pem")).unwrap();
    fs::write(tls.join("ca.pem.tmp"), "half a certifi").unwrap();
    let authority = Authority::open_or_create(data_dir.path(), now).unwrap();
    assert_eq!(fs::read(tls.join("ca.key")).unwrap(), key);
    assert!(!tls.join("ca.pem.tmp").exists());
    authority.node_credential(&names(&[]), now).unwrap();
}

#[test]
fn names_are_canonical_or_refused() {
    let listen: IpAddr = "10.1.2.3".parse().unwrap();
    let data_dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Authority::open_or_create(data_dir.path(), now).unwrap();
    let wanted = NodeNames::new(["Chat.Example.", "::ffff:10.9.9.9", "fd00::1"], listen).unwrap();
    let node = authority.node_credential(&wanted, now).unwrap();
    let dns: Vec<_> = node.summary().dns_names.iter().map(String::as_str).collect();
    assert_eq!(dns, ["chat.example", "localhost"]);
    let ip: Vec<_> = node.summary().ip_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(ip, ["10.1.2.3", "10.9.9.9", "127.0.0.1", "::1", "fd00::1"]);

    for all in ["0.0.0.0", "::"] {
        let everywhere = NodeNames::new([""; 0], all.parse().unwrap()).unwrap();
        assert_eq!(everywhere, names(&[]), "{all} is no name");
    }
    for bad in ["", "a b", "https://a.example", "a..b", "*", "a.*.b", "-", "a/24"] {
        let refused = NodeNames::new([bad], listen);
        assert!(matches!(refused, Err(AuthorityError::Name { ref name }) if name == bad), "{bad:?}: {refused:?}");
    }
}
