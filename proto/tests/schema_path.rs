//! Strings read and replaced in place.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]

mod fixture;

use std::sync::LazyLock;

use bytes::Bytes;
use canopy_proto::schema::{PathError, Schemas, message};
use fixture::{Entropy, bytes, number, pool, varint};
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    pool(
        "message Leaf { string name = 1; optional string note = 2; repeated string tags = 3; }
        message Middle { Leaf leaf = 1; repeated Leaf leaves = 2; }
        message Root {
          string name = 1; uint32 size = 2; Leaf leaf = 3; repeated Leaf leaves = 4;
          Middle middle = 5; repeated Middle middles = 6; map<string, Leaf> by_key = 7;
          oneof choice { string a = 8; Leaf b = 9; }
          bytes blob = 10;
        }",
    )
});
static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::new(&POOL));

fn strings(path: &str, bytes: &[u8]) -> Vec<String> {
    let path = SCHEMAS.message("t.Root").path(path).unwrap();
    path.strings(bytes).map(str::to_owned).collect()
}

#[test]
fn strings_are_those_that_a_decoder_sees() {
    let none: [&str; 0] = [];
    let leaf = |name: &str| bytes(1, name);
    assert_eq!(strings("name", &[]), [""]);
    assert_eq!(strings("name", &bytes(1, "a")), ["a"]);
    assert_eq!(strings("name", &[bytes(1, "a"), number(2, 1), bytes(1, "b")].concat()), ["b"]);

    assert_eq!(strings("leaf.name", &[]), none);
    assert_eq!(strings("leaf.name", &bytes(3, "")), [""]);
    assert_eq!(strings("leaf.name", &bytes(3, leaf("a"))), ["a"]);
    assert_eq!(strings("leaf.name", &[bytes(3, leaf("a")), bytes(3, "")].concat()), ["a"]);
    assert_eq!(strings("leaf.note", &bytes(3, "")), none);
    assert_eq!(strings("leaf.note", &bytes(3, bytes(2, ""))), [""]);
    assert_eq!(strings("leaf.tags", &bytes(3, "")), none);
    let tags = [bytes(3, bytes(3, "a")), bytes(3, bytes(3, "b"))].concat();
    assert_eq!(strings("leaf.tags", &tags), ["a", "b"]);

    assert_eq!(strings("middle.leaf.name", &bytes(5, "")), none);
    assert_eq!(strings("middle.leaf.name", &bytes(5, bytes(1, ""))), [""]);
    assert_eq!(strings("middle.leaf.name", &bytes(5, bytes(1, leaf("a")))), ["a"]);

    let leaves = [bytes(4, leaf("a")), bytes(4, ""), bytes(4, leaf("c"))].concat();
    assert_eq!(strings("leaves.name", &leaves), ["a", "", "c"]);
    let middles =
        [bytes(6, [bytes(2, leaf("a")), bytes(2, leaf("b"))].concat()), bytes(6, ""), bytes(6, bytes(2, leaf("c")))];
    assert_eq!(strings("middles.leaves.name", &middles.concat()), ["a", "b", "c"]);

    assert_eq!(strings("a", &[]), none);
    assert_eq!(strings("a", &[bytes(8, "x"), bytes(9, "")].concat()), none);
    assert_eq!(strings("b.name", &[bytes(9, leaf("x")), bytes(8, "")].concat()), none);
    let cleared = [bytes(9, leaf("x")), bytes(8, ""), bytes(9, "")].concat();
    assert_eq!(strings("b.name", &cleared), [""]);
    assert_eq!(strings("b.tags", &[bytes(9, bytes(3, "x")), bytes(8, "")].concat()), none);

    assert_eq!(strings("name", &[bytes(1, "a"), varint(7)].concat()), none);
    assert_eq!(strings("leaves.name", &[leaves, vec![0x80]].concat()), none);
}

