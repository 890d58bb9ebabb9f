//! Passkeys of security keys that do not know whose they are: a log-in gives an e-mail address, and
//! learns nothing of others'.

use canopy_proto::identity::v1::{DisableAccountRequest, ResetPasswordRequest};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::mailbox::letter_in;
use crate::harness::phone::Phone;
use crate::harness::{Caller, PASSWORD, Server, refused};
use crate::identity_passkeys::{answer, begin, begin_log_in_of, create, delete, list, make};
use crate::identity_passwords::ask_reset;

const EMAIL: &str = "ada@example.org";

/// What the browser answers for a key that does not know whose passkey it is.
async fn silent(phone: &mut Phone, options: &Value) -> String {
    let mut signed: Value = serde_json::from_str(&phone.get(options).await).expect("JSON");
    signed["response"].as_object_mut().expect("a response").remove("userHandle");
    signed.to_string()
}

/// The passkeys that are named for an address.
async fn named(server: &Server, email: &str) -> Value {
    begin_log_in_of(&server.nobody().await, email).await.0["publicKey"]["allowCredentials"].clone()
}

#[tokio::test]
async fn a_security_key_logs_in_with_an_address() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let mut key = Phone::new();
    let mut made: Value = serde_json::from_str(&key.create(&begin(&ada).await).await).expect("JSON");
    made["clientExtensionResults"]["credProps"]["rk"] = json!(false);
    create(&ada, "a security key", &made.to_string()).await.expect("a passkey");

    let nobody = server.nobody().await;
    let (options, challenge) = begin_log_in_of(&nobody, "Ada@Example.ORG").await;
    assert_eq!(options["publicKey"]["allowCredentials"], json!([{"type": "public-key", "id": made["id"]}]));
    let signed = silent(&mut key, &options).await;
    let server = server.restart().await;
    let nobody = Caller { channel: server.channel().await, ..nobody };
    let again = answer(&nobody, &challenge, &signed).await.expect("a log-in");
    assert_eq!(again.account, ada.account);
    refused(answer(&nobody, &challenge, &signed).await, Code::Unauthenticated);
    // Without an address nobody knows whose it is.
    let (options, challenge) = begin_log_in_of(&nobody, "").await;
    let signed = silent(&mut key, &options).await;
    let status = refused(answer(&nobody, &challenge, &signed).await, Code::InvalidArgument);
    assert!(status.message().contains("whose passkey"), "{status:?}");

    // All that there are are named.
    let mut phone = Phone::new();
    make(&again, &mut phone).await;
    assert_eq!(named(&server, EMAIL).await.as_array().map(Vec::len), Some(2));
    let (options, challenge) = begin_log_in_of(&nobody, EMAIL).await;
    let signed = phone.get(&options).await;
    answer(&nobody, &challenge, &signed).await.expect("one that knows whose it is says so");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_tells_nothing_of_an_account() {
    let server = Server::start().await;
    let ada = server.person(EMAIL).await;
    let before = named(&server, EMAIL).await;
    let mut phone = Phone::new();
    let passkey = make(&ada, &mut phone).await;
    server.register("bob@example.org", "").await;
    let nobody = server.nobody().await;
    let (of_ada, hers) = begin_log_in_of(&nobody, EMAIL).await;
    assert_ne!(of_ada["publicKey"]["allowCredentials"], before, "hers is named now");
    let own = [("bob@example.org", "Bob@example.org"), ("eve@example.org", "EVE@example.org")];
    let mut lists = Vec::new();
    for (email, spelt) in own {
        let (mut options, _) = begin_log_in_of(&nobody, email).await;
        let listed = options["publicKey"]["allowCredentials"].take();
        assert_eq!(named(&server, spelt).await, listed, "however it is written");
        let shape = |listed: &Value| {
            let first = listed[0].as_object().expect("a passkey");
            first.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(shape(&listed), shape(&of_ada["publicKey"]["allowCredentials"]));
        // But for the list and the challenge, all is the same.
        let mut other = of_ada.clone();
        other["publicKey"]["allowCredentials"].take();
        other["publicKey"]["challenge"] = options["publicKey"]["challenge"].clone();
        assert_eq!(options, other);
        lists.push(listed);
    }
    assert_ne!(lists[0], lists[1]);

    // Whatever is answered in the name of whom, it is refused alike.
    let mut stranger = Phone::new();
    let eve = server.person("eve@example.com").await;
    let removed = make(&eve, &mut stranger).await;
    delete(&eve, &removed.name, PASSWORD).await.expect("it goes");
    let mut seen = Vec::new();
    for email in [EMAIL, "bob@example.org", "eve@example.org"] {
        let (mut options, challenge) = begin_log_in_of(&nobody, email).await;
        options["publicKey"]["allowCredentials"] = json!([]);
        let signed = silent(&mut stranger, &options).await;
        seen.push(refused(answer(&nobody, &challenge, &signed).await, Code::Unauthenticated));
    }
    assert!(seen.iter().all(|status| (status.message(), status.details()) == (seen[0].message(), seen[0].details())));
    // One that is good goes to its own account, whatever address was given.
    let (mut options, challenge) = begin_log_in_of(&nobody, "eve@example.org").await;
    options["publicKey"]["allowCredentials"] = json!([]);
    let signed = phone.get(&options).await;
    let in_hers = answer(&nobody, &challenge, &signed).await.expect("a log-in");
    assert_eq!(in_hers.account, ada.account);
    let signed = phone.get(&of_ada).await;
    answer(&nobody, &hers, &signed).await.expect("a log-in");

    // The same after a restart; and hers are named no more once nobody may log in, or they are gone.
    let server = server.restart().await;
    for ((email, _), listed) in own.iter().zip(&lists) {
        assert_eq!(named(&server, email).await, *listed);
    }
    let ada = server.log_in(EMAIL).await;
    let request = DisableAccountRequest { name: "account/me".into(), request_id: String::new() };
    ada.accounts().disable_account(request).await.expect("it is shut");
    assert_eq!(named(&server, EMAIL).await, before, "as before there was any");
    let nobody = server.nobody().await;
    ask_reset(&nobody, EMAIL).await;
    let letters = server.config.mail_dir();
    // After those of the registration and of the passkey.
    let token = letter_in(&letters, EMAIL, 2).await.token();
    let request = ResetPasswordRequest { token, new_password: PASSWORD.into(), request_id: String::new() };
    nobody.verification().reset_password(request).await.expect("it is open, without passkeys");
    assert_eq!(named(&server, EMAIL).await, before);
    let ada = server.log_in(EMAIL).await;
    assert!(list(&ada).await.is_empty(), "{}", passkey.name);
    server.stop().await;
}
