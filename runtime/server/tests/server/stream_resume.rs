//! Subscriptions: each channel from its own cursor on, in order, nothing lost
//! and nothing twice, whatever reader, connection or server do meanwhile.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Caller, Server, message};
use canopy_domain::Role;
use canopy_domain::Wire;
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{
    ChannelPosition, DeleteChannelRequest, DeleteMessageRequest, EditMessageRequest, ListMessagesRequest, Message,
    SubscribeRequest, SubscribeResponse,
};
use tokio::sync::watch;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

/// For what should take milliseconds: it fails a hung test.
const DEADLINE: Duration = Duration::from_secs(30);

/// One answer of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    channel: String,
    cursor: u64,
    what: String,
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("ends before the deadline")
}

async fn try_follow(
    caller: &Caller,
    positions: &[(&str, Option<u64>)],
) -> Result<Streaming<SubscribeResponse>, Status> {
    let position = |(name, cursor): &(&str, Option<u64>)| ChannelPosition { name: (*name).into(), cursor: *cursor };
    let channels = positions.iter().map(position).collect();
    Ok(within(caller.chat().subscribe(SubscribeRequest { channels })).await?.into_inner())
}

async fn follow(caller: &Caller, positions: &[(&str, Option<u64>)]) -> Streaming<SubscribeResponse> {
    try_follow(caller, positions).await.expect("a subscription")
}

fn seen(response: SubscribeResponse) -> Seen {
    let what = match response.event.expect("an event") {
        Event::Opened(_) => "opened".to_owned(),
        Event::Expiring(_) => "expiring".to_owned(),
        Event::Sent(message) => message.decode().unwrap().text,
        Event::Edited(message) => format!("edited {}", message.decode().unwrap().text),
        Event::Deleted(message) => format!("deleted {}", message.decode().unwrap().name.rsplit('/').next().unwrap()),
        Event::Closed(channel) => {
            let channel = channel.decode().unwrap();
            assert_eq!((&channel.name, channel.slug.as_str()), (&response.channel, ""), "its name and no more");
            "closed".to_owned()
        }
    };
    Seen { channel: response.channel, cursor: response.cursor, what }
}

async fn next(stream: &mut Streaming<SubscribeResponse>) -> Result<Seen, Status> {
    within(stream.message()).await?.map(seen).ok_or_else(|| Status::ok("the stream ended"))
}

async fn take(stream: &mut Streaming<SubscribeResponse>, count: usize) -> Vec<Seen> {
    let mut events = Vec::new();
    while events.len() < count {
        events.push(next(stream).await.expect("an event"));
    }
    events
}

async fn opened(stream: &mut Streaming<SubscribeResponse>, channels: usize) {
    assert!(take(stream, channels).await.iter().all(|event| event.what == "opened"));
}

/// Everything in a channel, as lists show it, in the order of sending.
async fn listed(caller: &Caller, channel: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListMessagesRequest { parent: channel.into(), page_size: 1000, page_token, ..Default::default() };
        let page = caller.chat().list_messages(request).await.expect("a page").into_inner();
        texts.extend(page.messages.iter().map(|message| message.decode().unwrap().text));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return texts;
        }
    }
}

async fn edit(caller: &Caller, name: &str, text: &str) {
    let message = Message { name: name.into(), text: text.into(), ..Message::default() };
    let request = EditMessageRequest { message: Some(Wire::new(&message)), request_id: String::new() };
    caller.chat().edit_message(request).await.expect("an edit");
}

async fn delete(caller: &Caller, name: &str) {
    let request = DeleteMessageRequest { name: name.into(), request_id: String::new() };
    caller.chat().delete_message(request).await.expect("a deletion");
}

async fn delete_channel(caller: &Caller, name: &str) {
    let request = DeleteChannelRequest { name: name.into(), ..Default::default() };
    caller.chat().delete_channel(request).await.expect("a deletion");
}

/// Channels of two orgs and three projects.
async fn channels(ada: &Caller) -> Vec<String> {
    let mut names = Vec::new();
    for (org, projects) in [("acme", &["web", "app"][..]), ("umbrella", &["lab"])] {
        ada.create_org(org).await;
        for project in projects {
            let project = ada.create_project(&format!("org/{org}"), project).await;
            for slug in ["general", "random"] {
                names.push(ada.create_channel(&project.name, slug).await);
            }
        }
    }
    names
}

async fn one_channel(ada: &Caller) -> String {
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await;
    ada.create_channel(&project.name, "general").await
}

