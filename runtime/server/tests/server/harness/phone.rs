//! A phone: a software authenticator and a browser's part of WebAuthn, which share
//! no code with the server.

use passkey_authenticator::{Authenticator, UiHint, UserCheck, UserValidationMethod};
use passkey_client::{Client, DefaultClientData};
use passkey_crypto::rust_crypto::RustCryptoBackend;
use passkey_types::Passkey as KeyPair;
use passkey_types::ctap2::{Aaguid, Ctap2Error};
use serde_json::{Value, json};
use url::Url;

/// As in the configuration of tests.
pub const ORIGIN: &str = "https://canopy.example.org";

/// Whoever holds the phone has unlocked it, or only touched it.
struct Holder {
    unlocks: bool,
}

#[async_trait::async_trait]
impl UserValidationMethod for Holder {
    type PasskeyItem = KeyPair;

    async fn check_user<'a>(&self, _: UiHint<'a, KeyPair>, _: bool, _: bool) -> Result<UserCheck, Ctap2Error> {
        Ok(UserCheck { presence: true, verification: self.unlocks })
    }

    fn is_presence_enabled(&self) -> bool {
        true
    }

    fn is_verification_enabled(&self) -> Option<bool> {
        Some(true)
    }
}

/// A phone with a browser and room for one passkey.
#[derive(Clone)]
pub struct Phone {
    pub held: Option<KeyPair>,
    /// Whether it counts its signatures.
    pub counts: bool,
    pub unlocks: bool,
    /// The page that it shows.
    pub origin: &'static str,
}

impl Phone {
    pub fn new() -> Self {
        Self { held: None, counts: false, unlocks: true, origin: ORIGIN }
    }

    pub fn at(&self, origin: &'static str) -> Self {
        Self { origin, ..self.clone() }
    }

    fn authenticator(&self) -> Authenticator<Option<KeyPair>, Holder, RustCryptoBackend> {
        let holder = Holder { unlocks: self.unlocks };
        let mut authenticator = Authenticator::new(Aaguid::new_empty(), self.held.clone(), holder, RustCryptoBackend);
        authenticator.set_make_credentials_with_signature_counter(self.counts);
        authenticator
    }

    /// `navigator.credentials.create`.
    pub async fn create(&mut self, options: &Value) -> String {
        let mut browser = Client::new(self.authenticator());
        let options = serde_json::from_value(options.clone()).expect("options");
        let made = browser.register(&Url::parse(self.origin).unwrap(), options, DefaultClientData).await;
        let made = made.expect("a passkey");
        self.held = browser.authenticator().store().clone();
        serde_json::to_string(&made).unwrap()
    }

    /// `navigator.credentials.get`.
    pub async fn get(&mut self, options: &Value) -> String {
        let mut browser = Client::new(self.authenticator());
        let mut options = options.clone();
        // This one takes an empty list for one of no passkeys, where browsers
        // take it for any.
        if options["publicKey"]["allowCredentials"] == json!([]) {
            options["publicKey"].as_object_mut().unwrap().remove("allowCredentials");
        }
        let options = serde_json::from_value(options).expect("options");
        let got = browser.authenticate(&Url::parse(self.origin).unwrap(), options, DefaultClientData).await;
        let got = got.expect("an answer");
        self.held = browser.authenticator().store().clone();
        serde_json::to_string(&got).unwrap()
    }
}
