//! rustls configurations for both ends of the edge.
//!
//! The provider (aws-lc-rs) is passed explicitly, so that nothing here depends on
//! whether, or by whom, a process-wide default was installed.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{NoClientAuth, ResolvesServerCert};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::devices::Devices;

/// ALPN protocol id of HTTP/2 over TLS (RFC 9113 §3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";
/// ALPN protocol id of HTTP/1.1 (RFC 7301 §6).
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// TLS 1.2 stays for older HTTP clients; rustls offers only its forward-secret AEAD suites.
const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM text holds no usable CA certificate.
    #[error("no CA certificate can be read from the PEM text: {reason}; pass the contents of the server's ca.pem")]
    CaUnreadable {
        /// What the parser said.
        reason: String,
    },
    /// rustls refused the configuration.
    #[error("the TLS configuration was refused")]
    Refused(#[from] rustls::Error),
}

/// The one cryptography provider of every TLS configuration.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The server's configuration: TLS 1.3 and 1.2, ALPN `h2` then `http/1.1`, and
/// session tickets under keys that live in memory only and rotate every 6 hours.
/// Where `devices` are told apart, clients are asked for a certificate, and need have none.
///
/// # Errors
/// [`TlsError::Refused`] when the provider cannot serve these versions or has no
/// randomness for the ticket keys.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    devices: Option<&Devices>,
) -> Result<ServerConfig, TlsError> {
    let asks = match devices {
        Some(devices) => devices.asks(),
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(asks)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    // Stateless resumption in both versions: a reconnecting client costs no signature.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

/// A client's configuration that trusts exactly the certificates in `ca_pem`.
/// It offers ALPN `h2` and `http/1.1`; a client of one protocol narrows
/// `alpn_protocols` itself.
///
/// # Errors
/// [`TlsError::CaUnreadable`] when `ca_pem` holds no certificate, or one that
/// cannot be a trust anchor.
pub fn client_config(ca_pem: &str) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(roots(ca_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    Ok(config)
}

pub(super) fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let unreadable = |reason: String| TlsError::CaUnreadable { reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("it holds no CERTIFICATE section".to_owned()));
    }
    Ok(roots)
}
