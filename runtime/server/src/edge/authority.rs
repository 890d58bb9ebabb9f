//! A local certificate authority, made on the first run, so that TLS is on from the
//! start and a client trusts one file: `<data_dir>/tls/ca.pem`.
//!
//! | file | mode | content |
//! |---|---|---|
//! | `ca.pem` | 0644 | the CA certificate, valid 10 years |
//! | `ca.key` | 0600 | its key; read only while a certificate is signed |
//! | `node.pem` | 0600 | the node's certificate and key, valid 90 days; one file, so that no crash leaves half a pair |
//!
//! Invariants: the directory is 0700; each file is replaced atomically under a lock on
//! the directory; a published CA is never replaced, since every client would have to
//! be told. The present comes in as an argument.
//!
//! The CA carries no name constraints (RFC 5280 §4.2.1.10): the node's names may
//! change under the same CA, and constraints are fixed when it is made.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::credential::{Credential, CredentialError, Summary};
use super::tls;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Replacing a CA means telling every client, so it outlives the machine.
const CA_VALIDITY: Duration = DAY.saturating_mul(3_652);
/// Short enough that renewal is exercised, well inside what browsers accept (398 days).
const NODE_VALIDITY: Duration = DAY.saturating_mul(90);
/// A third of the validity, as ACME clients do: a month to notice that renewal fails.
const NODE_RENEWAL_MARGIN: Duration = DAY.saturating_mul(30);
/// Clients whose clock is behind must accept a certificate made just now.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);
/// 16 random bytes are unique without a register; RFC 5280 §4.1.2.2 allows 20.
const SERIAL_BYTES: usize = 16;

/// Why the local authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}; check the disk and that the server's user owns the directory", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is a CA certificate and no key for it.
    #[error("{} is missing although ca.pem is there; restore it from a backup, or move the tls directory away to make a new CA that every client must then trust", path.display())]
    KeyMissing {
        /// Where the key belongs.
        path: PathBuf,
    },
    /// Others can read the CA's key.
    #[error("{} has mode {mode:03o}, so other users may have read it; run chmod 600 on it if they have not, else make a new CA", path.display())]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of the authority cannot be parsed.
    #[error("{} cannot be parsed: {reason}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said; never quotes a key.
        reason: String,
    },
    /// `ca.pem` and `ca.key` are of two different authorities.
    #[error("ca.pem and ca.key in {} do not belong together; restore both from one backup", directory.display())]
    Mismatch {
        /// The authority's directory.
        directory: PathBuf,
    },
    /// The CA certificate is not valid now.
    #[error("{} is not valid at the present time; check the system clock, or if it has expired move the tls directory away to make a new CA that every client must then trust", path.display())]
    NotValid {
        /// The CA certificate's file.
        path: PathBuf,
    },
    /// A configured hostname is neither a DNS name nor an IP address.
    #[error("the hostname {name:?} is neither a DNS name nor an IP address; correct it in the configuration")]
    Name {
        /// As configured.
        name: String,
    },
    /// The certificate could not be made or signed.
    #[error("a certificate could not be signed: {0}")]
    Sign(#[from] rcgen::Error),
    /// The certificate just made was refused by our own checks.
    #[error("a certificate made by the local authority is unusable: {0}")]
    Unusable(#[from] CredentialError),
}

/// The SHA-256 of a certificate's DER; displays as `openssl x509 -fingerprint -sha256` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02X}")?;
        }
        Ok(())
    }
}

/// The names that a node's certificate is for, in one canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNames {
    dns: BTreeSet<String>,
    ip: BTreeSet<IpAddr>,
}

impl NodeNames {
    /// The configured `hostnames` (DNS names, `*.` wildcards or IP addresses), plus
    /// `localhost`, both loopback addresses, and `listen` unless it means "all".
    ///
    /// # Errors
    /// [`AuthorityError::Name`] names the first hostname that is neither.
    pub fn new<H: AsRef<str>>(hostnames: impl IntoIterator<Item = H>, listen: IpAddr) -> Result<Self, AuthorityError> {
        let mut dns = BTreeSet::from(["localhost".to_owned()]);
        let mut ip = BTreeSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        let listen = listen.to_canonical();
        if !listen.is_unspecified() {
            ip.insert(listen);
        }
        for hostname in hostnames {
            let name = hostname.as_ref().trim_end_matches('.').to_ascii_lowercase();
            if let Ok(address) = name.parse::<IpAddr>() {
                ip.insert(address.to_canonical());
            } else if DnsName::try_from(name.strip_prefix("*.").unwrap_or(&name)).is_ok() {
                dns.insert(name);
            } else {
                let name = hostname.as_ref().to_owned();
                return Err(AuthorityError::Name { name });
            }
        }
        Ok(Self { dns, ip })
    }

