//! Ids, addresses and names from outside.

use canopy_domain::{Address, AddressError, Id, Kind, Name};
use proptest::prelude::*;

const A: &str = "01arz3ndektsv4rrffq69g5fav";
const B: &str = "7zzzzzzzzzzzzzzzzzzzzzzzzz";

#[test]
fn ids_read_what_they_write() {
    for text in [A, B, "00000000000000000000000000"] {
        assert_eq!(Id::parse(text).map(|id| id.to_string()).as_deref(), Some(text));
    }
    let longer = format!("{A}0");
    for text in ["", "01arz3ndektsv4rrffq69g5fa", &longer, "81arz3ndektsv4rrffq69g5fav", "01arz3ndektsv4rrffq69g5faé"]
    {
        assert_eq!(Id::parse(text), None, "{text}");
    }
    for c in ['i', 'l', 'o', 'u', 'A', '/', ' '] {
        assert_eq!(Id::parse(&format!("01arz3ndektsv4rrffq69g5fa{c}")), None, "{c}");
    }
}

proptest! {
    #[test]
    fn ids_sort_as_their_text(a: [u8; 16], b: [u8; 16]) {
        let (a, b) = (Id::from_bytes(a), Id::from_bytes(b));
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        prop_assert_eq!(Id::parse(&a.to_string()), Some(a));
    }

    #[test]
    fn fresh_ids_sort_by_age(older in 0i64..1 << 47, by in 1i64..1 << 40, x: [u8; 16], y: [u8; 16]) {
        prop_assert!(Id::fresh(older, &x) < Id::fresh(older + by, &y));
    }

    #[test]
    fn no_name_leads_outside(text in ".{0,80}") {
        if Name::parse(&text).is_ok() {
            prop_assert!(!text.split('/').any(|s| s.is_empty() || s == "." || s == ".."), "{}", text);
            prop_assert!(!text.contains(['%', '\\', '\0', ' ']), "{}", text);
        }
    }
}

#[test]
fn names_are_checked() {
    let long = format!("org/{}", "a".repeat(Name::BYTES_MAX - 4));
    for good in
        ["org/acme", "account/me", "account/a.b+c@example.org", "org/x/project/y/chat/channel/z/message/1", &long]
    {
        assert!(Name::parse(good).is_ok(), "{good}");
    }
    let longer = format!("{long}a");
    assert_eq!(Name::parse(&longer), Err(AddressError::TooLong(Name::BYTES_MAX + 1)));
    for bad in [
        "",
        "/",
        "org/",
        "/org",
        "org//x",
        "org/../x",
        "org/.",
        "org/A",
        "org/a b",
        "org/a%2e",
        "account/a@b c",
        "account/a\\b@c",
        "org/é",
    ] {
        assert!(matches!(Name::parse(bad), Err(AddressError::Malformed(_))), "{bad}");
    }
}

#[test]
fn addresses_know_their_kind() {
    let check = |text: String, kind: Option<Kind<'_>>| {
        let parsed = Address::parse(&text).ok();
        assert_eq!(parsed.as_ref().and_then(Address::kind), kind, "{text}");
    };
    check(format!("account/{A}"), Some(Kind::Account));
    check(format!("session/{A}"), Some(Kind::Session));
    check(format!("org/{A}"), Some(Kind::Org));
    check(format!("org/{A}/project/{B}"), Some(Kind::Project));
    check(format!("org/{A}/project/{B}/chat"), Some(Kind::Module("chat")));
    check(format!("org/{A}/job/backup/{B}"), Some(Kind::Job("backup")));
    check("system/directory".into(), Some(Kind::System("directory")));
    check(format!("org/{A}/project"), None);
    check(format!("org/{A}/project/{B}/chat/channel"), None);
    check("system".into(), None);
}

#[test]
fn names_find_their_owner() {
    let text = format!("org/{A}/project/{B}/chat/channel/general");
    let name = Name::parse(&text).expect("a name");
    let owner = |kind| name.owner(kind).map(str::to_owned);
    assert_eq!(owner("org"), Ok(format!("org/{A}")));
    assert_eq!(owner("project"), Ok(format!("org/{A}/project/{B}")));
    assert_eq!(owner("chat"), Ok(format!("org/{A}/project/{B}/chat")));
    assert!(owner("survey").is_err());
    assert!(owner("account").is_err());
}

#[test]
fn held_names_are_of_their_holder() {
    let chat = Address::parse(&format!("org/{A}/project/{B}/chat")).expect("an address");
    let held = |name: &str| chat.held("name", name, ["channel", "message"]).map(|ids| ids.map(str::to_owned));
    assert_eq!(held(&format!("{chat}/channel/c/message/5")), Ok(["c".to_owned(), "5".to_owned()]));
    for bad in [
        format!("{chat}"),
        format!("{chat}/channel/c"),
        format!("{chat}/channel/c/message/5/x"),
        format!("{chat}x/channel/c/message/5"),
        format!("org/{B}/project/{B}/chat/channel/c/message/5"),
        format!("{chat}/message/5/channel/c"),
    ] {
        assert!(held(&bad).is_err(), "{bad}");
    }
}
