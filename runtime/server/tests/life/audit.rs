//! An audit that was exported, and the data directory that it came from: what
//! was changed, left out or put elsewhere is told, with keys and without.

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::command_line::Person;
use crate::process::{CHEAP, Process, canopy, run, serve, text};

struct Looked {
    code: Option<i32>,
    said: String,
    lines: Vec<Json>,
}

/// `canopy local audit …` on the data directory `data`, from `dir`.
fn local(dir: &Path, data: &str, arguments: &[&str]) -> Looked {
    let mut command = canopy();
    command.current_dir(dir).args(["local", "audit"]).args(arguments).args(["--set", &format!("data_dir={data}")]);
    let output = run(command);
    let lines = text(&output.stdout);
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Looked { code: output.status.code(), said: text(&output.stderr), lines }
}

fn start(dir: &Path, data: &str) -> Process {
    let mut command = serve(&dir.join(data), &CHEAP);
    command.args(["--set", "edge.tls=off"]);
    Process::start(command)
}

fn export(person: &Person, org: &str, after: &str) -> Vec<Json> {
    let parent = format!("{org}/audit");
    let printed = person.done(&["org", "export-audit", "--parent", &parent, "--after-seq", after, "-o", "json"]);
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write(path: &Path, lines: &[Json]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(path, text).unwrap();
}

fn methods(lines: &[Json]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["entry"]["method"].as_str()).collect()
}

#[test]
fn exports_prove_what_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = start(dir, "data");
    let ada = Person::new("ada@example.org", &server);
    ada.join(&dir.join("data/sign-up.token"));
    let org = ada.answer(&["org", "create-org", "--slug", "acme", "--title", "Acme"])["name"].clone();
    let org = org.as_str().unwrap();
    for slug in ["web", "ops", "art"] {
        ada.answer(&["org", "create-project", "--parent", org, "--slug", slug]);
    }
    let key = ada.answer(&["ops", "get-installation"])["attestation_key"].clone();
    let key = key.as_str().unwrap();
    let lines = export(&ada, "org/acme", "0");
    assert_eq!(methods(&lines).len(), 5);
    write(&dir.join("first"), &lines);
    ada.answer(&["org", "create-project", "--parent", org, "--slug", "late"]);
    write(&dir.join("second"), &export(&ada, org, "5"));

    // What was answered is recorded, whenever the process dies.
    server.kill();

    let whole = local(dir, "data", &["--org", org]);
    assert_eq!(whole.code, Some(0), "{}", whole.said);
    let recorded = methods(&whole.lines);
    assert_eq!(recorded.len(), 7, "{recorded:?}");
    assert_eq!(whole.lines[1..6], lines[1..], "entries are printed as they were exported");
    let sound = local(dir, "data", &["--file", "first", "--file", "second", "--org", org]);
    assert_eq!(sound.code, Some(0), "{}", sound.said);
    assert_eq!(sound.lines[0]["entries"], 5);
    assert_eq!((&sound.lines[1]["entries"], &sound.lines[1]["after_seq"]), (&json!(2), &json!(5)));
    let elsewhere = ["--file", "first", "--file", "second", "--key", key];
    let sound = local(dir, "no-data", &elsewhere);
    assert_eq!(sound.code, Some(0), "{}", sound.said);
    assert!(!dir.join("no-data").exists(), "who only reads makes nothing");
    for wrong in ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AAAA"] {
        let other = local(dir, "no-data", &["--file", "first", "--key", wrong]);
        assert_eq!(other.code, Some(1));
        assert!(other.said.contains("another key"), "{}", other.said);
    }

    let changed = |change: &dyn Fn(&mut Vec<Json>), says: &str| {
        let mut lines = lines.clone();
        change(&mut lines);
        write(&dir.join("changed"), &lines);
        for arguments in [&["--file", "changed", "--key", key][..], &["--file", "changed"]] {
            let looked = local(dir, "data", arguments);
            assert_eq!(looked.code, Some(1), "{says}");
            assert!(looked.said.contains(says), "`{says}` is not in: {}", looked.said);
        }
    };
    changed(&|lines| lines[2]["entry"]["principal"] = json!("account/somebody"), "entry 2 is not what was recorded");
    changed(&|lines| lines[2]["entry"]["chain"] = lines[3]["entry"]["chain"].clone(), "entry 2 is not what");
    changed(&|lines| drop(lines.remove(3)), "entry 4 follows entry 2");
    changed(&|lines| lines.swap(3, 4), "entry 4 follows entry 2");
    changed(&|lines| drop(lines.pop()), "it ends with entry 4, and its head says 5");
    changed(&|lines| lines.truncate(1), "it ends with entry 0");
    changed(&|lines| drop(lines.remove(0)), "an entry before the head");
    changed(&|lines| lines.push(lines[0].clone()), "a second head");
    changed(&|lines| lines.push(lines[5].clone()), "entry 5 follows entry 5");
    changed(&|lines| lines.push(json!({"entry": {"surprise": 1}})), "surprise");
    // Cut off with a head to match: the signature tells.
    let cut = |lines: &mut Vec<Json>| {
        let last = lines[4]["entry"].clone();
        lines.truncate(5);
        (lines[0]["head"]["seq"], lines[0]["head"]["chain"]) = (last["seq"].clone(), last["chain"].clone());
    };
    changed(&cut, "is not what was signed");
    changed(&|lines| lines[0]["head"]["time_ms"] = json!("1"), "is not what was signed");
    changed(&|lines| lines[0]["head"]["audit"] = json!("system/audit"), "does not begin as that of");

    // A data directory that was set back does not hold what was exported later.
    let server = start(dir, "data");
    let ada = Person::new("ada@example.org", &server);
    ada.log_in();
    let before = dir.join("before");
    copy(&dir.join("data"), &before);
    assert_eq!(export(&ada, org, "0").len(), 9);
    let later = export(&ada, org, "0");
    write(&dir.join("later"), &later);
    assert!(server.terminate().0.success());
    let held = local(dir, "data", &["--file", "later"]);
    assert_eq!(held.code, Some(0), "{}", held.said);
    let set_back = local(dir, "before", &["--file", "later"]);
    assert_eq!(set_back.code, Some(1));
    assert!(set_back.said.contains("is not in the data directory any more"), "{}", set_back.said);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
