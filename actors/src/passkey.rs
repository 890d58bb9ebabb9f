//! Passkeys: the one place that speaks WebAuthn (level 2, by `webauthn-rs`),
//! done before a decision, which keeps what comes of it.
//!
//! What a registration is compared with is kept by the account. A log-in has no
//! account yet, so its challenge is kept by nobody: the client gets it sealed
//! (PASETO v4.local, under a key derived from the installation's secret) with an
//! id and an end, and sends it back. The account that it logs in to notes the id
//! as used.
//!
//! Who begins with an e-mail address gets a list of passkeys, as some security keys
//! need one. Of an address without any, the list is made up (WebAuthn level 3,
//! section 14.6.2): always the same, since it is derived from the address.

use std::time::Duration;

use bytes::Bytes;
use canopy_domain::{
    Address, Code, Id, PASSKEY_CHALLENGE_S, PasskeyClaim, PasskeyDone, PasskeyFit, PasskeyHolder, Refusal,
};
use hmac::{Hmac, KeyInit, Mac};
use pasetors::Local;
use pasetors::keys::SymmetricKey;
use pasetors::token::UntrustedToken;
use pasetors::version4::{LocalToken, V4};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use webauthn_rs::prelude::{
    CredentialID, DiscoverableAuthentication, Passkey, PasskeyRegistration, PublicKeyCredential,
    RegisterPublicKeyCredential, Url, Uuid, Webauthn, WebauthnBuilder, WebauthnError,
};
use webauthn_rs_proto::{AllowCredentials, ResidentKeyRequirement};
use zeroize::Zeroizing;

use crate::clock;

/// What authenticators call the server.
const NAME: &str = "Canopy";
/// WebAuthn level 2, section 5.8.2: the one type of credentials that there is.
const CREDENTIAL_TYPE: &str = "public-key";

/// Bytes of credential ids that authenticators make: those of phones, of password
/// managers and of security keys.
const CREDENTIAL_ID_BYTES: [usize; 5] = [16, 20, 32, 48, 64];
/// Of so many addresses without passkeys one gets a list of two, the others of one.
const LISTS_OF_TWO: u8 = 4;

/// The name and the pages for which passkeys are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasskeySite {
    /// The relying party: a domain, `example.org`.
    pub id: String,
    /// Where its pages are: `https://canopy.example.org`.
    pub origins: Vec<String>,
}

/// Begins and compares what authenticators do.
pub struct Passkeys {
    /// Absent where the server does not know how browsers call it.
    webauthn: Option<Webauthn>,
    seal: SymmetricKey<V4>,
    /// What lists of passkeys that there are not are derived from.
    decoys: Zeroizing<[u8; 32]>,
    /// Bound into every challenge: none is good at another installation.
    installation: String,
}

/// What a challenge holds.
#[derive(Serialize, Deserialize)]
struct Sealed {
    id: [u8; 16],
    /// Milliseconds since 1970.
    exp_ms: i64,
    /// The id of the account whose address was given, or of none, as text: all are
    /// of one length.
    of: Option<String>,
    state: DiscoverableAuthentication,
}

fn internal(what: &str, e: &dyn std::fmt::Debug) -> Refusal {
    Refusal::new(Code::Internal, format!("{what}: {e:?}"))
}

fn json<T: Serialize>(what: &str, value: &T) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(|e| internal(what, &e))
}

fn kept<T: DeserializeOwned>(what: &str, bytes: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|e| internal(what, &e))
}

/// What a browser sent.
fn answer<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|e| {
        Refusal::invalid("answer", format!("is not what an authenticator's `toJSON` gives: {e}"))
            .hint("send the answer of `navigator.credentials` as JSON, as it is")
    })
}

/// A challenge that is not ours, or too old.
fn stale() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the challenge has expired, or is not one of this server's")
        .hint("begin the log-in anew")
}