    fn alternatives(&self) -> Result<Vec<SanType>, AuthorityError> {
        let dns = self.dns.iter().map(|name| {
            let name = name.as_str().try_into()?;
            Ok(SanType::DnsName(name))
        });
        let ip = self.ip.iter().map(|address| Ok(SanType::IpAddress(*address)));
        dns.chain(ip).collect()
    }
}

/// The local authority of one data directory. Holds no private key: `ca.key` is read
/// for each signature, which is about once in two months.
#[derive(Clone, Debug)]
pub struct Authority {
    directory: PathBuf,
    certificate: CertificateDer<'static>,
    pem: String,
    summary: Summary,
}

impl Authority {
    /// Opens the authority in `<data_dir>/tls/`, or makes it on the first run. Several
    /// processes may do so at once: one makes it, all open the same.
    ///
    /// # Errors
    /// Any [`AuthorityError`] but `Name`.
    pub fn open_or_create(data_dir: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let directory = directory(data_dir);
        prepare_directory(&directory)?;
        let _lock = lock(&directory)?;
        let (ca_pem, ca_key) = (directory.join("ca.pem"), directory.join("ca.key"));
        if !exists(&ca_pem)? {
            // A key without a certificate is a first run that was cut off: nobody
            // trusts it yet, and it is as good as a new one.
            if !exists(&ca_key)? {
                let pem = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem());
                replace_file(&ca_key, pem.as_bytes(), 0o600)?;
            }
            let key = read_ca_key(&directory)?;
            let certificate = ca_params(&key, now).self_signed(&key)?;
            replace_file(&ca_pem, certificate.pem().as_bytes(), 0o644)?;
        }
        let authority = Self::open(data_dir)?;
        let key = read_ca_key(&directory)?;
        if key.subject_public_key_info() != authority.summary.public_key_info {
            return Err(AuthorityError::Mismatch { directory });
        }
        if now < authority.summary.not_before || now >= authority.summary.not_after {
            return Err(AuthorityError::NotValid { path: ca_pem });
        }
        Ok(authority)
    }

    /// Reads the CA certificate of an existing authority, for handing it to clients.
    /// Needs neither its key nor a running server.
    ///
    /// # Errors
    /// [`AuthorityError::Io`] when there is none, [`AuthorityError::Damaged`].
    pub fn open(data_dir: &Path) -> Result<Self, AuthorityError> {
        let directory = directory(data_dir);
        let path = directory.join("ca.pem");
        let pem = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let damaged = |reason: String| AuthorityError::Damaged { path: path.clone(), reason };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        let summary = Summary::parse(&certificate).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { directory, certificate, pem, summary })
    }

    /// The CA certificate that clients must trust, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// Where [`ca_pem`](Self::ca_pem) is on this machine.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The fingerprint by which a person compares CA certificates.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(&self.certificate).into())
    }

    /// What the CA certificate says.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The node's certificate and key for `names`: the stored one while it is of this
    /// CA, for exactly these names and good for 30 days more; else a new one with a
    /// new key, stored before it is returned.
    ///
    /// # Errors
    /// Any [`AuthorityError`] but `Name`. A stored certificate that cannot be used is
    /// no error: it is replaced.
    pub fn node_credential(&self, names: &NodeNames, now: SystemTime) -> Result<Credential, AuthorityError> {
        let _lock = lock(&self.directory)?;
        let path = self.directory.join("node.pem");
        if let Some(stored) = read_node(&path)?
            && self.is_current(&stored, names, now)
        {
            return Ok(stored);
        }
        if now >= self.summary.not_after {
            let path = self.ca_path();
            return Err(AuthorityError::NotValid { path });
        }
        let pem = self.issue(names, now)?;
        let credential = Credential::from_pem(pem.as_bytes(), pem.as_bytes())?;
        replace_file(&path, pem.as_bytes(), 0o600)?;
        Ok(credential)
    }

    fn is_current(&self, stored: &Credential, names: &NodeNames, now: SystemTime) -> bool {
        let summary = stored.summary();
        summary.dns_names == names.dns
            && summary.ip_addresses == names.ip
            // In the CA's last month the best there is ends with the CA.
            && (summary.not_after >= now + NODE_RENEWAL_MARGIN
                || summary.not_after == self.summary.not_after)
            && self.verifies(stored, now)
    }

    /// Whether a client that trusts this CA accepts `stored` now: signature, validity
    /// (a clock that went back included), purpose and `localhost`.
    fn verifies(&self, stored: &Credential, now: SystemTime) -> bool {
        let mut roots = RootCertStore::empty();
        let Ok(since_epoch) = now.duration_since(SystemTime::UNIX_EPOCH) else {
            return false;
        };
        let (Ok(()), Ok(certificate), Ok(localhost)) = (
            roots.add(self.certificate.clone()),
            stored.certified().end_entity_cert(),
            ServerName::try_from("localhost"),
        ) else {
            return false;
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider()).build();
        verifier.is_ok_and(|verifier| {
            let time = UnixTime::since_unix_epoch(since_epoch);
            verifier.verify_server_cert(certificate, &[], &localhost, &[], time).is_ok()
        })
    }

    /// A new certificate and its new key, as PEM.
    fn issue(&self, names: &NodeNames, now: SystemTime) -> Result<Zeroizing<String>, AuthorityError> {
        let ca_key = read_ca_key(&self.directory)?;
        if ca_key.subject_public_key_info() != self.summary.public_key_info {
            let directory = self.directory.clone();
            return Err(AuthorityError::Mismatch { directory });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("Canopy node");
        params.subject_alt_names = names.alternatives()?;
        let until = (now + NODE_VALIDITY).min(self.summary.not_after);
        set_validity(&mut params, now, until);
        params.serial_number = Some(random_serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::new(ca_params(&ca_key, now), ca_key);
        let certificate = params.signed_by(&key, &issuer)?;
        let key = Zeroizing::new(key.serialize_pem());
        Ok(Zeroizing::new([certificate.pem().as_str(), key.as_str()].concat()))
    }
}

fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("tls")
}