/// Each channel from every cursor of its history, all on one stream.
async fn check_every_cursor(ada: &Caller, history: &BTreeMap<String, Vec<Seen>>) {
    let steps = history.values().map(Vec::len).max().unwrap();
    for step in 0..=steps {
        let from = |n: usize, len: usize| (step + n) % (len + 1);
        let cursor = |n: usize, events: &[Seen]| from(n, events.len()).checked_sub(1).map_or(0, |i| events[i].cursor);
        let positions: Vec<_> =
            history.iter().enumerate().map(|(n, (name, events))| (name.as_str(), Some(cursor(n, events)))).collect();
        let mut stream = follow(ada, &positions).await;
        opened(&mut stream, positions.len()).await;
        let expected: usize =
            history.values().enumerate().map(|(n, events)| events.len() - from(n, events.len())).sum();
        let got = take(&mut stream, expected).await;
        for (n, (name, events)) in history.iter().enumerate() {
            let of_channel: Vec<_> = got.iter().filter(|event| event.channel == *name).cloned().collect();
            assert_eq!(of_channel, events[from(n, events.len())..], "step {step}, {name}");
        }
    }
}

#[tokio::test]
async fn each_channel_resumes_at_its_own_cursor() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let names = channels(&ada).await;
    let from_the_start: Vec<_> = names.iter().map(|name| (name.as_str(), Some(0))).collect();
    let mut live = follow(&ada, &from_the_start).await;
    opened(&mut live, names.len()).await;

    for (n, name) in names.iter().enumerate() {
        let first = ada.send(name, &format!("one {n}")).await;
        let second = ada.send(name, &format!("two {n}")).await;
        edit(&ada, &first.name, "uno").await;
        delete(&ada, &second.name).await;
        ada.send(name, &format!("three {n}")).await;
    }
    let mut history: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for event in take(&mut live, names.len() * 5).await {
        history.entry(event.channel.clone()).or_default().push(event);
    }
    for (n, name) in names.iter().enumerate() {
        let what: Vec<_> = history[name].iter().map(|event| event.what.as_str()).collect();
        let [one, two, three] = ["one", "two", "three"].map(|text| format!("{text} {n}"));
        assert_eq!([what[0], what[1], what[2], what[4]], [&one, &two, "edited uno", &three]);
        assert!(what[3].starts_with("deleted "), "{what:?}");
        assert!(history[name].is_sorted_by(|a, b| a.cursor < b.cursor), "cursors grow");
    }
    check_every_cursor(&ada, &history).await;

    // Absent: what comes from now on, and nothing of before.
    let now: Vec<_> = names.iter().map(|name| (name.as_str(), None)).collect();
    let mut stream = follow(&ada, &now).await;
    opened(&mut stream, names.len()).await;
    ada.send(&names[0], "late").await;
    let late = next(&mut stream).await.unwrap();
    assert_eq!((late.channel.as_str(), late.what.as_str()), (names[0].as_str(), "late"));
    assert_eq!(next(&mut live).await.unwrap(), late, "the first stream sees it once, as the other does");
    history.get_mut(&names[0]).unwrap().push(late);
    drop((stream, live));

    let server = server.restart().await;
    let ada = server.log_in("ada@example.org").await;
    check_every_cursor(&ada, &history).await;

    // A list's cursor is where its end is.
    let list = ListMessagesRequest { parent: names[0].clone(), ..Default::default() };
    let cursor = ada.chat().list_messages(list).await.unwrap().into_inner().cursor;
    let mut stream = follow(&ada, &[(&names[0], Some(cursor))]).await;
    opened(&mut stream, 1).await;
    ada.send(&names[0], "after the list").await;
    assert_eq!(next(&mut stream).await.unwrap().what, "after the list");
    drop(stream);

    let refused = [
        (vec![(names[0].as_str(), Some(cursor + 100))], Code::OutOfRange),
        (vec![(names[0].as_str(), Some(u64::MAX))], Code::OutOfRange),
        (vec![(names[1].as_str(), Some(0)), (names[0].as_str(), Some(u64::MAX))], Code::OutOfRange),
        (vec![("org/acme/project/web/chat/channel/nowhere", None)], Code::NotFound),
        (vec![("org/acme/project/web", None)], Code::InvalidArgument),
        // Twice on one stream would show everything twice.
        (vec![(names[0].as_str(), Some(0)), (names[0].as_str(), None)], Code::InvalidArgument),
        (
            vec![(names[0].as_str(), Some(0)), ("org/acme/project/web/chat/channel/general", Some(0))],
            Code::InvalidArgument,
        ),
    ];
    for (positions, code) in refused {
        let status = try_follow(&ada, &positions).await.err().unwrap_or_else(|| panic!("{positions:?} is taken"));
        assert_eq!(status.code(), code, "{positions:?}: {}", status.message());
        assert!(!status.message().is_empty());
    }
    server.stop().await;
}

