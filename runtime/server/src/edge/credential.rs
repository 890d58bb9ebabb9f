//! A certificate chain together with the private key that matches it, and what the
//! edge needs to know of its first certificate.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroize;

/// Why a chain and a key do not make a credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The PEM text holds no certificate, or a damaged one.
    #[error("no certificate chain can be read: {reason}; it must be PEM, the server's certificate first")]
    Chain {
        /// What the parser said.
        reason: String,
    },
    /// The PEM text holds no private key, or a damaged one. The reason never quotes it.
    #[error("no private key can be read: {reason}; it must be unencrypted PEM (PKCS#8, SEC1 or PKCS#1)")]
    Key {
        /// What the parser said.
        reason: String,
    },
    /// The key is of another certificate.
    #[error("the private key does not belong to the certificate; write both files of one pair")]
    Mismatch,
}

/// What the edge reads from an X.509 certificate (RFC 5280 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The serial number as lower-case hex bytes joined by colons.
    pub serial: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// DNS names among the subject's alternative names.
    pub dns_names: BTreeSet<String>,
    /// IP addresses among the subject's alternative names.
    pub ip_addresses: BTreeSet<IpAddr>,
    /// The subject's public key as DER `SubjectPublicKeyInfo`.
    pub public_key_info: Vec<u8>,
}

impl Summary {
    /// Parses one DER certificate.
    ///
    /// # Errors
    /// [`CredentialError::Chain`] when it is not an X.509 certificate.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, CredentialError> {
        let chain = |reason: String| CredentialError::Chain { reason };
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| chain(error.to_string()))?;
        let alternatives = parsed.subject_alternative_name().map_err(|error| chain(error.to_string()))?;
        let mut dns_names = BTreeSet::new();
        let mut ip_addresses = BTreeSet::new();
        for name in alternatives.iter().flat_map(|san| &san.value.general_names) {
            match name {
                GeneralName::DNSName(name) => {
                    dns_names.insert(name.to_ascii_lowercase());
                }
                GeneralName::IPAddress(octets) => ip_addresses.extend(ip_address(octets)),
                _ => {}
            }
        }
        Ok(Self {
            serial: parsed.raw_serial_as_string(),
            not_before: unix_time(parsed.validity().not_before.timestamp()),
            not_after: unix_time(parsed.validity().not_after.timestamp()),
            dns_names,
            ip_addresses,
            public_key_info: parsed.public_key().raw.to_vec(),
        })
    }
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into());
    v4.or(v6).ok()
}

/// Certificates may name years before 1970; such an end of validity is simply long past.
fn unix_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A chain and its key, checked to belong together. `Debug` shows no key.
#[derive(Clone)]
pub struct Credential {
    certified: Arc<CertifiedKey>,
    summary: Summary,
}

impl Credential {
    /// Reads a chain (the server's certificate first) and its key from PEM; both may
    /// be the same text.
    ///
    /// # Errors
    /// [`CredentialError`], which says which of the two is at fault.
    pub fn from_pem(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, CredentialError> {
        let chain = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CredentialError::Chain { reason: error.to_string() })?;
        let first = chain
            .first()
            .ok_or_else(|| CredentialError::Chain { reason: "the text holds no CERTIFICATE section".to_owned() })?;
        let summary = Summary::parse(first)?;
        let mut key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|error| CredentialError::Key { reason: error.to_string() })?;
        let signing = any_supported_type(&key);
        key.zeroize();
        let signing = signing.map_err(|error| CredentialError::Key { reason: error.to_string() })?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| CredentialError::Mismatch)?;
        Ok(Self { certified: Arc::new(certified), summary })
    }

    /// What rustls signs handshakes with.
    #[must_use]
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// What the chain's first certificate says.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("summary", &self.summary).finish_non_exhaustive()
    }
}
