//! Two people at the command line of one server, over TLS under its own
//! authority, each with contexts of their own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::process::{CHEAP, Process, canopy, run, serve, text};
use serde_json::Value as Json;
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery";

/// Somebody at a terminal.
pub(crate) struct Person {
    email: &'static str,
    home: TempDir,
}

impl Person {
    pub(crate) fn new(email: &'static str, server: &Process) -> Self {
        let person = Self { email, home: tempfile::tempdir().unwrap() };
        let url = server.url();
        let mut add = vec!["context", "add", "home", "--server", &url];
        // Without TLS there is none.
        if let Some(ca) = server.ready["ca"].as_str() {
            add.extend(["--ca", ca]);
        }
        person.done(&add);
        person
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = canopy();
        command.env("CANOPY_CONFIG_HOME", self.home.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments))
    }

    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}: {arguments:?}: {}", self.email, text(&output.stderr));
        text(&output.stdout)
    }

    #[track_caller]
    pub(crate) fn answer(&self, arguments: &[&str]) -> Json {
        let stdout = self.done(arguments);
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {stdout}"))
    }

    /// The exit code and what is said of it.
    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32, says: &str) {
        let output = self.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "`{says}` is not in: {said}");
    }

    pub(crate) fn join(&self, sign_up_token: &Path) {
        let [password, token] = [&self.password(), sign_up_token].map(|path| format!("@{}", path.display()));
        self.answer(&[
            "identity",
            "register",
            "--email",
            self.email,
            "--password",
            &password,
            "--sign-up-token",
            &token,
        ]);
        self.log_in();
    }

    pub(crate) fn log_in(&self) {
        let password = format!("@{}", self.password().display());
        let logged_in = self.answer(&["identity", "log-in", "--email", self.email, "--password", &password]);
        assert_eq!(logged_in["credentials"]["access_token"], "***", "a token is not printed");
        assert_eq!(logged_in["account"]["email"], self.email);
        let client = logged_in["session"]["client"].as_str().unwrap();
        assert!(client.starts_with("canopy/"), "{client} tells the holder nothing");
    }

    /// A file with it.
    fn password(&self) -> PathBuf {
        let path = self.home.path().join("password");
        std::fs::write(&path, PASSWORD).unwrap();
        path
    }
}

