//! The house's rules that neither the compiler nor clippy knows. Each is a row
//! with its reason; an exception is a row with a reason, too.

use crate::house_source::{Function, Source, functions, has_word, tree};

/// Lines of a Rust file. Above it there is a second noun in it.
const FILE_LINES_MAX: usize = 1000;
/// Lines above which a file has to say in [`LONG_FILES`] why it is one.
const FILE_LINES_USUAL: usize = 500;
/// Lines of a function: two screens.
const FUNCTION_LINES_MAX: usize = 120;

/// Files over the usual length, and why they are one.
const LONG_FILES: &[(&str, &str)] = &[
    ("proto/tests/schema_rules.rs", "one table of cases: a validation rule, a value, the answer"),
    ("runtime/server/tests/server/harness/requests.rs", "one table: each method of the API, and a request of it"),
];

/// Functions over the limit, and why they are one.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// File names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "manager", "misc", "base", "shared", "stuff"];

/// Where a word is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In Rust that is not built for tests alone; comments and literals do not
    /// count.
    Sources,
    /// In Rust that is built for tests alone; comments and literals do not
    /// count.
    Tests,
    /// In all Rust; comments and literals do not count.
    Rust,
    /// In files that end so, as they are written.
    Text(&'static [&'static str]),
}

use Where::{Rust, Sources, Tests, Text};

/// A word that is out of place.
struct Rule {
    word: &'static str,
    within: Where,
    /// Beginnings of paths where it belongs, and why.
    except: &'static [(&'static str, &'static str)],
    /// Why not, and what instead.
    instead: &'static str,
}

const PROSE: &[&str] = &[".md"];
const WRITTEN: &[&str] = &[".rs", ".proto", ".toml", ".md"];
const THIS_FILE: (&str, &str) = ("runtime/server/tests/house/tidy.rs", "names what it looks for");
const PROCESSES: (&str, &str) =
    ("runtime/server/tests/life/process/", "the standard library can only poll for a child process within a deadline");
const PROGRAMS: &[(&str, &str)] = &[
    ("runtime/server/src/cli/", "the command line talks to people"),
    ("runtime/server/src/commands/", "the command line talks to people"),
    ("loadtests/src/", "the report is its output"),
    ("proto/build.rs", "speaks to cargo"),
    ("runtime/store/examples/", "prints what it measures"),
];
const OUTPUT: &str = "libraries do not print: return it, or tracing";

