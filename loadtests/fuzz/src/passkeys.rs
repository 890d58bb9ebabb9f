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

/// What is taken for a new passkey can be read again, and was made for us.
pub(crate) fn made(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let begun = Bytes::from_static(BEGUN.as_bytes());
    let Ok(PasskeyDone::Made { credential, credential_id, .. }) = PASSKEYS.finish(begun, text) else { return };
    assert!(!credential_id.is_empty(), "a passkey has no name");
    assert!(part(text, "/type").is_some_and(|kind| kind == "public-key"), "what is no passkey was taken for one");
    let fit = PASSKEYS.compare(CHALLENGE, ANSWER, Some(&credential), NOW_MS).unwrap();
    let key = |credential: &[u8]| part(std::str::from_utf8(credential).unwrap(), "/cred/cred");
    let is_same = key(&credential) == key(CREDENTIAL.as_bytes());
    assert!(is_same || fit == PasskeyFit::Wrong, "an answer that another key has signed was taken");
}

fn part(json: &str, at: &str) -> Option<Value> {
    serde_json::from_str::<Value>(json).unwrap().pointer(at).cloned()
}

/// Nothing is taken that was not signed, and no challenge that was not given out.
pub(crate) fn answer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_forged = text != CHALLENGE && PASSKEYS.read_log_in(text, ANSWER, NOW_MS).is_ok();
    assert!(!is_forged, "a challenge was forged");
    let credential = Bytes::from_static(CREDENTIAL.as_bytes());
    let signed = |text: &str| ["/response/authenticatorData", "/response/clientDataJSON"].map(|at| part(text, at));
    let read = PASSKEYS.read_log_in(CHALLENGE, text, NOW_MS);
    match PASSKEYS.compare(CHALLENGE, text, Some(&credential), NOW_MS) {
        Ok(PasskeyFit::Right { .. } | PasskeyFit::CounterWentBack) => {
            assert_eq!(signed(text), signed(ANSWER), "an answer was forged");
        }
        Ok(PasskeyFit::Wrong) => {}
        Err(_) => assert!(read.is_err(), "what can be read cannot be compared"),
    }
}
