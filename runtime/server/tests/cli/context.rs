//! Contexts: a file that only its owner reads, changed by one command at a
//! time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::cli_stage::Stage;
use canopy::cli::Exit;
use canopy::cli::context::{Context, Contexts, Login, Secret, Store};
use canopy::cli::terminal::Terminal;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn ca_file(stage: &Stage) -> String {
    let path = stage.home.path().join("ca.pem");
    fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn contexts_are_added_used_shown_and_removed() {
    let stage = Stage::new();
    let ca = ca_file(&stage);
    for line in [
        format!("canopy context add work --server https://work.example:7443/ --ca {ca}"),
        "canopy context add here --server http://127.0.0.1:7443".to_owned(),
    ] {
        let ran = stage.run(&line).await;
        assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    }
    let list = "canopy context list -o table";
    let table = "  NAME  SERVER                     ACCOUNT\n  here  http://127.0.0.1:7443\n* work  https://work.example:7443\n";
    assert_eq!(stage.run(list).await.stdout, table);
    assert_eq!(stage.run("canopy context use here").await.exit, Exit::Success);
    assert!(stage.run(list).await.stdout.contains("* here"));
    let shown: serde_json::Value = serde_json::from_str(&stage.run("canopy context show work").await.stdout).unwrap();
    assert_eq!((&shown["server"], &shown["current"]), (&"https://work.example:7443".into(), &false.into()));
    assert_eq!(stage.run("canopy context remove here").await.exit, Exit::Success);
    let gone = stage.run("canopy context show here").await;
    assert_eq!(gone.exit, Exit::Usage);
    assert!(gone.stderr.contains("there is no context here") && gone.stderr.contains("work"), "{}", gone.stderr);
    assert!(stage.run("canopy context show").await.stderr.contains("no context is in use"));
}

#[tokio::test]
async fn nobody_else_reads_the_file() {
    let stage = Stage::new();
    stage.run("canopy context add here --server http://127.0.0.1:1").await;
    let file = stage.config().join("contexts.toml");
    assert_eq!((mode(&stage.config()), mode(&file)), (0o700, 0o600));
    for open in [0o640, 0o604, 0o644, 0o660] {
        fs::set_permissions(&file, Permissions::from_mode(open)).unwrap();
        let ran = stage.run("canopy context list").await;
        assert_eq!(ran.exit, Exit::Usage);
        assert!(ran.stderr.contains("others can read") && ran.stderr.contains("chmod 600"), "{}", ran.stderr);
    }
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    // A file left by a crash, open to others, does not become the new one.
    let left = stage.config().join("contexts.toml.new");
    fs::write(&left, "left").unwrap();
    fs::set_permissions(&left, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(stage.run("canopy context add more --server http://127.0.0.1:2").await.exit, Exit::Success);
    assert_eq!(mode(&file), 0o600);
    assert!(!left.exists());
}

#[tokio::test]
async fn a_file_that_is_not_understood_is_refused_without_quoting_it() {
    let stage = Stage::new();
    stage.run("canopy context add here --server http://127.0.0.1:1").await;
    let file = stage.config().join("contexts.toml");
    for text in ["[contexts.a]\nserver = \"s\"\naccess = \"TOKEN\"\n", "[contexts.a]\nserver = \"TOKEN\n"] {
        fs::write(&file, text).unwrap();
        let ran = stage.run("canopy context list").await;
        assert_eq!(ran.exit, Exit::Usage);
        assert!(ran.stderr.contains("is not understood at line"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("TOKEN"), "{}", ran.stderr);
    }
}

#[test]
fn the_directory_follows_the_environment() {
    let dir = |env: &[(&str, &str)]| {
        let stage = Stage::new();
        let (mut terminal, ..) = stage.terminal();
        terminal.env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let located: Result<Store, _> = Store::locate(&terminal as &Terminal);
        located.map(|store| store.path().display().to_string()).map_err(|e| e.to_string())
    };
    let home = ("HOME", "/home/a");
    assert_eq!(dir(&[home]).unwrap(), "/home/a/.config/canopy/contexts.toml");
    assert_eq!(dir(&[home, ("XDG_CONFIG_HOME", "/x")]).unwrap(), "/x/canopy/contexts.toml");
    assert_eq!(dir(&[home, ("XDG_CONFIG_HOME", "relative")]).unwrap(), "/home/a/.config/canopy/contexts.toml");
    assert_eq!(dir(&[home, ("XDG_CONFIG_HOME", "/x"), ("CANOPY_CONFIG_HOME", "/c")]).unwrap(), "/c/contexts.toml");
    assert!(dir(&[]).unwrap_err().contains("no place for contexts"));
}

#[tokio::test]
async fn changes_wait_for_each_other_and_none_is_lost() {
    let stage = Stage::new();
    let store = Store::at(stage.config());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = store.clone();
        tasks.spawn(async move {
            let lock = store.lock().await.unwrap();
            let mut contexts = lock.load().unwrap();
            tokio::task::yield_now().await;
            let context = Context { server: "http://127.0.0.1:1".to_owned(), ..Context::default() };
            contexts.contexts.insert(format!("c{n}"), context);
            lock.save(&contexts).unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(store.load().unwrap().contexts.len(), 20);
}

#[tokio::test]
async fn a_lock_that_stays_is_reported() {
    let stage = Stage::new();
    let store = Store::at(stage.config());
    let _held = store.lock().await.unwrap();
    let refusal = store.lock_within(Duration::from_millis(40)).await.unwrap_err().to_string();
    assert!(refusal.contains("another canopy command"), "{refusal}");
}

#[tokio::test]
async fn tokens_do_not_print() {
    let stage = Stage::new();
    let store = Store::at(stage.config());
    let login = Login {
        account: "account/a".to_owned(),
        session: "session/s".to_owned(),
        access_token: Secret::new("ACCESS".to_owned()),
        access_token_expire_time_ms: 1,
        refresh_token: Secret::new("REFRESH".to_owned()),
        refresh_token_expire_time_ms: 2,
        refresh_request_id: None,
    };
    assert!(!format!("{login:?}").contains("ACCESS"));
    let mut contexts = Contexts { current: Some("a".to_owned()), ..Contexts::default() };
    let server = "http://127.0.0.1:1".to_owned();
    contexts.contexts.insert("a".to_owned(), Context { server, login: Some(login), ..Context::default() });
    store.lock().await.unwrap().save(&contexts).unwrap();
    for format in ["json", "yaml", "table"] {
        for command in ["list", "show"] {
            let shown = stage.run(&format!("canopy context {command} -o {format}")).await.stdout;
            assert!(shown.contains("account/a") && !shown.contains("ACCESS") && !shown.contains("REFRESH"), "{shown}");
        }
        let shown = stage.run(&format!("canopy context show -o {format} --show-secrets")).await.stdout;
        assert!(shown.contains("ACCESS") && shown.contains("REFRESH"), "{shown}");
    }
    // Another server under the same name does not inherit them.
    stage.run("canopy context add a --server http://127.0.0.1:2").await;
    assert!(store.load().unwrap().contexts["a"].login.is_none());
}

#[tokio::test]
async fn servers_that_cannot_be_trusted_are_refused() {
    let stage = Stage::new();
    for (line, expected) in [
        ("canopy context add a --server http://example.org:80", "in the clear"),
        ("canopy context add a --server http://10.0.0.1:80", "in the clear"),
        ("canopy context add a --server https://example.org", "--ca FILE"),
        ("canopy context add a --server example.org", "is not a server's URL"),
        ("canopy context add a --server https://u:p@example.org", "no user name"),
        ("canopy context add a/b --server http://127.0.0.1:1", "cannot name a context"),
        ("canopy ops get-installation --server http://example.org", "in the clear"),
        ("canopy ops get-installation --server https://example.org", "--ca FILE"),
        ("canopy ops get-installation", "no server is known"),
        ("canopy ops get-installation --context nobody", "there is no context nobody"),
    ] {
        let ran = stage.run(line).await;
        assert_eq!(ran.exit, Exit::Usage, "{line}");
        assert!(ran.stderr.contains(expected), "{line}: {}", ran.stderr);
    }
    for line in ["http://localhost:1", "http://127.3.2.1:1", "http://[::1]:1"] {
        let ran = stage.run(&format!("canopy context add a --server {line}")).await;
        assert_eq!(ran.exit, Exit::Success, "{line}: {}", ran.stderr);
    }
}
