//! What authenticators answer, as JSON with CBOR and DER inside.

use std::sync::LazyLock;

use bytes::Bytes;
use canopy_actors::{PasskeySite, Passkeys};
use canopy_domain::{PasskeyDone, PasskeyFit};
use serde_json::Value;

/// A registration that was begun, and the credential that came of answering it.
const BEGUN: &str = include_str!("passkeys/begun.json");
const CREDENTIAL: &str = include_str!("passkeys/credential.json");
/// A challenge, and the one answer to it that was signed.
const CHALLENGE: &str = include_str!("passkeys/challenge");
const ANSWER: &str = include_str!("passkeys/answer.json");
/// A challenge's time has not come to an end.
const NOW_MS: i64 = 0;

static PASSKEYS: LazyLock<Passkeys> = LazyLock::new(|| {
    let origins = vec!["https://canopy.example.org".to_owned()];
    let site = PasskeySite { id: "canopy.example.org".into(), origins };
    Passkeys::new(Some(&site), &[7; 32], "fuzz".into()).unwrap()
});

/// Given out, and answered by nobody.
static UNANSWERED: LazyLock<String> = LazyLock::new(|| match PASSKEYS.begin_log_in(None, NOW_MS).unwrap() {
    PasskeyDone::LogInBegun { challenge, .. } => challenge,
    other => panic!("a log-in was begun by {other:?}"),
});

/// What is taken for a new passkey can be read again, and was made for us.
pub(crate) fn made(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let begun = Bytes::from_static(BEGUN.as_bytes());
    let Ok(PasskeyDone::Made { credential, credential_id, .. }) = PASSKEYS.finish(begun, text) else { return };
    assert!(!credential_id.is_empty(), "a passkey has no name");
    let fit = PASSKEYS.compare(CHALLENGE, ANSWER, Some(&credential), NOW_MS).unwrap();
    let key = |credential: &[u8]| part(std::str::from_utf8(credential).unwrap(), "/cred/cred");
    let is_same = key(&credential) == key(CREDENTIAL.as_bytes());
    assert!(is_same || fit == PasskeyFit::Wrong, "an answer that another key has signed was taken");
}

fn part(json: &str, at: &str) -> Option<Value> {
    serde_json::from_str::<Value>(json).unwrap().pointer(at).cloned()
}

/// No answer is taken for a challenge that it was not signed for, and no
/// challenge that was not given out.
pub(crate) fn answer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_forged = text != CHALLENGE && PASSKEYS.read_log_in(text, ANSWER, NOW_MS).is_ok();
    assert!(!is_forged, "a challenge was forged");
    let credential = Bytes::from_static(CREDENTIAL.as_bytes());
    let compare = |challenge: &str| PASSKEYS.compare(challenge, text, Some(&credential), NOW_MS);
    assert!(!matches!(compare(&UNANSWERED), Ok(fit) if fit != PasskeyFit::Wrong), "an answer was forged");
    let is_read = PASSKEYS.read_log_in(CHALLENGE, text, NOW_MS).is_ok();
    assert!(!is_read || compare(CHALLENGE).is_ok(), "what can be read cannot be compared");
}
