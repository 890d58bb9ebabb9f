//! Who is refused when there is not room for all: whoever wants most, and never a stranger to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use canopy_proto::chat::v1::{ChannelPosition, ListMessagesRequest, SubscribeRequest};
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::calls_read::{body, line, post, well_formed};
use crate::edge::within;
use crate::harness::{Caller, Server, message};

/// A channel in an org and project of its own.
async fn channel(caller: &Caller, slug: &str) -> String {
    let org = caller.create_org(slug).await;
    let project = caller.create_project(&org.name, slug).await;
    caller.create_channel(&project.name, "general").await
}

/// Calls without a pause, until told to stop; counts the refusals.
struct Noise {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    callers: JoinSet<()>,
}

impl Noise {
    /// `call` is made by so many callers at once; anything but a refusal for want of room is a
    /// failure.
    fn start<F>(callers: usize, call: impl Fn(usize) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut set = JoinSet::new();
        for caller in 0..callers {
            let (stop, refused, call) = (Arc::clone(&stop), Arc::clone(&refused), call.clone());
            set.spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    if let Err(status) = call(caller).await {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        assert!(status.get_details_retry_info().is_some(), "it says when: {status:?}");
                        refused.fetch_add(1, Ordering::AcqRel);
                    }
                }
            });
        }
        Self { stop, refused, callers: set }
    }

    async fn refusals(&self, count: usize) {
        within(async {
            while self.refused.load(Ordering::Acquire) < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Release);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
    }
}

fn crowded(config: &mut canopy_config::NodeConfig) {
    config.admission.commands_in_flight_max = 8;
    config.admission.per_org_in_flight_max = 8;
    config.admission.per_connection_in_flight_max = 8;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noisy_org_is_refused_and_a_quiet_one_is_not() {
    let server = Server::start_with(crowded).await;
    let noisy = server.person("noisy@example.org").await;
    let quiet = server.person("quiet@example.org").await;
    let (loud_channel, quiet_channel) = (channel(&noisy, "loud").await, channel(&quiet, "still").await);
    let callers: Vec<Caller> = futures::future::join_all(
        (0..16).map(|_| async { Caller { channel: server.channel().await, ..noisy.clone() } }),
    )
    .await;
    let noise = Noise::start(callers.len(), move |n| {
        let (caller, channel) = (callers[n].clone(), loud_channel.clone());
        async move { caller.chat().send_message(message(&channel, "noise")).await.map(drop) }
    });
    noise.refusals(10).await;
    for n in 0..50 {
        within(quiet.send(&quiet_channel, &format!("{n}"))).await;
    }
    let heard = noise.refused.load(Ordering::Acquire);
    noise.refusals(heard + 10).await;
    noise.end().await;
    server.stop().await;
}

/// Log-ins are for no org, and take longest of all: they are counted for their address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ins_of_one_address_keep_nobody_out() {
    let server = Server::start_with(crowded).await;
    let quiet = server.person("quiet@example.org").await;
    let channel = channel(&quiet, "still").await;
    let mut guests = Vec::new();
    for _ in 0..16 {
        guests.push(server.nobody().await);
    }
    let noise = Noise::start(guests.len(), move |n| {
        let guest = guests[n].clone();
        async move {
            let request = canopy_proto::identity::v1::LogInRequest {
                email: "quiet@example.org".into(),
                password: "not that".into(),
                ..Default::default()
            };
            match guest.identity().log_in(request).await {
                Err(status) if status.code() == Code::Unauthenticated => Ok(()),
                other => other.map(drop),
            }
        }
    });
    noise.refusals(10).await;
    for n in 0..20 {
        within(quiet.send(&channel, &format!("{n}"))).await;
    }
    noise.end().await;
    server.stop().await;
}

/// The refusal among many calls in a row, which there must be.
async fn refusal(mut call: impl AsyncFnMut() -> Result<(), Status>) -> Status {
    for _ in 0..1_000 {
        if let Err(status) = call().await {
            return status;
        }
    }
    panic!("nothing was refused");
}

fn check_rate(status: &Status, about: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains(about), "{status:?}");
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("it says when");
    assert!(!wait.is_zero() && wait < Duration::from_secs(60), "{wait:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_has_so_many_calls_and_bytes_a_second() {
    for (requests, bytes, about) in [(5, 0, "5 calls"), (0, 70_000, "70000 bytes")] {
        let server = Server::start().await;
        let someone = server.person("someone@example.org").await;
        let (first, second) = (channel(&someone, "first").await, channel(&someone, "second").await);
        let limited = server
            .restart_with(|config| {
                config.edge.request_bytes_max = 20_000;
                config.admission.per_org_requests_per_s_max = requests;
                config.admission.per_org_bytes_per_s_max = bytes;
            })
            .await;
        let someone = Caller { channel: limited.channel().await, ..someone };
        let text = "x".repeat(10_000);
        let status =
            refusal(async || within(someone.chat().send_message(message(&first, &text))).await.map(drop)).await;
        check_rate(&status, about);
        within(someone.send(&second, &text)).await;
        limited.stop().await;
    }
}

/// A subscriber of an org that has used up its bytes hears later, and everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_beyond_the_bytes_of_an_org_come_later() {
    const MESSAGES: usize = 40;
    let server = Server::start().await;
    let someone = server.person("someone@example.org").await;
    let first = channel(&someone, "first").await;
    let text = "x".repeat(1_000);
    for _ in 0..MESSAGES {
        within(someone.send(&first, &text)).await;
    }
    let limited = server.restart_with(|config| {
        config.edge.request_bytes_max = 1_024;
        config.admission.per_org_bytes_per_s_max = 20_000;
    });
    let limited = limited.await;
    let someone = Caller { channel: limited.channel().await, ..someone };
    let began = std::time::Instant::now();
    let position = ChannelPosition { name: first, cursor: Some(1) };
    let request = Request::new(SubscribeRequest { channels: vec![position] });
    let mut stream = within(someone.chat().subscribe(request)).await.unwrap().into_inner();
    for _ in 0..=MESSAGES {
        within(stream.message()).await.unwrap().expect("an event");
    }
    // 40 kB at 20 kB a second, the first second's at once.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    limited.stop().await;
}

/// A call that has no time is not begun, or is given up before its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_time_does_nothing() {
    let server = Server::start().await;
    let someone = server.person("someone@example.org").await;
    let first = channel(&someone, "first").await;
    someone.send(&first, "before").await;
    let token = someone.token.0.as_ref().unwrap().to_str().unwrap().to_owned();
    let path = "/canopy.chat.v1.Chat/SendMessage";
    let line = line(&server).await;
    for timeout in ["1n", "1u", "0m", "0H"] {
        let headers = [("grpc-timeout", timeout), ("authorization", token.as_str())];
        for _ in 0..10 {
            let request = body(&[well_formed(&message(&first, "never").encode_to_vec())], true);
            let (code, why, _) = post(&line, path, "application/grpc", &headers, request).await;
            assert_eq!(code, Code::DeadlineExceeded, "{why}");
        }
    }
    someone.send(&first, "after").await;
    let list = ListMessagesRequest { parent: first, ..Default::default() };
    let listed = within(someone.chat().list_messages(list)).await.unwrap().into_inner().messages;
    let mut texts: Vec<String> = listed.iter().map(|message| message.decode().unwrap().text).collect();
    texts.sort();
    assert_eq!(texts, ["after", "before"]);
    server.stop().await;
}
