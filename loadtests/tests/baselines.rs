//! The baselines as child processes: they answer, they fan out, they end with their parent.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]

use std::path::PathBuf;
use std::process::Command;

use canopy_load::LoadError;
use canopy_load::baseline::{
    Baseline, Kind, echo, fanout,
    raw_fjall::{RawVaults, Record, Shape, Table},
};
use canopy_load::client::{Call, Connection, Endpoint};
use canopy_load::process::ServerProcess;
use canopy_load::scenario::Settings;
use canopy_load::selftest::{Fault, accounted_cpu_s, through_fanout};
use http::HeaderValue;
use http::uri::PathAndQuery;

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_canopy-load").into()
}

fn baseline() -> Baseline {
    Baseline { program: program() }
}

/// Each test is a process of its own under nextest, but not under `cargo test`.
fn provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn endpoint(server: &ServerProcess) -> Endpoint {
    match &server.ready().ca {
        Some(ca) => Endpoint::tls(server.ready().address, ca),
        None => Endpoint::plain(server.ready().address),
    }
}

#[tokio::test]
async fn the_echo_answers_with_the_same_bytes() {
    provider();
    for tls in [false, true] {
        let server = baseline().serve(Kind::Echo, tls).await.unwrap();
        let mut connection = Connection::open(&endpoint(&server)).await.unwrap();
        for bytes in [0, 1, 256, 100_000] {
            let payload = vec![7_u8; bytes];
            let call = Call::new(&echo::PATH, &payload).authorized(HeaderValue::from_static("Bearer x"));
            assert_eq!(connection.unary(&call).await.unwrap(), payload, "tls {tls}");
        }
    }
}

#[tokio::test]
async fn an_unknown_service_is_an_error_with_its_status() {
    let server = baseline().serve(Kind::Echo, false).await.unwrap();
    let mut connection = Connection::open(&endpoint(&server)).await.unwrap();
    let path = PathAndQuery::from_static("/no.such.Service/Method");
    let error = connection.unary(&Call::new(&path, b"")).await.unwrap_err();
    assert!(error.to_string().contains("grpc-status 12"), "{error}");
}

#[tokio::test]
async fn a_plaintext_client_is_not_answered_over_tls() {
    provider();
    let server = baseline().serve(Kind::Echo, true).await.unwrap();
    let attempt = async {
        Connection::open(&Endpoint::plain(server.ready().address)).await?.unary(&Call::new(&echo::PATH, b"x")).await
    };
    assert!(attempt.await.is_err());
}

#[tokio::test]
async fn the_fan_out_delivers_to_all_and_planted_faults_are_reported() {
    let server = baseline().serve(Kind::Fanout, false).await.unwrap();
    // The late one takes seconds; the self-test plants it.
    for fault in [Fault::None, Fault::Lost, Fault::Doubled, Fault::Reordered] {
        let tallies = through_fanout(fault, &endpoint(&server)).await.unwrap();
        assert!(!tallies.is_empty());
        for tally in tallies {
            assert_eq!(tally, fault.expected(), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_send_without_subscribers_is_answered() {
    let server = baseline().serve(Kind::Fanout, false).await.unwrap();
    let mut connection = Connection::open(&endpoint(&server)).await.unwrap();
    assert_eq!(connection.unary(&Call::new(&fanout::SEND, b"into the void")).await.unwrap(), "");
}

#[tokio::test]
async fn a_baseline_ends_when_its_stdin_closes() {
    for kind in [Kind::Echo, Kind::Fanout] {
        let server = baseline().serve(kind, false).await.unwrap();
        // An open connection does not keep it alive.
        let _connection = Connection::open(&endpoint(&server)).await.unwrap();
        assert!(server.finish().await.unwrap(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_killed_server_is_gone_and_starts_again() {
    let mut server = baseline().serve(Kind::Echo, false).await.unwrap();
    assert!(server.rss_bytes().unwrap() > 1_000_000);
    let first_pid = server.pid();
    server.restart().await.unwrap();
    assert_ne!(server.pid(), first_pid);
    assert!(canopy_load::process::cpu_s(first_pid).is_err());
    let mut connection = Connection::open(&endpoint(&server)).await.unwrap();
    connection.unary(&Call::new(&echo::PATH, b"again")).await.unwrap();
    server.kill().unwrap();
    assert!(connection.unary(&Call::new(&echo::PATH, b"gone")).await.is_err());
}

#[tokio::test]
async fn a_server_that_never_gets_ready_is_named_with_its_last_words() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo '{\"ready\":false}'; echo no root key >&2"]);
    let error = ServerProcess::spawn(command).await.unwrap_err();
    assert!(matches!(error, LoadError::NotReady { .. }));
    assert!(error.to_string().contains("no root key"), "{error}");
}

#[tokio::test]
async fn cpu_seconds_of_a_child_are_those_it_burnt() {
    let (seen_s, burnt_s) = accounted_cpu_s(&Settings::new(program())).await.unwrap();
    assert!((seen_s - burnt_s).abs() < 0.1, "{seen_s} s of {burnt_s} s");
}

#[tokio::test]
async fn raw_fjall_keeps_every_command_it_acknowledged() {
    let record = |table, value_bytes| Record { table, key_bytes: 20, value_bytes };
    let shapes = [Shape::default(), Shape { records: vec![record(Table::Feed, 10), record(Table::Data, 70_000)] }];
    for shape in shapes {
        let directory = tempfile::tempdir().unwrap();
        let vaults = RawVaults::open(directory.path(), 3, &shape).unwrap();
        // Enough of the large records to rotate memtables.
        let commits = (0..900).map(|number| vaults.commit(number % 3));
        for result in futures::future::join_all(commits).await {
            result.unwrap();
        }
        assert!(vaults.commit(3).await.is_err());
        assert_eq!(vaults.close_and_count().unwrap(), 900, "{shape:?}");
    }
}
