//! The log-in is kept, renewed in time, and removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cli_stage::server::{Canned, Reply};
use crate::cli_stage::{NOW_MS, Stage};
use canopy::cli::Exit;
use canopy::cli::context::Store;
use serde_json::{Value as Json, json};
use tonic::Status;

fn credentials(n: usize, lives_ms: i64) -> Json {
    json!({
        "accessToken": format!("access-{n}"), "accessTokenExpireTimeMs": (NOW_MS + lives_ms).to_string(),
        "refreshToken": format!("refresh-{n}"), "refreshTokenExpireTimeMs": (NOW_MS + 86_400_000).to_string()
    })
}

/// Log-ins live for `lives_ms`; renewed ones for an hour. A refresh token is
/// taken once for each request id.
async fn identity(lives_ms: i64) -> Canned {
    let refreshes = AtomicUsize::new(0);
    Canned::start(move |seen| match seen.method.as_str() {
        "LogIn" => Reply::ok(json!({
            "account": {"name": "account/a"}, "session": {"name": "session/s"}, "credentials": credentials(0, lives_ms)
        })),
        "Refresh" => {
            let n = refreshes.fetch_add(1, Ordering::SeqCst);
            if seen.request["refresh_token"] != format!("refresh-{n}") {
                return Reply::refusal(Status::unauthenticated("the refresh token was used before"));
            }
            Reply::ok(json!({"credentials": credentials(n + 1, 3_600_000)}))
        }
        "LogOut" => Reply::ok(json!({"session": {"name": "session/s"}})),
        _ => Reply::ok(json!({})),
    })
    .await
}

async fn logged_in(server: &Canned) -> Stage {
    let mut stage = Stage::new();
    stage.stdin = "a long password\n".to_owned();
    let line = format!("canopy identity log-in --server {} --email a@b.org --password @-", server.url());
    let ran = stage.run(&line).await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    assert!(ran.stdout.contains("***") && !ran.stdout.contains("access-0"), "{}", ran.stdout);
    stage
}

#[tokio::test]
async fn a_log_in_makes_a_context_and_is_used() {
    let server = identity(3_600_000).await;
    let stage = logged_in(&server).await;
    let kept = Store::at(stage.config()).load().unwrap();
    assert_eq!(kept.current.as_deref(), Some("default"));
    let login = kept.contexts["default"].login.clone().unwrap();
    assert_eq!((login.account.as_str(), login.session.as_str()), ("account/a", "session/s"));
    stage.run("canopy org list-orgs").await;
    let seen = server.seen();
    assert_eq!(seen[0].authorization, None);
    assert_eq!(seen[0].request["password"], "a long password");
    assert_eq!(seen[1].authorization.as_deref(), Some("Bearer access-0"));
}

#[tokio::test]
async fn a_token_that_lapses_is_renewed_first() {
    for (lives_ms, expected) in [
        (30_001, &["LogIn", "ListOrgs"][..]),
        (30_000, &["LogIn", "Refresh", "ListOrgs"]),
        (-5, &["LogIn", "Refresh", "ListOrgs"]),
    ] {
        let server = identity(lives_ms).await;
        let stage = logged_in(&server).await;
        let ran = stage.run("canopy org list-orgs").await;
        assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
        assert_eq!(server.methods(), expected, "{lives_ms}");
        if expected.contains(&"Refresh") {
            assert_eq!(server.seen()[1].request["session"], "session/s");
            assert_eq!(server.seen()[2].authorization.as_deref(), Some("Bearer access-1"));
            let login = Store::at(stage.config()).load().unwrap().contexts["default"].login.clone().unwrap();
            assert_eq!((login.refresh_token.expose(), login.refresh_request_id), ("refresh-1", None));
        }
    }
}

#[tokio::test]
async fn new_credentials_are_kept_before_they_are_used() {
    let home = Arc::new(std::sync::OnceLock::<std::path::PathBuf>::new());
    let config = Arc::clone(&home);
    let server = Canned::start(move |seen| match seen.method.as_str() {
        "LogIn" => Reply::ok(json!({"session": {"name": "session/s"}, "credentials": credentials(0, 0)})),
        "Refresh" => Reply::ok(json!({"credentials": credentials(1, 3_600_000)})),
        _ => {
            let kept = std::fs::read_to_string(config.get().unwrap().join("contexts.toml")).unwrap();
            assert!(kept.contains("access-1") && kept.contains("refresh-1"), "used before kept");
            Reply::ok(json!({}))
        }
    })
    .await;
    let stage = logged_in(&server).await;
    home.set(stage.config()).unwrap();
    assert_eq!(stage.run("canopy org list-orgs").await.exit, Exit::Success);
}

