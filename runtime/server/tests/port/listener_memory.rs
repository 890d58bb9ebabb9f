//! The real server in a process of its own, with its own limits: after all that attackers can do
//! at once it has taken little memory, and it has served everybody else meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use canopy_proto::chat::v1::{ChannelPosition, SubscribeRequest};
use canopy_proto::ops::v1::GetInstallationRequest;
use prost::Message;
use tokio::net::TcpStream;

use crate::edge::within;
use crate::harness::{Caller, message};
use crate::listener_floods::{FLOODS, MANY};
use crate::process::{CHEAP, Process, serve};
use crate::raw::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, frame, head, stream, window_update};

/// What the attacks may cost at their worst, over what serving itself took: allocators keep some
/// of it. One of them alone would take gigabytes from a server without limits.
const GROWTH_BYTES_MAX: u64 = 160 << 20;
/// Streams of one connection, as configured.
const STREAMS: usize = 256;
const MESSAGES: usize = 400;
/// Bytes of one message's text.
const TEXT_BYTES: usize = 15_000;

/// A gRPC request's frames; its body ends where `ends`.
fn call(id: u32, path: &str, token: &str, body: &[u8], ends: bool) -> Vec<u8> {
    let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("authorization", token)];
    let mut frames = frame(HEADERS, END_HEADERS, id, &head("POST", path, &fields));
    let mut chunks = body.chunks(16 << 10).peekable();
    while let Some(chunk) = chunks.next() {
        let flags = if ends && chunks.peek().is_none() { END_STREAM } else { 0 };
        frames.extend(frame(DATA, flags, id, chunk));
    }
    frames
}

fn framed(length: usize, bytes: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(length).unwrap().to_be_bytes()[..], bytes].concat()
}

/// Subscriptions to everything there is, whose reader takes one byte.
async fn hungry_subscribers(address: SocketAddr, token: &str, channel: &str) -> Raw {
    let position = ChannelPosition { name: channel.to_owned(), cursor: Some(1) };
    let request = SubscribeRequest { channels: vec![position] }.encode_to_vec();
    let request = framed(request.len(), &request);
    // `SETTINGS_INITIAL_WINDOW_SIZE`
    let mut raw = Raw::open(address, &[(4, 1)]).await;
    for n in 0..STREAMS {
        let subscribe = call(stream(n), "/canopy.chat.v1.Chat/Subscribe", token, &request, true);
        assert!(raw.send(&subscribe).await);
    }
    for _ in 0..STREAMS {
        raw.inbox.next(DATA).await.expect("each is open");
    }
    raw
}

/// Requests of the largest size, all but their last byte.
async fn endless_uploads(address: SocketAddr) -> Raw {
    const LARGEST: usize = 4 << 20;
    let body = framed(LARGEST, &vec![b'x'; LARGEST - 1]);
    let raw = Raw::open(address, &[]).await;
    let Raw { mut inbox, mut out } = raw;
    let sending = async {
        for n in 0..32 {
            let upload = call(stream(n), "/canopy.identity.v1.Identity/LogIn", "", &body[..64 << 10], false);
            if tokio::io::AsyncWriteExt::write_all(&mut out, &upload).await.is_err() {
                break;
            }
        }
        // Credit for the answers that there are, and a PING to know that all was looked at.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut out, &frame(crate::raw::PING, 0, 0, &[0; 8])).await;
    };
    within(async { tokio::join!(sending, inbox.next(crate::raw::PING)) }).await;
    Raw { inbox, out }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacks_take_little_memory_and_nobodys_turn() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(&dir.path().join("data"), &CHEAP);
    command.args(["--set", "edge.tls=off", "--set", "identity.access_token_ttl_s=3600"]);
    let server = Process::start(command);
    let url = server.url();
    let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
    let guest = within(Caller::at(&url)).await.unwrap();
    guest.register("someone@example.org", "").await;
    let someone = guest.log_in("someone@example.org").await;
    let org = someone.create_org("acme").await;
    let project = someone.create_project(&org.name, "web").await;
    let channel = someone.create_channel(&project.name, "general").await;
    let text = "x".repeat(TEXT_BYTES);
    for _ in 0..MESSAGES {
        within(someone.chat().send_message(message(&channel, &text))).await.unwrap();
    }
    let before = server.peak_bytes();

    let over = Arc::new(AtomicBool::new(false));
    let bystander = {
        let (over, someone) = (Arc::clone(&over), within(Caller::at(&url)).await.unwrap());
        tokio::spawn(async move {
            let mut calls = 0;
            while !over.load(Ordering::Acquire) || calls == 0 {
                within(someone.ops().get_installation(GetInstallationRequest::default())).await.expect("an answer");
                calls += 1;
            }
        })
    };
    // What stays, while the floods come and go.
    let token = someone.token.0.as_ref().unwrap().to_str().unwrap().to_owned();
    let mut held = vec![hungry_subscribers(address, &token, &channel).await, endless_uploads(address).await];
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(within(TcpStream::connect(address)).await.unwrap());
    }
    for flood in FLOODS {
        let mut raw = Raw::open(address, &[]).await;
        raw.send(&(flood.before)()).await;
        // Ends when the server ends it; where it answers the requests that these are to it, too.
        raw.flood(MANY, flood.unit).await;
    }
    let reader = &mut held[0];
    assert!(reader.send(&window_update(0, 1)).await, "subscribers may wait");
    over.store(true, Ordering::Release);
    bystander.await.expect("others are served meanwhile");
    let growth = server.peak_bytes() - before;
    println!("grew by {} MB, to {} MB", growth >> 20, server.peak_bytes() >> 20);
    assert!(growth < GROWTH_BYTES_MAX, "{} MB", growth >> 20);
    drop((held, silent));
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
}
