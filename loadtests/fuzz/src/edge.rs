//! What the network sends beside requests: tokens and headers; and certificates in PEM.

use std::sync::LazyLock;
use std::time::Duration;

use canopy::edge::credential::Credential;
use canopy::edge::dispatch::grpc_timeout;
use canopy::edge::tls;
use canopy_actors::{SignUpPolicy, Tokens};
use canopy_domain::{Address, Id, TokenClaims, TokenIssuer as _};

fn tokens() -> Tokens {
    Tokens::new(&[7; 32], "fuzz".into(), 1_000, 1_000, SignUpPolicy::Closed).unwrap()
}

/// No token is taken that was not issued, character for character.
pub(crate) fn token(data: &[u8]) {
    static ISSUED: LazyLock<(Tokens, TokenClaims, String)> = LazyLock::new(|| {
        let claims = TokenClaims {
            account: Address::account(Id::from_bytes([1; 16])),
            session: Address::session(Id::from_bytes([2; 16])),
            expire_time_ms: 1_000,
        };
        let issued = tokens().issue(&claims);
        (tokens(), claims, issued)
    });
    let (tokens, claims, issued) = &*ISSUED;
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(tokens.verify(text, 0).is_err() || text == issued, "a token was forged");
    }
    let read = tokens.verify(issued, 0).unwrap();
    assert_eq!((&read.account, &read.session), (&claims.account, &claims.session));
    let (Some([high, low, flip]), true) = (data.first_chunk::<3>(), issued.is_ascii()) else { return };
    let at = usize::from(u16::from_be_bytes([*high, *low])) % issued.len();
    let mut altered = issued.clone().into_bytes();
    if let Some(byte) = altered.get_mut(at) {
        *byte ^= (flip & 0x7f).max(1);
    }
    let altered = String::from_utf8(altered).unwrap();
    assert!(tokens.verify(&altered, 0).is_err(), "an altered token was taken: {altered}");
}

/// `grpc-timeout`: one to eight digits and a unit, and never more than eight digits of hours.
pub(crate) fn timeout(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let well_formed = data.split_last().is_some_and(|(unit, digits)| {
        b"HMSmun".contains(unit) && (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    });
    let parsed = grpc_timeout(text);
    assert_eq!(parsed.is_some(), well_formed, "{text:?}");
    assert!(parsed.is_none_or(|timeout| timeout <= Duration::from_secs(99_999_999 * 3600)));
}

/// Certificates and keys are read or refused, whatever stands in their files.
pub(crate) fn certificate(data: &[u8]) {
    static PROVIDER: LazyLock<bool> =
        LazyLock::new(|| rustls::crypto::aws_lc_rs::default_provider().install_default().is_ok());
    let _ = *PROVIDER;
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = tls::client_config(text);
    }
    // One file may hold both.
    let _ = Credential::from_pem(data, data);
}
