//! Calls against a server that answers canned messages.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::cli_stage::Stage;
use crate::cli_stage::server::{Canned, Reply};
use canopy::cli::{self, Exit};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

async fn stage_at(server: &Canned) -> Stage {
    let stage = Stage::new();
    let ran = stage.run(&format!("canopy context add test --server {}", server.url())).await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    stage
}

#[tokio::test]
async fn a_call_answers() {
    let server = Canned::start(|_| Reply::ok(json!({"name": "c/message/1", "text": "hi"}))).await;
    let stage = stage_at(&server).await;
    let ran = stage.run("canopy --token T chat -o yaml send-message --parent c --text hi").await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("name: c/message/1\n"), "{}", ran.stdout);
    let seen = server.seen();
    assert_eq!(seen[0].authorization.as_deref(), Some("Bearer T"));
    assert_eq!(seen[0].request["message"], json!({"text": "hi"}));
}

#[tokio::test]
async fn the_token_may_come_from_the_environment() {
    let server = Canned::start(|_| Reply::ok(json!({}))).await;
    let mut stage = stage_at(&server).await;
    stage.env.insert("CANOPY_TOKEN".into(), "E".into());
    stage.run("canopy org list-orgs").await;
    assert_eq!(server.seen()[0].authorization.as_deref(), Some("Bearer E"));
}

#[tokio::test]
async fn a_stream_is_printed_as_it_comes() {
    let server = Canned::start(|_| Reply {
        messages: vec![
            json!({"channel": "c", "opened": {}}),
            json!({"channel": "c", "cursor": "4", "sent": {"text": "hi"}}),
        ],
        status: Status::aborted("the channel moved"),
        stays: false,
    })
    .await;
    let ran = stage_at(&server).await.run("canopy chat subscribe --name c --cursor 3").await;
    let lines: Vec<serde_json::Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["sent"]["text"]), (2, &"hi".into()));
    assert_eq!(ran.exit, Exit::Conflict);
    assert!(ran.stderr.contains("ABORTED: the channel moved"), "{}", ran.stderr);
    assert_eq!(server.seen()[0].request, json!({"channels": [{"name": "c", "cursor": "3"}]}));
}

#[tokio::test]
async fn ctrl_c_ends_a_stream() {
    let server = Canned::start(|_| Reply {
        messages: vec![json!({"channel": "c", "opened": {}})],
        status: Status::ok(""),
        stays: true,
    })
    .await;
    let stage = stage_at(&server).await;
    let (mut terminal, stdout, stderr) = stage.terminal();
    let seen = stdout.clone();
    terminal.interrupt = Box::pin(async move {
        while seen.text().is_empty() {
            tokio::task::yield_now().await;
        }
    });
    let args = ["canopy", "chat", "subscribe", "--name", "c"].map(Into::into).to_vec();
    assert_eq!(cli::run(args, &mut terminal).await, Exit::Interrupted);
    assert!(stdout.text().contains("\"opened\":{}"), "{}", stdout.text());
    assert_eq!(stderr.text(), "");
}

#[tokio::test]
async fn errors_are_told_with_their_details() {
    let server = Canned::start(|_| {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("message.text", "at most 16,000 bytes")
            .set_error_info("TOO_LONG", "canopy", [("limit".to_owned(), "16000".to_owned())])
            .set_retry_info(Some(Duration::from_millis(1500)))
            .add_help_link("limits", "https://example.org/limits");
        Reply::refusal(Status::with_error_details(Code::InvalidArgument, "the text\u{1b}[2J is too long", details))
    })
    .await;
    let ran = stage_at(&server).await.run("canopy chat send-message --parent c --text hi").await;
    assert_eq!(ran.exit, Exit::InvalidArgument);
    assert_eq!(
        ran.stderr,
        "error: INVALID_ARGUMENT: the text\\u{1b}[2J is too long
  message.text: at most 16,000 bytes
  reason: TOO_LONG (canopy) limit=16000
  retry after 1.5 s
  see: limits https://example.org/limits
"
    );
}

