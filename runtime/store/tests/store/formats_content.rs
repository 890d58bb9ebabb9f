//! What is in the data directories under `tests/fixtures`, each written by
//! the release of its format (`examples/fixture.rs`). Never changed: older
//! fixtures hold what stands here.

use bytes::Bytes;
use canopy_domain::{Address, Change, Effect, Id, Source, View, ViewWrite};
use canopy_proto::chat::v1::{Channel, Message};
use canopy_proto::system::v1::{Origin, RequestRecord};
use canopy_store::{Commit, RequestKey};
use prost::Message as _;

/// Opens every fixture.
pub(crate) const KEY: &str = "7b1f0c5a9e3d2846b7c1d0e5f4a39281726354657687980a1b2c3d4e5f607182";
/// Time of the first commit, in milliseconds since 1970; each is a second
/// later than the one before.
pub(crate) const TIME_MS: i64 = 1_700_000_000_000;

pub(crate) const CHANNELS: u16 = 1;
pub(crate) const MESSAGES: u16 = 3;
pub(crate) const CLEARING: u16 = 4;

/// Pointers to messages, as the chat's own view: channel, seq, n.
pub(crate) const EVENTS: View =
    View { id: View::FIRST_ID, name: "events", version: 1, source: Source::Changes, apply: point };
/// Messages by their author, to have view rows with values.
pub(crate) const TEXTS: View =
    View { id: View::FIRST_ID + 1, name: "texts", version: 1, source: Source::Rows, apply: copy };

fn point(seq: u64, n: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    if change.table == MESSAGES && change.after.is_some() {
        let key = [&change.key[..16], &seq.to_be_bytes(), &n.to_be_bytes()].concat();
        writes.push(ViewWrite::Put { key, value: Bytes::new() });
    }
}

fn copy(_: u64, _: u32, change: &Change, writes: &mut Vec<ViewWrite>) {
    if change.table == MESSAGES {
        writes.push(match &change.after {
            Some(row) => ViewWrite::Put { key: change.key.clone(), value: row.clone() },
            None => ViewWrite::Delete { key: change.key.clone() },
        });
    }
}

fn id(n: u8) -> Id {
    Id::from_bytes([n; 16])
}

/// The chat whose partition has the most in it.
pub(crate) fn chat() -> Address {
    Address::parse(&format!("{}/chat", Address::org(id(1)).project(id(2)))).unwrap()
}

/// Two orgs, a project with its chat, an account with its session, and the
/// system, in the order in which they are written.
pub(crate) fn addresses() -> Vec<Address> {
    vec![
        Address::system("directory"),
        Address::account(id(4)),
        Address::session(id(5)),
        Address::org(id(1)),
        Address::org(id(1)).project(id(2)),
        chat(),
        Address::org(id(3)),
    ]
}

/// The views that an address is opened with.
pub(crate) fn views(address: &Address) -> Vec<View> {
    if *address == chat() { vec![EVENTS, TEXTS] } else { Vec::new() }
}

pub(crate) fn request_key(n: i64) -> RequestKey {
    RequestKey::new("account/person", "canopy.test.v1.Test/Write", &format!("request-{n}"))
}

/// The first answer to the `n`-th request.
pub(crate) fn record(n: i64) -> RequestRecord {
    RequestRecord { payload_digest: vec![7; 16].into(), reply: format!("reply-{n}").into_bytes().into(), seq: 0 }
}

pub(crate) fn effect(n: i64) -> Effect {
    let request = format!("request of effect {n}").into_bytes().into();
    Effect { target: Address::account(id(4)), method: "canopy.test.v1.Test/Tell", request, outlives_subjects: false }
}

fn commit(n: i64, changes: Vec<Change>) -> Commit {
    Commit {
        time_ms: TIME_MS + n * 1000,
        principal: "account/person".into(),
        origin: Origin { peer: "192.0.2.1".into(), client: "fixture".into(), session: "session/one".into() },
        request_id: format!("request-{n}"),
        method: "canopy.test.v1.Test/Write",
        changes,
        effects: Vec::new(),
        wake_at_ms: None,
        shreds: Vec::new(),
        record: Some((request_key(n), record(n))),
    }
}

fn change(table: u16, key: &[u8], before: Option<Vec<u8>>, after: Option<Vec<u8>>) -> Change {
    Change {
        table,
        key: key.to_vec(),
        before: before.map(Bytes::from),
        after: after.map(Bytes::from),
        schema_version: 1,
        of_subject: false,
    }
}

/// Transactions of any partition but the chat: a row that stays, one that is
/// overwritten, one that is deleted, a long one, and an effect not delivered.
fn plain() -> Vec<Commit> {
    let put = |key: &[u8], before: Option<&str>, after: Option<&str>| {
        change(1, key, before.map(|text| text.as_bytes().to_vec()), after.map(|text| text.as_bytes().to_vec()))
    };
    let long = "a long row that compresses well; ".repeat(100);
    vec![
        commit(1, vec![put(b"stays", None, Some("first")), put(b"changes", None, Some("old"))]),
        commit(2, vec![put(b"changes", Some("old"), Some("new")), put(b"goes", None, Some("soon"))]),
        commit(3, vec![put(b"goes", Some("soon"), None), put(b"long", None, Some(&long))]),
        Commit {
            effects: vec![effect(0), effect(1)],
            wake_at_ms: Some(TIME_MS + 60_000),
            ..commit(4, vec![put(b"told", None, Some("others"))])
        },
    ]
}

pub(crate) fn channel(n: u8) -> Channel {
    Channel { name: format!("{}/channel/{}", chat(), id(n)), slug: format!("channel-{n}"), ..Channel::default() }
}

pub(crate) fn message(channel: u8, number: u64) -> Message {
    Message {
        name: format!("{}/channel/{}/message/{number}", chat(), id(channel)),
        author: "account/person".into(),
        text: format!("message {number} of channel {channel}"),
        create_time_ms: TIME_MS,
        ..Message::default()
    }
}

pub(crate) fn message_key(channel: u8, number: u64) -> Vec<u8> {
    [&[channel; 16][..], &number.to_be_bytes()].concat()
}

/// Two channels with messages; one message is deleted, and the second channel
/// is, with its messages still to be cleared.
fn of_chat() -> Vec<Commit> {
    let row = |n: u8| Some(channel(n).encode_to_vec());
    let mut commits: Vec<Commit> =
        (1..=2u8).map(|n| commit(n.into(), vec![change(CHANNELS, &[n; 16], None, row(n))])).collect();
    for number in 3..=12u64 {
        let n = 1 + u8::try_from(number % 2).unwrap();
        let text = message(n, number).encode_to_vec();
        let number_ms = i64::try_from(number).unwrap();
        commits.push(commit(number_ms, vec![change(MESSAGES, &message_key(n, number), None, Some(text))]));
    }
    let last = message(1, 12).encode_to_vec();
    commits.push(commit(13, vec![change(MESSAGES, &message_key(1, 12), Some(last), None)]));
    let ended = vec![change(CHANNELS, &[2; 16], row(2), None), change(CLEARING, &[2; 16], None, row(2))];
    commits.push(Commit { wake_at_ms: Some(TIME_MS + 14_000), ..commit(14, ended) });
    commits
}

/// Everything that an address commits, in order.
pub(crate) fn commits(address: &Address) -> Vec<Commit> {
    if *address == chat() { of_chat() } else { plain() }
}
