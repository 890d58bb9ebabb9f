//! What can be decoded, and what cannot.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]

mod fixture;

use std::sync::LazyLock;

use canopy_proto::schema::{DEPTH_MAX, Schemas, Violation, message};
use fixture::{Entropy, bytes, fixed32, fixed64, number, pool, varint};
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};

/// Every type of field, in every form.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    pool(
        "enum E { E_ZERO = 0; E_ONE = 1; }
        message All {
          double a = 1; float b = 2; int32 c = 3; int64 d = 4; uint32 e = 5; uint64 f = 6;
          sint32 g = 7; sint64 h = 8; fixed32 i = 9; fixed64 j = 10; sfixed32 k = 11;
          sfixed64 l = 12; bool m = 13; string n = 14; bytes o = 15; E p = 16;
          All child = 17; repeated All children = 18; repeated string names = 19;
          repeated sint32 packed = 20; repeated fixed64 loose = 21 [packed = false];
          map<string, All> by_name = 22; map<int32, string> texts = 23;
          oneof choice { string q = 24; All r = 25; uint32 s = 26; }
          optional string t = 300;
        }",
    )
});
static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::new(&POOL));

fn check(bytes: &[u8]) -> Result<(), Vec<Violation>> {
    SCHEMAS.message("t.All").check(bytes)
}

fn decode(bytes: &[u8]) -> Result<DynamicMessage, prost::DecodeError> {
    DynamicMessage::decode(POOL.get_message_by_name("t.All").unwrap(), bytes)
}

fn sample() -> Vec<u8> {
    let entropy: Vec<u8> = (0..4000u32).map(|n| (n * 7919 % 251) as u8).collect();
    let message = POOL.get_message_by_name("t.All").unwrap();
    Entropy(&entropy).message(&message, 3).encode_to_vec()
}

#[test]
fn malformed_bytes_are_refused_with_their_place() {
    let mut group = varint(99 << 3 | 3);
    group.extend(number(1, 1));
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (vec![0x80], "", "the bytes end within a varint at byte 0"),
        (vec![0x18], "", "the bytes end within a varint at byte 1"),
        ([vec![0x18], vec![0xff; 11]].concat(), "", "a varint is longer than 10 bytes at byte 1"),
        ([vec![0x18], vec![0xff; 9], vec![2]].concat(), "", "a varint is above 64 bits at byte 1"),
        (vec![0x00], "", "a field number is zero at byte 0"),
        (vec![0x02, 0x00], "", "a field number is zero at byte 0"),
        (varint(1 << 32), "", "a field number is above 2^29-1 at byte 0"),
        (vec![0x1e], "", "a wire type is unknown at byte 0"),
        (vec![0x1f], "", "a wire type is unknown at byte 0"),
        (vec![0x1c], "", "a group ends that was not begun at byte 1"),
        (group.clone(), "", "the bytes end within a varint at byte 4"),
        ([group, varint(98 << 3 | 4)].concat(), "", "a group ends that was not begun at byte 6"),
        (vec![0x72, 0x05, b'a'], "", "a field is longer than its message at byte 1"),
        ([vec![0x72], varint(u64::MAX)].concat(), "", "a field is longer than its message at byte 1"),
        (vec![0x0d, 0, 0], "", "the bytes end within a fixed32 at byte 1"),
        (vec![0x09, 0, 0, 0, 0, 0, 0], "", "the bytes end within a fixed64 at byte 1"),
        (bytes(14, [b'a', 0xff]), "n", "a string is not UTF-8 at byte 3"),
        (bytes(14, [0xed, 0xa0, 0x80]), "n", "a string is not UTF-8 at byte 2"),
        ([bytes(19, "a"), bytes(19, [0xff])].concat(), "names[1]", "a string is not UTF-8 at byte 7"),
        (bytes(17, bytes(18, bytes(14, [0xff]))), "child.children[0].n", "a string is not UTF-8 at byte 8"),
        (
            bytes(22, [bytes(1, "k"), bytes(2, bytes(14, [0xff]))].concat()),
            "by_name[\"k\"].n",
            "a string is not UTF-8 at byte 10",
        ),
        (bytes(20, [1, 0x80]), "packed", "the bytes end within a varint at byte 4"),
        (bytes(21, [0; 9]), "loose", "the bytes end within a fixed64 at byte 11"),
        (bytes(17, [0x80]), "child", "the bytes end within a varint at byte 3"),
        (number(14, 1), "n", "a field has the wire type of another type at byte 0"),
        (bytes(3, "a"), "c", "a field has the wire type of another type at byte 0"),
        (fixed32(1, [0; 4]), "a", "a field has the wire type of another type at byte 0"),
        (fixed64(2, [0; 8]), "b", "a field has the wire type of another type at byte 0"),
        (number(17, 1), "child", "a field has the wire type of another type at byte 0"),
        (
            [varint(14 << 3 | 3), varint(14 << 3 | 4)].concat(),
            "n",
            "a field has the wire type of another type at byte 0",
        ),
        (fixed32(20, [0; 4]), "packed", "a field has the wire type of another type at byte 0"),
    ];
    for (bytes, field, why) in cases {
        let found = check(&bytes).expect_err(why);
        let [violation] = found.as_slice() else { panic!("{bytes:?}: {found:?}") };
        assert_eq!(violation.rule, "wire");
        assert_eq!(violation.field, field, "{bytes:?}");
        // The bounds of offsets within values are those of the value.
        let message = violation.message.strip_prefix("cannot be decoded: ").unwrap();
        assert_eq!(message, why, "{bytes:?}");
        assert!(decode(&bytes).is_err(), "{bytes:?} is refused, and decodes");
    }
}

