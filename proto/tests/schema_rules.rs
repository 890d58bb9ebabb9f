//! Each rule, from both sides.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]

mod fixture;

use canopy_proto::schema::{SchemaError, Schemas, VIOLATIONS_MAX, Violation};
use fixture::{bytes, fixed32, fixed64, number, pool, varint};

/// A field, what satisfies it, what does not, and which rule says so.
struct Case {
    field: &'static str,
    good: Vec<Vec<u8>>,
    bad: Vec<(Vec<u8>, &'static str)>,
}

fn case<const G: usize, const B: usize>(
    field: &'static str,
    good: [Vec<u8>; G],
    bad: [(Vec<u8>, &'static str); B],
) -> Case {
    Case { field, good: good.into(), bad: bad.into() }
}

const NOTHING: Vec<u8> = Vec::new();

fn text(value: &str) -> Vec<u8> {
    bytes(1, value)
}

fn n(value: u64) -> Vec<u8> {
    number(1, value)
}

fn signed(value: i64) -> Vec<u8> {
    number(1, value as u64)
}

fn zigzag(value: i64) -> Vec<u8> {
    number(1, ((value << 1) ^ (value >> 63)) as u64)
}

fn check_all(cases: Vec<Case>) {
    let messages: String = (0..).zip(&cases).map(|(i, case)| format!("message M{i} {{ {} }}\n", case.field)).collect();
    let schemas = Schemas::new(&pool(&format!(
        "enum E {{ E_ZERO = 0; E_ONE = 1; E_NINE = 9; }}
         message Inner {{ string name = 1 [(buf.validate.field).string.min_len = 1]; }}
         {messages}"
    )));
    for (i, case) in cases.iter().enumerate() {
        let schema = schemas.message(&format!("t.M{i}"));
        for good in &case.good {
            assert_eq!(schema.check(good), Ok(()), "{} with {good:?}", case.field);
        }
        for (bad, rule) in &case.bad {
            let found = schema.check(bad).expect_err(case.field);
            let rules: Vec<_> = found.iter().map(|v| v.rule).collect();
            assert_eq!(rules, [*rule], "{} with {bad:?}", case.field);
        }
    }
}

#[test]
fn strings() {
    check_all(vec![
        case(
            "string f = 1 [(buf.validate.field).string.const = \"a\"];",
            [text("a")],
            [(text("b"), "string.const"), (NOTHING, "string.const")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.len = 2];",
            [text("äö")],
            [(text("ä"), "string.len"), (text("äöü"), "string.len")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.min_len = 2];",
            [text("äö"), text("abcdefghi")],
            [(text("ä"), "string.min_len"), (NOTHING, "string.min_len")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.max_len = 3];",
            [text("äöü"), text("😀😀😀"), NOTHING],
            [(text("abcd"), "string.max_len")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.len_bytes = 2];",
            [text("ä")],
            [(text("a"), "string.len_bytes")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.min_bytes = 2];",
            [text("ä")],
            [(text("a"), "string.min_bytes")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.max_bytes = 3];",
            [text("äa")],
            [(text("ää"), "string.max_bytes")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.pattern = \"b[0-9]\"];",
            [text("b1"), text("abab12")],
            [(text("b"), "string.pattern"), (NOTHING, "string.pattern")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.prefix = \"ab\"];",
            [text("abc")],
            [(text("cab"), "string.prefix")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.suffix = \"ab\"];",
            [text("cab")],
            [(text("abc"), "string.suffix")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.contains = \"ab\"];",
            [text("cabc")],
            [(text("acb"), "string.contains")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.not_contains = \"ab\"];",
            [text("acb")],
            [(text("cabc"), "string.not_contains")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string = {in: [\"a\", \"b\"]}];",
            [text("b")],
            [(text("c"), "string.in"), (NOTHING, "string.in")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string = {not_in: [\"a\", \"b\"]}];",
            [text("c"), NOTHING],
            [(text("b"), "string.not_in")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.email = true];",
            [text("a.b@example.org")],
            [(text("a@b@c"), "string.email"), (text("Ann <a@b.c>"), "string.email"), (NOTHING, "string.email_empty")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.uuid = true];",
            [text("0190163d-8694-739b-aea5-966c26f8ad91")],
            [
                (text("0190163d-8694-739b-aea5-966c26f8ad9"), "string.uuid"),
                (text("0190163d8694739baea5966c26f8ad91"), "string.uuid"),
                (text("g190163d-8694-739b-aea5-966c26f8ad91"), "string.uuid"),
                (NOTHING, "string.uuid_empty"),
            ],
        ),
    ]);
}

#[test]
fn bytes_bools_and_enums() {
    check_all(vec![
        case(
            "bytes f = 1 [(buf.validate.field).bytes.len = 2];",
            [bytes(1, [255, 0])],
            [(bytes(1, [0]), "bytes.len"), (NOTHING, "bytes.len")],
        ),
        case(
            "bytes f = 1 [(buf.validate.field).bytes = {min_len: 1, max_len: 2}];",
            [bytes(1, [255]), bytes(1, [0, 0])],
            [(NOTHING, "bytes.min_len"), (bytes(1, [0; 3]), "bytes.max_len")],
        ),
        case(
            "bool f = 1 [(buf.validate.field).bool.const = true];",
            [n(1), n(7)],
            [(n(0), "bool.const"), (NOTHING, "bool.const")],
        ),
        case("E f = 1 [(buf.validate.field).enum.const = 1];", [n(1)], [(n(9), "enum.const"), (NOTHING, "enum.const")]),
        case(
            "E f = 1 [(buf.validate.field).enum.defined_only = true];",
            [n(0), n(1), n(9), NOTHING],
            [(n(2), "enum.defined_only"), (signed(-1), "enum.defined_only")],
        ),
        case("E f = 1 [(buf.validate.field).enum = {in: [1, 9]}];", [n(9)], [(n(0), "enum.in")]),
        case(
            "E f = 1 [(buf.validate.field).enum = {not_in: [0]}];",
            [n(1), n(8)],
            [(n(0), "enum.not_in"), (NOTHING, "enum.not_in")],
        ),
    ]);
}

#[test]
fn integers() {
    // 2^32 in a 32-bit field decodes as zero, and is checked as zero.
    let wrapped = n(1 << 32);
    check_all(vec![
        case("int32 f = 1 [(buf.validate.field).int32.const = -1];", [signed(-1)], [(n(1), "int32.const")]),
        case("int32 f = 1 [(buf.validate.field).int32.lt = 5];", [n(4), signed(-9)], [(n(5), "int32.lt")]),
        case("int32 f = 1 [(buf.validate.field).int32.lte = 5];", [n(5)], [(n(6), "int32.lte")]),
        case(
            "int32 f = 1 [(buf.validate.field).int32.gt = 0];",
            [n(1)],
            [(n(0), "int32.gt"), (NOTHING, "int32.gt"), (wrapped, "int32.gt")],
        ),
        case("int32 f = 1 [(buf.validate.field).int32.gte = 1];", [n(1)], [(n(0), "int32.gte")]),
        case(
            "int32 f = 1 [(buf.validate.field).int32 = {gte: 0, lte: 1000}];",
            [n(0), n(1000), NOTHING],
            [(n(1001), "int32.gte_lte"), (signed(-1), "int32.gte_lte")],
        ),
        case(
            "int32 f = 1 [(buf.validate.field).int32 = {gt: 9, lt: 3}];",
            [n(2), n(10)],
            [(n(3), "int32.gt_lt_exclusive"), (n(9), "int32.gt_lt_exclusive")],
        ),
        case(
            "int64 f = 1 [(buf.validate.field).int64 = {gt: -3, lte: 9}];",
            [signed(-2), n(9)],
            [(signed(-3), "int64.gt_lte"), (n(10), "int64.gt_lte")],
        ),
        case("int64 f = 1 [(buf.validate.field).int64 = {in: [4, -4]}];", [signed(-4)], [(n(5), "int64.in")]),
        case("uint32 f = 1 [(buf.validate.field).uint32.lte = 16];", [n(16)], [(n(17), "uint32.lte")]),
        case(
            "uint64 f = 1 [(buf.validate.field).uint64 = {gte: 3, lt: 9}];",
            [n(3)],
            [(n(9), "uint64.gte_lt"), (n(u64::MAX), "uint64.gte_lt")],
        ),
        case("sint32 f = 1 [(buf.validate.field).sint32.gte = -5];", [zigzag(-5)], [(zigzag(-6), "sint32.gte")]),
        case(
            "sint64 f = 1 [(buf.validate.field).sint64 = {not_in: [-5]}];",
            [zigzag(5)],
            [(zigzag(-5), "sint64.not_in")],
        ),
        case(
            "fixed32 f = 1 [(buf.validate.field).fixed32.lt = 3];",
            [fixed32(1, 2u32.to_le_bytes())],
            [(fixed32(1, 3u32.to_le_bytes()), "fixed32.lt")],
        ),
        case(
            "fixed64 f = 1 [(buf.validate.field).fixed64.gt = 3];",
            [fixed64(1, 4u64.to_le_bytes())],
            [(fixed64(1, 3u64.to_le_bytes()), "fixed64.gt")],
        ),
        case(
            "sfixed32 f = 1 [(buf.validate.field).sfixed32.gt = -3];",
            [fixed32(1, (-2i32).to_le_bytes())],
            [(fixed32(1, (-3i32).to_le_bytes()), "sfixed32.gt")],
        ),
        case(
            "sfixed64 f = 1 [(buf.validate.field).sfixed64.lt = -3];",
            [fixed64(1, (-4i64).to_le_bytes())],
            [(fixed64(1, (-3i64).to_le_bytes()), "sfixed64.lt")],
        ),
    ]);
}

#[test]
fn floats() {
    let float = |value: f32| fixed32(1, value.to_le_bytes());
    let double = |value: f64| fixed64(1, value.to_le_bytes());
    check_all(vec![
        case(
            "float f = 1 [(buf.validate.field).float = {gt: 0.5, lt: 1.5}];",
            [float(1.0)],
            [(float(0.5), "float.gt_lt"), (float(f32::NAN), "float.gt_lt"), (NOTHING, "float.gt_lt")],
        ),
        case(
            "double f = 1 [(buf.validate.field).double.finite = true];",
            [double(1e300), NOTHING],
            [(double(f64::INFINITY), "double.finite"), (double(f64::NAN), "double.finite")],
        ),
        case("double f = 1 [(buf.validate.field).double = {in: [0.5]}];", [double(0.5)], [(double(0.25), "double.in")]),
    ]);
}

#[test]
fn presence_and_ignore() {
    check_all(vec![
        case(
            "string f = 1 [(buf.validate.field).required = true];",
            [text("a")],
            [(NOTHING, "required"), (text(""), "required")],
        ),
        case(
            "optional string f = 1 [(buf.validate.field).required = true];",
            [text("a"), text("")],
            [(NOTHING, "required")],
        ),
        case(
            "optional string f = 1 [(buf.validate.field).string.min_len = 1];",
            [text("a"), NOTHING],
            [(text(""), "string.min_len")],
        ),
        case(
            "Inner f = 1 [(buf.validate.field).required = true];",
            [bytes(1, text("a"))],
            [(NOTHING, "required"), (bytes(1, ""), "string.min_len")],
        ),
        case("Inner f = 1;", [NOTHING, bytes(1, text("a"))], [(bytes(1, ""), "string.min_len")]),
        case(
            "repeated Inner f = 1 [(buf.validate.field).required = true];",
            [bytes(1, text("a"))],
            [(NOTHING, "required")],
        ),
        case(
            "string f = 1 [(buf.validate.field) = {string: {min_len: 2}, ignore: IGNORE_IF_ZERO_VALUE}];",
            [NOTHING, text(""), text("ab")],
            [(text("a"), "string.min_len")],
        ),
        case(
            "optional string f = 1 [(buf.validate.field) = {string: {min_len: 2}, ignore: IGNORE_IF_ZERO_VALUE}];",
            [NOTHING],
            [(text(""), "string.min_len")],
        ),
        case(
            "Inner f = 1 [(buf.validate.field) = {required: true, ignore: IGNORE_ALWAYS}];",
            [NOTHING, bytes(1, "")],
            [(bytes(1, [8]), "wire")],
        ),
        case(
            "string f = 1 [(buf.validate.field).string.min_len = 2, (canopy.options.v1.output_only) = true];",
            [NOTHING, text("a")],
            [(text("").into_iter().chain(bytes(1, [255])).collect(), "wire")],
        ),
        case(
            "Inner f = 1 [(buf.validate.field).required = true, (canopy.options.v1.output_only) = true];",
            [NOTHING, bytes(1, "")],
            [(bytes(1, bytes(1, [255])), "wire")],
        ),
        case(
            "oneof f { option (buf.validate.oneof).required = true;
               string a = 1 [(buf.validate.field).string.min_len = 1]; Inner b = 2; }",
            [text("x"), bytes(2, text("x")), [bytes(2, ""), text("x")].concat()],
            [
                (NOTHING, "required"),
                (text(""), "string.min_len"),
                ([text("x"), bytes(2, "")].concat(), "string.min_len"),
                ([bytes(2, [8]), text("x")].concat(), "wire"),
            ],
        ),
    ]);
}

#[test]
fn lists_and_maps() {
    let entry = |key: &str, value: &str| bytes(1, [bytes(1, key), bytes(2, value)].concat());
    check_all(vec![
        case(
            "repeated string f = 1 [(buf.validate.field).repeated = {min_items: 1, max_items: 2}];",
            [text("a"), [text("a"), text("")].concat()],
            [(NOTHING, "repeated.min_items"), ([text("a"), text("a"), text("a")].concat(), "repeated.max_items")],
        ),
        case(
            "repeated uint32 f = 1 [(buf.validate.field).repeated = {max_items: 3, items: {uint32: {lt: 9}}}];",
            [NOTHING, bytes(1, [1, 2, 3]), [n(1), bytes(1, [1, 2])].concat()],
            [
                (bytes(1, [1, 2, 3, 4]), "repeated.max_items"),
                ([n(1), n(2), bytes(1, [3, 4])].concat(), "repeated.max_items"),
                (bytes(1, [1, 9]), "uint32.lt"),
                (n(9), "uint32.lt"),
            ],
        ),
        case(
            "repeated string f = 1 [(buf.validate.field).repeated = {items: {string: {min_len: 2}, ignore: IGNORE_IF_ZERO_VALUE}}];",
            [text(""), text("ab")],
            [(text("a"), "string.min_len")],
        ),
        case(
            "repeated Inner f = 1;",
            [NOTHING, bytes(1, text("a"))],
            [([bytes(1, text("a")), bytes(1, "")].concat(), "string.min_len")],
        ),
        case(
            "map<string, string> f = 1 [(buf.validate.field).map = {min_pairs: 2, max_pairs: 2}];",
            [[entry("a", ""), entry("b", ""), entry("a", "")].concat()],
            [
                ([entry("a", ""), entry("a", "")].concat(), "map.min_pairs"),
                ([entry("a", ""), entry("b", ""), entry("c", "")].concat(), "map.max_pairs"),
                (NOTHING, "map.min_pairs"),
            ],
        ),
        case(
            "map<string, string> f = 1 [(buf.validate.field).map = {
                keys: {string: {min_len: 1}}, values: {string: {max_len: 1}}}];",
            [NOTHING, entry("a", "b")],
            [
                (entry("", "b"), "string.min_len"),
                (bytes(1, bytes(2, "b")), "string.min_len"),
                (entry("a", "bb"), "string.max_len"),
            ],
        ),
        case(
            "map<int32, Inner> f = 1;",
            [bytes(1, [n(1), bytes(2, text("a"))].concat())],
            [(bytes(1, n(1)), "string.min_len")],
        ),
    ]);
}

#[test]
fn a_later_occurrence_replaces_a_scalar_and_completes_a_message() {
    check_all(vec![
        case(
            "string f = 1 [(buf.validate.field).string.max_len = 1];",
            [[text("long"), text("s")].concat()],
            [([text("s"), text("long")].concat(), "string.max_len")],
        ),
        case(
            "message Pair { string a = 1 [(buf.validate.field).string.min_len = 1];
                            string b = 2 [(buf.validate.field).string.min_len = 1]; }
             Pair f = 1;",
            [[bytes(1, text("a")), bytes(1, bytes(2, "b"))].concat()],
            [
                ([bytes(1, text("a")), bytes(1, text("a"))].concat(), "string.min_len"),
                ([bytes(1, [8]), bytes(1, text("a"))].concat(), "wire"),
                ([bytes(1, text("a")), bytes(1, [8])].concat(), "wire"),
            ],
        ),
    ]);
}

fn violations(body: &str, message: &str, bytes: &[u8]) -> Vec<Violation> {
    Schemas::new(&pool(body)).message(message).check(bytes).expect_err("it breaks a rule")
}

#[test]
fn violations_say_where_and_what() {
    let body = "
        message Inner {
          string name = 1 [(buf.validate.field).string.max_bytes = 2];
          repeated uint32 sizes = 2 [(buf.validate.field).repeated.items.uint32.lt = 5];
          uint32 pin = 3 [(buf.validate.field).uint32.lt = 5, (canopy.options.v1.secret) = true];
        }
        message Outer { Inner one = 1; repeated Inner many = 2; map<string, Inner> by_key = 3; }";
    let inner = bytes(1, "abc");
    let found = violations(
        body,
        "t.Outer",
        &[
            bytes(1, [bytes(2, [1, 7]), number(3, 4711)].concat()),
            bytes(2, ""),
            bytes(2, &inner),
            bytes(3, [bytes(1, "k\"y"), bytes(2, &inner)].concat()),
        ]
        .concat(),
    );
    let mut lines: Vec<String> = found.iter().map(Violation::to_string).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            r#"by_key["k\"y"].name must be at most 2 bytes, is 3 (string.max_bytes)"#,
            "many[1].name must be at most 2 bytes, is 3 (string.max_bytes)",
            "one.pin must be less than 5 (uint32.lt)",
            "one.sizes[1] must be less than 5, is 7 (uint32.lt)",
        ]
    );
}

#[test]
fn violations_are_capped() {
    let body = "message M { repeated string f = 1 [(buf.validate.field).repeated.items.string.min_len = 1]; }";
    let empty = |count: usize| bytes(1, "").repeat(count);
    assert_eq!(violations(body, "t.M", &empty(VIOLATIONS_MAX - 1)).len(), VIOLATIONS_MAX - 1);
    assert_eq!(violations(body, "t.M", &empty(VIOLATIONS_MAX + 1)).len(), VIOLATIONS_MAX);
    let after = [empty(VIOLATIONS_MAX), varint(7)].concat();
    assert!(violations(body, "t.M", &after).iter().all(|v| v.rule != "wire"));
}

#[test]
fn an_update_may_leave_out_what_it_keeps() {
    let body = "
        message Part { string a = 1 [(buf.validate.field).string.min_len = 2]; }
        message Thing {
          option (canopy.options.v1.stored) = true;
          string slug = 1 [(buf.validate.field).string.min_len = 2];
          string title = 2 [(buf.validate.field).required = true];
          Part part = 3;
          repeated Part parts = 4 [(buf.validate.field).repeated.min_items = 1];
          oneof kind { option (buf.validate.oneof).required = true; string x = 5; }
        }
        message Plain { string slug = 1 [(buf.validate.field).string.min_len = 2]; }
        message Update {
          Thing thing = 1 [(buf.validate.field).required = true];
          google.protobuf.FieldMask update_mask = 2;
          Plain plain = 3;
          string id = 4 [(buf.validate.field).string.min_len = 1];
        }
        message Create { Thing thing = 1; }";
    let schemas = Schemas::new(&pool(body));
    let id = bytes(4, "i");
    let update = |thing: Vec<u8>| -> Vec<String> {
        let found = schemas.message("t.Update").check(&[bytes(1, thing), id.clone()].concat());
        found.err().into_iter().flatten().map(|v| format!("{} {}", v.field, v.rule)).collect()
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(update(Vec::new()), none);
    assert_eq!(update(bytes(3, "")), none);
    assert_eq!(update(bytes(1, "a")), ["thing.slug string.min_len"]);
    assert_eq!(update(bytes(2, "")), ["thing.title required"]);
    assert_eq!(update(bytes(3, bytes(1, "a"))), ["thing.part.a string.min_len"]);
    assert_eq!(update(bytes(4, "")), ["thing.parts[0].a string.min_len"]);

    let rules = |message: &str, bytes: &[u8]| -> Vec<String> {
        let found = schemas.message(message).check(bytes).err().into_iter().flatten();
        found.map(|v| format!("{} {}", v.field, v.rule)).collect()
    };
    assert_eq!(rules("t.Update", &[]), ["thing required", "id string.min_len"]);
    let plain = [bytes(1, ""), id.clone(), bytes(3, "")].concat();
    assert_eq!(rules("t.Update", &plain), ["plain.slug string.min_len"]);
    assert_eq!(
        rules("t.Create", &bytes(1, "")),
        ["thing.slug string.min_len", "thing.title required", "thing.parts repeated.min_items", "thing.kind required",]
    );
}

#[test]
fn what_is_not_enforced_does_not_compile() {
    let unsupported = [
        ("string f = 1 [(buf.validate.field).string.hostname = true];", "string.hostname"),
        ("bytes f = 1 [(buf.validate.field).bytes.pattern = \"a\"];", "bytes.pattern"),
        ("repeated string f = 1 [(buf.validate.field).repeated.unique = true];", "repeated.unique"),
        ("string f = 1 [(buf.validate.field).cel = {id: \"x\", expression: \"true\"}];", "cel"),
        ("option (buf.validate.message).cel = {id: \"x\", expression: \"true\"};", "message.cel"),
        ("repeated string f = 1 [(buf.validate.field).repeated.items.string.ip = true];", "string.ip"),
        ("map<string, string> f = 1 [(buf.validate.field).map.keys.string.ip = true];", "string.ip"),
        ("google.protobuf.FieldMask f = 1 [(buf.validate.field).field_mask = {in: [\"a\"]}];", "field_mask"),
    ];
    for (field, expected) in unsupported {
        match Schemas::try_new(&pool(&format!("message M {{ {field} }}"))) {
            Err(SchemaError::Unsupported { of, rule, .. }) => {
                assert!(of.starts_with("t.M"), "{of}");
                assert_eq!(rule, expected);
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    let compile = |field: &str| Schemas::try_new(&pool(&format!("message M {{ {field} }}")));
    assert!(matches!(compile("string f = 1 [(buf.validate.field).int32.lt = 1];"), Err(SchemaError::Mismatch { .. })));
    assert!(matches!(
        compile("string f = 1 [(buf.validate.field).repeated.min_items = 1];"),
        Err(SchemaError::Mismatch { .. })
    ));
    assert!(matches!(
        compile("string f = 1 [(buf.validate.field).string.pattern = \"(\"];"),
        Err(SchemaError::Pattern { .. })
    ));
}
