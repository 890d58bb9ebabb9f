//! Which crate may use which: the architecture of the member list, checked
//! against the manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What a crate of ours may depend on. The order is that of the workspace's
/// members: a crate uses only those above it.
struct Arrows {
    from: &'static str,
    to: &'static [&'static str],
    why: &'static str,
}

const MODULE: &[&str] = &["canopy-domain", "canopy-proto"];
const PURE: &str = "modules are pure and meet in feeds: what two of them need belongs to canopy-domain";

const ARROWS: &[Arrows] = &[
    Arrows { from: "canopy-proto", to: &[], why: "the API knows none of its implementers" },
    Arrows { from: "canopy-supervision", to: &[], why: "it knows actors, not what they are for" },
    Arrows { from: "canopy-config", to: &[], why: "it is values; who needs one gets it passed" },
    Arrows { from: "canopy-domain", to: &["canopy-proto"], why: "it is the words that all others speak" },
    Arrows { from: "canopy-system", to: MODULE, why: PURE },
    Arrows { from: "canopy-identity", to: MODULE, why: PURE },
    Arrows { from: "canopy-org", to: MODULE, why: PURE },
    Arrows { from: "canopy-chat", to: MODULE, why: PURE },
    Arrows {
        from: "canopy-store",
        to: &["canopy-domain", "canopy-proto"],
        why: "it stores what the domain describes, for whomever",
    },
    Arrows {
        from: "canopy-cluster",
        to: &["canopy-domain", "canopy-store"],
        why: "it places addresses and moves sealed feeds",
    },
    Arrows {
        from: "canopy-actors",
        to: &["canopy-domain", "canopy-proto", "canopy-store", "canopy-cluster", "canopy-supervision"],
        why: "a shell runs any module: the server hands them over as data",
    },
    Arrows {
        from: "canopy",
        to: &[
            "canopy-proto",
            "canopy-supervision",
            "canopy-config",
            "canopy-domain",
            "canopy-system",
            "canopy-identity",
            "canopy-org",
            "canopy-chat",
            "canopy-store",
            "canopy-cluster",
            "canopy-actors",
        ],
        why: "it puts everything together, so nothing may need it",
    },
    Arrows {
        from: "canopy-load",
        to: &[
            "canopy",
            "canopy-proto",
            "canopy-supervision",
            "canopy-config",
            "canopy-domain",
            "canopy-system",
            "canopy-identity",
            "canopy-org",
            "canopy-chat",
            "canopy-store",
            "canopy-cluster",
            "canopy-actors",
        ],
        why: "it measures the whole",
    },
    Arrows {
        from: "canopy-fuzz",
        to: &["canopy", "canopy-proto", "canopy-config", "canopy-domain", "canopy-store", "canopy-actors"],
        why: "it feeds every parser",
    },
];

/// Who alone may know a library.
struct Keeper {
    library: &'static str,
    keepers: &'static [&'static str],
    why: &'static str,
}

const KEEPERS: &[Keeper] = &[
    Keeper {
        library: "fjall",
        keepers: &["canopy-store", "canopy-load"],
        why: "its hazards are dealt with in one place (the load tests measure it bare): use canopy-store",
    },
    Keeper {
        library: "ractor",
        keepers: &["canopy-supervision", "canopy-actors", "canopy"],
        why: "its mailboxes have no bound: use the handles of canopy-supervision and canopy-actors (the server is one \
              child of its own tree, edge/port.rs)",
    },
    Keeper {
        library: "chacha20poly1305",
        keepers: &["canopy-store", "canopy-load"],
        why: "one crate seals and opens (the load tests measure the cipher bare): use canopy-store",
    },
    Keeper {
        library: "argon2",
        keepers: &["canopy-store", "canopy-actors", "canopy-load"],
        why: "passphrases are hashed by the store, passwords while a command is prepared (the load tests measure it \
              bare)",
    },
    Keeper { library: "lettre", keepers: &["canopy"], why: "letters leave the process where it is put together" },
    Keeper { library: "axum", keepers: &["canopy"], why: "HTTP is the edge's" },
    Keeper { library: "clap", keepers: &["canopy", "canopy-load"], why: "command lines are read by the two programs" },
];

