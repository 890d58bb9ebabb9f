//! The certificate that new handshakes present, kept current while the server runs.
//!
//! Two sources, one door: files that somebody else renews are watched, and the local
//! authority's node certificate is renewed in time. Whatever goes wrong with a new
//! certificate is reported, and the one in use stays. A connection keeps the
//! certificate of its handshake, so replacing one disturbs nobody.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::authority::{Authority, AuthorityError, NodeNames};
use super::credential::{Credential, CredentialError};

/// Why a certificate could not be loaded or renewed.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check the path and that the server's user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The two files do not make a credential.
    #[error("{} and {} cannot be used: {source}", certificate.display(), key.display())]
    Pair {
        /// The chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Which of them is at fault.
        source: CredentialError,
    },
    /// The replacement is past its end of validity while the one in use is not.
    #[error("{} has expired; the certificate in use is still valid and stays: write a renewed pair", path.display())]
    Expired {
        /// The chain's file.
        path: PathBuf,
    },
    /// The local authority could not renew its node certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The certificate in use is the current one.
    Unchanged,
    /// New handshakes present another certificate from now on.
    Replaced,
}

enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Authority { authority: Authority, names: NodeNames },
}

/// What tells that a file was replaced or rewritten, without reading it. Links are
/// followed, so that a swapped directory link shows as another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        })
    }
}

/// A certificate that replaces itself under a running server. Give it to
/// [`tls::server_config`](super::tls::server_config) and run [`watch`](Self::watch).
///
/// Metrics: `canopy_edge_certificate_expires_seconds` (end of validity, Unix time) and
/// `canopy_edge_certificate_reload_errors_total`, counted again at each failing check
/// so that a rate over it stays up for as long as the fault lasts. The recorder must
/// be installed first.
pub struct ReloadingCertificate {
    current: ArcSwap<Credential>,
    source: Source,
    /// The files as they were when `current` was read; absent for the authority.
    /// Its lock also keeps checks from overlapping.
    loaded: Mutex<Option<(Stamp, Stamp)>>,
    expires_seconds: Gauge,
    reload_errors: Counter,
}

impl ReloadingCertificate {
    /// Loads a pair of PEM files. A pair that has already expired is served with a
    /// warning: refusing to start would make an outage of a nuisance.
    ///
    /// # Errors
    /// [`CertificateError::Read`] or [`CertificateError::Pair`].
    pub fn from_files(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        now: SystemTime,
    ) -> Result<Arc<Self>, CertificateError> {
        let (certificate, key) = (certificate.into(), key.into());
        let stamps = stamps(&certificate, &key)?;
        let credential = read_pair(&certificate, &key)?;
        if credential.summary().not_after <= now {
            tracing::warn!(certificate = %certificate.display(), "the certificate has expired; clients will refuse it until a renewed pair is written");
        }
        let source = Source::Files { certificate, key };
        Ok(Self::new(source, credential, Some(stamps)))
    }

    /// Takes the authority's node certificate for `names`, issued anew if need be.
    ///
    /// # Errors
    /// [`CertificateError::Authority`].
    pub fn from_authority(
        authority: Authority,
        names: NodeNames,
        now: SystemTime,
    ) -> Result<Arc<Self>, CertificateError> {
        let credential = authority.node_credential(&names, now)?;
        Ok(Self::new(Source::Authority { authority, names }, credential, None))
    }

    fn new(source: Source, credential: Credential, stamps: Option<(Stamp, Stamp)>) -> Arc<Self> {
        metrics::describe_gauge!(
            "canopy_edge_certificate_expires_seconds",
            metrics::Unit::Seconds,
            "End of validity of the certificate in use, in Unix time"
        );
        metrics::describe_counter!(
            "canopy_edge_certificate_reload_errors_total",
            "Checks that found a new certificate unusable; the old one stayed in use"
        );
        let certificate = Self {
            current: ArcSwap::from_pointee(credential),
            source,
            loaded: Mutex::new(stamps),
            expires_seconds: metrics::gauge!("canopy_edge_certificate_expires_seconds"),
            reload_errors: metrics::counter!("canopy_edge_certificate_reload_errors_total"),
        };
        certificate.publish_expiry();
        Arc::new(certificate)
    }

