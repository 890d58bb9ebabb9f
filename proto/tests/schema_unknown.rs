//! Fields of a newer release survive an older one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]

mod fixture;

use std::sync::LazyLock;

use bytes::Bytes;
use canopy_proto::schema::{MessageSchema, Schemas};
use fixture::{Entropy, forget_unknown, number, pool};
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};

/// `OLD` and `NEW` are the same but for the lines that say `// new`.
const NEW: &str = "
    enum Colour { RED = 0; GREEN = 1; BLUE = 2; }
    message Leaf {
      string text = 1;
      uint32 size = 2; // new
      repeated string tags = 30; // new
    }
    message Branch {
      Leaf leaf = 1;
      repeated Leaf leaves = 2;
      Colour colour = 3;
      Branch deeper = 4;
      optional string note = 300; // new
    }
    message Extra { fixed32 a = 1; } // new
    message Root {
      string name = 1;
      Branch branch = 2;
      repeated Branch branches = 3;
      map<string, Leaf> leaves = 4;
      map<int32, string> texts = 5;
      oneof choice {
        Leaf one = 6;
        string two = 7;
        uint64 three = 8; // new
        Extra four = 9; // new
      }
      repeated sint32 numbers = 10;
      double weight = 11; // new
      map<string, Extra> extras = 12; // new
      repeated Extra list = 13; // new
    }";

struct Release {
    pool: DescriptorPool,
    schemas: Schemas,
}

impl Release {
    fn new(source: &str) -> Self {
        let pool = pool(source);
        Self { schemas: Schemas::new(&pool), pool }
    }

    fn schema(&self) -> &MessageSchema {
        self.schemas.message("t.Root")
    }

    fn decode(&self, bytes: &[u8]) -> DynamicMessage {
        let root = self.pool.get_message_by_name("t.Root").unwrap();
        DynamicMessage::decode(root, bytes).unwrap()
    }

    /// What code of this release writes after it has read `bytes`.
    fn rewrite(&self, bytes: &[u8], change: impl FnOnce(&mut DynamicMessage)) -> Bytes {
        let mut message = self.decode(bytes);
        forget_unknown(&mut message);
        change(&mut message);
        message.encode_to_vec().into()
    }

    /// Bytes of the message that a text in JSON says.
    fn encode(&self, json: &str) -> Bytes {
        let root = self.pool.get_message_by_name("t.Root").unwrap();
        let mut json = serde_json::Deserializer::from_str(json);
        DynamicMessage::deserialize(root, &mut json).unwrap().encode_to_vec().into()
    }

    #[track_caller]
    fn assert_same(&self, bytes: &[u8], json: &str) {
        let json_of = |message: DynamicMessage| serde_json::to_value(message).unwrap();
        assert_eq!(json_of(self.decode(bytes)), json_of(self.decode(&self.encode(json))));
    }
}

static NEWER: LazyLock<Release> = LazyLock::new(|| Release::new(NEW));
static OLDER: LazyLock<Release> =
    LazyLock::new(|| Release::new(&NEW.lines().filter(|line| !line.contains("// new")).collect::<Vec<_>>().join("\n")));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_round_trip_through_an_older_release_changes_nothing(
        entropy in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let root = NEWER.pool.get_message_by_name("t.Root").unwrap();
        let message = Entropy(&entropy).message(&root, 4);
        let original = Bytes::from(message.encode_to_vec());
        let known = OLDER.rewrite(&original, |_| {});
        let spliced = OLDER.schema().splice(known.clone(), &original);
        // Said in bytes: to print a descriptor that holds itself takes forever.
        prop_assert!(
            NEWER.decode(&spliced) == NEWER.decode(&original),
            "{original:?} became {spliced:?}"
        );
        prop_assert_eq!(OLDER.schema().has_unknown(&original), known != spliced);
        prop_assert!(!NEWER.schema().has_unknown(&original));
        prop_assert!(!OLDER.schema().has_unknown(&known));
        prop_assert_eq!(OLDER.schema().splice(spliced.clone(), &original), spliced);
    }

    #[test]
    fn only_unknown_fields_come_from_the_original(
        one in prop::collection::vec(any::<u8>(), 0..300),
        other in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let root = NEWER.pool.get_message_by_name("t.Root").unwrap();
        let original = Bytes::from(Entropy(&one).message(&root, 4).encode_to_vec());
        let known = OLDER.rewrite(&Entropy(&other).message(&root, 4).encode_to_vec(), |_| {});
        let spliced = OLDER.schema().splice(known.clone(), &original);
        let mut seen = OLDER.decode(&spliced);
        forget_unknown(&mut seen);
        let seen = OLDER.decode(&seen.encode_to_vec());
        prop_assert!(seen == OLDER.decode(&known), "{known:?} became {spliced:?}");
    }
}

const STORED: &str = r#"{
    "name": "n", "weight": 1.5,
    "branch": {"leaf": {"text": "a", "size": 1}, "note": "b"},
    "branches": [{"note": "x"}, {"note": "y"}],
    "leaves": {"p": {"text": "p", "size": 2}, "q": {"text": "q", "size": 3}}
}"#;

#[test]
fn what_is_changed_keeps_what_is_unknown_beside_it() {
    let stored = NEWER.encode(STORED);
    let known = OLDER.encode(
        r#"{"name": "changed", "branch": {"leaf": {"text": "changed"}}, "branches": [{}, {}],
            "leaves": {"q": {"text": "changed"}, "r": {}}}"#,
    );
    NEWER.assert_same(
        &OLDER.schema().splice(known, &stored),
        r#"{"name": "changed", "weight": 1.5,
            "branch": {"leaf": {"text": "changed", "size": 1}, "note": "b"},
            "branches": [{"note": "x"}, {"note": "y"}],
            "leaves": {"q": {"text": "changed", "size": 3}, "r": {}}}"#,
    );
}

