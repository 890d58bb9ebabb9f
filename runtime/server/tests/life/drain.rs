//! A server's life as whoever runs it sees it: it starts once, on the right
//! key, and stops in order.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Caller, PASSWORD};
use crate::process::{CHEAP, DEADLINE, Process, canopy, run, serve, text};
use canopy_domain::Wire;
use canopy_proto::chat::v1::{ChannelPosition, ListMessagesRequest, SubscribeRequest};
use canopy_proto::identity::v1::{Account, RegisterRequest};
use canopy_proto::ops::v1::GetInstallationRequest;
use rustix::process::Signal;
use tonic::Code;

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("ends before the deadline")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_calls_ends_streams_and_exits_with_success() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    // A password hash that takes long enough to be under way at the stop.
    let mut command = serve(&data_dir, &["--set", "edge.tls=off", "--set", "identity.sign_up=open"]);
    command.args(["--set", "identity.argon2_memory_kib=65536", "--set", "identity.argon2_passes=2"]);
    let server = Process::start(command);
    let nobody = Caller::at(&server.url()).await.unwrap();
    nobody.register("ada@example.org", "").await;
    let ada = nobody.log_in("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    ada.send(&channel, "kept").await;
    let channels = vec![ChannelPosition { name: channel.clone(), cursor: Some(0) }];
    let mut stream = ada.chat().subscribe(SubscribeRequest { channels }).await.unwrap().into_inner();
    for _ in ["opened", "kept"] {
        assert!(within(stream.message()).await.unwrap().is_some());
    }

    let account = Account { email: "bob@example.org".into(), ..Account::default() };
    let request =
        RegisterRequest { account: Some(Wire::new(&account)), password: PASSWORD.into(), ..RegisterRequest::default() };
    let slow = Caller::at(&server.url()).await.unwrap();
    let registration = tokio::spawn({
        let slow = slow.clone();
        async move { slow.identity().register(request).await }
    });
    // A connection takes requests in order: once a later one is answered, the
    // first is under way.
    tokio::task::yield_now().await;
    slow.ops().get_installation(GetInstallationRequest {}).await.unwrap();
    assert!(!registration.is_finished(), "the hash is made to take longer than that");

    let began = Instant::now();
    server.signal(Signal::TERM);
    let ended = within(stream.message()).await.expect_err("the stream ends");
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert!(ended.message().contains("going down"), "{ended:?}");
    within(registration).await.unwrap().expect("a call under way is finished");
    let (status, log) = tokio::task::spawn_blocking(move || server.ended()).await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(began.elapsed() < Duration::from_secs(10), "within the grace");

    let server = Process::plain(&data_dir);
    let nobody = Caller::at(&server.url()).await.unwrap();
    let [ada, _bob] = [nobody.log_in("ada@example.org").await, nobody.log_in("bob@example.org").await];
    let list = ListMessagesRequest { parent: channel, ..ListMessagesRequest::default() };
    assert_eq!(ada.chat().list_messages(list).await.unwrap().into_inner().messages.len(), 1);
    // The other signal means the same.
    server.signal(Signal::INT);
    let (status, log) = tokio::task::spawn_blocking(move || server.ended()).await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// Starts that must fail: the exit code, and what is said.
#[track_caller]
fn refused(command: std::process::Command, says: &[&str]) {
    let output = run(command);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(text(&output.stdout), "", "nothing is announced");
    for part in says {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_data_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let first = Process::plain(&data_dir);
    let shown = data_dir.display().to_string();
    refused(serve(&data_dir, &["--set", "edge.tls=off"]), &["error: ", &shown, "process"]);
    assert!(first.terminate().0.success(), "the first is not disturbed");
    assert!(Process::plain(&data_dir).terminate().0.success(), "and leaves the directory free");
}

#[test]
fn the_key_is_checked_before_anything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let start = |passphrase: Option<&str>| {
        let mut command = serve(&data_dir, &CHEAP);
        command.args(["--set", "edge.tls=off", "--set", "store.root_key=passphrase"]);
        command.envs(passphrase.map(|passphrase| ("CANOPY_ROOT_PASSPHRASE", passphrase)));
        command
    };
    refused(start(None), &["error: ", "CANOPY_ROOT_PASSPHRASE"]);
    let first = Process::start(start(Some("four random common words")));
    let id = first.ready["address"].clone();
    assert!(id.is_string());
    assert!(first.terminate().0.success());
    refused(start(Some("four other common words")), &["error: ", "passphrase"]);
    let by_file = serve(&data_dir, &["--set", "edge.tls=off"]);
    refused(by_file, &["error: "]);
    assert!(Process::start(start(Some("four random common words"))).terminate().0.success());
}

/// As a crash or a full disk at the first start might leave it.
#[test]
fn an_empty_sign_up_token_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let token = data_dir.join("sign-up.token");
    assert!(Process::plain(&data_dir).terminate().0.success());
    let made = std::fs::read_to_string(&token).unwrap();
    assert!(made.len() >= 32, "{made}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&token).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    for content in ["", "\n", "fifteen letters"] {
        std::fs::write(&token, content).unwrap();
        refused(serve(&data_dir, &["--set", "edge.tls=off"]), &["error: ", "sign-up.token", "remove it"]);
    }
    std::fs::remove_file(&token).unwrap();
    assert!(Process::plain(&data_dir).terminate().0.success());
    assert_ne!(std::fs::read_to_string(&token).unwrap(), made);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &[&str]); 4] = [
        (&["--set", "edge.tls=off", "--set", "edge.listen=0.0.0.0:0"], &["edge.tls", "edge.listen", "loopback"]),
        (&["--set", "edge.tsl=off"], &["edge.tsl", "edge.tls"]),
        (&["--set", "edge.connections_max=0"], &["edge.connections_max"]),
        (&["--config", "/nonexistent/canopy.toml"], &["/nonexistent/canopy.toml"]),
    ];
    for (arguments, says) in cases {
        refused(serve(&dir.path().join("data"), arguments), says);
    }
    assert!(!dir.path().join("data").exists(), "nothing was made");
}

#[test]
fn a_development_server_is_gone_when_it_stops() {
    let config_home = tempfile::tempdir().unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = canopy();
        command.args(["serve", "--dev", "--ready-json", "--set", "edge.listen=127.0.0.1:0"]);
        let server = Process::start(command);
        let data_dir = Path::new(server.ready["data_dir"].as_str().unwrap()).to_owned();
        assert!(data_dir.is_dir());
        let call = |arguments: &[&str]| {
            let mut command = canopy();
            command.env("CANOPY_CONFIG_HOME", config_home.path()).args(["--server", &server.url()]).args(arguments);
            let output = run(command);
            assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
            text(&output.stdout)
        };
        let log_in = ["identity", "log-in", "--email", "dev@canopy.test", "--password", "canopy-development"];
        let logged_in: serde_json::Value =
            serde_json::from_str(&call(&[&log_in[..], &["--show-secrets"]].concat())).unwrap();
        let token = logged_in["credentials"]["access_token"].as_str().expect("a token");
        // The first to sign up administers the server.
        assert!(call(&["--token", token, "observe", "--once"]).contains("tenants"));
        server.signal(signal);
        let (status, log) = server.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!data_dir.exists(), "{} is left", data_dir.display());
    }
}