/// A command that runs until it is ended.
struct Running(Child, BufReader<std::process::ChildStdout>);

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self(child, stdout)
    }

    fn next(&mut self) -> Json {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_people_work_together_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    // All but sign-up and the cost of hashing is as it comes: TLS is on.
    let server = Process::start(serve(&data_dir, &CHEAP[2..]));
    assert!(server.url().starts_with("https://"), "{}", server.url());
    let token = data_dir.join("sign-up.token");
    let [ada, bob] = ["ada@example.org", "bob@example.org"].map(|email| Person::new(email, &server));

    ada.refused(&["org", "list-orgs"], 4, "log in");
    let short = ["identity", "register", "--email", "x@example.org", "--password", "short"];
    ada.refused(&short, 3, "password");
    let unknown = ["identity", "register", "--email", "x@example.org", "--password", PASSWORD];
    ada.refused(&unknown, 5, "sign-up");
    ada.refused(&["identity", "log-in", "--email", "x@example.org", "--password", PASSWORD], 4, "");
    ada.refused(&["identity", "no-such-method"], 2, "no-such-method");
    ada.join(&token);
    bob.join(&token);
    let taken = format!("@{}", token.display());
    let again =
        ["identity", "register", "--email", "ada@example.org", "--password", PASSWORD, "--sign-up-token", &taken];
    bob.refused(&again, 7, "exists");

    ada.answer(&["org", "create-org", "--slug", "acme", "--title", "Acme"]);
    ada.answer(&["org", "create-project", "--parent", "org/acme", "--slug", "web"]);
    let chat = "org/acme/project/web/chat";
    let general = format!("{chat}/channel/general");
    let created = ada.answer(&["chat", "create-channel", "--parent", chat, "--slug", "general"]);
    let channel = created["name"].as_str().unwrap().to_owned();
    bob.refused(&["chat", "list-channels", "--parent", chat], 6, "NOT_FOUND");
    let grant = ["--account", "account/bob@example.org", "--on", "org/acme/project/web", "--role"];
    ada.answer(&[&["org", "grant-role"], &grant[..], &["ROLE_PROJECT_USER"]].concat());
    bob.refused(&["chat", "create-channel", "--parent", chat, "--slug", "mine"], 5, "PERMISSION_DENIED");

    let mut following = Running::start(bob.command(&["chat", "subscribe", "--name", &general, "--cursor", "0"]));
    let opened = following.next();
    assert_eq!((opened["channel"].as_str(), opened["opened"].is_object()), (Some(channel.as_str()), true), "{opened}");
    for (person, words) in [(&ada, "hello"), (&bob, "and hello to you")] {
        let sent = person.answer(&["chat", "send-message", "--parent", &general, "--text", words]);
        assert_eq!(sent["text"], words);
        assert_eq!(following.next()["sent"], sent, "as it was answered");
    }
    let listed = bob.answer(&["chat", "list-messages", "--parent", &general]);
    let texts: Vec<_> = listed["messages"].as_array().unwrap().iter().map(|m| m["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["hello", "and hello to you"]);
    let orgs = bob.answer(&["org", "list-orgs"]);
    assert_eq!(orgs["orgs"][0]["slug"], "acme");
    let stale = ["chat", "subscribe", "--name", &general, "--cursor", "1000000"];
    bob.refused(&stale, 3, "OUT_OF_RANGE");

    // The first to sign up administers the server, and nobody else does.
    assert!(ada.done(&["observe", "--once"]).contains("tenants"));
    bob.refused(&["observe", "--once"], 5, "PERMISSION_DENIED");
    // Each has contexts of their own, and both outlive the command.
    assert!(ada.done(&["context", "show"]).contains("https://"));
    bob.answer(&["identity", "log-out", "--name", "session/me"]);
    bob.refused(&["org", "list-orgs"], 4, "log in");
    ada.done(&["org", "list-orgs"]);

    // Another authority's server is not trusted.
    let other_dir = tempfile::tempdir().unwrap();
    let other = Process::start(serve(&other_dir.path().join("data"), &CHEAP));
    let ask_other = ["--server", &other.url(), "ops", "get-installation"];
    ada.refused(&ask_other, 2, "--ca FILE");
    let (ours, theirs) = (server.ready["ca"].as_str().unwrap(), other.ready["ca"].as_str().unwrap());
    ada.refused(&[&ask_other[..], &["--ca", ours]].concat(), 9, "certificate");
    ada.answer(&[&ask_other[..], &["--ca", theirs]].concat());
    assert!(other.terminate().0.success());

    let (status, log) = server.terminate();
    assert!(status.success(), "{status}: {log}");
    ada.refused(&["org", "list-orgs"], 9, "UNAVAILABLE");
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_directory_is_looked_at_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let set = format!("data_dir={}", data_dir.display());
    let look = |arguments: &[&str], set_edge: &str| {
        let mut command = canopy();
        command.current_dir(dir.path()).args(arguments).args(["--set", &set, "--set", set_edge]);
        run(command)
    };
    let free = "edge.listen=127.0.0.1:0";
    let doctor = look(&["doctor"], free);
    let said = text(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(0), "{said}");
    for line in ["ok    the configuration is valid", "will be made at the first start", "MiB free for data"] {
        assert!(said.contains(line), "`{line}` is not in: {said}");
    }
    assert!(said.contains(&format!("ok    {} will be made", data_dir.join("backups").display())), "{said}");
    assert!(!data_dir.exists(), "looking makes nothing");
    let sick = look(&["doctor"], "edge.tls=perhaps");
    assert_eq!(sick.status.code(), Some(1), "{}", text(&sick.stdout));
    assert!(text(&sick.stdout).contains("FAIL"), "{}", text(&sick.stdout));

    let config = text(&look(&["local", "config", "--origin"], free).stdout);
    for line in ["edge.listen = \"127.0.0.1:0\"  # ", "edge.tls = \"local-ca\"  # default"] {
        assert!(config.lines().any(|l| l.contains(line)), "`{line}` is not in: {config}");
    }
    let origin = config.lines().find(|l| l.starts_with("edge.listen")).unwrap();
    assert!(origin.ends_with("# command line"), "{origin}");
    assert!(!text(&look(&["local", "ca"], free).stderr).is_empty(), "there is no authority yet");

    assert!(Process::start(serve(&data_dir, &CHEAP)).terminate().0.success());
    let ca = look(&["local", "ca"], free);
    assert!(ca.status.success());
    assert!(text(&ca.stdout).starts_with("-----BEGIN CERTIFICATE-----"), "{}", text(&ca.stdout));
    assert_eq!(look(&["doctor"], free).status.code(), Some(0));
}

#[test]
fn the_place_of_backups_is_looked_at() {
    const SAME_DISK: &str = "warn  backups lie on the disk that the data is on";
    let dir = tempfile::tempdir().unwrap();
    let looked = |backup_dir: &Path| {
        let mut command = canopy();
        command.current_dir(dir.path()).args(["doctor", "--set", "data_dir=data", "--set", "edge.listen=127.0.0.1:0"]);
        command.arg("--set").arg(format!("backup.dir={}", backup_dir.display()));
        let output = run(command);
        (output.status.code(), text(&output.stdout))
    };
    let there = dir.path().join("there");
    std::fs::create_dir(&there).unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "a file").unwrap();
    for (place, line) in
        [(&there, "backups go into"), (&dir.path().join("not/yet"), "will be made for the first backup")]
    {
        let (code, said) = looked(place);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(line) && said.contains(SAME_DISK), "{said}");
    }
    assert_eq!(std::fs::read_dir(&there).unwrap().count(), 0, "looking leaves nothing");
    for place in [file.as_path(), &file.join("backups"), Path::new("/proc/backups")] {
        let (code, said) = looked(place);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("FAIL  backups cannot be written into {}", place.display())), "{said}");
    }
    // Where this machine has a second file system.
    let other = Path::new("/dev/shm");
    let device = |path: &Path| std::fs::metadata(path).map(|found| std::os::unix::fs::MetadataExt::dev(&found)).ok();
    if other.is_dir() {
        let (code, said) = looked(other);
        let is_same = device(other) == device(dir.path());
        assert_eq!((code, said.contains(SAME_DISK)), (Some(0), is_same), "{said}");
        assert_eq!(said.contains("MiB free for backups"), !is_same, "{said}");
    }
}