impl PasskeySite {
    /// What WebAuthn is spoken with.
    fn webauthn(&self) -> Result<Webauthn, Refusal> {
        let wrong = |what: String| Refusal::invalid("identity.passkey_origins", what);
        let mut origins = Vec::with_capacity(self.origins.len());
        for origin in &self.origins {
            let url = Url::parse(origin).map_err(|e| wrong(format!("`{origin}`: {e}")))?;
            let is_safe = url.scheme() == "https" || url.domain() == Some("localhost");
            if !is_safe || WebauthnBuilder::new(&self.id, &url).is_err() {
                let message = format!("`{origin}` is no `https` page of `{}`, nor of `localhost`", self.id);
                return Err(wrong(message).hint("browsers make passkeys for `passkey_rp_id` and what is under it"));
            }
            origins.push(url);
        }
        let first = origins.first().ok_or_else(|| wrong("is empty".into()))?;
        let builder = WebauthnBuilder::new(&self.id, first).map_err(|e| internal("passkeys", &e))?;
        let builder = builder.rp_name(NAME).timeout(Duration::from_secs(PASSKEY_CHALLENGE_S.into()));
        let builder = origins.iter().skip(1).fold(builder, WebauthnBuilder::append_allowed_origin);
        builder.build().map_err(|e| internal("passkeys", &e))
    }
}

impl Passkeys {
    /// For a site, with a secret of 32 bytes that seals challenges. Without a
    /// site, whatever is asked is refused.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: a page is not the relying party's, or not `https`.
    pub fn new(site: Option<&PasskeySite>, secret: &[u8; 32], installation: String) -> Result<Self, Refusal> {
        let webauthn = site.map(PasskeySite::webauthn).transpose()?;
        let seal = SymmetricKey::from(&secret[..]).map_err(|e| internal("passkeys", &e))?;
        let decoys = Zeroizing::new(mac(secret, &[b"canopy passkeys that there are not"]));
        Ok(Self { webauthn, seal, decoys, installation })
    }

    fn webauthn(&self) -> Result<&Webauthn, Refusal> {
        self.webauthn.as_ref().ok_or_else(|| {
            Refusal::new(Code::FailedPrecondition, "this server does not know under which name browsers reach it")
                .hint("whoever runs it sets `identity.passkey_rp_id`, or `mail.link_base`; until then use the password")
        })
    }

    /// Begins to make a passkey that authenticators give out after they have made
    /// sure of who holds them, and find by themselves where they have room for it.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION`: there is no site.
    pub fn begin(
        &self,
        account: Id,
        email: &str,
        display_name: &str,
        known: Vec<Bytes>,
    ) -> Result<PasskeyDone, Refusal> {
        let known = known.into_iter().map(CredentialID::from).collect();
        let shown = if display_name.is_empty() { email } else { display_name };
        let user = Uuid::from_bytes(*account.as_bytes());
        let begun = self.webauthn()?.start_passkey_registration(user, email, shown, Some(known));
        let (mut options, state) = begun.map_err(|e| internal("a passkey cannot be begun", &e))?;
        // The library leaves it to the authenticator. Who has one that finds it is
        // asked for no e-mail address at a log-in.
        if let Some(selection) = &mut options.public_key.authenticator_selection {
            selection.resident_key = Some(ResidentKeyRequirement::Preferred);
            selection.require_resident_key = false;
        }
        let begun = json("a registration", &state)?.into();
        Ok(PasskeyDone::Begun { options: json("options", &options)?, begun })
    }

    /// Compares an answer with what was begun.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: it is no answer, or to something else.
    pub fn finish(&self, begun: Bytes, text: &str) -> Result<PasskeyDone, Refusal> {
        let made: RegisterPublicKeyCredential = answer(text)?;
        // The library looks at the type that the authenticator has seen alone.
        if made.type_ != CREDENTIAL_TYPE {
            return Err(Refusal::invalid("answer", format!("is of type `{}` and not `{CREDENTIAL_TYPE}`", made.type_))
                .hint("send the answer of `navigator.credentials` as JSON, as it is"));
        }
        let state: PasskeyRegistration = kept("a registration", &begun)?;
        let passkey = self.webauthn()?.finish_passkey_registration(&made, &state).map_err(|e| {
            Refusal::invalid("answer", format!("does not answer what was begun: {e}"))
                .hint("see that the page's address is one of `identity.passkey_origins`, and begin anew")
        })?;
        let credential_id = passkey.cred_id().to_vec().into();
        Ok(PasskeyDone::Made { begun, credential_id, credential: json("a passkey", &passkey)?.into() })
    }