#[test]
fn every_form_that_decodes_is_taken() {
    let group = [varint(99 << 3 | 3), number(1, 1), varint(99 << 3 | 4)].concat();
    let taken = [
        Vec::new(),
        [vec![0x18], vec![0x80; 9], vec![1]].concat(),
        number((1 << 29) - 1, 1),
        group,
        number(20, 1),
        bytes(20, [1, 2, 3]),
        bytes(20, []),
        fixed64(21, [1; 8]),
        bytes(21, [0; 16]),
        bytes(300, "t"),
        bytes(301, [0xff]),
        sample(),
    ];
    for bytes in taken {
        assert_eq!(check(&bytes), Ok(()), "{bytes:?}");
        assert!(decode(&bytes).is_ok(), "{bytes:?}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: u32| (0..depth).fold(Vec::new(), |inner, _| bytes(17, inner));
    assert_eq!(check(&nested(DEPTH_MAX)), Ok(()));
    assert!(decode(&nested(DEPTH_MAX)).is_ok());
    let [violation] = &check(&nested(DEPTH_MAX + 1)).unwrap_err()[..] else { panic!("one") };
    assert_eq!(violation.rule, "wire");
    assert!(violation.message.contains("messages nest too deeply"), "{violation}");
    assert!(decode(&nested(DEPTH_MAX + 1)).is_err());

    let groups = |depth: usize| [varint(99 << 3 | 3).repeat(depth), varint(99 << 3 | 4).repeat(depth)].concat();
    assert_eq!(check(&groups(DEPTH_MAX as usize)), Ok(()));
    assert!(check(&groups(DEPTH_MAX as usize + 1)).is_err());
    assert!(check(&groups(1_000_000)).is_err());
    let both = (0..60).fold(groups(41), |inner, _| bytes(17, inner));
    assert!(check(&both).is_err());
}

#[test]
fn pieces_of_one_message_at_every_depth_are_checked_in_reasonable_time() {
    let mut message = bytes(14, "x".repeat(10_000));
    for _ in 0..90 {
        message = [bytes(17, &message), bytes(17, number(3, 1))].concat();
    }
    assert_eq!(check(&message), Ok(()));
}

#[test]
fn each_prefix_of_a_message_is_judged_as_a_decoder_does() {
    let whole = sample();
    assert!(whole.len() > 1000);
    let mut refused = 0;
    for len in 0..whole.len() {
        let is_ok = check(&whole[..len]).is_ok();
        assert_eq!(is_ok, decode(&whole[..len]).is_ok(), "at {len} bytes");
        refused += usize::from(!is_ok);
    }
    assert!(refused * 10 > whole.len() * 9, "most prefixes end within something");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if check(&bytes).is_ok() {
            prop_assert!(decode(&bytes).is_ok());
        }
        let schema = message("canopy.chat.v1.SubscribeRequest");
        let _ = schema.check(&bytes);
        let _ = schema.has_unknown(&bytes);
        let _ = schema.redact(&bytes);
        let _ = schema.path("channels.name").unwrap().strings(&bytes).count();
        let _ = schema.splice(bytes.clone().into(), &bytes.into());
    }

    #[test]
    fn what_passes_can_be_decoded(
        entropy in prop::collection::vec(any::<u8>(), 0..400),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..6),
    ) {
        let of = POOL.get_message_by_name("t.All").unwrap();
        let mut bytes = Entropy(&entropy).message(&of, 3).encode_to_vec();
        prop_assert_eq!(check(&bytes), Ok(()));
        for (at, byte, what) in changes {
            let at = at.index(bytes.len() + 1);
            match what {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => { bytes.remove(at); }
                _ => bytes.insert(at, byte),
            }
        }
        prop_assert_eq!(check(&bytes).is_ok(), decode(&bytes).is_ok(), "{:?}", check(&bytes));
    }
}
