//! Backups that a running server makes, as docs/recovery.md tells it: the
//! process is killed while it writes one, and what it wrote in the end brings
//! the org to another place.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::Value as Json;

use crate::command_line::Person;
use crate::harness::{Caller, message};
use crate::process::{CHEAP, Process, canopy, run, serve, text, until};

/// Messages in the chat whose backup is cut off.
const MESSAGES: usize = 300;
/// Enough for a backup of several times what a pipe holds.
const MESSAGES_MIN: usize = 40;
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(1);

/// `canopy local …` on the data directory `data`, from `dir`.
fn try_local(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = canopy();
    command.current_dir(dir).arg("local").args(arguments).args(["--set", "data_dir=data"]);
    run(command)
}

/// The same, where it is to succeed.
#[track_caller]
fn local(dir: &Path, arguments: &[&str]) -> Vec<Json> {
    let output = try_local(dir, arguments);
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
fn fill(url: &str, email: &str, channel: &str, messages: usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let caller = Caller::at(url).await.unwrap().log_in(email).await;
        let mut state = 1u64;
        let texts = (0..messages).map(|_| {
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
    fill(&server.url(), "ada@example.org", &channel, MESSAGES);

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

/// A file that takes no more than a pipe does until somebody reads it: whoever
/// writes more is caught in the middle of it.
struct Pipe {
    path: PathBuf,
    end: fs::File,
}

impl Pipe {
    fn new(path: PathBuf) -> Self {
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let end = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).unwrap();
        Self { path, end }
    }

    /// What was written since; nothing so far, or no more to come.
    fn read(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 16 << 10];
        let read = self.end.read(&mut bytes).unwrap_or(0);
        bytes.truncate(read);
        (read > 0).then_some(bytes)
    }
}

#[test]
fn half_a_backup_is_never_offered() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (data, files) = (dir.join("data"), dir.join("data/backups"));
    let server = start(&data);
    let ada = Person::new("ada@example.org", &server);
    ada.join(&data.join("sign-up.token"));
    let [org, other] =
        ["acme", "ajax"].map(|slug| name(&ada.answer(&["org", "create-org", "--slug", slug, "--title", slug])));
    let project = name(&ada.answer(&["org", "create-project", "--parent", &org, "--slug", "web"]));
    let chat = format!("{project}/chat");
    let channel = name(&ada.answer(&["chat", "create-channel", "--parent", &chat, "--slug", "general"]));
    fill(&server.url(), "ada@example.org", &channel, MESSAGES_MIN);
    let create = |parent: &str| {
        let backup = ada.answer(&["ops", "create-backup", "--parent", parent, "--request-id", "once"]);
        (name(&backup), backup["file_name"].as_str().unwrap().to_owned())
    };
    let state = |ada: &Person, backup: &str| {
        let backup = ada.answer(&["ops", "get-backup", "--name", backup]);
        let complete = backup["state"] == "BACKUP_STATE_COMPLETE";
        assert_eq!(backup["sha256"] != "", complete, "only what is whole has a digest: {backup}");
        (backup, complete)
    };

    // The same request in another org tells which file it is going to be.
    let (elsewhere, other_file) = create(&other);
    until("the other is complete", LOOK, || state(&ada, &elsewhere).1.then_some(()));
    let short = |org: &str| org.rsplit('/').next().unwrap().to_owned();
    let file = other_file.replace(&short(&other), &short(&org));
    let (whole, part) = (files.join(&file), files.join(&file).with_extension("part"));
    let mut pipe = Pipe::new(part.clone());
    let (backup, told) = create(&chat);
    assert_eq!(told, file);
    let mut half = until("the backup is being written", LOOK, || pipe.read());
    let (running, complete) = state(&ada, &backup);
    assert!(!complete && running["state"] == "BACKUP_STATE_RUNNING" && !whole.exists(), "{running}");
    server.kill();
    half.extend(std::iter::from_fn(|| pipe.read()).flatten());
    fs::remove_file(&pipe.path).unwrap();
    // As it would lie there.
    fs::write(&part, &half).unwrap();

    let part_name = part.strip_prefix(dir).unwrap().to_str().unwrap();
    local(dir, &["keys", "export", "keys.bundle"]);
    for refused in
        [&["verify-backup", &chat, part_name][..], &["restore", part_name, "--to", "new-data", "--keys", "keys.bundle"]]
    {
        let output = try_local(dir, refused);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("cut short"), "{refused:?}: {said}");
    }
    assert!(!dir.join("new-data").exists());

    let server = start(&data);
    let ada = Person::new("ada@example.org", &server);
    ada.log_in();
    let finished = until("it is begun again", LOOK, || {
        let listed = ada.answer(&["ops", "list-backups", "--parent", &org])["backups"].clone();
        let [listed] = listed.as_array().unwrap().as_slice() else { panic!("{listed}") };
        assert!(listed["state"] != "BACKUP_STATE_COMPLETE" || whole.exists(), "{listed}");
        let (now, complete) = state(&ada, &backup);
        complete.then_some(now)
    });
    assert_eq!(finished["attempts"], 2);
    assert!(!part.exists(), "nothing half-written is left");
    let before = shown(&ada, &channel, &org);
    assert!(server.terminate().0.success());

    let whole_name = whole.strip_prefix(dir).unwrap().to_str().unwrap();
    let verified = local(dir, &["verify-backup", &chat, whole_name]);
    assert_eq!(verified[0]["sha256"], finished["sha256"]);
    assert!(half.len() < usize::try_from(fs::metadata(&whole).unwrap().len()).unwrap());
    local(dir, &["backup", &org, "org.backup"]);
    local(dir, &["backup", &project, "project.backup"]);
    let restore = ["restore", whole_name, "org.backup", "project.backup", "--to", "new-data", "--keys", "keys.bundle"];
    local(dir, &restore);
    let root_key = format!("store.root_key_file={}", data.join("root.key").display());
    let server = Process::start(serve(&dir.join("new-data"), &[&CHEAP[..], &["--set", &root_key]].concat()));
    let bob = Person::new("bob@example.org", &server);
    bob.join(&dir.join("new-data/sign-up.token"));
    assert_eq!(shown(&bob, &channel, &org), before);
    assert_eq!(before[0].as_array().unwrap().len(), MESSAGES_MIN);
    let (status, log) = server.terminate();
    assert!(status.success() && !log.contains("ERROR"), "{status}: {log}");
}