const RULES: &[Rule] = &[
    Rule {
        word: "SystemTime::now",
        within: Sources,
        except: &[
            ("actors/src/clock.rs", "the clock of decisions"),
            ("supervision/src/clock.rs", "the clock of what observers are shown"),
            ("runtime/server/src/lib.rs", "the command line's clock"),
            ("runtime/server/src/boot.rs", "certificates are checked against the clock of the start"),
            ("runtime/server/src/cli/terminal.rs", "the client's clock, which its tests replace"),
        ],
        instead: "decisions take the time as an argument; shells ask canopy_actors::now_ms",
    },
    Rule {
        word: "Instant::now",
        within: Sources,
        except: &[
            ("actors/src/hashing.rs", "how long a hash takes"),
            ("actors/src/password.rs", "how long a hash takes"),
            ("supervision/src/", "back-off and restart windows are durations"),
            ("runtime/store/src/", "batch windows and the age of a head are durations, never data"),
            ("runtime/store/examples/", "measures"),
            ("runtime/server/src/edge/", "deadlines and latencies of calls"),
            ("runtime/server/src/subscription/", "deadlines of streams"),
            ("runtime/server/src/cli/", "deadlines of the client"),
            ("loadtests/src/", "measures"),
        ],
        instead: "take the time as an argument, so that a test needs no waiting",
    },
    Rule { word: "unbounded_channel", within: Sources, except: &[], instead: "every queue has a bound: mpsc::channel" },
    Rule { word: "todo!", within: Rust, except: &[], instead: "write it, or leave out what calls it" },
    Rule { word: "unimplemented!", within: Rust, except: &[], instead: "write it, or leave out what calls it" },
    Rule { word: "dbg!", within: Rust, except: &[], instead: "tracing::debug!" },
    Rule { word: "println!", within: Sources, except: PROGRAMS, instead: OUTPUT },
    Rule { word: "eprintln!", within: Sources, except: PROGRAMS, instead: OUTPUT },
    Rule { word: "print!", within: Sources, except: PROGRAMS, instead: OUTPUT },
    Rule {
        word: "#[ignore",
        within: Rust,
        except: &[],
        instead: "a test that does not run proves nothing: repair it or delete it",
    },
    Rule {
        word: "thread::sleep",
        within: Rust,
        except: &[("loadtests/src/client/open.rs", "paces arrivals more finely than the runtime's timer"), PROCESSES],
        instead: "it holds a runtime thread: tokio::time::sleep, or a notification",
    },
    Rule {
        word: "sleep(",
        within: Tests,
        except: &[("supervision/tests/", "their clock is paused: a sleep is a step of virtual time"), PROCESSES],
        instead: "wait for what you need (a channel, a watch, a response), not for a while",
    },
    Rule {
        word: "unsafe",
        within: Rust,
        except: &[],
        instead: "two cores and a database do not need it; argue an exception where it stands and here",
    },
    Rule {
        word: "ractor",
        within: Rust,
        except: &[
            ("supervision/", "builds on it"),
            ("actors/", "the shells"),
            ("runtime/server/src/edge/port.rs", "the listener as a child of the tree"),
        ],
        instead: "its mailboxes have no bound: use the handles of canopy-supervision and canopy-actors",
    },
    Rule { word: "static mut", within: Rust, except: &[], instead: "an actor owns state; else OnceLock" },
    Rule {
        word: "/work/",
        within: Text(WRITTEN),
        except: &[THIS_FILE],
        instead: "a path of somebody's machine: write it from the workspace's folder",
    },
    Rule {
        word: "/root/",
        within: Text(WRITTEN),
        except: &[THIS_FILE],
        instead: "a path of somebody's machine: write it from the workspace's folder, or ~",
    },
    Rule {
        word: "/home/",
        within: Text(WRITTEN),
        except: &[THIS_FILE, ("runtime/server/tests/cli/context.rs", "where a made-up user's settings would lie")],
        instead: "a path of somebody's machine: write it from the workspace's folder, or ~",
    },
    Rule {
        word: "/tmp/",
        within: Text(PROSE),
        except: &[],
        instead: "a path of somebody's machine: name a folder of the reader's choice",
    },
    Rule { word: "\t", within: Text(&[".rs", ".proto", ".toml"]), except: &[], instead: "indent with spaces" },
];

/// Files of tests that write a port down without opening it.
const PORTS_WRITTEN: &[(&str, &str)] = &[
    ("config/", "parses and prints addresses"),
    ("runtime/server/tests/cli/context.rs", "keeps and prints addresses"),
    THIS_FILE,
];
/// Below it nothing listens on a machine of tests: good for "unreachable".
const PORT_MIN: u32 = 1024;

fn is_below(path: &str, places: &[(&str, &str)]) -> bool {
    places.iter().any(|(place, _)| path.starts_with(place))
}

/// What is wrong with a file: `path:line: what, and what to do`.
fn faults(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let path = source.path.as_str();
    for rule in RULES {
        if is_below(path, rule.except) {
            continue;
        }
        let text = match rule.within {
            Text(endings) if endings.iter().any(|ending| path.ends_with(ending)) => &source.text,
            Sources | Tests | Rust if path.ends_with(".rs") => &source.code,
            _ => continue,
        };
        for (line, number) in text.lines().zip(1..) {
            let is_place = match rule.within {
                Sources => !source.is_test(number),
                Tests => source.is_test(number),
                Rust | Text(_) => true,
            };
            if is_place && has_word(line, rule.word) {
                found.push(format!("{path}:{number}: `{}`: {}", rule.word.escape_debug(), rule.instead));
            }
        }
    }
    for (line, number) in source.text.lines().zip(1..) {
        if line.trim_end() != line {
            found.push(format!("{path}:{number}: blanks at the end of the line: delete them"));
        }
        if source.is_test(number) && has_fixed_port(line) && !is_below(path, PORTS_WRITTEN) {
            found.push(format!("{path}:{number}: a fixed port may be taken: bind 127.0.0.1:0 and ask for the address"));
        }
    }
    if !source.text.is_empty() && !source.text.ends_with('\n') {
        found.push(format!("{path}: does not end with a line end: add one"));
    }
    found.extend(name_fault(path));
    if path.ends_with(".rs") {
        found.extend(length_faults(source));
    }
    found
}

fn has_fixed_port(line: &str) -> bool {
    line.split("127.0.0.1:").skip(1).any(|after| {
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        after.split_at(digits).0.parse::<u32>().is_ok_and(|port| port >= PORT_MIN)
    })
}