#[tokio::test]
async fn each_code_has_its_exit() {
    let server = Canned::start(|seen| {
        let code: i32 = seen.request["parent"].as_str().unwrap().parse().unwrap();
        Reply::refusal(Status::new(Code::from_i32(code), "no"))
    })
    .await;
    let stage = stage_at(&server).await;
    for (code, exit) in [
        (1, 1),
        (2, 1),
        (3, 3),
        (4, 9),
        (5, 6),
        (6, 7),
        (7, 5),
        (8, 8),
        (9, 7),
        (10, 7),
        (11, 3),
        (12, 10),
        (13, 1),
        (14, 9),
        (15, 1),
        (16, 4),
    ] {
        let ran = stage.run(&format!("canopy chat list-channels --parent {code}")).await;
        assert_eq!(ran.exit.code(), exit, "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
    assert!(stage.run("canopy chat list-channels --parent 16").await.stderr.contains("hint: log in"));
}

#[tokio::test]
async fn an_unavailable_server_is_asked_again_with_the_same_request_id() {
    let count = AtomicUsize::new(0);
    let server = Canned::start(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) < 2 {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
            return Reply::refusal(Status::with_error_details(Code::Unavailable, "starting", details));
        }
        Reply::ok(json!({"name": "c/message/1"}))
    })
    .await;
    let ran = stage_at(&server).await.run("canopy chat send-message --parent c --text hi").await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(!seen[0].request["request_id"].as_str().unwrap().is_empty());
    assert!(seen.iter().all(|s| s.request == seen[0].request));
}

#[tokio::test]
async fn repeats_are_bounded_and_other_refusals_final() {
    for (code, expected) in
        [(Code::Unavailable, cli::call::ATTEMPTS_MAX as usize), (Code::ResourceExhausted, 1), (Code::Aborted, 1)]
    {
        let server = Canned::start(move |_| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
            Reply::refusal(Status::with_error_details(code, "no", details))
        })
        .await;
        stage_at(&server).await.run("canopy org list-orgs").await;
        assert_eq!(server.seen().len(), expected, "{code:?}");
    }
    // A wait longer than the time-out is not begun.
    let server = Canned::start(|_| {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3600)));
        Reply::refusal(Status::with_error_details(Code::Unavailable, "later", details))
    })
    .await;
    let ran = stage_at(&server).await.run("canopy org list-orgs").await;
    assert_eq!((ran.exit, server.seen().len()), (Exit::Unavailable, 1));
    assert!(ran.stderr.contains("retry after 3600.0 s"), "{}", ran.stderr);
}

#[tokio::test]
async fn what_the_server_advises_stands_in_place_of_the_usual_hint() {
    let server = Canned::start(|_| {
        let mut details = ErrorDetails::new();
        let metadata = [("hint", "list them"), ("floor", "5")].map(|(key, what)| (key.to_owned(), what.to_owned()));
        details.add_bad_request_violation("cursor", "is too old").set_error_info("OutOfRange", "canopy", metadata);
        Reply::refusal(Status::with_error_details(Code::OutOfRange, "cursor: is too old", details))
    })
    .await;
    let ran = stage_at(&server).await.run("canopy org list-orgs").await;
    assert_eq!(
        ran.stderr,
        "error: OUT_OF_RANGE: cursor: is too old
  reason: OutOfRange (canopy) floor=5
hint: list them
"
    );
}

#[tokio::test]
async fn a_server_that_stays_silent_runs_into_the_timeout() {
    let server = Canned::start(|_| Reply { messages: vec![], status: Status::ok(""), stays: true }).await;
    let ran = stage_at(&server).await.run("canopy org list-orgs --timeout 50ms").await;
    assert_eq!(ran.exit, Exit::Unavailable);
    assert!(ran.stderr.contains("DEADLINE_EXCEEDED"), "{}", ran.stderr);
}