    /// The chain and key that new handshakes use.
    #[must_use]
    pub fn current(&self) -> Arc<Credential> {
        self.current.load_full()
    }

    /// Looks once whether the source has something newer, and takes it if it is
    /// usable. Reads files: call it off the async threads, as [`watch`](Self::watch) does.
    ///
    /// # Errors
    /// [`CertificateError`], already reported; the certificate in use stays.
    pub fn check(&self, now: SystemTime) -> Result<Check, CertificateError> {
        let mut loaded = self.loaded.lock();
        let newer = match &self.source {
            Source::Files { certificate, key } => self.newer_files(&mut loaded, certificate, key, now),
            Source::Authority { authority, names } => self.newer_node(authority, names, now),
        };
        match newer {
            Ok(None) => Ok(Check::Unchanged),
            Ok(Some(credential)) => {
                tracing::info!(serial = %credential.summary().serial, "serving a new certificate");
                self.current.store(Arc::new(credential));
                self.publish_expiry();
                Ok(Check::Replaced)
            }
            Err(error) => {
                self.reload_errors.increment(1);
                tracing::error!(%error, "the certificate in use stays");
                Err(error)
            }
        }
    }

    /// Checks every `interval` until dropped. `clock` gives the present.
    pub async fn watch(self: Arc<Self>, interval: Duration, clock: impl Fn() -> SystemTime + Send + 'static) {
        loop {
            tokio::time::sleep(interval).await;
            let (certificate, now) = (Arc::clone(&self), clock());
            let check = tokio::task::spawn_blocking(move || certificate.check(now));
            // `check` has reported its own errors; what is left is a panic in it, or a
            // runtime that is going down.
            if let Err(error) = check.await {
                self.reload_errors.increment(1);
                tracing::error!(%error, "checking the certificate did not end");
            }
        }
    }

    fn newer_files(
        &self,
        loaded: &mut Option<(Stamp, Stamp)>,
        certificate: &Path,
        key: &Path,
        now: SystemTime,
    ) -> Result<Option<Credential>, CertificateError> {
        // Stamped before they are read: a write in between is seen by the next check.
        let stamps = stamps(certificate, key)?;
        if *loaded == Some(stamps) {
            return Ok(None);
        }
        let credential = read_pair(certificate, key)?;
        if credential.summary().not_after <= now && self.current.load().summary().not_after > now {
            return Err(CertificateError::Expired { path: certificate.to_owned() });
        }
        // Only now: a pair caught half-written must be tried again.
        *loaded = Some(stamps);
        Ok(Some(credential))
    }

    fn newer_node(
        &self,
        authority: &Authority,
        names: &NodeNames,
        now: SystemTime,
    ) -> Result<Option<Credential>, CertificateError> {
        let credential = authority.node_credential(names, now)?;
        let same = credential.summary().serial == self.current.load().summary().serial;
        Ok((!same).then_some(credential))
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds stay below 2^53 for 285 million years")]
    fn publish_expiry(&self) {
        let not_after = self.current.load().summary().not_after;
        let since_epoch = not_after.duration_since(SystemTime::UNIX_EPOCH);
        self.expires_seconds.set(since_epoch.map_or(0, |since| since.as_secs()) as f64);
    }
}

fn stamps(certificate: &Path, key: &Path) -> Result<(Stamp, Stamp), CertificateError> {
    let stamp =
        |path: &Path| Stamp::of(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source });
    Ok((stamp(certificate)?, stamp(key)?))
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Credential, CertificateError> {
    let read = |path: &Path| {
        fs::read(path).map(Zeroizing::new).map_err(|source| CertificateError::Read { path: path.to_owned(), source })
    };
    Credential::from_pem(&read(certificate)?, &read(key)?).map_err(|source| CertificateError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.current.load().certified()))
    }
}

impl std::fmt::Debug for ReloadingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadingCertificate").field("current", &self.current.load()).finish_non_exhaustive()
    }
}
