//! Requests as they stand in a log.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]

mod fixture;

use canopy_proto::Wire;
use canopy_proto::chat::v1::{Message, SendMessageRequest};
use canopy_proto::identity::v1::LogInRequest;
use canopy_proto::schema::{REDACTED_BYTES_MAX, message};
use canopy_proto::system::v1::Change;
use fixture::{bytes, number};
use prost::Message as _;

#[test]
fn secrets_are_not_shown() {
    let request = LogInRequest {
        email: "ann@example.org".into(),
        password: "correct horse".into(),
        device: "a \"phone\"\n".into(),
        ..LogInRequest::default()
    };
    assert_eq!(
        message("canopy.identity.v1.LogInRequest").redact(&request.encode_to_vec()),
        r#"email: "ann@example.org" password: *** device: "a \"phone\"\n""#
    );
}

#[test]
fn of_stored_content_only_lengths_are_shown() {
    let content = Message { text: "private".into(), create_time_ms: 5, ..Message::default() };
    let request =
        SendMessageRequest { parent: "org/a".into(), message: Some(Wire::new(&content)), request_id: String::new() };
    let mut encoded = request.encode_to_vec();
    encoded.extend(bytes(77, "unknown"));
    assert_eq!(
        message("canopy.chat.v1.SendMessageRequest").redact(&encoded),
        r#"parent: "org/a" message { text: <7 bytes> create_time_ms: 5 } 77: <10 bytes>"#
    );
    assert_eq!(message("canopy.chat.v1.Message").redact(&content.encode_to_vec()), "text: <7 bytes> create_time_ms: 5");
    let change = Change { table: 3, key: "key".into(), ..Change::default() };
    assert_eq!(message("canopy.system.v1.Change").redact(&change.encode_to_vec()), "table: 3 key: <3 bytes>");
}

#[test]
fn lines_are_bounded() {
    let schema = message("canopy.chat.v1.SubscribeRequest");
    let many = bytes(1, bytes(1, "ä".repeat(200))).repeat(1000);
    let line = schema.redact(&many);
    assert!(line.len() <= REDACTED_BYTES_MAX + "…".len(), "{}", line.len());
    assert!(line.ends_with('…'));
    assert!(line.starts_with("channels { name: \"ää"));
    assert!(!line.contains('\n'));

    let one = schema.redact(&bytes(1, bytes(1, "a".repeat(200))));
    assert_eq!(one, format!("channels {{ name: \"{}\"… }}", "a".repeat(80)));
}

#[test]
fn malformed_bytes_are_named() {
    let schema = message("canopy.chat.v1.SubscribeRequest");
    assert_eq!(
        schema.redact(&[bytes(1, number(2, 7)), vec![0x80]].concat()),
        "channels { cursor: 7 } <malformed: the bytes end within a varint at byte 4>"
    );
    assert_eq!(schema.redact(&number(1, 1)), "channels: <of another wire type>");
    assert_eq!(schema.redact(&[]), "");
}
