//! The schemas of this release.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]

use canopy_proto::chat::v1::{Message, SendMessageRequest, SubscribeRequest};
use canopy_proto::identity::v1::{Account, RegisterRequest};
use canopy_proto::org::v1::{Org, UpdateOrgRequest};
use canopy_proto::schema::{Violation, find, message};
use canopy_proto::{Wire, pool, rules};
use prost::Message as _;

#[test]
fn every_message_has_a_schema_and_every_method_a_rule() {
    let messages = pool().all_messages().filter(|m| m.package_name().starts_with("canopy."));
    let mut count = 0;
    for descriptor in messages {
        let schema = find(descriptor.full_name()).expect("every message is compiled");
        assert_eq!(schema.full_name(), descriptor.full_name());
        count += 1;
    }
    assert!(count > 50, "{count}");

    let mut methods = 0;
    for service in pool().services().filter(|s| s.package_name().starts_with("canopy.")) {
        for method in service.methods() {
            let path = format!("{}/{}", service.full_name(), method.name());
            let rule = rules().get(path.as_str()).unwrap_or_else(|| panic!("{path} has no rule"));
            let schema = message(method.input().full_name());
            for part in rule.address.split('{').skip(1) {
                let (path, _) = part.split_once('}').expect("a brace is closed");
                schema.path(path).unwrap_or_else(|why| panic!("{}: {why}", rule.path));
            }
            methods += 1;
        }
    }
    assert_eq!(methods, rules().len());
    assert!(methods > 30, "{methods}");
}

#[test]
#[should_panic(expected = "no message is called canopy.chat.v1.Massage")]
fn an_unknown_name_is_told() {
    let _ = message("canopy.chat.v1.Massage");
}

fn check(of: &str, bytes: &[u8]) -> Vec<String> {
    let found = message(of).check(bytes).err().into_iter().flatten();
    found.map(|violation: Violation| violation.to_string()).collect()
}

#[test]
fn requests_of_this_release_are_checked() {
    let send = |text: &str| {
        SendMessageRequest {
            parent: "org/a/project/b/chat/channel/c".into(),
            message: Some(Wire::new(&Message { text: text.into(), ..Message::default() })),
            request_id: "r".into(),
        }
        .encode_to_vec()
    };
    let none: [&str; 0] = [];
    let of = "canopy.chat.v1.SendMessageRequest";
    assert_eq!(check(of, &send(&"x".repeat(16_000))), none);
    assert_eq!(
        check(of, &send(&"x".repeat(16_001))),
        ["message.text must be at most 16000 bytes, is 16001 (string.max_bytes)"]
    );
    assert_eq!(
        check(of, &[]),
        ["parent must be at least 1 characters, is 0 (string.min_len)", "message must be set (required)",]
    );
    assert_eq!(
        check("canopy.chat.v1.SubscribeRequest", &SubscribeRequest::default().encode_to_vec()),
        ["channels must be at least 1 items, is 0 (repeated.min_items)"]
    );
    let register = |email: &str, password: &str| {
        let account = Account { email: email.into(), ..Account::default() };
        RegisterRequest { account: Some(Wire::new(&account)), password: password.into(), ..RegisterRequest::default() }
            .encode_to_vec()
    };
    let of = "canopy.identity.v1.RegisterRequest";
    assert_eq!(check(of, &register("ann@example.org", "long enough")), none);
    let found = check(of, &register("ann", "short"));
    assert_eq!(
        found,
        [
            "account.email must match `^[^@/ ]+@[^@/ ]+$` (string.pattern)",
            "password must be at least 10 characters, is 5 (string.min_len)",
        ]
    );
    assert!(!found.concat().contains("short"), "a secret is not repeated");
}

#[test]
fn an_update_is_held_to_what_it_sends() {
    let update = |org: Org| {
        let org = Some(Wire::new(&org));
        check(
            "canopy.org.v1.UpdateOrgRequest",
            &UpdateOrgRequest { org, ..UpdateOrgRequest::default() }.encode_to_vec(),
        )
    };
    let org = Org { name: "org/a".into(), title: "A".into(), ..Org::default() };
    assert!(update(org.clone()).is_empty());
    assert_eq!(
        update(Org { slug: "A".into(), ..org.clone() }),
        [
            "org.slug must be at least 2 characters, is 1 (string.min_len)",
            "org.slug must match `^[a-z][a-z0-9-]*[a-z0-9]$` (string.pattern)",
        ]
    );
    // On the whole, the same rules hold for what is absent too.
    assert_eq!(check("canopy.org.v1.Org", &org.encode_to_vec()).len(), 2);
}
