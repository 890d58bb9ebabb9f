//! An org out of a server's data directory into a new one, as docs/recovery.md
//! tells it: with file names as one types them, relative to where one stands.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value as Json;

use crate::command_line::Person;
use crate::process::{CHEAP, Process, canopy, run, serve, text};

/// `canopy local …` on the data directory `data`, from `dir`.
fn local(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = canopy();
    command.current_dir(dir).arg("local").args(arguments).args(["--set", "data_dir=data"]);
    run(command)
}

#[track_caller]
fn done(dir: &Path, arguments: &[&str]) -> Vec<Json> {
    let output = local(dir, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn refused(dir: &Path, arguments: &[&str], says: &str) {
    let output = local(dir, arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert!(said.contains(says), "`{says}` is not in: {said}");
}

/// What a project's channel shows, and which org it is of.
fn shown(person: &Person, channel: &str, org: &str) -> [Json; 2] {
    let messages = person.answer(&["chat", "list-messages", "--parent", channel]);
    [messages["messages"].clone(), person.answer(&["org", "get-org", "--name", org])]
}

#[test]
fn an_org_is_restored_elsewhere_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Process::start(serve(&dir.join("data"), &CHEAP));
    let ada = Person::new("ada@example.org", &server);
    ada.join(&dir.join("data/sign-up.token"));
    let org = ada.answer(&["org", "create-org", "--slug", "acme", "--title", "Acme"])["name"].clone();
    let org = org.as_str().unwrap();
    let project = ada.answer(&["org", "create-project", "--parent", org, "--slug", "web"])["name"].clone();
    let project = project.as_str().unwrap();
    let chat = format!("{project}/chat");
    let channel = ada.answer(&["chat", "create-channel", "--parent", &chat, "--slug", "general"])["name"].clone();
    let channel = channel.as_str().unwrap();
    for words in ["hello", "is anybody there?"] {
        ada.answer(&["chat", "send-message", "--parent", channel, "--text", words]);
    }
    let before = shown(&ada, channel, org);
    refused(dir, &["backup", org, "org.backup"], "another process");
    assert!(server.terminate().0.success());

    let vaults = [(org, "org.backup"), (project, "project.backup"), (chat.as_str(), "chat.backup")];
    for (address, file) in vaults {
        let written = done(dir, &["backup", address, file]);
        assert_eq!(written, done(dir, &["verify-backup", address, file]));
    }
    refused(dir, &["backup", org, "org.backup"], "exists already");
    assert_eq!(done(dir, &["keys", "export", "keys.bundle"])[0]["orgs"], 2, "and the installation");
    let restore = ["restore", "org.backup", "project.backup", "chat.backup", "--to", "new-data", "--keys"];
    refused(dir, &[&restore[..], &["chat.backup"]].concat(), "no key bundle");
    assert!(!dir.join("new-data").exists(), "nothing is left of a restore that failed");
    assert_eq!(done(dir, &[&restore[..], &["keys.bundle"]].concat()).len(), vaults.len());
    refused(dir, &[&restore[..], &["keys.bundle"]].concat(), "exists");

    // A flipped bit is seen.
    let mut bytes = fs::read(dir.join("chat.backup")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(dir.join("chat.backup"), bytes).unwrap();
    refused(dir, &["verify-backup", &chat, "chat.backup"], "chat.backup");

    let root_key = format!("store.root_key_file={}", dir.join("data/root.key").display());
    let server = Process::start(serve(&dir.join("new-data"), &[&CHEAP[..], &["--set", &root_key]].concat()));
    let bob = Person::new("bob@example.org", &server);
    bob.join(&dir.join("new-data/sign-up.token"));
    assert_eq!(shown(&bob, channel, org), before);
    let sent = bob.answer(&["chat", "send-message", "--parent", channel, "--text", "yes"]);
    assert_eq!(shown(&bob, channel, org)[0].as_array().unwrap().last(), Some(&sent), "and goes on");
    let (status, log) = server.terminate();
    assert!(status.success() && !log.contains("ERROR"), "{status}: {log}");
}

#[test]
fn what_can_be_proven_is_salvaged_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Process::start(serve(&dir.join("data"), &CHEAP));
    let ada = Person::new("ada@example.org", &server);
    ada.join(&dir.join("data/sign-up.token"));
    let mut kept = Vec::new();
    for slug in ["acme", "ajax"] {
        let org = ada.answer(&["org", "create-org", "--slug", slug, "--title", slug])["name"].clone();
        let project = ["org", "create-project", "--parent", org.as_str().unwrap(), "--slug", "web"];
        let chat = format!("{}/chat", ada.answer(&project)["name"].as_str().unwrap());
        let channel = ada.answer(&["chat", "create-channel", "--parent", &chat, "--slug", "general"])["name"].clone();
        let channel = channel.as_str().unwrap().to_owned();
        for words in ["hello", "is anybody there?"] {
            ada.answer(&["chat", "send-message", "--parent", &channel, "--text", words]);
        }
        kept.push((chat, ada.answer(&["chat", "list-messages", "--parent", &channel])["messages"].clone(), channel));
    }
    server.kill();
    assert!(
        done(dir, &["salvage", "--to", "same", "-o", "json"])
            .iter()
            .all(|report| report["faults"] == serde_json::json!([]))
    );

    // The end of the second chat's journal goes bad.
    let [(_, others, other), (damaged, before, channel)] = kept.as_slice() else { panic!() };
    let vaults = fs::read_dir(dir.join("data/vaults")).unwrap().map(|entry| entry.unwrap().path());
    let mut journals: Vec<_> = vaults.map(|vault| vault.join("db/0.jnl")).filter(|path| path.exists()).collect();
    journals.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().modified().unwrap()));
    let mut hit = None;
    for path in &journals {
        let whole = fs::read(path).unwrap();
        let mut bad = whole.clone();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        bad[end - 40] ^= 1;
        fs::write(path, &bad).unwrap();
        let output = local(dir, &["verify"]);
        if text(&output.stdout).contains(&format!("FAIL  {damaged}:")) {
            hit = Some(path);
            break;
        }
        fs::write(path, &whole).unwrap();
    }
    assert!(hit.is_some(), "the chat has a journal");
    let output = local(dir, &["salvage", "--to", "new-data"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", text(&output.stderr));
    assert_eq!(said.matches("FAIL").count(), 1, "{said}");
    assert!(said.contains(&format!("FAIL  {damaged}:")) && said.contains("only"), "{said}");
    refused(dir, &["salvage", "--to", "new-data"], "exists");

    let root_key = format!("store.root_key_file={}", dir.join("data/root.key").display());
    let server = Process::start(serve(&dir.join("new-data"), &[&CHEAP[..], &["--set", &root_key]].concat()));
    let ada = Person::new("ada@example.org", &server);
    ada.log_in();
    let listed = |channel: &str| ada.answer(&["chat", "list-messages", "--parent", channel])["messages"].clone();
    assert_eq!(listed(other), *others, "the other org lost nothing");
    let left = listed(channel);
    assert_eq!(left.as_array().unwrap().as_slice(), &before.as_array().unwrap()[..1], "the last one is lost");
    ada.answer(&["chat", "send-message", "--parent", channel, "--text", "we go on"]);
    let (status, log) = server.terminate();
    assert!(status.success() && !log.contains("ERROR"), "{status}: {log}");
}

#[test]
fn key_slots_and_the_root_key_change_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Process::start(serve(&dir.join("data"), &CHEAP));
    refused(dir, &["keys", "list"], "another process");
    assert!(server.terminate().0.success());
    let of = |lines: &[Json], name: &str, field: &str| -> Vec<Json> {
        lines.iter().filter(|line| line.get(name).is_some()).map(|line| line[field].clone()).collect()
    };
    let listed = done(dir, &["keys", "list"]);
    assert_eq!(of(&listed, "slot", "slot"), [1]);
    assert_eq!(of(&listed, "of", "of")[0], "root");
    refused(dir, &["keys", "remove", "1"], "only key slot");
    fs::write(dir.join("words"), "correct horse battery staple\n").unwrap();
    fs::write(dir.join("empty"), "\n").unwrap();
    refused(dir, &["keys", "add", "--passphrase-file", "empty"], "is empty");
    let added = done(dir, &["keys", "add", "--passphrase-file", "words"]);
    assert_eq!((&added[0]["slot"], &added[0]["kind"]), (&2.into(), &"passphrase".into()));
    assert_eq!(done(dir, &["keys", "add", "--key-file", "other.key"])[0]["slot"], 3);
    assert_eq!(done(dir, &["keys", "rotate-root"])[0]["version"], 2);
    let other = ["--set", "store.root_key_file=other.key"];
    assert_eq!(done(dir, &[&["keys", "remove", "1"][..], &other].concat()).len(), 2);
    refused(dir, &["keys", "list"], "does not open this data directory");
    assert_eq!(of(&done(dir, &[&["keys", "list"][..], &other].concat()), "slot", "slot"), [2, 3]);
}