fn name_fault(path: &str) -> Option<String> {
    let empty = path.split('/').find(|part| {
        let stem = part.split('.').next().unwrap_or(part);
        stem.split(['_', '-']).any(|word| EMPTY_NAMES.contains(&word))
    })?;
    Some(format!("{path}: `{empty}` says nothing about what is inside: name it by its noun"))
}

fn length_faults(source: &Source) -> Vec<String> {
    let path = source.path.as_str();
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{path}: {lines} lines, at most {FILE_LINES_MAX}: it holds more than one noun, split it"));
    } else if lines > FILE_LINES_USUAL && !LONG_FILES.iter().any(|(long, _)| *long == path) {
        found.push(format!(
            "{path}: {lines} lines: split what is over {FILE_LINES_USUAL}, or add it to LONG_FILES with the reason why \
             it is one"
        ));
    }
    for Function { name, line, lines } in functions(&source.code) {
        let is_argued = LONG_FUNCTIONS.iter().any(|(long, function, _)| *long == path && *function == name);
        if lines > FUNCTION_LINES_MAX && !is_argued {
            found.push(format!("{path}:{line}: `{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}: split it"));
        }
    }
    found
}

#[test]
fn the_tree_keeps_the_rules() {
    let tree = tree();
    assert!(tree.iter().any(|source| source.path == THIS_FILE.0), "the tree is not seen");
    let found: Vec<String> = tree.iter().flat_map(faults).collect();
    assert!(found.is_empty(), "{} faults\n{}\n", found.len(), found.join("\n"));
}

#[test]
fn every_exception_is_still_needed() {
    let tree = tree();
    for (path, _) in LONG_FILES {
        let is_long = tree.iter().any(|s| s.path == *path && s.text.lines().count() > FILE_LINES_USUAL);
        assert!(is_long, "{path} is no longer long: drop it from LONG_FILES");
    }
    for (path, name, _) in LONG_FUNCTIONS {
        let is_long = tree.iter().filter(|s| s.path == *path).flat_map(|s| functions(&s.code));
        let is_long = is_long.into_iter().any(|f| f.name == *name && f.lines > FUNCTION_LINES_MAX);
        assert!(is_long, "{path}: {name} is no longer long: drop it from LONG_FUNCTIONS");
    }
    for (place, _) in RULES.iter().flat_map(|rule| rule.except).chain(PORTS_WRITTEN) {
        assert!(tree.iter().any(|s| s.path.starts_with(place)), "{place} is gone: drop it from the exceptions");
    }
}

#[test]
fn faults_are_found_where_they_are() {
    // (path, text, what is said; nothing where it is fine)
    let cases: &[(&str, &str, &[&str])] = &[
        ("a/src/x.rs", "fn a() { todo!() }\n", &["a/src/x.rs:1: `todo!`"]),
        ("a/src/x.rs", "// todo!\nconst A: &str = \"todo!\";\n", &[]),
        ("a/src/x.rs", "\nlet t = std::time::SystemTime::now();\n", &["a/src/x.rs:2: `SystemTime::now`"]),
        ("actors/src/clock.rs", "let t = SystemTime::now();\n", &[]),
        ("a/tests/x.rs", "let t = SystemTime::now();\n", &[]),
        ("modules/a/src/x.rs", "Instant::now();\n", &["`Instant::now`"]),
        ("runtime/server/src/edge/x.rs", "Instant::now();\n", &[]),
        ("a/src/x.rs", "mpsc::unbounded_channel();\n", &["`unbounded_channel`"]),
        ("a/src/x.rs", "my_unbounded_channels();\n", &[]),
        ("a/src/x.rs", "println!(\"a\");\n", &["`println!`"]),
        ("a/src/x.rs", "eprintln!(\"a\");\n", &["`eprintln!`"]),
        ("a/src/x.rs", "sprint!(1);\n", &[]),
        ("loadtests/src/main.rs", "println!(\"a\");\n", &[]),
        ("a/tests/x.rs", "#[ignore = \"slow\"]\n", &["`#[ignore`"]),
        ("a/tests/x.rs", "sleep(ms).await;\n", &["`sleep(`"]),
        ("a/tests/x.rs", "tokio::time::sleep(ms).await;\n", &["`sleep(`"]),
        ("a/src/x.rs", "tokio::time::sleep(ms).await;\n", &[]),
        ("a/src/x.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n    sleep(ms);\n}\n", &["a/src/x.rs:4: `sleep(`"]),
        ("a/src/x.rs", "#[cfg(test)]\nmod tests;\nfn a() { sleep(ms); }\n", &[]),
        ("a/src/x.rs", "std::thread::sleep(ms);\n", &["`thread::sleep`"]),
        ("a/tests/x.rs", "let a = \"127.0.0.1:7443\";\n", &["a fixed port"]),
        ("a/tests/x.rs", "let a = \"127.0.0.1:0\";\nlet b = \"127.0.0.1:1\";\n", &[]),
        ("a/src/x.rs", "let a = \"127.0.0.1:7443\";\n", &[]),
        ("a/src/x.rs", "let a = unsafe { b };\n", &["`unsafe`"]),
        ("a/src/x.rs", "#![deny(unsafe_code)]\n", &[]),
        ("docs/x.md", "See /work/main.\n", &["`/work/`"]),
        ("docs/x.md", "See /tmp/x.\n", &["`/tmp/`"]),
        ("docs/x.md", "Call SystemTime::now or todo!.\n", &[]),
        ("a/x.proto", "\tstring a = 1;\n", &["`\\t`"]),
        ("docs/x.md", "a \nb\n", &["docs/x.md:1: blanks"]),
        ("docs/x.md", "a", &["does not end with a line end"]),
        ("a/src/util.rs", "", &["`util.rs` says nothing"]),
        ("a/src/common/mod.rs", "", &["`common` says nothing"]),
        ("a/src/vault_manager.rs", "", &["`vault_manager.rs` says nothing"]),
        ("a/src/database.rs", "", &[]),
    ];
    for (path, text, said) in cases {
        let found = faults(&Source::new(path, text));
        let is_right = found.len() >= said.len()
            && said.iter().all(|said| found.iter().any(|fault| fault.contains(said)))
            && (!said.is_empty() || found.is_empty());
        assert!(is_right, "{path}: {text:?}: {found:?}");
    }
}

