//! Signing keys rotate by themselves, with overlap.

use canopy_actors::{SignUpPolicy, TokenError, Tokens};
use canopy_domain::{Address, Id, TokenClaims, TokenIssuer};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
/// A midnight.
const MIDNIGHT: i64 = 20_000 * DAY_MS;
const TTL_MS: i64 = 5 * MINUTE_MS;

fn tokens() -> Tokens {
    Tokens::new(&[7; 32], "here".into(), TTL_MS, DAY_MS, SignUpPolicy::Closed).expect("tokens")
}

fn claims(issue_ms: i64) -> TokenClaims {
    let id = Id::from_bytes([1; 16]);
    TokenClaims { account: Address::account(id), session: Address::session(id), expire_time_ms: issue_ms + TTL_MS }
}

#[test]
fn a_token_lives_its_life_whatever_the_hour() {
    // Another process with the same secret verifies: a restart, another node.
    let (signer, verifier) = (tokens(), tokens());
    for day in 0..5 {
        for minute in [-6, -5, -4, -1, 0, 1, 4, 5, 700] {
            let issue_ms = MIDNIGHT + day * DAY_MS + minute * MINUTE_MS;
            let token = signer.issue(&claims(issue_ms));
            assert_eq!(token, verifier.issue(&claims(issue_ms)), "the same claims give the same token");
            for after_ms in [0, 1, MINUTE_MS, TTL_MS - 1] {
                let claims = verifier.verify(&token, issue_ms + after_ms);
                assert!(claims.is_ok(), "day {day}, minute {minute}, {after_ms} ms later");
            }
            assert_eq!(verifier.verify(&token, issue_ms + TTL_MS).err(), Some(TokenError::Expired));
            // A clock that is behind that of who signed.
            assert!(verifier.verify(&token, issue_ms - MINUTE_MS).is_ok(), "day {day}, minute {minute}");
        }
    }
}

#[test]
fn a_key_is_retired_when_its_last_token_has_expired() {
    let verifier = tokens();
    // A forger with yesterday's key gives a token any expiry.
    let forger = Tokens::new(&[7; 32], "here".into(), 10 * DAY_MS, DAY_MS, SignUpPolicy::Closed).expect("tokens");
    let expire_time_ms = MIDNIGHT - DAY_MS / 2 + 10 * DAY_MS;
    let forged = forger.issue(&TokenClaims { expire_time_ms, ..claims(0) });
    let overlap_ms = TTL_MS + MINUTE_MS;
    for (now_ms, outcome) in [
        (MIDNIGHT - 1, None),
        (MIDNIGHT, None),
        (MIDNIGHT + overlap_ms - 1, None),
        (MIDNIGHT + overlap_ms, Some(TokenError::Foreign)),
        (MIDNIGHT + DAY_MS, Some(TokenError::Foreign)),
        (MIDNIGHT - DAY_MS - MINUTE_MS - 1, Some(TokenError::Foreign)),
    ] {
        assert_eq!(verifier.verify(&forged, now_ms).err(), outcome, "{now_ms}");
    }
}