    /// Begins a log-in: of somebody, whose passkeys are named, or some that there
    /// are not where they have none; or whoever's it will be.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION`: there is no site.
    pub fn begin_log_in(&self, of: Option<PasskeyHolder>, now_ms: i64) -> Result<PasskeyDone, Refusal> {
        let begun = self.webauthn()?.start_discoverable_authentication();
        let (mut options, state) = begun.map_err(|e| internal("a log-in cannot be begun", &e))?;
        // The library wants it beside an input field alone; a page decides.
        options.mediation = None;
        if let Some(of) = &of {
            // Made whether or not they are needed: the work is the same.
            let decoys = self.decoys(&of.email);
            let named = if of.known.is_empty() { decoys } else { of.known.iter().map(|id| id.to_vec()).collect() };
            let named = named.into_iter();
            options.public_key.allow_credentials =
                named.map(|id| AllowCredentials { type_: CREDENTIAL_TYPE.into(), id, transports: None }).collect();
        }
        let of = of.map(|of| of.account.to_string());
        let exp_ms = now_ms + i64::from(PASSKEY_CHALLENGE_S) * 1_000;
        let sealed = json("a challenge", &Sealed { id: clock::random_bytes(), exp_ms, of, state })?;
        let bound = Some(self.installation.as_bytes());
        let challenge = LocalToken::encrypt(&self.seal, sealed.as_bytes(), None, bound);
        let challenge = challenge.map_err(|e| internal("a challenge", &e))?;
        Ok(PasskeyDone::LogInBegun { options: json("options", &options)?, challenge })
    }

    /// Credential ids as an address might have that has none.
    fn decoys(&self, email: &str) -> Vec<Vec<u8>> {
        let block = |n: u8, part: u8| mac(&self.decoys, &[&[n, part], email.as_bytes()]);
        let [first, ..] = block(0, 0);
        let count = if first % LISTS_OF_TWO == 0 { 2 } else { 1 };
        let decoy = |n: u8| {
            let [length, ..] = block(n, 0);
            let bytes = CREDENTIAL_ID_BYTES.iter().cycle().nth(length.into()).copied().unwrap_or_default();
            block(n, 1).into_iter().chain(block(n, 2)).take(bytes).collect()
        };
        (1..=count).map(decoy).collect()
    }

    fn unsealed(&self, challenge: &str, now_ms: i64) -> Result<Sealed, Refusal> {
        let untrusted = UntrustedToken::<Local, V4>::try_from(challenge).map_err(|_| stale())?;
        let bound = Some(self.installation.as_bytes());
        let trusted = LocalToken::decrypt(&self.seal, &untrusted, None, bound).map_err(|_| stale())?;
        let sealed: Sealed = serde_json::from_str(trusted.payload()).map_err(|_| stale())?;
        if sealed.exp_ms > now_ms { Ok(sealed) } else { Err(stale()) }
    }

    /// Reads who an answer says it is from; of one that does not say, it is whoever
    /// the log-in was begun for.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: the challenge is not ours, or too old;
    /// `INVALID_ARGUMENT`: it is no answer, or names nobody.
    pub fn read_log_in(&self, challenge: &str, text: &str, now_ms: i64) -> Result<PasskeyDone, Refusal> {
        self.webauthn()?;
        let sealed = self.unsealed(challenge, now_ms)?;
        let shown: PublicKeyCredential = answer(text)?;
        let account = match shown.get_user_unique_id().filter(|handle| !handle.is_empty()) {
            Some(handle) => <[u8; 16]>::try_from(handle).ok().map(Id::from_bytes),
            None => sealed.of.as_deref().and_then(Id::parse),
        };
        let account = account.ok_or_else(|| {
            Refusal::invalid("answer", "does not say whose passkey it is")
                .hint("begin the log-in with the account's e-mail address, or take another authenticator")
        })?;
        Ok(PasskeyDone::Claimed(PasskeyClaim {
            account: Address::account(account),
            credential_id: Bytes::copy_from_slice(shown.get_credential_id()),
            challenge_id: sealed.id,
            expire_time_ms: sealed.exp_ms,
        }))
    }