#[test]
fn what_is_cleared_takes_the_unknown_with_it() {
    let stored = NEWER.encode(STORED);
    let known = OLDER.encode(r#"{"branches": [{}, {}, {}], "branch": {}}"#);
    NEWER.assert_same(
        &OLDER.schema().splice(known, &stored),
        r#"{"weight": 1.5, "branch": {"note": "b"}, "branches": [{}, {}, {}]}"#,
    );
    let emptied = OLDER.schema().splice(Bytes::new(), &NEWER.encode(r#"{"branch": {"note": "b"}}"#));
    assert_eq!(emptied, Bytes::new());
}

#[test]
fn later_sources_win_and_known_bytes_win_over_them() {
    let stored = NEWER.encode(
        r#"{"weight": 1, "list": [{"a": 1}, {"a": 2}], "branch": {"note": "b", "leaf": {"size": 1, "tags": ["t"]}}}"#,
    );
    let request = NEWER.encode(r#"{"list": [{"a": 3}], "branch": {"leaf": {"size": 2}}}"#);
    let known = OLDER.encode(r#"{"branch": {"leaf": {"text": "new"}}}"#);
    NEWER.assert_same(
        &OLDER.schema().merge_unknown(known, &[&stored, &request]),
        r#"{"weight": 1, "list": [{"a": 3}],
            "branch": {"note": "b", "leaf": {"text": "new", "size": 2, "tags": ["t"]}}}"#,
    );
    let known = NEWER.encode(r#"{"weight": 9, "branch": {"leaf": {"size": 9}}}"#);
    NEWER.assert_same(
        &OLDER.schema().merge_unknown(known, &[&stored, &request]),
        r#"{"weight": 9, "list": [{"a": 3}],
            "branch": {"note": "b", "leaf": {"size": 9, "tags": ["t"]}}}"#,
    );
}

#[test]
fn a_choice_made_by_the_older_release_wins() {
    let stored = NEWER.encode(r#"{"three": "5"}"#);
    let changed = OLDER.encode(r#"{"two": "t"}"#);
    NEWER.assert_same(&OLDER.schema().splice(changed, &stored), r#"{"two": "t"}"#);
    NEWER.assert_same(&OLDER.schema().splice(Bytes::new(), &stored), r#"{"three": "5"}"#);
}

#[test]
fn a_message_in_pieces_is_one_message() {
    let piece = |json| NEWER.encode(json);
    let join = |one: &Bytes, other: &Bytes| Bytes::from([&one[..], &other[..]].concat());
    let stored = join(
        &piece(r#"{"branch": {"note": "first", "leaf": {"size": 1}}}"#),
        &piece(r#"{"branch": {"note": "second"}}"#),
    );
    let known = join(
        &OLDER.encode(r#"{"branch": {"leaf": {"text": "a"}}}"#),
        &OLDER.encode(r#"{"branch": {"colour": "BLUE"}}"#),
    );
    NEWER.assert_same(
        &OLDER.schema().splice(known, &stored),
        r#"{"branch": {"note": "second", "colour": "BLUE", "leaf": {"text": "a", "size": 1}}}"#,
    );
    // A rival between two pieces clears the first.
    let stored =
        [piece(r#"{"one": {"size": 1}}"#), piece(r#"{"two": "t"}"#), piece(r#"{"one": {"tags": ["u"]}}"#)].concat();
    let known = OLDER.encode(r#"{"one": {"text": "a"}}"#);
    NEWER.assert_same(&OLDER.schema().splice(known, &stored.into()), r#"{"one": {"text": "a", "tags": ["u"]}}"#);
}

#[test]
fn without_anything_unknown_the_same_buffer_comes_back() {
    let original = OLDER.encode(STORED_OLD);
    let known = OLDER.encode(r#"{"name": "n"}"#);
    let spliced = OLDER.schema().splice(known.clone(), &original);
    assert_eq!(spliced.as_ptr(), known.as_ptr());
}

const STORED_OLD: &str = r#"{"name": "n", "branch": {"leaf": {"text": "a"}, "colour": 7}}"#;

#[test]
fn malformed_bytes_add_nothing() {
    let known = OLDER.encode(r#"{"name": "n", "branch": {}}"#);
    let broken = Bytes::from([number(99, 1), vec![0x80]].concat());
    assert_eq!(OLDER.schema().splice(known.clone(), &broken), known);
    let unknown = Bytes::from(number(99, 1));
    let broken = Bytes::from(vec![0x80]);
    assert_eq!(OLDER.schema().splice(broken.clone(), &unknown), broken);
}

#[test]
fn a_stored_row_keeps_what_a_newer_client_wrote() {
    use canopy_proto::Wire;
    use canopy_proto::chat::v1::Message;
    let mut newer = Message { text: "old".into(), ..Message::default() }.encode_to_vec();
    newer.extend(number(200, 7));
    let stored: Wire<Message> = Wire::from_bytes(newer.into());
    let mut message = stored.decode().unwrap();
    message.text = "new".into();
    let updated = stored.with(&message);
    assert_eq!(updated.decode().unwrap().text, "new");
    assert_eq!(updated.bytes()[..], [number(200, 7), message.encode_to_vec()].concat());
}