/// The CA's parameters. Its name is derived from its key: two authorities never share
/// a name (which would confuse clients that trust both), and the name is known again
/// when only the key is at hand.
fn ca_params(key: &KeyPair, now: SystemTime) -> CertificateParams {
    let digest = Sha256::digest(key.subject_public_key_info());
    let tail: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("Canopy local CA {tail}"));
    set_validity(&mut params, now, now + CA_VALIDITY);
    params.serial_number = Some(random_serial());
    // It signs leaves only: no authority below it.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Positive and never zero (RFC 5280 §4.1.2.2): the top bits are fixed to 01.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; SERIAL_BYTES] = rand::random();
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

/// Valid from an hour ago. Certificates count whole seconds; a present before 1970 is
/// taken as 1970.
fn set_validity(params: &mut CertificateParams, now: SystemTime, until: SystemTime) {
    let date_time = |time: SystemTime| {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_epoch.as_secs())
    };
    params.not_before = date_time(now.checked_sub(CLOCK_SKEW).unwrap_or(now));
    params.not_after = date_time(until);
}

fn read_node(path: &Path) -> Result<Option<Credential>, AuthorityError> {
    let pem = match fs::read(path) {
        Ok(pem) => Zeroizing::new(pem),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    if mode(path)? & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "other users can read the node's key; making a new one");
        return Ok(None);
    }
    match Credential::from_pem(&pem, &pem) {
        Ok(credential) => Ok(Some(credential)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "making a new node certificate");
            Ok(None)
        }
    }
}

fn read_ca_key(directory: &Path) -> Result<KeyPair, AuthorityError> {
    let path = directory.join("ca.key");
    let pem = match fs::read_to_string(&path) {
        Ok(pem) => Zeroizing::new(pem),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(AuthorityError::KeyMissing { path });
        }
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let mode = mode(&path)?;
    if mode & 0o077 != 0 {
        return Err(AuthorityError::KeyExposed { path, mode });
    }
    KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ECDSA_P256_SHA256)
        .map_err(|error| AuthorityError::Damaged { path, reason: error.to_string() })
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Io { action, path: path.clone(), source }
}

fn exists(path: &Path) -> Result<bool, AuthorityError> {
    path.try_exists().map_err(failed("look for", path))
}

fn mode(path: &Path) -> Result<u32, AuthorityError> {
    let metadata = fs::metadata(path).map_err(failed("look at", path))?;
    Ok(metadata.permissions().mode() & 0o777)
}

fn prepare_directory(directory: &Path) -> Result<(), AuthorityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("create", directory))?;
    if mode(directory)? != 0o700 {
        fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed("set the mode of", directory))?;
    }
    match directory.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// An exclusive lock on the directory until the file is dropped.
fn lock(directory: &Path) -> Result<File, AuthorityError> {
    let file = File::open(directory).map_err(failed("open", directory))?;
    file.lock().map_err(failed("lock", directory))?;
    Ok(file)
}

fn sync_directory(directory: &Path) -> Result<(), AuthorityError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(failed("sync", directory))
}

/// Replaces `path` so that a crash leaves the old or the new content, durably. The
/// caller holds the directory's lock, so the temporary name needs no randomness and a
/// leftover is overwritten by the next try.
fn replace_file(path: &Path, content: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let temporary = path.with_added_extension("tmp");
    let write = || {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(failed("write", path))?;
    path.parent().map_or(Ok(()), sync_directory)
}
