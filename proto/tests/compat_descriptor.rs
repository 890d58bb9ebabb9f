//! Clients of the last release keep working: what it promised is still there.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]

mod compat;
mod fixture;

use std::fs;
use std::path::{Path, PathBuf};

use compat::breaks;
use prost_reflect::DescriptorPool;

/// `released/v<major>.<minor>.binpb`, the highest version.
fn last_release() -> (PathBuf, DescriptorPool) {
    let version = |path: &Path| -> Option<(u32, u32)> {
        let (major, minor) = path.file_stem()?.to_str()?.strip_prefix('v')?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("released");
    let files = fs::read_dir(released).unwrap().map(|entry| entry.unwrap().path());
    let last = files.filter(|path| version(path).is_some()).max_by_key(|path| version(path)).expect("a release");
    let pool = DescriptorPool::decode(fs::read(&last).unwrap().as_slice()).unwrap();
    (last, pool)
}

#[test]
fn nothing_of_the_last_release_is_broken() {
    let (path, released) = last_release();
    assert!(released.services().any(|service| service.full_name() == "canopy.chat.v1.Chat"));
    let found = breaks(&released, canopy_proto::pool(), "canopy.");
    assert!(
        found.is_empty(),
        "clients of {} would break. Keep what it has and add beside it:\n  {}",
        path.display(),
        found.join("\n  ")
    );
}

/// The checker sees every method and rule: a release against nothing is all
/// breaks.
#[test]
fn all_of_a_release_is_looked_at() {
    let (_, released) = last_release();
    let gone = breaks(&released, &DescriptorPool::new(), "canopy.");
    for promised in ["message canopy.chat.v1.Message", "enum canopy.options.v1.Role", "service canopy.org.v1.Orgs"] {
        assert!(gone.contains(&format!("{promised} is gone")), "{promised}");
    }
    let messages = released.all_messages().filter(|m| m.package_name().starts_with("canopy.")).count();
    assert!(gone.len() >= messages, "{} of {messages}", gone.len());
}

#[track_caller]
fn check(old: &str, new: &str, expected: &[&str]) {
    assert_eq!(breaks(&fixture::pool(old), &fixture::pool(new), "t"), expected, "{old} -> {new}");
}

#[test]
fn messages_and_enums() {
    let one = |field: &str| format!("message A {{ {field} }} message B {{}} message C {{}} enum E {{ Z = 0; }}");
    let cases = [
        // Not breaking.
        ("string a = 1;", "string a = 1; string b = 2;", &[][..]),
        ("string a = 1;", "string a = 1; oneof o { string b = 2; int32 c = 3; }", &[]),
        ("string a = 1;", "string a = 1 [(buf.validate.field).string.max_len = 9]; message N {}", &[]),
        ("string a = 1;", "string a = 1 [deprecated = true];", &[]),
        ("map<string, B> a = 1;", "map<string, B> a = 1; B b = 2;", &[]),
        // Breaking.
        ("string a = 1;", "", &["t.A.a is gone"]),
        ("string a = 1;", "reserved 1; reserved \"a\";", &["t.A.a is gone"]),
        ("string a = 1;", "string a = 2;", &["t.A.a has number 2 and had 1"]),
        ("string a = 1;", "string b = 1;", &["t.A.a has name b and had a"]),
        ("string a = 1;", "string a = 1 [json_name = \"x\"];", &["t.A.a has JSON name x and had a"]),
        ("string a = 1;", "bytes a = 1;", &["t.A.a has type bytes and had string"]),
        ("int32 a = 1;", "int64 a = 1;", &["t.A.a has type int64 and had int32"]),
        ("B a = 1;", "C a = 1;", &["t.A.a has type t.C and had t.B"]),
        ("int32 a = 1;", "E a = 1;", &["t.A.a has type t.E and had int32"]),
        (
            "map<string, B> a = 1;",
            "map<string, C> a = 1;",
            &["t.A.a has type map<string, t.C> and had map<string, t.B>"],
        ),
        ("string a = 1;", "repeated string a = 1;", &["t.A.a has label repeated and had singular"]),
        ("string a = 1;", "optional string a = 1;", &["t.A.a has label optional and had singular"]),
        ("optional string a = 1;", "string a = 1;", &["t.A.a has label singular and had optional"]),
        ("optional string a = 1;", "oneof o { string a = 1; }", &["t.A.a has oneof o and had (none)"]),
        ("oneof o { string a = 1; }", "oneof p { string a = 1; }", &["t.A.a has oneof p and had o"]),
        (
            "string a = 1; int32 b = 2;",
            "int32 b = 1; string a = 2;",
            &[
                "t.A.a has name b and had a",
                "t.A.a has type int32 and had string",
                "t.A.b has name a and had b",
                "t.A.b has type string and had int32",
            ],
        ),
    ];
    for (old, new, expected) in cases {
        check(&one(old), &one(new), expected);
    }
    let with = |values: &str| format!("enum E {{ E_ZERO = 0; {values} }}");
    check(&with("E_ONE = 1;"), &with("E_ONE = 1; E_TWO = 2;"), &[]);
    check(&with("E_ONE = 1;"), &with(""), &["t.E.E_ONE is gone"]);
    check(&with("E_ONE = 1;"), &with("E_ONE = 2;"), &["t.E.E_ONE has number 2 and had 1"]);
    check(&with("E_ONE = 1;"), &with("E_UNO = 1;"), &["t.E.E_ONE has name E_UNO and had E_ONE"]);
    check(
        "message A { message B {} enum E { Z = 0; } }",
        "message A {}",
        &["enum t.A.E is gone", "message t.A.B is gone"],
    );
}

#[test]
fn services() {
    let with = |methods: &str| format!("message A {{}} message B {{}} service S {{ {methods} }}");
    let cases = [
        ("rpc M(A) returns (B);", "rpc M(A) returns (B); rpc N(A) returns (B);", &[][..]),
        ("rpc M(A) returns (B);", "", &["method t.S/M is gone"]),
        ("rpc M(A) returns (B);", "rpc N(A) returns (B);", &["method t.S/M is gone"]),
        ("rpc M(A) returns (B);", "rpc M(B) returns (B);", &["t.S/M has input t.B and had t.A"]),
        ("rpc M(A) returns (B);", "rpc M(A) returns (A);", &["t.S/M has output t.A and had t.B"]),
        ("rpc M(A) returns (B);", "rpc M(A) returns (stream B);", &["t.S/M has server streaming true and had false"]),
        ("rpc M(stream A) returns (B);", "rpc M(A) returns (B);", &["t.S/M has client streaming false and had true"]),
    ];
    for (old, new, expected) in cases {
        check(&with(old), &with(new), expected);
    }
    check("message A {} service S {}", "message A {}", &["service t.S is gone"]);
}

/// A method that asks more of its callers than it did breaks those who have
/// less.
#[test]
fn requirements() {
    const WIDENING: [&str; 6] = [
        "internal: true",
        "least: ROLE_SYS_ADMIN",
        "least: ROLE_PROJECT_USER",
        "least: ROLE_GUEST",
        "signed_in: true",
        "anybody: true",
    ];
    let with = |requires: &str| {
        let rule = format!("{{owner: \"chat\" address: \"x\" access: ACCESS_QUERY {requires}}}");
        fixture::pool(&format!(
            "message A {{}} service S {{ rpc M(A) returns (A) {{ option (canopy.options.v1.rule) = {rule}; }} }}"
        ))
    };
    for (i, narrow) in WIDENING.iter().enumerate() {
        for (j, wide) in WIDENING.iter().enumerate() {
            let found = breaks(&with(narrow), &with(wide), "t");
            assert_eq!(found.is_empty(), i <= j, "{narrow} -> {wide}: {found:?}");
        }
    }
    let cases = [
        ("self: true", "signed_in: true", true),
        ("signed_in: true", "self: true", false),
        ("self: true", "least: ROLE_GUEST", false),
        ("least: ROLE_GUEST", "self: true", false),
        ("least: ROLE_GUEST", "", false),
    ];
    for (old, new, fine) in cases {
        assert_eq!(breaks(&with(old), &with(new), "t").is_empty(), fine, "{old} -> {new}");
    }
    let found = breaks(&with("anybody: true"), &with("signed_in: true"), "t");
    assert_eq!(found, ["t.S/M requires SignedIn and required Anybody"]);
}