#[tokio::test]
async fn pages_are_followed_when_asked() {
    let server = Canned::start(|seen| {
        let page: usize = seen.request.get("page_token").map_or(0, |t| t.as_str().unwrap().parse().unwrap());
        let next = if page < 2 { (page + 1).to_string() } else { String::new() };
        Reply::ok(json!({"channels": [{"name": format!("c{page}")}], "nextPageToken": next}))
    })
    .await;
    let stage = stage_at(&server).await;
    let first = stage.run("canopy chat list-channels --parent p").await;
    assert_eq!(first.stdout.matches("\"name\"").count(), 1);
    assert!(first.stderr.contains("--page-token 1, or --all"), "{}", first.stderr);
    let all = stage.run("canopy chat list-channels --parent p --all").await;
    let json: serde_json::Value = serde_json::from_str(&all.stdout).unwrap();
    let names: Vec<&str> = json["channels"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c0", "c1", "c2"]);
    assert_eq!((json["next_page_token"].as_str(), all.stderr.as_str()), (Some(""), ""));
}

#[tokio::test]
async fn a_page_that_names_itself_is_an_error() {
    let server = Canned::start(|_| Reply::ok(json!({"nextPageToken": "same"}))).await;
    let ran = stage_at(&server).await.run("canopy chat list-channels --parent p --all").await;
    assert_eq!((ran.exit, server.seen().len()), (Exit::Unexpected, 2));
}

#[tokio::test]
async fn tls_is_checked_against_the_given_authority() {
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, rcgen::Issuer::new(params, key))
    };
    let (ca_pem, issuer) = authority("ours");
    let (other_pem, _) = authority("another");
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let identity = tonic::transport::Identity::from_pem(leaf.pem(), key.serialize_pem());
    let server = Canned::start_with(Some(identity), |_| Reply::ok(json!({"version": "1"}))).await;

    let stage = Stage::new();
    let url = format!("https://localhost:{}", server.address.port());
    let file = |name: &str, pem: &str| {
        let path = stage.home.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let call = format!("canopy ops get-installation --server {url} --timeout 5s --ca ");
    let ran = stage.run(&(call.clone() + &file("ca.pem", &ca_pem))).await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    let ran = stage.run(&(call + &file("other.pem", &other_pem))).await;
    assert_eq!(ran.exit, Exit::Unavailable, "{}", ran.stdout);
    assert!(ran.stderr.contains("certificate"), "{}", ran.stderr);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn observe_shows_the_tree() {
    let server = Canned::start(|_| {
        let child =
            json!({"id": "org/a", "status": "running", "mailboxDepth": 3, "restarts": 2, "lastError": "boom\u{1b}[2J"});
        Reply::ok(json!({"root": {
            "id": "root", "status": "running", "startTimeMs": (crate::cli_stage::NOW_MS - 125_000).to_string(),
            "children": [child], "childrenTotal": 5
        }}))
    })
    .await;
    let ran = stage_at(&server).await.run("canopy observe --once --depth 3").await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    assert_eq!(
        ran.stdout,
        "\
2027-01-15 08:00:00.000Z   3 shown, 3 queued, 2 restarts
ACTOR       STATUS        MAILBOX RESTARTS       UP  STATE
root        running             0        0    2m05s
  org/a     running             3        2           last error: boom\\u{1b}[2J
  … 4 more                      0        0
"
    );
    assert_eq!(server.seen()[0].request, json!({"depth": 3}));
}

#[tokio::test]
async fn observe_gives_the_screen_back() {
    let server = Canned::start(|_| Reply::ok(json!({"root": {"id": "root"}}))).await;
    let mut stage = stage_at(&server).await;
    stage.stdout_is_terminal = true;
    let (mut terminal, stdout, _) = stage.terminal();
    let watched = server.clone();
    terminal.interrupt = Box::pin(async move {
        while watched.seen().len() < 3 {
            tokio::task::yield_now().await;
        }
    });
    let args = ["canopy", "observe", "--interval", "1ms"].map(Into::into).to_vec();
    assert_eq!(cli::run(args, &mut terminal).await, Exit::Interrupted);
    let shown = stdout.text();
    assert!(shown.starts_with("\u{1b}[?1049h") && shown.ends_with("\u{1b}[?1049l"), "{shown:?}");
}

struct Closed;

impl std::io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let server = Canned::start(|_| Reply::ok(json!({}))).await;
    let stage = stage_at(&server).await;
    let (mut terminal, _, stderr) = stage.terminal();
    terminal.stdout = Box::new(Closed);
    let args = ["canopy", "org", "list-orgs"].map(Into::into).to_vec();
    assert_eq!(cli::run(args, &mut terminal).await, Exit::Success);
    assert_eq!((stderr.text().as_str(), server.seen().len()), ("", 1));
}