/// A caller whose connection takes little before it has to read.
async fn narrow(server: &Server, caller: &Caller) -> Caller {
    let endpoint = Endpoint::from_shared(server.url()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    Caller { channel: endpoint.connect().await.unwrap(), ..caller.clone() }
}

/// Beyond what memory holds of a topic, and what lies in the buffers between.
const FLOOD: usize = 1_500;
const TEXT_BYTES: usize = 2_000;
const SENDERS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_loses_nothing_and_holds_nobody_up() {
    let server = Server::start_with(|config| config.edge.drain_grace_ms = 300).await;
    let ada = server.person("ada@example.org").await;
    let channel = one_channel(&ada).await;
    let [slow, stuck] = [narrow(&server, &ada).await, narrow(&server, &ada).await];
    let mut slow = follow(&slow, &[(&channel, None)]).await;
    let stuck_stream = follow(&stuck, &[(&channel, Some(0))]).await;
    let mut fast = follow(&ada, &[(&channel, None)]).await;
    opened(&mut fast, 1).await;

    let senders = (0..SENDERS).map(|sender| {
        let (ada, channel) = (ada.clone(), channel.clone());
        tokio::spawn(async move {
            for n in 0..FLOOD / SENDERS {
                ada.send(&channel, &format!("{sender}.{n} {}", "x".repeat(TEXT_BYTES))).await;
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    // The two others have read nothing, and this one misses nothing.
    let quick = take(&mut fast, FLOOD).await;
    for sender in senders {
        sender.await.unwrap();
    }
    let quick: Vec<_> = quick.into_iter().map(|event| event.what).collect();
    assert_eq!(quick, listed(&ada, &channel).await);

    // What has not gone is shown to who is behind.
    opened(&mut slow, 1).await;
    let read: Vec<_> = take(&mut slow, FLOOD).await.into_iter().map(|event| event.what).collect();
    assert_eq!(read, quick);
    delete_channel(&ada, &channel).await;
    assert_eq!(next(&mut fast).await.unwrap().what, "closed");
    assert_eq!(next(&mut slow).await.unwrap().what, "closed");
    drop((slow, fast));

    // Nor does the one who never reads hold the server's end up.
    within(server.stop()).await;
    drop(stuck_stream);
}

#[tokio::test]
async fn a_deleted_channel_closes_for_its_followers_alone() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let general = one_channel(&ada).await;
    let random = ada.create_channel("org/acme/project/web", "random").await;
    let mut stream = follow(&ada, &[(&general, None), (&random, None)]).await;
    opened(&mut stream, 2).await;
    ada.send(&general, "last words").await;
    delete_channel(&ada, &general).await;
    let again = ada.create_channel("org/acme/project/web", "general").await;
    assert_ne!(again, general);
    ada.send(&again, "elsewhere").await;
    ada.send(&random, "still here").await;
    let events = take(&mut stream, 3).await;
    let of = |channel: &str| -> Vec<&str> {
        events.iter().filter(|event| event.channel == channel).map(|event| event.what.as_str()).collect()
    };
    assert_eq!(of(&general), ["last words", "closed"]);
    assert_eq!(of(&random), ["still here"]);
    // The messages go after the channel, some at a time: no event tells of it.
    ada.send(&random, "and on").await;
    assert_eq!(next(&mut stream).await.unwrap().what, "and on");
    let status = try_follow(&ada, &[(&general, Some(0))]).await.expect_err("it is gone");
    assert_eq!(status.code(), Code::NotFound);
    let mut stream = follow(&ada, &[(&again, Some(0))]).await;
    opened(&mut stream, 1).await;
    assert_eq!(next(&mut stream).await.unwrap().what, "elsewhere");
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_subscribers_get_what_four_senders_send() {
    const SUBSCRIBERS: usize = 50;
    const MESSAGES: usize = 25;
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    let names = Arc::new(channels(&ada).await);
    for project in ["org/acme/project/web", "org/acme/project/app", "org/umbrella/project/lab"] {
        ada.grant(&bob.account, project, Role::ProjectUser).await;
    }
    let mut readers = Vec::new();
    for n in 0..SUBSCRIBERS {
        let caller = if n % 10 == 0 { narrow(&server, &bob).await } else { bob.clone() };
        // From the first message on, whether it is history, memory or to come.
        let cursor = (n % 2 == 0).then_some(0);
        let positions: Vec<_> = names.iter().map(|name| (name.as_str(), cursor)).collect();
        let mut stream = follow(&caller, &positions).await;
        opened(&mut stream, names.len()).await;
        let expected = names.len() * MESSAGES * 2;
        readers.push(tokio::spawn(async move {
            let mut ledger: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
            for event in take(&mut stream, expected).await {
                ledger.entry(event.channel.clone()).or_default().push(event);
            }
            ledger
        }));
    }
    let senders = [&ada, &ada, &bob, &bob].into_iter().enumerate().map(|(sender, caller)| {
        let (caller, names) = (caller.clone(), Arc::clone(&names));
        tokio::spawn(async move {
            for n in 0..MESSAGES {
                // Each channel gets two of the senders.
                for name in names.iter().skip(sender % 2).step_by(2) {
                    caller.send(name, &format!("{sender} {n}")).await;
                }
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let mut truth = BTreeMap::new();
    for name in names.iter() {
        truth.insert(name.clone(), listed(&ada, name).await);
    }
    for (n, reader) in readers.into_iter().enumerate() {
        let ledger = reader.await.unwrap();
        for (name, texts) in &truth {
            let events = &ledger[name];
            assert_eq!(events.iter().map(|event| event.what.as_str()).collect::<Vec<_>>(), *texts, "{n}, {name}");
            assert!(events.is_sorted_by(|a, b| a.cursor < b.cursor));
        }
    }
    server.stop().await;
}

/// Sends a text until it is acknowledged, wherever the server is.
async fn send_once(url: &mut watch::Receiver<String>, caller: &Caller, channel: &str, text: &str) {
    let mut request = message(channel, text);
    request.request_id = text.into();
    loop {
        let at = url.borrow_and_update().clone();
        let Ok(connected) = Endpoint::from_shared(at).unwrap().connect().await else {
            url.changed().await.unwrap();
            continue;
        };
        let here = Caller { channel: connected, ..caller.clone() };
        let refused = match here.chat().send_message(request.clone()).await {
            Ok(_) => return,
            Err(status) => status,
        };
        let passing = [Code::Unavailable, Code::Cancelled, Code::Unknown, Code::Aborted, Code::Internal];
        assert!(passing.contains(&refused.code()), "{text}: {refused:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_in_the_middle_are_not_noticed() {
    const TEXTS: usize = 60;
    let mut server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let channel = one_channel(&ada).await;
    let (moved, url) = watch::channel(server.url());
    let (progress, mut read) = watch::channel(0usize);
    let progress = Arc::new(progress);

    let senders: Vec<_> = (0..2)
        .map(|sender| {
            let (mut url, ada, channel) = (url.clone(), ada.clone(), channel.clone());
            tokio::spawn(async move {
                for n in 0..TEXTS {
                    send_once(&mut url, &ada, &channel, &format!("{sender}-{n}")).await;
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (mut url, ada, channel, progress) = (url.clone(), ada.clone(), channel.clone(), Arc::clone(&progress));
            tokio::spawn(async move {
                let (mut texts, mut cursor, mut ends) = (Vec::new(), 0, Vec::new());
                while texts.len() < 2 * TEXTS {
                    let at = url.borrow_and_update().clone();
                    let Ok(connected) = Endpoint::from_shared(at).unwrap().connect().await else {
                        url.changed().await.unwrap();
                        continue;
                    };
                    let here = Caller { channel: connected, ..ada.clone() };
                    let Ok(mut stream) = try_follow(&here, &[(&channel, Some(cursor))]).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    while texts.len() < 2 * TEXTS {
                        match next(&mut stream).await {
                            Ok(event) if event.what == "opened" => assert_eq!(event.cursor, cursor),
                            Ok(event) => {
                                assert!(event.cursor > cursor, "{event:?} after {cursor}");
                                cursor = event.cursor;
                                texts.push(event.what);
                                progress.send_modify(|count| *count += 1);
                            }
                            Err(status) => {
                                ends.push(status.code());
                                break;
                            }
                        }
                    }
                }
                (texts, ends)
            })
        })
        .collect();

    for restart in 1..=2 {
        within(read.wait_for(|count| *count > restart * TEXTS)).await.unwrap();
        server = server.restart().await;
        moved.send(server.url()).unwrap();
    }
    for sender in senders {
        within(sender).await.unwrap();
    }
    let ada = server.log_in("ada@example.org").await;
    let truth = listed(&ada, &channel).await;
    assert_eq!(truth.len(), 2 * TEXTS);
    assert_eq!(truth.iter().collect::<HashSet<_>>().len(), truth.len(), "nothing twice");
    for reader in readers {
        let (texts, ends) = within(reader).await.unwrap();
        assert_eq!(texts, truth);
        assert!(ends.iter().all(|code| *code == Code::Unavailable), "a stopping server says so: {ends:?}");
    }
    server.stop().await;
}