#[test]
fn the_file_of_breached_passwords_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, list) = (dir.path().join("data"), dir.path().join("pwned.txt"));
    let set = ["--set".to_owned(), format!("identity.breached_passwords_file={}", list.display())];
    let looked = || {
        let mut command = canopy();
        command.current_dir(dir.path()).args(["doctor", "--set", "edge.listen=127.0.0.1:0"]).args(&set);
        let output = run(command);
        (output.status.code(), text(&output.stdout))
    };
    let with_list = || {
        let mut command = serve(&data_dir, &CHEAP);
        command.args(&set);
        command
    };
    let line = |digit: &str| format!("{}:1\n", digit.repeat(40));
    let unsorted = line("2") + &line("1");
    let wrong = [(None, "No such file"), (Some(String::new()), "is empty"), (Some(unsorted), "is not sorted by hash")];
    for (content, why) in wrong {
        if let Some(content) = content {
            std::fs::write(&list, content).unwrap();
        }
        let output = run(with_list());
        let said = text(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(why) && said.contains("set identity.breached_passwords_file"), "{said}");
        let (code, said) = looked();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("FAIL  {} is no file of breached passwords", list.display())), "{said}");
        assert!(said.contains(why), "{said}");
    }
    std::fs::write(&list, line("1") + &line("2")).unwrap();
    let (code, said) = looked();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("ok    new passwords are looked for in {}", list.display())), "{said}");
    assert!(Process::start(with_list()).terminate().0.success());
}

#[test]
fn the_authorities_of_devices_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("devices.pem");
    let looked = || {
        let mut command = canopy();
        command.current_dir(dir.path()).args(["doctor", "--set", "data_dir=data", "--set", "edge.listen=127.0.0.1:0"]);
        command.arg("--set").arg(format!("edge.admin_client_ca_file={}", file.display()));
        let output = run(command);
        (output.status.code(), text(&output.stdout))
    };
    let absent = looked();
    assert!(absent.0 == Some(1) && absent.1.contains("FAIL  cannot read"), "{absent:?}");
    std::fs::write(&file, "no certificate").unwrap();
    let unusable = looked();
    assert!(unusable.0 == Some(1) && unusable.1.contains("holds no authority's certificate"), "{unusable:?}");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
    let fine = looked();
    assert!(fine.0 == Some(0) && fine.1.contains("administer the installation"), "{fine:?}");
}