#[tokio::test]
async fn two_commands_at_once_show_a_refresh_token_once() {
    let server = identity(0).await;
    let stage = logged_in(&server).await;
    let (a, b, c) = tokio::join!(
        stage.run("canopy org list-orgs"),
        stage.run("canopy org list-orgs"),
        stage.run("canopy org list-orgs")
    );
    let runs = [a.exit, b.exit, c.exit];
    assert!(runs.iter().all(|exit| *exit == Exit::Success), "{runs:?}");
    assert_eq!(server.methods().iter().filter(|m| *m == "Refresh").count(), 1);
    assert!(
        server
            .seen()
            .iter()
            .filter(|s| s.method == "ListOrgs")
            .all(|s| s.authorization.as_deref() == Some("Bearer access-1"))
    );
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_id() {
    let count = AtomicUsize::new(0);
    let server = Canned::start(move |seen| match seen.method.as_str() {
        "LogIn" => Reply::ok(json!({"session": {"name": "session/s"}, "credentials": credentials(0, 0)})),
        // Committed, but the answer does not arrive before the command gives up.
        "Refresh" if count.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply { messages: Vec::new(), status: Status::ok(""), stays: true }
        }
        "Refresh" => Reply::ok(json!({"credentials": credentials(1, 3_600_000)})),
        _ => Reply::ok(json!({})),
    })
    .await;
    let stage = logged_in(&server).await;
    assert_eq!(stage.run("canopy org list-orgs --timeout 50ms").await.exit, Exit::Unavailable);
    assert_eq!(stage.run("canopy org list-orgs").await.exit, Exit::Success);
    let seen = server.seen();
    assert_eq!(server.methods(), ["LogIn", "Refresh", "Refresh", "ListOrgs"]);
    assert_eq!(seen[1].request, seen[2].request);
}

#[tokio::test]
async fn an_ended_session_asks_for_a_log_in() {
    let server = Canned::start(|seen| match seen.method.as_str() {
        "LogIn" => Reply::ok(json!({"session": {"name": "session/s"}, "credentials": credentials(0, 0)})),
        _ => Reply::refusal(Status::unauthenticated("the session has ended")),
    })
    .await;
    let stage = logged_in(&server).await;
    let ran = stage.run("canopy org list-orgs").await;
    assert_eq!(ran.exit, Exit::Unauthenticated);
    assert!(ran.stderr.contains("log in again"), "{}", ran.stderr);
}

#[tokio::test]
async fn refresh_without_flags_renews_what_is_kept() {
    let server = identity(3_600_000).await;
    let stage = logged_in(&server).await;
    let ran = stage.run("canopy identity refresh").await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    assert!(!ran.stdout.contains("access-1"), "{}", ran.stdout);
    let again = stage.run("canopy identity refresh --session session/s --refresh-token refresh-1").await;
    assert_eq!(again.exit, Exit::Success, "{}", again.stderr);
    let login = Store::at(stage.config()).load().unwrap().contexts["default"].login.clone().unwrap();
    assert_eq!((login.access_token.expose(), login.account.as_str()), ("access-2", "account/a"));
}

#[tokio::test]
async fn a_log_out_removes_the_tokens() {
    for name in ["session/me", "session/s"] {
        let server = identity(3_600_000).await;
        let stage = logged_in(&server).await;
        assert_eq!(stage.run(&format!("canopy identity log-out --name {name}")).await.exit, Exit::Success);
        assert_eq!(server.seen()[1].authorization.as_deref(), Some("Bearer access-0"));
        let text = std::fs::read_to_string(stage.config().join("contexts.toml")).unwrap();
        assert!(!text.contains("access-0") && !text.contains("refresh-0"), "{text}");
    }
    let server = Canned::start(|seen| match seen.method.as_str() {
        "LogIn" => Reply::ok(json!({"session": {"name": "session/s"}, "credentials": credentials(0, 3_600_000)})),
        _ => Reply::ok(json!({"session": {"name": "session/other"}})),
    })
    .await;
    let stage = logged_in(&server).await;
    stage.run("canopy identity log-out --name session/other").await;
    assert!(Store::at(stage.config()).load().unwrap().contexts["default"].login.is_some());
}

#[tokio::test]
async fn a_log_in_is_never_shown_to_another_server() {
    let server = identity(3_600_000).await;
    let other = identity(3_600_000).await;
    let stage = logged_in(&server).await;
    stage.run(&format!("canopy org list-orgs --server {}", other.url())).await;
    assert_eq!(other.seen()[0].authorization, None);
    // A log-in there gets a context of its own, and the first stays in use.
    let line = format!("canopy identity log-in --server {} --email a@b.org --password pw", other.url());
    let ran = stage.run(&line).await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    let kept = Store::at(stage.config()).load().unwrap();
    assert_eq!(kept.current.as_deref(), Some("default"));
    assert_eq!(kept.contexts["default"].server, server.url());
    assert_eq!(kept.contexts[&other.address.to_string()].server, other.url());
    stage.run(&format!("canopy org list-orgs --server {}", other.url())).await;
    assert_eq!(other.seen()[2].authorization.as_deref(), Some("Bearer access-0"));
    let clash = stage.run(&format!("canopy org list-orgs --context default --server {}", other.url())).await;
    assert_eq!(clash.exit, Exit::Usage);
}
