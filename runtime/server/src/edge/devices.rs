//! The devices that may administer the installation: those that hold a certificate of an authority which whoever
//! runs the server names in a file. Their device management issues them, to devices that are as they should be and
//! for as long as it vouches for that.
//!
//! A handshake asks every client for a certificate and takes any, or none: it makes sure that the client holds the
//! certificate's key. Whether an authority of the file has issued it, and whether it is still good, is asked at each
//! command that needs it. So an expired certificate is in nobody's way elsewhere, whoever is refused is told why, and
//! neither an open connection nor a resumed session outlives its certificate or a change of the file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use canopy_domain::{Code, Refusal};
use metrics::Counter;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError as Fault, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::{Check, Stamp};
use super::credential::Summary;
use super::tls::{self, TlsError};

/// Bytes of the certificates that a client may show: a connection keeps them. A chain of four elliptic-curve
/// certificates has a third of it.
const CHAIN_BYTES_MAX: usize = 16 << 10;

/// What a client has shown in its handshake, its own certificate first.
pub type Shown = Arc<[CertificateDer<'static>]>;

/// Why the file of authorities is of no use.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// It cannot be read.
    #[error("cannot read {}: {source}; check the path and that the server's user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// It holds no certificate of an authority.
    #[error("{} holds no authority's certificate that can be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

type Verifier = Arc<dyn ClientCertVerifier>;

/// The authorities of the file, read again when it changes.
pub struct Devices {
    path: PathBuf,
    /// The file as it was when `current` was read.
    loaded: Mutex<Stamp>,
    current: ArcSwap<Verifier>,
    reload_errors: Counter,
}

impl Devices {
    /// Reads the file.
    ///
    /// # Errors
    /// [`DevicesError`].
    pub fn open(path: &Path) -> Result<Arc<Self>, DevicesError> {
        let (stamp, verifier) = read(path)?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            loaded: Mutex::new(stamp),
            current: ArcSwap::from_pointee(verifier),
            reload_errors: metrics::counter!("canopy_edge_certificate_reload_errors_total"),
        }))
    }

    /// What a handshake asks clients for.
    pub(super) fn asks(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(AnyDevice(Arc::clone(&**self.current.load())))
    }

    /// Until when a client's certificate is good, in milliseconds since 1970.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION`: there is none, or it is not good.
    pub(super) fn vouch(&self, shown: Option<&Shown>, now_ms: i64) -> Result<i64, Refusal> {
        let Some((own, others)) = shown.and_then(|shown| shown.split_first()) else {
            return Err(refusal("this connection has no device certificate")
                .hint("give the device's: `--client-cert FILE --client-key FILE`, also of `canopy context add`"));
        };
        let since_1970 = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        let verified = self.current.load().verify_client_cert(own, others, UnixTime::since_unix_epoch(since_1970));
        let hint = "have the device's management issue another one";
        match verified {
            Ok(_) => {
                let end = Summary::parse(own).map(|own| own.not_after).unwrap_or(SystemTime::UNIX_EPOCH);
                let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Ok(i64::try_from(end.as_millis()).unwrap_or(i64::MAX))
            }
            Err(Error::InvalidCertificate(Fault::Expired | Fault::ExpiredContext { .. })) => {
                Err(refusal("the device's certificate has expired").hint(hint))
            }
            Err(Error::InvalidCertificate(Fault::UnknownIssuer | Fault::BadSignature)) => {
                Err(refusal("the device's certificate is of an authority that this server does not know")
                    .hint("give another one, or have the authority added to edge.admin_client_ca_file"))
            }
            Err(error) => Err(refusal(&format!("the device's certificate is not good: {error}")).hint(hint)),
        }
    }

    /// Looks once whether the file has changed, and takes it if it is usable. Reads it: call it off the async
    /// threads, as [`watch`](Self::watch) does.
    ///
    /// # Errors
    /// [`DevicesError`], already reported; the authorities in use stay.
    pub fn check(&self) -> Result<Check, DevicesError> {
        let mut loaded = self.loaded.lock();
        let newer = match Stamp::of(&self.path) {
            Ok(stamp) if stamp == *loaded => return Ok(Check::Unchanged),
            _ => read(&self.path),
        };
        match newer {
            Ok((stamp, verifier)) => {
                *loaded = stamp;
                self.current.store(Arc::new(verifier));
                tracing::info!(file = %self.path.display(), "devices of other authorities may administer from now on");
                Ok(Check::Replaced)
            }
            Err(error) => {
                self.reload_errors.increment(1);
                tracing::error!(%error, "the authorities in use stay");
                Err(error)
            }
        }
    }

    /// Checks every `interval` until dropped, and tells of each change.
    pub async fn watch(self: Arc<Self>, interval: Duration, changed: impl Fn()) {
        loop {
            tokio::time::sleep(interval).await;
            let devices = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || devices.check()).await {
                Ok(Ok(Check::Replaced)) => changed(),
                // `check` has reported its own errors.
                Ok(_) => {}
                Err(error) => {
                    self.reload_errors.increment(1);
                    tracing::error!(%error, "checking the authorities of devices did not end");
                }
            }
        }
    }
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").field("path", &self.path).finish_non_exhaustive()
    }
}

