//! Below the retention floor: who asks for what is no longer kept is told so, lists anew, and goes on.

use std::time::Duration;

use canopy::boot;
use canopy_domain::Address;
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{ChannelPosition, ListMessagesRequest, SubscribeRequest, SubscribeResponse};
use canopy_proto::ops::v1::{ObserveRequest, TreeNode};
use canopy_store::Store;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::harness::{Caller, Server};

/// For what should take milliseconds: it fails a hung test.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("ends before the deadline")
}

async fn follow(caller: &Caller, positions: &[(&str, u64)]) -> Result<Streaming<SubscribeResponse>, Status> {
    let position = |(name, cursor): &(&str, u64)| ChannelPosition { name: (*name).into(), cursor: Some(*cursor) };
    let channels = positions.iter().map(position).collect();
    Ok(within(caller.chat().subscribe(SubscribeRequest { channels })).await?.into_inner())
}

/// The next message's cursor and text, past what tells that the stream is open.
async fn next(stream: &mut Streaming<SubscribeResponse>) -> Result<(u64, String), Status> {
    loop {
        let response = within(stream.message()).await?.expect("the stream goes on");
        if let Some(Event::Sent(message)) = response.event {
            return Ok((response.cursor, message.decode().unwrap().text));
        }
    }
}

/// The cursor of a list of what is there now.
async fn listed(caller: &Caller, channel: &str) -> u64 {
    let request = ListMessagesRequest { parent: channel.into(), ..ListMessagesRequest::default() };
    caller.chat().list_messages(request).await.expect("a list").into_inner().cursor
}

/// What a refusal below the floor says: the floor, and what to do.
fn floor_of(status: &Status) -> u64 {
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let details = status.get_error_details();
    let info = details.error_info().expect("details");
    assert!(info.metadata["hint"].contains("list anew"), "{info:?}");
    let floor = info.metadata["floor"].parse().unwrap();
    assert!(status.message().contains(&format!("changes are kept from {floor} on")), "{}", status.message());
    floor
}

fn state_of(tree: &TreeNode, id: &str) -> Option<String> {
    if tree.id == id {
        return Some(tree.state.clone());
    }
    tree.children.iter().find_map(|child| state_of(child, id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_floor_subscribers_list_anew_and_go_on() {
    let server = Server::start().await;
    let root = server.sys_admin("root@example.org").await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let [general, random] =
        [ada.create_channel(&project, "general").await, ada.create_channel(&project, "random").await];
    let mut sent = Vec::new();
    for n in 0..6 {
        sent.push(ada.send(&general, &format!("message {n}")).await);
    }
    let last = listed(&ada, &general).await;
    follow(&ada, &[(&general, 0)]).await.expect("all of it is kept so far");

    // Its time comes: what was sent until then is as old as is kept.
    let chat = Address::parse(&format!("{project}/chat")).unwrap();
    let until_ms = sent[2].create_time_ms;
    let server = server
        .restart_after(async |config| {
            let store = Store::open(boot::store_options(config).unwrap()).unwrap();
            let retention_ms = store.feed_retention_ms();
            assert_eq!(retention_ms, 10 * 24 * 60 * 60 * 1000, "ten days, unless configured");
            let mut writer = store.writer(&chat, canopy_chat::chat().views()).await.unwrap();
            assert!(writer.trim_feed(until_ms + retention_ms - 1).unwrap().entries < 5, "the third is not old enough");
            writer.trim_feed(until_ms + retention_ms).unwrap().ticket.await.unwrap();
            drop(writer);
            store.close().await.unwrap();
        })
        .await;
    let mut server = server;
    for restarts in 0..2 {
        let ada = server.log_in("ada@example.org").await;
        let refused = follow(&ada, &[(&general, 0)]).await.expect_err("it is gone");
        let floor = floor_of(&refused);
        assert!(floor > 4 && floor <= last, "{floor}");
        // One of several is enough, and the last that is gone is one, too.
        assert_eq!(floor_of(&follow(&ada, &[(&random, last), (&general, 1)]).await.expect_err("gone")), floor);
        assert_eq!(floor_of(&follow(&ada, &[(&general, floor - 2)]).await.expect_err("gone")), floor);
        let mut kept = follow(&ada, &[(&general, floor - 1)]).await.expect("the first that is kept");
        let (cursor, text) = next(&mut kept).await.unwrap();
        assert_eq!((cursor, text.as_str()), (floor, sent[usize::try_from(floor - 3).unwrap()].text.as_str()));

        let cursor = listed(&ada, &general).await;
        let mut stream = follow(&ada, &[(&general, cursor)]).await.expect("from the list on");
        ada.send(&general, &format!("after {restarts}")).await;
        assert_eq!(next(&mut stream).await.unwrap(), (cursor + 1, format!("after {restarts}")));
        drop((kept, stream));

        let root = server.log_in("root@example.org").await;
        let request = ObserveRequest { depth: 16, children_max: 1_000 };
        let tree = root.ops().observe(request).await.expect("a tree").into_inner().root.expect("a tree");
        let state = state_of(&tree, chat.as_str()).expect("the chat's actor");
        assert!(state.ends_with(&format!(", feed kept from {floor}")), "{state}");
        server = server.restart().await;
    }
    drop(root);
    server.stop().await;
}

/// More than is kept in memory for who follows.
const FLOOD: usize = 1_500;
const TEXT_BYTES: usize = 2_000;
const SENDERS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_falls_behind_the_floor_is_told() {
    let server = Server::start_with(|config| config.store.feed_retention_s = 1).await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    let start = listed(&ada, &channel).await;
    // It takes little before it is read.
    let endpoint = Endpoint::from_shared(server.url()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let slow = Caller { channel: endpoint.connect().await.unwrap(), ..ada.clone() };
    let mut slow = follow(&slow, &[(&channel, start)]).await.expect("all of it is kept so far");

    let (by, to) = (&ada, &channel);
    let send = |sender| async move {
        for n in 0..FLOOD / SENDERS {
            by.send(to, &format!("{sender}.{n} {}", "x".repeat(TEXT_BYTES))).await;
        }
    };
    futures::future::join_all((0..SENDERS).map(send)).await;
    let flooded = listed(&ada, &channel).await;
    // Commits trim the feed as they go: none of this is kept any more, once it is a second old.
    within(async {
        loop {
            ada.send(&channel, "and on").await;
            match follow(&ada, &[(&channel, start)]).await {
                Err(status) if floor_of(&status) > flooded => break,
                _ => {}
            }
        }
    })
    .await;

    let mut cursor = start;
    let refused = loop {
        match next(&mut slow).await {
            Ok((seq, _)) => {
                assert_eq!(seq, cursor + 1, "what it is shown has no gap");
                cursor = seq;
            }
            Err(status) => break status,
        }
    };
    assert!(floor_of(&refused) > cursor + 1 && cursor < flooded, "{cursor}: {refused}");

    let cursor = listed(&ada, &channel).await;
    let mut stream = follow(&ada, &[(&channel, cursor)]).await.expect("from the list on");
    ada.send(&channel, "again").await;
    assert_eq!(next(&mut stream).await.unwrap().1, "again");
    drop((slow, stream));
    server.stop().await;
}