    /// Compares an answer with a credential: challenge, origin, relying party,
    /// signature, counter, and that the authenticator made sure of its holder.
    ///
    /// # Errors
    /// As [`Passkeys::read_log_in`].
    pub fn compare(
        &self,
        challenge: &str,
        text: &str,
        credential: Option<&Bytes>,
        now_ms: i64,
    ) -> Result<PasskeyFit, Refusal> {
        let webauthn = self.webauthn()?;
        let state = self.unsealed(challenge, now_ms)?.state;
        let shown: PublicKeyCredential = answer(text)?;
        let Some(credential) = credential else { return Ok(PasskeyFit::Wrong) };
        let mut passkey: Passkey = kept("a passkey", credential)?;
        match webauthn.finish_discoverable_authentication_v2(&shown, state, &passkey) {
            Ok(result) => {
                passkey.update_credential(&result);
                let credential = json("a passkey", &passkey)?.into();
                Ok(PasskeyFit::Right { credential, sign_count: result.counter() })
            }
            Err(WebauthnError::CredentialPossibleCompromise) => Ok(PasskeyFit::CounterWentBack),
            Err(error) => {
                tracing::debug!(%error, "a passkey's answer is refused");
                Ok(PasskeyFit::Wrong)
            }
        }
    }
}

/// HMAC-SHA-256 of some parts, each with its length.
fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&part.len().to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const INSTALLATION: &str = "here";

    fn site(id: &str, origins: &[&str]) -> PasskeySite {
        PasskeySite { id: id.into(), origins: origins.iter().map(|origin| (*origin).to_owned()).collect() }
    }

    fn passkeys(secret: u8, installation: &str) -> Passkeys {
        let site = site("example.org", &["https://canopy.example.org"]);
        Passkeys::new(Some(&site), &[secret; 32], installation.into()).unwrap()
    }

    /// An answer in the name of the account whose id is all zeros.
    fn shown(user_handle: &str) -> String {
        let response = r#""response":{"authenticatorData":"AA","clientDataJSON":"AA","signature":"AA""#;
        format!(r#"{{"id":"AQ","rawId":"AQ","type":"public-key",{response},"userHandle":"{user_handle}"}}}}"#)
    }

    fn begun(passkeys: &Passkeys, now_ms: i64) -> String {
        match passkeys.begin_log_in(None, now_ms).unwrap() {
            PasskeyDone::LogInBegun { challenge, .. } => challenge,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_challenge_is_good_for_five_minutes_where_it_was_made() {
        let here = passkeys(7, INSTALLATION);
        let (challenge, answer) = (begun(&here, 1_000), shown(&"A".repeat(22)));
        let at = |passkeys: &Passkeys, now_ms| passkeys.read_log_in(&challenge, &answer, now_ms);
        let Ok(PasskeyDone::Claimed(claim)) = at(&here, 300_999) else { panic!("it is refused") };
        assert_eq!(claim.account, Address::account(Id::from_bytes([0; 16])));
        assert_eq!((claim.expire_time_ms, &claim.credential_id[..]), (301_000, &[1][..]));
        let stale = |result: Result<PasskeyDone, Refusal>| result.unwrap_err().code;
        assert_eq!(stale(at(&here, 301_000)), Code::Unauthenticated);
        assert_eq!(here.compare(&challenge, &answer, None, 301_000).unwrap_err().code, Code::Unauthenticated);
        assert_eq!(here.compare(&challenge, &answer, None, 300_999).unwrap(), PasskeyFit::Wrong);
        assert_eq!(stale(at(&passkeys(7, "elsewhere"), 1_000)), Code::Unauthenticated);
        assert_eq!(stale(at(&passkeys(8, INSTALLATION), 1_000)), Code::Unauthenticated);
        let again = begun(&here, 1_000);
        let Ok(PasskeyDone::Claimed(again)) = here.read_log_in(&again, &answer, 1_000) else { panic!("refused") };
        assert_ne!(again.challenge_id, claim.challenge_id);
    }

    #[test]
    fn an_answer_names_an_account() {
        let here = passkeys(7, INSTALLATION);
        let challenge = begun(&here, 0);
        for user_handle in ["", "AA", &"A".repeat(24)] {
            let refusal = here.read_log_in(&challenge, &shown(user_handle), 0).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidArgument, "{user_handle}");
        }
    }

    fn holder(email: &str, known: Vec<Bytes>) -> PasskeyHolder {
        PasskeyHolder { email: email.into(), account: Id::from_bytes([9; 16]), known }
    }

    /// The credential ids that options name.
    fn named(passkeys: &Passkeys, of: PasskeyHolder) -> Vec<Vec<u8>> {
        let Ok(PasskeyDone::LogInBegun { options, .. }) = passkeys.begin_log_in(Some(of), 0) else {
            panic!("it is not begun")
        };
        let options: webauthn_rs::prelude::RequestChallengeResponse = serde_json::from_str(&options).unwrap();
        options.public_key.allow_credentials.into_iter().map(|named| named.id).collect()
    }

    #[test]
    fn an_address_without_passkeys_gets_a_list_of_its_own_always_the_same() {
        let here = passkeys(7, INSTALLATION);
        let list = |passkeys: &Passkeys, email: &str| named(passkeys, holder(email, Vec::new()));
        let (mut twos, mut lengths, mut seen) = (0, BTreeSet::new(), BTreeSet::new());
        let (restarted, elsewhere) = (passkeys(7, INSTALLATION), passkeys(8, INSTALLATION));
        for n in 0..1_000 {
            let email = format!("person-{n}@example.org");
            let listed = list(&here, &email);
            assert_eq!(listed, list(&restarted, &email));
            assert_ne!(listed, list(&elsewhere, &email), "nobody derives it without the secret");
            twos += usize::from(listed.len() == 2);
            lengths.extend(listed.iter().map(Vec::len));
            assert!((1..=2).contains(&listed.len()) && listed.into_iter().all(|id| seen.insert(id)), "{email}");
        }
        assert!((150..350).contains(&twos), "{twos}");
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), CREDENTIAL_ID_BYTES);
    }

    #[test]
    fn what_an_address_has_is_named_and_stands_for_who_does_not_say() {
        let here = passkeys(7, INSTALLATION);
        let known = vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")];
        assert_eq!(named(&here, holder("ada@example.org", known)), [&b"first"[..], b"second"]);

        let begun_for = here.begin_log_in(Some(holder("ada@example.org", Vec::new())), 0).unwrap();
        let PasskeyDone::LogInBegun { challenge, .. } = begun_for else { panic!("{begun_for:?}") };
        let of = |answer: &str| match here.read_log_in(&challenge, answer, 0) {
            Ok(PasskeyDone::Claimed(claim)) => claim.account.id(),
            other => panic!("{other:?}"),
        };
        let silent = shown("").replace(",\"userHandle\":\"\"", "");
        assert!(!silent.contains("userHandle"));
        assert_eq!(of(&silent), Some(Id::from_bytes([9; 16])));
        assert_eq!(of(&shown("")), Some(Id::from_bytes([9; 16])));
        // Who says it is believed to say so, and no more.
        assert_eq!(of(&shown(&"A".repeat(22))), Some(Id::from_bytes([0; 16])));
        let refusal = here.read_log_in(&begun(&here, 0), &silent, 0).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument);
    }

    #[test]
    fn pages_are_of_the_domain_and_safe() {
        let check = |id: &str, origins: &[&str]| Passkeys::new(Some(&site(id, origins)), &[0; 32], String::new());
        check("example.org", &["https://example.org", "https://a.example.org:8443"]).ok().unwrap();
        check("localhost", &["http://localhost:7443"]).ok().unwrap();
        for (id, origin) in [
            ("example.org", "http://example.org"),
            ("example.org", "https://notexample.org"),
            ("example.org", "https://example.com"),
            ("example.org", "none"),
            ("192.0.2.1", "https://192.0.2.1"),
        ] {
            let refusal = check(id, &["https://example.org", origin]).err().unwrap();
            assert_eq!(refusal.code, Code::InvalidArgument, "{origin}");
        }
        assert_eq!(check("example.org", &[]).err().unwrap().code, Code::InvalidArgument);
    }
}