#[test]
fn a_path_must_lead_to_a_string() {
    let compile = |path: &str| SCHEMAS.message("t.Root").path(path).map(|_| ()).unwrap_err();
    let (message, field) = ("t.Root".to_owned(), |name: &str| name.to_owned());
    assert_eq!(compile("nam"), PathError::NoField { message: message.clone(), field: field("nam") });
    assert_eq!(compile(""), PathError::NoField { message: message.clone(), field: field("") });
    for path in ["size", "leaf", "blob", "leaves", "by_key"] {
        let expected = PathError::NoString { message: message.clone(), field: field(path) };
        assert_eq!(compile(path), expected);
    }
    for (path, at) in [("name.x", "name"), ("by_key.value", "by_key"), ("size.x", "size")] {
        let expected = PathError::NoMessage { message: message.clone(), field: field(at) };
        assert_eq!(compile(path), expected);
    }
    assert_eq!(compile("leaf.x").to_string(), "t.Leaf has no field `x`: see its .proto for the names");
}

#[test]
fn replacing_touches_nothing_else() {
    let schema = SCHEMAS.message("t.Root");
    let unknown = [number(99, 5), varint(98 << 3 | 3), varint(98 << 3 | 4)].concat();
    let leaf = |name: &str| [unknown.clone(), bytes(1, name), bytes(2, "note")].concat();
    let with = |one: &str, other: &str| {
        Bytes::from([bytes(4, leaf(one)), number(2, 3), bytes(4, leaf(other)), unknown.clone()].concat())
    };
    let path = schema.path("leaves.name").unwrap();
    let mut asked = Vec::new();
    let long = "x".repeat(300);
    let replaced = schema.replace_string(&path, &with("a", "b"), |name| {
        asked.push(name.to_owned());
        (name == "b").then(|| long.clone())
    });
    assert_eq!(asked, ["a", "b"]);
    assert_eq!(replaced, with("a", &long));

    let bytes = with("a", "b");
    let same = schema.replace_string(&path, &bytes, |_| None);
    assert_eq!(same.as_ptr(), bytes.as_ptr());
    let name = schema.path("name").unwrap();
    let same = schema.replace_string(&name, &bytes, |_| panic!("no name is there"));
    assert_eq!(same, bytes);
}

#[test]
fn requests_of_this_release_are_read() {
    use canopy_proto::chat::v1::{ChannelPosition, SendMessageRequest, SubscribeRequest};
    let request = SendMessageRequest {
        parent: "org/a/project/b/chat/channel/c".into(),
        request_id: "r1".into(),
        ..SendMessageRequest::default()
    };
    let schema = message("canopy.chat.v1.SendMessageRequest");
    let bytes = request.encode_to_vec();
    assert_eq!(schema.request_id(&bytes), Some("r1"));
    assert_eq!(schema.request_id(&[]), None);
    assert_eq!(schema.path("parent").unwrap().string(&bytes), Some(request.parent.as_str()));

    let position = |name: &str| ChannelPosition { name: name.into(), cursor: None };
    let request = SubscribeRequest { channels: vec![position("a"), position("b")] };
    let schema = message("canopy.chat.v1.SubscribeRequest");
    let bytes = request.encode_to_vec();
    let path = schema.path("channels.name").unwrap();
    assert_eq!(path.strings(&bytes).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(schema.request_id(&bytes), None);
}

proptest! {
    #[test]
    fn a_replacement_is_all_that_a_decoder_sees_changed(
        entropy in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let root = POOL.get_message_by_name("t.Root").unwrap();
        let message = Entropy(&entropy).message(&root, 3);
        let bytes = Bytes::from(message.encode_to_vec());
        let schema = SCHEMAS.message("t.Root");
        for dotted in ["name", "leaf.name", "middles.leaves.tags", "middle.leaf.note", "b.name"] {
            let path = schema.path(dotted).unwrap();
            let before: Vec<&str> = path.strings(&bytes).collect();
            let longer = |text: &str| Some(format!("{text}, replaced"));
            let replaced = schema.replace_string(&path, &bytes, longer);
            let after: Vec<String> = path.strings(&replaced).map(str::to_owned).collect();
            prop_assert_eq!(before.len(), after.len());
            for (before, after) in before.iter().zip(&after) {
                let is_absent = before.is_empty() && after.is_empty();
                let expected = format!("{before}, replaced");
                prop_assert!(is_absent || *after == expected);
            }
            let back = schema.replace_string(&path, &replaced, |text| {
                text.strip_suffix(", replaced").map(str::to_owned)
            });
            let decode = |bytes| DynamicMessage::decode(root.clone(), bytes).unwrap();
            // Said in bytes: to print a descriptor that holds itself takes forever.
            prop_assert!(decode(back.clone()) == decode(bytes.clone()), "{bytes:?} became {back:?}");
        }
    }
}
