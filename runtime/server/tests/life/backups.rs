//! Backups that a running server makes, as docs/recovery.md tells it: the
//! process is killed while it writes one, and what it wrote in the end brings
//! the org to another place.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use crate::command_line::Person;
use crate::harness::{Caller, message};
use crate::process::{CHEAP, Process, canopy, run, serve, text, until};

/// Messages in the chat whose backup is cut off.
const MESSAGES: usize = 300;
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(1);

/// `canopy local …` on the data directory `data`, from `dir`.
#[track_caller]
fn local(dir: &Path, arguments: &[&str]) -> Vec<Json> {
    let mut command = canopy();
    command.current_dir(dir).arg("local").args(arguments).args(["--set", "data_dir=data"]);
    let output = run(command);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn start(data: &Path) -> Process {
    let mut command = serve(data, &CHEAP);
    command.args(["--set", "edge.tls=off"]);
    Process::start(command)
}

fn entries(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

fn name(answer: &Json) -> String {
    answer["name"].as_str().unwrap().to_owned()
}

/// What a project's channel shows, and which org it is of.
fn shown(person: &Person, channel: &str, org: &str) -> [Json; 2] {
    let list = ["chat", "list-messages", "--parent", channel, "--page-size", "1000"];
    [person.answer(&list)["messages"].clone(), person.answer(&["org", "get-org", "--name", org])]
}

/// Enough for a backup to take a while, and nothing that gets smaller.
fn fill(url: &str, email: &str, channel: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let caller = Caller::at(url).await.unwrap().log_in(email).await;
        let mut state = 1u64;
        let texts = (0..MESSAGES).map(|_| {
            let letter = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
            };
            (0..15_000).map(letter).collect::<String>()
        });
        for text in texts {
            caller.chat().send_message(message(channel, &text)).await.unwrap();
        }
    });
}

#[test]
fn a_backup_outlives_kills_and_is_restored_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let data = dir.join("data");
    let files = data.join("backups");
    let mut server = start(&data);
    let mut ada = Person::new("ada@example.org", &server);
    ada.join(&data.join("sign-up.token"));
    let org = name(&ada.answer(&["org", "create-org", "--slug", "acme", "--title", "Acme"]));
    let project = name(&ada.answer(&["org", "create-project", "--parent", &org, "--slug", "web"]));
    let chat = format!("{project}/chat");
    let channel = name(&ada.answer(&["chat", "create-channel", "--parent", &chat, "--slug", "general"]));
    fill(&server.url(), "ada@example.org", &channel);

    let create = |ada: &Person, parent: &str, id: &str| {
        ada.answer(&["ops", "create-backup", "--parent", parent, "--request-id", id])
    };
    let vaults = [("chat", chat.as_str()), ("org", &org), ("project", &project)];
    let mut made: Vec<(String, String)> = Vec::new();
    // One backup is cut off, then that and the others.
    for count in [1, vaults.len()] {
        for (n, (id, parent)) in vaults.iter().take(count).enumerate() {
            let backup = create(&ada, parent, id);
            let backup = (name(&backup), backup["file_name"].as_str().unwrap().to_owned());
            match made.get(n) {
                Some(before) => assert_eq!(backup, *before, "a repeat makes no other"),
                None => made.push(backup),
            }
        }
        until("a backup is begun", LOOK, || {
            (!entries(&files, "part").is_empty() || !entries(&files, "backup").is_empty()).then_some(())
        });
        server.kill();
        for ((_, file), (_, address)) in made.iter().zip(&vaults) {
            if files.join(file).exists() {
                local(dir, &["verify-backup", address, &format!("data/backups/{file}")]);
            }
        }
        server = start(&data);
        ada = Person::new("ada@example.org", &server);
        ada.log_in();
    }
    let mut backups = Vec::new();
    for ((name, _), (_, address)) in made.iter().zip(&vaults) {
        let backup = until("a backup is complete", LOOK, || {
            let backup = ada.answer(&["ops", "get-backup", "--name", name]);
            assert_ne!(backup["state"], "BACKUP_STATE_FAILED", "{backup}");
            (backup["state"] == "BACKUP_STATE_COMPLETE").then_some(backup)
        });
        assert_eq!(backup["address"], **address);
        backups.push(backup);
    }
    let list = ada.answer(&["ops", "list-backups", "--parent", "org/acme"]);
    assert_eq!(list["backups"].as_array().unwrap().len(), vaults.len());
    assert!(entries(&files, "part").is_empty(), "nothing half-written is left");
    let before = shown(&ada, &channel, &org);
    assert_eq!(before[0].as_array().unwrap().len(), MESSAGES);
    let (status, log) = server.terminate();
    assert!(status.success() && !log.contains("ERROR"), "{status}: {log}");

    local(dir, &["keys", "export", "keys.bundle"]);
    let mut restore = vec!["restore".to_owned()];
    for backup in &backups {
        let path = format!("data/backups/{}", backup["file_name"].as_str().unwrap());
        let verified = local(dir, &["verify-backup", backup["address"].as_str().unwrap(), &path]);
        for (field, of) in
            [("sha256", "sha256"), ("bytes", "bytes"), ("cursor", "cursor"), ("time_ms", "snapshot_time_ms")]
        {
            let plain = |value: &Json| value.to_string().replace('"', "");
            assert_eq!(plain(&verified[0][field]), plain(&backup[of]), "{field} of {path}");
        }
        restore.push(path);
    }
    restore.extend(["--to", "new-data", "--keys", "keys.bundle"].map(str::to_owned));
    assert_eq!(local(dir, &restore.iter().map(String::as_str).collect::<Vec<_>>()).len(), vaults.len());

    let root_key = format!("store.root_key_file={}", data.join("root.key").display());
    let server = Process::start(serve(&dir.join("new-data"), &[&CHEAP[..], &["--set", &root_key]].concat()));
    let bob = Person::new("bob@example.org", &server);
    bob.join(&dir.join("new-data/sign-up.token"));
    assert_eq!(shown(&bob, &channel, &org), before);
    // Backups that were under way then are shown as they were; none is begun
    // by itself, and they can be deleted.
    for backup in bob.answer(&["ops", "list-backups", "--parent", &org])["backups"].as_array().into_iter().flatten() {
        bob.answer(&["ops", "delete-backup", "--name", backup["name"].as_str().unwrap()]);
    }
    let (status, log) = server.terminate();
    assert!(status.success() && !log.contains("ERROR"), "{status}: {log}");
}
