//! Both sides of every bound, from every source.

mod sources;
use canopy_config::{
    Bounds, EdgeConfig, FILE_BYTES_MAX, KEYS, Key, LIST_ITEMS, PATH_BYTES_MAX, Problem, TEXT_BYTES_MAX,
};
use sources::{env, file, overrides};

fn numbers() -> impl Iterator<Item = (&'static Key, Bounds)> {
    KEYS.iter().filter_map(|key| key.bounds.map(|bounds| (key, bounds)))
}

/// Whether each source refuses the value. A contradiction with another key is not a refusal.
fn refused(key: &Key, value: i128) -> [bool; 3] {
    let text = value.to_string();
    let variable = key.env_name();
    let lines = format!("{} = {value}", key.path);
    let refuses = |problems: Vec<Problem>| {
        problems.iter().any(|problem| match problem {
            Problem::BadValue { key: refused, .. } => *refused == key.path,
            Problem::Conflict { .. } => false,
            other => panic!("{}: {other}", key.path),
        })
    };
    [
        refuses(file(&lines).problems()),
        refuses(env(&[(&variable, &text)]).problems()),
        refuses(overrides(&[(key.path, &text)]).problems()),
    ]
}

#[test]
fn every_number_ends_where_its_bounds_say() {
    for (key, Bounds { min, max }) in numbers() {
        let (min, max) = (i128::from(min), i128::from(max));
        assert_eq!(refused(key, min), [false; 3], "{} at its minimum {min}", key.path);
        assert_eq!(refused(key, max), [false; 3], "{} at its maximum {max}", key.path);
        assert_eq!(refused(key, min - 1), [true; 3], "{} below {min}", key.path);
        assert_eq!(refused(key, max + 1), [true; 3], "{} above {max}", key.path);
        assert_eq!(refused(key, i128::from(u64::MAX) + 1), [true; 3], "{} beyond 64 bits", key.path);
    }
}

#[test]
fn every_number_has_bounds_a_unit_and_a_default_within() {
    for key in KEYS {
        let is_number = key.type_name == "integer";
        assert_eq!(key.bounds.is_some(), is_number, "{}", key.path);
        assert_eq!(key.unit.is_some(), is_number, "{}", key.path);
    }
    for (key, Bounds { min, max }) in numbers() {
        let default: u64 = key.default_literal().parse().expect("a number");
        assert!((min..=max).contains(&default), "{}: {default}", key.path);
    }
    assert!(numbers().count() >= 25);
}

#[test]
fn named_limits_are_those_of_the_table() {
    let key = Key::find("edge.request_bytes_max").expect("a key");
    let bounds = key.bounds.expect("a number");
    assert_eq!(EdgeConfig::REQUEST_BYTES, 1024..=64 * 1024 * 1024);
    assert_eq!((bounds.min, bounds.max), (1024, 64 * 1024 * 1024));
}

#[test]
fn texts_lists_and_paths_have_lengths() {
    let check = |key: &str, longest: &str, too_long: &str| {
        assert_eq!(overrides(&[(key, longest)]).problems(), [], "{key}");
        let problems = overrides(&[(key, too_long)]).problems();
        assert!(matches!(problems.as_slice(), [Problem::BadValue { .. }]), "{key}: {problems:?}");
    };
    check("data_dir", &"d".repeat(PATH_BYTES_MAX), &"d".repeat(PATH_BYTES_MAX + 1));
    check("edge.cert_file", &"d".repeat(PATH_BYTES_MAX), &"d".repeat(PATH_BYTES_MAX + 1));
    check("data_dir", "d", "");

    let level = |bytes: usize| format!("{}=info", "t".repeat(bytes - "=info".len()));
    check("log.level", &level(TEXT_BYTES_MAX), &level(TEXT_BYTES_MAX + 1));

    let names = |count: usize| vec!["a.example"; count].join(",");
    check("edge.hostnames", &names(*LIST_ITEMS.end()), &names(LIST_ITEMS.end() + 1));
    check("edge.hostnames", &names(*LIST_ITEMS.start()), "");
    let pages = |count: usize| vec!["https://a.example"; count].join(",");
    check("identity.passkey_origins", "", &pages(LIST_ITEMS.end() + 1));
    check("identity.passkey_origins", &pages(*LIST_ITEMS.end()), "https://a.example,");

    let label = "l".repeat(63);
    check("edge.hostnames", &label, &format!("{label}l"));
    let name = [label.as_str(), &label, &label].join(".");
    let longest = format!("{name}.{}", "l".repeat(61));
    check("edge.hostnames", &longest, &format!("{longest}l"));
}

#[test]
fn a_file_has_a_size() {
    let bytes_max = usize::try_from(FILE_BYTES_MAX).expect("it is small");
    assert_eq!(file(&"\n".repeat(bytes_max)).problems(), []);
    let problems = file(&"\n".repeat(bytes_max + 1)).problems();
    assert!(
        matches!(problems.as_slice(), [Problem::Unreadable { reason, .. }] if reason.contains("larger")),
        "{problems:?}"
    );
}
