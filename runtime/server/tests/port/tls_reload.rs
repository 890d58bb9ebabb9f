//! A certificate replaced under a running server: who sees it, and what happens when
//! the replacement is no good.

#![allow(clippy::disallowed_methods, reason = "certificates are made for the real clock, which TLS clients check")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::edge::{Server, connect_tls, echo, loopback, names, secure, within};
use canopy::edge::authority::Authority;
use canopy::edge::certificate::{CertificateError, Check, ReloadingCertificate};
use canopy::edge::listener::Options;
use http::Version;
use metrics_exporter_prometheus::PrometheusBuilder;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A pair of files such as an ACME client keeps, with an authority to sign them.
struct Files {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), SystemTime::now()).unwrap();
        let files = Self { folder, authority };
        files.write("first.example", SystemTime::now());
        files
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("fullchain.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("privkey.pem")
    }

    /// The certificate and the key of `hostname` as two PEM texts.
    fn issue(&self, hostname: &str, now: SystemTime) -> (String, String) {
        self.authority.node_credential(&names(&[hostname]), now).unwrap();
        let both = fs::read_to_string(self.folder.path().join("tls/node.pem")).unwrap();
        let key = both.find("-----BEGIN PRIVATE KEY").unwrap();
        (both[..key].to_owned(), both[key..].to_owned())
    }

    fn write(&self, hostname: &str, now: SystemTime) {
        let (certificate, key) = self.issue(hostname, now);
        replace(&self.certificate(), &certificate);
        replace(&self.key(), &key);
    }

    fn load(&self) -> Arc<ReloadingCertificate> {
        ReloadingCertificate::from_files(self.certificate(), self.key(), SystemTime::now()).unwrap()
    }
}

/// As renewal tools do it: another inode, so that no clock's granularity matters.
fn replace(path: &Path, content: &str) {
    let new = path.with_added_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(&new, path).unwrap();
}

fn is_for(certificate: &ReloadingCertificate, hostname: &str) -> bool {
    certificate.current().summary().dns_names.contains(hostname)
}

#[tokio::test]
async fn new_handshakes_see_the_new_certificate_and_old_connections_live_on() {
    let files = Files::new();
    let certificate = files.load();
    let server = Server::start(Options::new(loopback(), secure(Arc::clone(&certificate))), echo);
    let ca = files.authority.ca_pem();
    for version in [Version::HTTP_2, Version::HTTP_11] {
        files.write("first.example", SystemTime::now());
        certificate.check(SystemTime::now()).unwrap();
        let mut old = within(connect_tls(server.address, ca, version)).await.unwrap();
        assert!(old.certificate.as_ref().unwrap().dns_names.contains("first.example"));
        assert_eq!(within(old.get()).await.unwrap().0, 200);

        files.write("second.example", SystemTime::now());
        assert_eq!(certificate.check(SystemTime::now()).unwrap(), Check::Replaced);
        let mut new = within(connect_tls(server.address, ca, version)).await.unwrap();
        assert!(new.certificate.as_ref().unwrap().dns_names.contains("second.example"));
        assert_eq!(within(new.get()).await.unwrap().0, 200);
        assert_eq!(within(old.get()).await.unwrap().0, 200, "the old connection goes on");
    }
    assert_eq!(server.stop().await.connections_accepted, 4);
}

#[test]
fn an_unusable_replacement_is_reported_and_the_old_one_stays() {
    type Damage = fn(&Files);
    type Expected = fn(&CertificateError) -> bool;
    let cases: [(&str, Damage, Expected); 5] = [
        (
            "garbage",
            |files| replace(&files.certificate(), "not a certificate"),
            |error| matches!(error, CertificateError::Pair { .. }),
        ),
        (
            "a certificate whose key is not there yet",
            |files| {
                replace(&files.certificate(), &files.issue("half.example", SystemTime::now()).0);
            },
            |error| error.to_string().contains("does not belong"),
        ),
        ("an empty key", |files| replace(&files.key(), ""), |error| error.to_string().contains("no private key")),
        (
            "no file",
            |files| fs::remove_file(files.certificate()).unwrap(),
            |error| matches!(error, CertificateError::Read { .. }),
        ),
        (
            "an expired pair",
            |files| {
                // Two authorities: this one lived 100 days ago.
                let past = tempfile::tempdir().unwrap();
                let then = SystemTime::now() - DAY * 100;
                let authority = Authority::open_or_create(past.path(), then).unwrap();
                let old = Files { folder: past, authority };
                let (certificate, key) = old.issue("old.example", then);
                replace(&files.certificate(), &certificate);
                replace(&files.key(), &key);
            },
            |error| matches!(error, CertificateError::Expired { .. }),
        ),
    ];
    for (case, damage, expected) in cases {
        let recorder = PrometheusBuilder::new().build_recorder();
        let files = Files::new();
        let certificate = metrics::with_local_recorder(&recorder, || files.load());
        damage(&files);
        for failures in 1..=2 {
            let error = certificate.check(SystemTime::now()).unwrap_err();
            assert!(expected(&error), "{case}: {error}");
            let metrics = recorder.handle().render();
            let line = format!("canopy_edge_certificate_reload_errors_total {failures}\n");
            assert!(metrics.contains(&line), "{case}: {metrics}");
        }
        assert!(is_for(&certificate, "first.example"), "{case}");

        files.write("repaired.example", SystemTime::now());
        assert_eq!(certificate.check(SystemTime::now()).unwrap(), Check::Replaced, "{case}");
        assert!(is_for(&certificate, "repaired.example"), "{case}");
    }
}

#[test]
fn files_that_did_not_change_are_not_read_again() {
    let files = Files::new();
    let certificate = files.load();
    let before = certificate.current();
    for _ in 0..3 {
        assert_eq!(certificate.check(SystemTime::now()).unwrap(), Check::Unchanged);
    }
    assert!(Arc::ptr_eq(&before, &certificate.current()));
    files.write("second.example", SystemTime::now());
    for expected in [Check::Replaced, Check::Unchanged] {
        assert_eq!(certificate.check(SystemTime::now()).unwrap(), expected);
    }
}

#[test]
fn the_local_authority_renews_through_the_same_door_and_shows_when_it_expires() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let data_dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Authority::open_or_create(data_dir.path(), now).unwrap();
    let certificate = metrics::with_local_recorder(&recorder, || {
        ReloadingCertificate::from_authority(authority, names(&[]), now).unwrap()
    });
    for (days, expected) in [(1, Check::Unchanged), (61, Check::Replaced), (62, Check::Unchanged)] {
        assert_eq!(certificate.check(now + DAY * days).unwrap(), expected, "after {days} days");
        let expires = certificate.current().summary().not_after;
        let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let metrics = recorder.handle().render();
        let line = format!("canopy_edge_certificate_expires_seconds {expires}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    assert!(certificate.current().summary().not_after > now + DAY * 150);
}

#[tokio::test]
async fn the_watch_takes_new_files_by_itself() {
    let files = Files::new();
    let certificate = files.load();
    let watch = tokio::spawn(Arc::clone(&certificate).watch(Duration::from_millis(1), SystemTime::now));
    files.write("second.example", SystemTime::now());
    within(async {
        while !is_for(&certificate, "second.example") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    watch.abort();
}