/// Libraries without I/O, clocks, threads or randomness: all that a module may
/// use beside the domain.
const PURE_LIBRARIES: &[&str] = &[
    "bytes",
    "prost",
    "prost-types",
    "sha1",
    "sha2",
    "hmac",
    "subtle",
    "thiserror",
    "zeroize",
    "serde",
    "strsim",
    "regex-lite",
];
/// What a module's tests may use as well.
const PURE_TEST_LIBRARIES: &[&str] = &["proptest", "serde_json"];
const PURE_CRATES: &[&str] = &["canopy-domain", "canopy-system", "canopy-identity", "canopy-org", "canopy-chat"];

/// A manifest, as far as the arrows need it.
#[derive(Clone, Debug)]
struct Manifest {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Clone, Debug)]
struct Dependency {
    name: String,
    in_tests: bool,
}

fn is_ours(name: &str) -> bool {
    ARROWS.iter().any(|arrows| arrows.from == name)
}

/// What is wrong, in sentences that say what to do. `manifests` are in the
/// order of the workspace's members.
fn violations(manifests: &[Manifest]) -> Vec<String> {
    let mut found = Vec::new();
    let order: Vec<&str> = ARROWS.iter().map(|arrows| arrows.from).collect();
    let members: Vec<&str> = manifests.iter().map(|manifest| manifest.name.as_str()).collect();
    if order != members {
        found.push(format!(
            "Cargo.toml lists the members as {members:?} and ARROWS in house_arrows.rs as {order:?}: \
             put a new crate after those it uses, in both"
        ));
    }
    for manifest in manifests {
        let name = manifest.name.as_str();
        let arrows = ARROWS.iter().find(|arrows| arrows.from == name);
        let position = order.iter().position(|&other| other == name);
        for dependency in &manifest.dependencies {
            let used = dependency.name.as_str();
            if let Some(arrows) = arrows.filter(|arrows| is_ours(used) && !arrows.to.contains(&used)) {
                found.push(format!(
                    "{name} may not depend on {used}: {}. Move what it needs to one of {:?}, or turn the arrow round \
                     with a trait",
                    arrows.why, arrows.to
                ));
            }
            if is_ours(used) && order.iter().position(|&other| other == used) >= position {
                found.push(format!("{name} uses {used}, which the member list has below it"));
            }
            if let Some(keeper) = KEEPERS.iter().find(|k| k.library == used && !k.keepers.contains(&name)) {
                found.push(format!("{name} may not depend on {used}, only {:?} may: {}", keeper.keepers, keeper.why));
            }
            let is_pure = is_ours(used)
                || PURE_LIBRARIES.contains(&used)
                || (dependency.in_tests && PURE_TEST_LIBRARIES.contains(&used));
            if PURE_CRATES.contains(&name) && !is_pure {
                found.push(format!(
                    "{name} is pure and may not depend on {used}: pass in what it is needed for, or, if it does no \
                     I/O and asks no clock, add it to PURE_LIBRARIES"
                ));
            }
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace's folder")
}

/// The workspace's manifests in the order of its member list.
fn manifests() -> Vec<Manifest> {
    let root = root();
    let text = std::fs::read_to_string(root.join("Cargo.toml")).expect("the workspace's manifest");
    let table: toml::Table = text.parse().expect("TOML");
    let members = table.get("workspace").and_then(|workspace| workspace.get("members"));
    let members = members.and_then(toml::Value::as_array).expect("a member list");
    let folders = members.iter().map(|member| root.join(member.as_str().expect("a folder")).join("Cargo.toml"));
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata");
    let mut packages: BTreeMap<PathBuf, Manifest> = BTreeMap::new();
    for package in metadata.packages {
        let dependencies = package
            .dependencies
            .iter()
            .map(|d| Dependency { name: d.name.clone(), in_tests: d.kind == DependencyKind::Development })
            .collect();
        packages.insert(package.manifest_path.into(), Manifest { name: package.name.to_string(), dependencies });
    }
    let listed: Vec<Manifest> = folders.filter_map(|folder| packages.remove(&folder)).collect();
    assert!(packages.is_empty(), "crates that the member list does not name one by one: {packages:?}");
    listed
}

#[test]
fn crates_use_only_what_the_architecture_lets_them() {
    let found = violations(&manifests());
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_exception_is_still_needed() {
    let manifests = manifests();
    let used = |name: &str, library: &str| {
        manifests.iter().any(|m| m.name == name && m.dependencies.iter().any(|d| d.name == library))
    };
    for keeper in KEEPERS {
        for name in keeper.keepers {
            assert!(used(name, keeper.library), "{name} no longer uses {}: drop it from KEEPERS", keeper.library);
        }
    }
}

#[test]
fn wrong_arrows_are_found() {
    let right: Vec<Manifest> =
        ARROWS.iter().map(|a| Manifest { name: a.from.to_owned(), dependencies: Vec::new() }).collect();
    assert_eq!(violations(&right), Vec::<String>::new());

    // (crate, what it depends on, whether for its tests, what is said about it)
    let cases = [
        ("canopy-chat", "canopy-org", false, "canopy-chat may not depend on canopy-org: modules are pure"),
        ("canopy-org", "canopy-chat", true, "the member list has below it"),
        ("canopy-chat", "canopy-store", false, "canopy-chat may not depend on canopy-store"),
        ("canopy-chat", "tokio", false, "canopy-chat is pure and may not depend on tokio"),
        ("canopy-chat", "proptest", false, "canopy-chat is pure and may not depend on proptest"),
        ("canopy-chat", "proptest", true, ""),
        ("canopy-chat", "sha2", false, ""),
        ("canopy-domain", "canopy-proto", false, ""),
        ("canopy-proto", "canopy-domain", false, "canopy-proto may not depend on canopy-domain"),
        ("canopy-config", "canopy-domain", false, "canopy-config may not depend on canopy-domain"),
        ("canopy-supervision", "canopy-domain", false, "canopy-supervision may not depend on canopy-domain"),
        ("canopy-actors", "canopy", true, "canopy-actors may not depend on canopy:"),
        ("canopy-actors", "canopy-chat", false, "canopy-actors may not depend on canopy-chat"),
        ("canopy-actors", "fjall", false, "canopy-actors may not depend on fjall"),
        ("canopy-store", "ractor", false, "canopy-store may not depend on ractor"),
        ("canopy-load", "canopy", false, ""),
        ("canopy-load", "fjall", false, ""),
    ];
    for (name, dependency, in_tests, said) in cases {
        let mut manifests = right.clone();
        let manifest = manifests.iter_mut().find(|m| m.name == name).expect("a crate of ours");
        manifest.dependencies.push(Dependency { name: dependency.to_owned(), in_tests });
        let found = violations(&manifests).join("\n");
        let is_right = if said.is_empty() { found.is_empty() } else { found.contains(said) };
        assert!(is_right, "{name} -> {dependency}: {found:?}");
    }

    let mut swapped = right;
    swapped.swap(0, 3);
    assert!(violations(&swapped).join("\n").contains("put a new crate after those it uses"));
}

#[test]
fn the_tables_name_each_crate_once() {
    let names: BTreeSet<&str> = ARROWS.iter().map(|arrows| arrows.from).collect();
    assert_eq!(names.len(), ARROWS.len());
    for name in ARROWS.iter().flat_map(|a| a.to).chain(PURE_CRATES) {
        assert!(names.contains(name), "{name} is no crate of ours");
    }
}