fn refusal(what: &str) -> Refusal {
    let message = format!("this server is administered from known devices alone: {what}");
    Refusal::new(Code::FailedPrecondition, message).reason("DeviceUnknown")
}

/// Stamped before it is read: a write in between is seen by the next check.
fn read(path: &Path) -> Result<(Stamp, Verifier), DevicesError> {
    let unreadable = |source| DevicesError::Read { path: path.to_owned(), source };
    let unusable = |reason: String| DevicesError::Unusable { path: path.to_owned(), reason };
    let stamp = Stamp::of(path).map_err(unreadable)?;
    let pem = std::fs::read_to_string(path).map_err(unreadable)?;
    let roots = tls::roots(&pem).map_err(|error| match error {
        TlsError::CaUnreadable { reason } => unusable(reason),
        other => unusable(other.to_string()),
    })?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    Ok((stamp, verifier))
}

/// Takes any certificate whose key the client has; see the file's head. What it names to clients are the authorities
/// of the file, so that they choose the right one.
#[derive(Debug)]
struct AnyDevice(Verifier);

impl ClientCertVerifier for AnyDevice {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes: usize = others.iter().chain([own]).map(|certificate| certificate.len()).sum();
        match bytes <= CHAIN_BYTES_MAX {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(Error::General(format!("the client's certificates are longer than {CHAIN_BYTES_MAX} bytes"))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain that an authority issues for a client, good from 2020 to 2021.
    fn issued(name: &str) -> (String, Shown) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["laptop".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let own = params.signed_by(&key, &issuer).unwrap();
        (pem, Arc::from([own.der().clone()]))
    }

    const START_2020_MS: i64 = 1_577_836_800_000;
    const START_2021_MS: i64 = 1_609_459_200_000;

    #[test]
    fn a_device_is_known_as_long_as_its_certificate_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.pem");
        let (pem, shown) = issued("ours");
        std::fs::write(&path, &pem).unwrap();
        let devices = Devices::open(&path).unwrap();
        let at = |now_ms| devices.vouch(Some(&shown), now_ms).map_err(|refusal| refusal.message);
        assert_eq!(at(START_2020_MS), Ok(START_2021_MS));
        assert_eq!(at(START_2021_MS), Ok(START_2021_MS), "the last second counts");
        for (now_ms, says) in [(START_2021_MS + 1_000, "expired"), (START_2020_MS - 1_000, "not good")] {
            let said = at(now_ms).unwrap_err();
            assert!(said.contains(says), "{now_ms}: {said}");
        }
        let none = devices.vouch(None, START_2020_MS).unwrap_err();
        assert_eq!((none.code, none.details().reason), (Code::FailedPrecondition, Some("DeviceUnknown")));
        // Under the same name, too.
        for name in ["ours", "another"] {
            let foreign = devices.vouch(Some(&issued(name).1), START_2020_MS).unwrap_err();
            assert!(foreign.message.contains("does not know"), "{foreign}");
        }
    }

    #[test]
    fn the_file_is_read_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.pem");
        assert!(matches!(Devices::open(&path), Err(DevicesError::Read { .. })));
        std::fs::write(&path, "no certificate").unwrap();
        assert!(matches!(Devices::open(&path), Err(DevicesError::Unusable { .. })));
        let ((first_pem, first), (second_pem, second)) = (issued("first"), issued("second"));
        std::fs::write(&path, &first_pem).unwrap();
        let devices = Devices::open(&path).unwrap();
        let knows = |shown: &Shown| devices.vouch(Some(shown), START_2020_MS).is_ok();
        assert_eq!(devices.check().unwrap(), Check::Unchanged);
        std::fs::write(&path, format!("{first_pem}{second_pem}")).unwrap();
        assert_eq!(devices.check().unwrap(), Check::Replaced);
        assert!(knows(&first) && knows(&second));
        // What cannot be used changes nothing, and is looked at again.
        std::fs::write(&path, "").unwrap();
        devices.check().unwrap_err();
        devices.check().unwrap_err();
        assert!(knows(&first) && knows(&second));
        std::fs::write(&path, &second_pem).unwrap();
        assert_eq!(devices.check().unwrap(), Check::Replaced);
        assert!(!knows(&first) && knows(&second));
    }

    #[test]
    fn chains_are_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.pem");
        let (pem, shown) = issued("ours");
        std::fs::write(&path, &pem).unwrap();
        let asks = Devices::open(&path).unwrap().asks();
        assert!(!asks.client_auth_mandatory() && asks.root_hint_subjects().len() == 1);
        let own = &shown[0];
        let (now, room) = (UnixTime::since_unix_epoch(Duration::ZERO), CHAIN_BYTES_MAX - own.len());
        let filler = |bytes: usize| [CertificateDer::from(vec![0; bytes])];
        asks.verify_client_cert(own, &filler(room), now).expect("whatever it is");
        asks.verify_client_cert(own, &filler(room + 1), now).expect_err("it is too long");
    }
}