#[test]
fn lengths_are_measured() {
    let file = |lines: usize| Source::new("a/src/x.rs", &"// line\n".repeat(lines));
    assert_eq!(faults(&file(FILE_LINES_USUAL)), Vec::<String>::new());
    assert!(faults(&file(FILE_LINES_USUAL + 1)).join("").contains("or add it to LONG_FILES"));
    assert!(faults(&file(FILE_LINES_MAX + 1)).join("").contains("at most 1000"));

    let function = |lines: usize| {
        let body = "    a();\n".repeat(lines - 2);
        Source::new("a/src/x.rs", &format!("pub async fn long(a: [u8; 4]) -> A {{\n{body}}}\n"))
    };
    assert_eq!(faults(&function(FUNCTION_LINES_MAX)), Vec::<String>::new());
    assert!(faults(&function(FUNCTION_LINES_MAX + 1)).join("").contains("a/src/x.rs:1: `long` has 121 lines"));
}

#[test]
fn functions_end_at_their_brace() {
    // (code, name, line, lines)
    let cases = [
        ("fn a() {}", Some(("a", 1, 1))),
        ("\n\nfn a<T>(b: T)\nwhere\n    T: B,\n{\n    if c { d }\n}\nfn", Some(("a", 3, 6))),
        ("fn a(b: fn(u8) -> u8) -> [u8; 4] {\n}", Some(("a", 1, 2))),
        ("trait A { fn a(&self) -> [u8; 4]; }", None),
        ("type A = fn (u8);", None),
    ];
    for (code, expected) in cases {
        let found = functions(code);
        let expected: Vec<_> =
            expected.map(|(name, line, lines)| Function { name: name.into(), line, lines }).into_iter().collect();
        assert_eq!(found, expected, "{code}");
    }
}

#[test]
fn comments_and_literals_are_blanked() {
    // (Rust, what is left of it without blanks)
    let cases = [
        ("a // b\nc", "ac"),
        ("a /* b /* c */ d */ e", "ae"),
        ("a(\"b \\\" // c\") d", "a()d"),
        ("a(r#\"b \" c\"#) d", "a()d"),
        ("a(br\"b\\\") d", "a()d"),
        ("a('\"') b('\\'') c", "a()b()c"),
        ("fn a<'b>(c: &'b str) {}", "fna<'b>(c:&'bstr){}"),
        ("r#type = 1; \"x\"", "r#type=1;"),
        ("for \"x\" in y", "foriny"),
        ("a \"ü\" b", "ab"),
    ];
    for (text, left) in cases {
        let code = crate::house_source::code_of(text);
        assert_eq!(code.split_whitespace().collect::<String>(), left, "{text}");
        assert_eq!(code.lines().count(), text.lines().count(), "{text}");
    }
}
