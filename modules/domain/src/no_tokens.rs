//! An issuer that issues nothing.

use crate::{Policy, Refusal, TokenClaims, TokenIssuer};

/// Nobody signs in, and nothing is signed: what tests of a module decide with,
/// over [`crate::Rows`]. Registering and mailing go by the policy.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTokens(pub Policy);

impl TokenIssuer for NoTokens {
    fn access_ttl_ms(&self) -> i64 {
        0
    }

    fn refresh_ttl_ms(&self) -> i64 {
        0
    }

    fn issue(&self, _: &TokenClaims) -> String {
        String::new()
    }

    fn installation(&self) -> &str {
        ""
    }

    fn attestation_key(&self) -> [u8; 32] {
        [0; 32]
    }

    fn attest(&self, _: &[u8]) -> [u8; 64] {
        [0; 64]
    }

    fn admit_sign_up(&self, _: &str) -> Result<bool, Refusal> {
        Ok(false)
    }

    fn policy(&self) -> Policy {
        self.0
    }
}
