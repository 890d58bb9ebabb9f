//! Guessing at passwords over the network.

use crate::harness::{Caller, PASSWORD, Server};
use canopy_proto::identity::v1::{ChangePasswordRequest, ListSessionsRequest, LogInRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt;

async fn log_in(by: &Caller, email: &str, password: &str) -> Result<(), Status> {
    let request = LogInRequest { email: email.into(), password: password.into(), ..LogInRequest::default() };
    by.identity().log_in(request).await.map(drop)
}

async fn from(server: &Server, address: &str) -> Caller {
    Caller { channel: server.channel_from(address).await, ..server.nobody().await }
}

#[track_caller]
fn held_back(answer: Result<(), Status>) -> Status {
    let status = answer.expect_err("it has to wait");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("when to try again");
    assert!(!retry.is_zero());
    status
}

/// The owner's address is 127.0.0.1; guesses come from others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_are_held_back_and_the_owner_is_not() {
    let server = Server::start().await;
    server.person("ada@example.org").await;
    let (owner, guesser, other) =
        (server.nobody().await, from(&server, "127.0.0.2").await, from(&server, "127.0.0.3").await);
    for email in ["ada@example.org", "nobody@example.org"] {
        for n in 0..5 {
            let status = log_in(&guesser, email, &format!("a guess, number {n}")).await.expect_err("a guess");
            assert_eq!(status.code(), Code::Unauthenticated, "{email} {n}");
        }
    }
    // Whether there is such an account shows neither before nor after.
    let there = held_back(log_in(&guesser, "Ada@Example.ORG", PASSWORD).await);
    let absent = held_back(log_in(&guesser, "Nobody@example.org", PASSWORD).await);
    assert_eq!(there.message().split(':').next(), absent.message().split(':').next());
    log_in(&owner, "ada@example.org", PASSWORD).await.expect("the owner");
    log_in(&other, "ada@example.org", PASSWORD).await.expect("the owner, from elsewhere");
    server.stop().await;
}

/// Of many guesses at once, only few more are compared than of one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_at_once_are_counted_too() {
    let server = Server::start().await;
    server.person("ada@example.org").await;
    let guesser = from(&server, "127.0.0.2").await;
    let guesses = (0..60).map(|_| log_in(&guesser, "ada@example.org", "a guess of many"));
    let answers = futures::future::join_all(guesses).await;
    let codes: Vec<_> = answers.into_iter().map(|answer| answer.expect_err("a guess").code()).collect();
    let compared = codes.iter().filter(|code| **code == Code::Unauthenticated).count();
    let threads = server.config.actors.prepare_threads_max;
    assert!((5..5 + threads).contains(&compared), "{compared} were compared");
    assert!(codes.iter().all(|code| matches!(code, Code::Unauthenticated | Code::ResourceExhausted)));
    server.stop().await;
}

/// One address that tries everybody's account is held back for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_does_not_try_everybody() {
    let server = Server::start_with(|config| config.identity.failed_log_ins_per_address_max = 8).await;
    server.person("ada@example.org").await;
    let (owner, guesser) = (server.nobody().await, from(&server, "127.0.0.2").await);
    for n in 0..8 {
        let status = log_in(&guesser, &format!("person-{n}@example.org"), PASSWORD).await.expect_err("nobody");
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    held_back(log_in(&guesser, "ada@example.org", PASSWORD).await);
    log_in(&owner, "ada@example.org", PASSWORD).await.expect("the owner");
    server.stop().await;
}

/// Whoever holds somebody's token guesses no faster by changing the password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_old_password_counts() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let change = async |old: &str| {
        let request = ChangePasswordRequest {
            name: "account/me".into(),
            old_password: old.into(),
            new_password: "another horse battery".into(),
            request_id: String::new(),
        };
        ada.identity().change_password(request).await.map(drop)
    };
    for n in 0..5 {
        let status = change(&format!("a guess, number {n}")).await.expect_err("a guess");
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    held_back(change(PASSWORD).await);
    held_back(log_in(&server.nobody().await, "ada@example.org", PASSWORD).await);
    server.stop().await;
}

/// A hash that was made when less was asked for is made anew at the next log-in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_grow_with_what_is_asked_for() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    assert_eq!(costs(&server, &ada).await, (64, 1));
    let server = server.restart_with(|config| config.identity.argon2_memory_kib = 128).await;
    server.log_in("ada@example.org").await;
    assert_eq!(costs(&server, &ada).await, (128, 1));
    let server = server.restart_with(|config| config.identity.argon2_passes = 2).await;
    let wrong = log_in(&server.nobody().await, "ada@example.org", "a wrong password").await;
    assert_eq!(wrong.expect_err("wrong").code(), Code::Unauthenticated);
    assert_eq!(costs(&server, &ada).await, (128, 1), "who does not know it changes nothing");
    let first = server.log_in("ada@example.org").await;
    assert_eq!(costs(&server, &ada).await, (128, 2));
    server.log_in("ada@example.org").await;
    let request = ListSessionsRequest { parent: "account/me".into(), ..ListSessionsRequest::default() };
    let listed = first.identity().list_sessions(request).await.expect("it is the same password").into_inner().sessions;
    assert!(listed.iter().all(|session| session.decode().expect("a session").end_time_ms == 0));
    server.stop().await;
}

/// Memory in KiB and passes of the stored hash.
async fn costs(server: &Server, of: &Caller) -> (u32, u32) {
    let account = canopy_domain::Address::parse(&of.account).expect("an address");
    let request = canopy_proto::system::v1::GetVerifierRequest { account: of.account.clone(), place: String::new() };
    let method = canopy_proto::methods::account_effects::GET_VERIFIER.path;
    let request = prost::Message::encode_to_vec(&request).into();
    let answer = server.running.node.ask(&account, method, request, &account, "").await.expect("a verifier");
    let answer: canopy_proto::system::v1::GetVerifierResponse = prost::Message::decode(answer).expect("a verifier");
    let phc = answer.verifier.expect("a verifier").phc;
    let cost = |name: &str| -> u32 {
        let costs = phc.split('$').find(|part| part.starts_with("m=")).expect("costs");
        costs.split(',').find_map(|cost| cost.strip_prefix(name)).expect("a cost").parse().expect("a number")
    };
    (cost("m="), cost("t="))
}
