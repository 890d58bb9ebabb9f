//! Two people, an org, a project, a channel: what one writes the other sees,
//! and a restart loses nothing.

use crate::harness::{Caller, Server};
use canopy_domain::Role;
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{ChannelPosition, ListMessagesRequest, SubscribeRequest, SubscribeResponse};
use tonic::Streaming;

async fn subscribe(caller: &Caller, channel: &str, cursor: Option<u64>) -> Streaming<SubscribeResponse> {
    let channels = vec![ChannelPosition { name: channel.into(), cursor }];
    caller.chat().subscribe(SubscribeRequest { channels }).await.expect("a subscription").into_inner()
}

async fn next(stream: &mut Streaming<SubscribeResponse>) -> (u64, String) {
    let response = stream.message().await.expect("an event").expect("more events");
    let text = match response.event.expect("an event") {
        Event::Opened(_) => "opened".to_owned(),
        Event::Sent(message) => message.decode().expect("a message").text,
        other => format!("{other:?}"),
    };
    (response.cursor, text)
}

#[tokio::test]
async fn messages_reach_a_subscriber_and_survive_a_restart() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let org = ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await;
    let channel = ada.create_channel(&project.name, "general").await;
    ada.grant(&bob.account, &project.name, Role::ProjectUser).await;

    let mut stream = subscribe(&bob, "org/acme/project/web/chat/channel/general", None).await;
    assert_eq!(next(&mut stream).await.1, "opened");
    ada.send(&channel, "one").await;
    bob.send(&channel, "two").await;
    let (cursor, text) = next(&mut stream).await;
    assert_eq!(text, "one");
    assert_eq!(next(&mut stream).await.1, "two");
    drop(stream);

    let server = server.restart().await;
    let bob = server.log_in("bob@example.org").await;
    let list = ListMessagesRequest { parent: channel.clone(), ..ListMessagesRequest::default() };
    let listed = bob.chat().list_messages(list).await.expect("a list").into_inner();
    let texts: Vec<_> = listed.messages.iter().map(|m| m.decode().expect("a message").text).collect();
    assert_eq!(texts, ["one", "two"]);
    let mut stream = subscribe(&bob, &channel, Some(cursor)).await;
    assert_eq!(next(&mut stream).await, (cursor, "opened".to_owned()));
    assert_eq!(next(&mut stream).await.1, "two");
    bob.send(&channel, "three").await;
    assert_eq!(next(&mut stream).await.1, "three");
    assert_eq!(org.slug, "acme");
    drop(stream);
    server.stop().await;
}
