//! What is wrong with a request is said with the right code, a message and the
//! field, and nothing changes.

use std::collections::BTreeSet;

use crate::harness::requests::{Target, request};
use crate::harness::world::{CHAT, IDENTITY, ORGS, PROJECTS, World, check, fields, refused, served};
use crate::harness::{Caller, Server, message};
use canopy_domain::Wire;
use canopy_proto::chat::v1::{
    ChannelPosition, ListChannelsRequest, ListMessagesRequest, Order, SubscribeRequest, UpdateChannelRequest,
};
use canopy_proto::identity::v1::{Account, ListSessionsRequest, UpdateAccountRequest};
use canopy_proto::org::v1::{
    DeleteOrgRequest, DeleteProjectRequest, ListGrantsRequest, ListOrgsRequest, ListProjectsRequest, Org, Project,
    UpdateOrgRequest, UpdateProjectRequest,
};
use canopy_proto::{Access, Requirement, rules};
use prost::Message;
use prost_reflect::Kind;
use prost_types::FieldMask;
use tonic::Code;

fn length_delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}

/// A small generator with a seed that is printed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 32).expect("32 bits") % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_bytes_are_invalid_arguments() {
    let world = World::new().await;
    let before = world.listing().await;
    let ada = &world.here.owner;
    for rule in served() {
        let input = rule.descriptor.input();
        for (about, bytes) in [
            ("a field longer than its message", vec![0x0a, 0x05, b'a']),
            ("a varint that goes on for ever", vec![0xff; 11]),
            ("field number 0", vec![0x02, 0x00]),
            ("wire type 7", vec![0x0f]),
            ("a group that never ends", vec![0xfb, 0x3e]),
            ("a group that never began", vec![0xfc, 0x3e]),
        ] {
            let status = refused(ada, rule.path, bytes).await;
            check(&status, Code::InvalidArgument, "", &format!("{} with {about}", rule.path));
        }
        for field in input.fields() {
            let about = |what: &str| format!("{}, field {} {what}", rule.path, field.name());
            let number = field.number();
            let mut wrong = Vec::new();
            match field.kind() {
                Kind::String | Kind::Message(_) => {
                    prost::encoding::uint64::encode(number, &7, &mut wrong);
                }
                _ => wrong = length_delimited(number, b"seven"),
            }
            if !field.is_list() || matches!(field.kind(), Kind::Message(_) | Kind::String) {
                let status = refused(ada, rule.path, wrong).await;
                check(&status, Code::InvalidArgument, field.name(), &about("of the wrong wire type"));
            }
            if field.kind() == Kind::String {
                let status = refused(ada, rule.path, length_delimited(number, &[b'a', 0xff, 0xc0])).await;
                check(&status, Code::InvalidArgument, field.name(), &about("not UTF-8"));
                let long = "a".repeat(20_000);
                let status = refused(ada, rule.path, length_delimited(number, long.as_bytes())).await;
                check(&status, Code::InvalidArgument, field.name(), &about("too long"));
            }
        }
    }
    assert_eq!(world.listing().await, before);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_requests_never_break_the_server() {
    let world = World::new().await;
    let seed = 20_260_101;
    println!("seed {seed}");
    let mut random = Random(seed);
    // Valid requests about somebody else's things, damaged: whatever survives
    // must not take effect. One's own things may change.
    let before = world.listing().await;
    let target = Target { email: "fool@example.org".into(), ..world.target(&world.here) };
    let fool = world.server.person("fool@example.org").await;
    for rule in served() {
        let whole = request(rule.path, &target);
        for _ in 0..20 {
            let mut bytes = whole.clone();
            match (random.below(3), bytes.len()) {
                (_, 0) => bytes = (0..random.below(60)).map(|_| random.byte()).collect(),
                (0, len) => bytes.truncate(random.below(len)),
                (1, len) => bytes[random.below(len)] ^= 1 << random.below(8),
                (_, len) => bytes.insert(random.below(len), random.byte()),
            }
            let answer = match rule.access {
                Access::Subscription => fool.raw_stream(rule.path, bytes).await.map(drop),
                _ => fool.raw(rule.path, bytes).await.map(drop),
            };
            let code = answer.err().map_or(Code::Ok, |status| status.code());
            let right = match rule.requires {
                Requirement::Least(_) => {
                    &[Code::InvalidArgument, Code::NotFound, Code::PermissionDenied, Code::Unauthenticated][..]
                }
                _ => &[
                    Code::Ok,
                    Code::InvalidArgument,
                    Code::NotFound,
                    Code::PermissionDenied,
                    Code::Unauthenticated,
                    Code::AlreadyExists,
                    // Wrong passwords make the next ones wait.
                    Code::ResourceExhausted,
                    // Without a second factor, none can be changed.
                    Code::FailedPrecondition,
                ],
            };
            assert!(right.contains(&code), "{}: {code:?}", rule.path);
        }
    }
    assert_eq!(world.listing().await, before);
    world.server.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented() {
    let server = Server::start().await;
    let admin = server.sys_admin("admin@example.org").await;
    let nobody = server.nobody().await;
    let internal = rules().values().filter(|rule| rule.requires == Requirement::Internal).map(|rule| rule.path);
    let unknown = [
        "canopy.chat.v1.Chat/Nothing",
        "canopy.chat.v1.Chat/sendmessage",
        "canopy.chat.v1.Chat/SendMessage/",
        "canopy.chat.v1.Chat",
        "canopy.chat.v2.Chat/SendMessage",
        "canopy.nothing.v1.Nothing/Nothing",
        "nothing.Nothing/Nothing",
        "grpc.health.v1.Health/Nothing",
        "grpc.nothing.v1.Nothing/Nothing",
        "nothing",
        "",
    ];
    let paths: Vec<_> = internal.chain(unknown).collect();
    assert!(paths.len() > unknown.len(), "there are internal methods");
    for path in paths {
        for caller in [&admin, &nobody] {
            let status = refused(caller, path, Vec::new()).await;
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_cursors_of_something_else() {
    let world = World::new().await;
    let here = &world.here;
    let list = |channel: &str, order: Order, page_token: &str| {
        let page_token = page_token.to_owned();
        ListMessagesRequest { parent: channel.into(), order: order.into(), page_size: 1, page_token }
    };
    let chat = here.owner.chat();
    let first = chat.clone().list_messages(list(&here.channel, Order::Unspecified, "")).await.expect("a page");
    let token = first.into_inner().next_page_token;
    assert!(!token.is_empty());
    let projects = ListProjectsRequest { parent: here.org.clone(), page_size: 1, ..Default::default() };
    let projects = here.owner.projects().list_projects(projects).await.expect("a page").into_inner().next_page_token;
    let mut flipped = token.clone().into_bytes();
    flipped[0] = if flipped[0] == b'0' { b'1' } else { b'0' };
    let flipped = String::from_utf8(flipped).expect("hexadecimal");
    let shorter = token[..token.len() - 2].to_owned();
    let garbage = ["0".into(), "zz".into(), "\u{1f600}".into(), "00".repeat(8), "f".repeat(256), flipped, shorter];
    let foreign = [token.clone(), projects.clone()];

    let mut cases: Vec<(&Caller, String, Vec<u8>)> = Vec::new();
    let lists = |page_token: &str, page_size: i32| {
        let (org, project) = (here.org.clone(), here.project.clone());
        let (t, s) = (page_token.to_owned(), page_size);
        [
            (
                format!("{ORGS}/ListOrgs"),
                ListOrgsRequest { page_size: s, page_token: t.clone(), ..Default::default() }.encode_to_vec(),
            ),
            (
                format!("{ORGS}/ListGrants"),
                ListGrantsRequest { parent: org.clone(), page_size: s, page_token: t.clone() }.encode_to_vec(),
            ),
            (
                format!("{ORGS}/ListGrants"),
                ListGrantsRequest { parent: project.clone(), page_size: s, page_token: t.clone() }.encode_to_vec(),
            ),
            (
                format!("{IDENTITY}/ListSessions"),
                ListSessionsRequest { parent: "account/me".into(), page_size: s, page_token: t.clone() }
                    .encode_to_vec(),
            ),
            (
                format!("{CHAT}/ListChannels"),
                ListChannelsRequest { parent: format!("{project}/chat"), page_size: s, page_token: t.clone() }
                    .encode_to_vec(),
            ),
            (
                format!("{PROJECTS}/ListProjects"),
                ListProjectsRequest { parent: org, page_size: s, page_token: t.clone(), ..Default::default() }
                    .encode_to_vec(),
            ),
            (
                format!("{CHAT}/ListMessages"),
                ListMessagesRequest { parent: here.channel.clone(), order: 0, page_size: s, page_token: t }
                    .encode_to_vec(),
            ),
        ]
    };
    for token in &garbage {
        cases.extend(lists(token, 1).into_iter().map(|(path, bytes)| (&here.owner, path, bytes)));
    }
    for (n, token) in foreign.iter().enumerate() {
        let own = ["ListMessages", "ListProjects"][n];
        let others = lists(token, 1).into_iter().filter(|(path, _)| !path.ends_with(own));
        cases.extend(others.map(|(path, bytes)| (&here.owner, path, bytes)));
    }
    let messages = format!("{CHAT}/ListMessages");
    cases.push((&here.owner, messages.clone(), list(&here.channel, Order::NewestFirst, &token).encode_to_vec()));
    cases.push((
        &here.owner,
        messages.clone(),
        list(&world.second_channel, Order::Unspecified, &token).encode_to_vec(),
    ));
    cases.push((&world.there.owner, messages, list(&world.there.channel, Order::Unspecified, &token).encode_to_vec()));
    let elsewhere = ListProjectsRequest {
        parent: world.there.org.clone(),
        page_size: 1,
        page_token: projects,
        ..Default::default()
    };
    cases.push((&world.there.owner, format!("{PROJECTS}/ListProjects"), elsewhere.encode_to_vec()));
    for (caller, path, bytes) in cases {
        check(&refused(caller, &path, bytes).await, Code::InvalidArgument, "page_token", &path);
    }
    for size in [-1, i32::MIN, 1001, i32::MAX] {
        for (path, bytes) in lists("", size) {
            check(&refused(&here.owner, &path, bytes).await, Code::InvalidArgument, "page_size", &path);
        }
    }
    let unknown_order =
        ListMessagesRequest { parent: here.channel.clone(), order: 7, ..ListMessagesRequest::default() };
    let status = refused(&here.owner, &format!("{CHAT}/ListMessages"), unknown_order.encode_to_vec()).await;
    check(&status, Code::InvalidArgument, "order", "an unknown order");
    for (cursor, code) in [(1_000, Code::OutOfRange), (u64::MAX, Code::OutOfRange)] {
        let channels = vec![ChannelPosition { name: here.channel.clone(), cursor: Some(cursor) }];
        let request = SubscribeRequest { channels }.encode_to_vec();
        check(&refused(&here.owner, &format!("{CHAT}/Subscribe"), request).await, code, "", "a cursor from the future");
    }
    for channels in [0, 101] {
        let position = ChannelPosition { name: here.channel.clone(), cursor: None };
        let request = SubscribeRequest { channels: vec![position; channels] }.encode_to_vec();
        let status = refused(&here.owner, &format!("{CHAT}/Subscribe"), request).await;
        check(&status, Code::InvalidArgument, "channels", "a number of channels");
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_what_cannot_change() {
    let world = World::new().await;
    let before = world.listing().await;
    let here = &world.here;
    let mask = |path: &str| Some(FieldMask { paths: vec![path.into()] });
    let updates = |path: &str, etag: &str| {
        let slug = "other".to_owned();
        let org =
            Org { name: here.org.clone(), slug: slug.clone(), title: "x".into(), etag: etag.into(), ..Org::default() };
        let project = Project {
            name: here.project.clone(),
            slug: slug.clone(),
            title: "x".into(),
            etag: etag.into(),
            ..Project::default()
        };
        let channel = canopy_proto::chat::v1::Channel {
            name: here.channel.clone(),
            slug,
            topic: "x".into(),
            etag: etag.into(),
            ..Default::default()
        };
        let account = Account {
            name: "account/me".into(),
            email: "other@example.org".into(),
            display_name: "x".into(),
            etag: etag.into(),
            ..Account::default()
        };
        let update_mask = if path.is_empty() { None } else { mask(path) };
        let request_id = String::new();
        [
            (
                format!("{ORGS}/UpdateOrg"),
                UpdateOrgRequest {
                    org: Some(Wire::new(&org)),
                    update_mask: update_mask.clone(),
                    request_id: request_id.clone(),
                }
                .encode_to_vec(),
            ),
            (
                format!("{PROJECTS}/UpdateProject"),
                UpdateProjectRequest {
                    project: Some(Wire::new(&project)),
                    update_mask: update_mask.clone(),
                    request_id: request_id.clone(),
                }
                .encode_to_vec(),
            ),
            (
                format!("{CHAT}/UpdateChannel"),
                UpdateChannelRequest {
                    channel: Some(Wire::new(&channel)),
                    update_mask: update_mask.clone(),
                    request_id: request_id.clone(),
                }
                .encode_to_vec(),
            ),
            (
                format!("{IDENTITY}/UpdateAccount"),
                UpdateAccountRequest { account: Some(Wire::new(&account)), update_mask, request_id }.encode_to_vec(),
            ),
        ]
    };
    for path in ["name", "create_time_ms", "update_time_ms", "etag", "nothing", "*", "title.x", "../title"] {
        for (method, bytes) in updates(path, "") {
            let status = refused(&here.owner, &method, bytes).await;
            check(&status, Code::InvalidArgument, "update_mask", &format!("{method} of {path}"));
        }
    }
    for (method, path) in
        [("UpdateProject", "purge_time_ms"), ("UpdateAccount", "email"), ("UpdateOrg", "delete_time_ms")]
    {
        for (method, bytes) in updates(path, "").into_iter().filter(|(full, _)| full.ends_with(method)) {
            let status = refused(&here.owner, &method, bytes).await;
            check(&status, Code::InvalidArgument, "update_mask", &format!("{method} of {path}"));
        }
    }
    for etag in ["0", "999999", "nonsense"] {
        for (method, bytes) in updates("", etag) {
            check(&refused(&here.owner, &method, bytes).await, Code::Aborted, "", &method);
        }
        let etag = etag.to_owned();
        let deletions = [
            (
                format!("{ORGS}/DeleteOrg"),
                DeleteOrgRequest { name: here.org.clone(), etag: etag.clone(), request_id: String::new() }
                    .encode_to_vec(),
            ),
            (
                format!("{PROJECTS}/DeleteProject"),
                DeleteProjectRequest { name: here.project.clone(), etag: etag.clone(), request_id: String::new() }
                    .encode_to_vec(),
            ),
            (
                format!("{CHAT}/DeleteChannel"),
                canopy_proto::chat::v1::DeleteChannelRequest {
                    name: here.channel.clone(),
                    etag,
                    request_id: String::new(),
                }
                .encode_to_vec(),
            ),
        ];
        for (method, bytes) in deletions {
            check(&refused(&here.owner, &method, bytes).await, Code::Aborted, "", &method);
        }
    }
    assert_eq!(world.listing().await, before);
    // A refused update holds no slug either.
    world.there.owner.create_org("other").await;
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_out_of_bounds() {
    let server = Server::start_with(|config| config.edge.request_bytes_max = 64 * 1024).await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;

    for (text, refusal) in [
        ("a".repeat(16_000), None),
        ("a".repeat(16_001), Some((Code::InvalidArgument, "message.text"))),
        ("\u{e9}".repeat(8_001), Some((Code::InvalidArgument, "message.text"))),
        (String::new(), Some((Code::InvalidArgument, "message.text"))),
        (" \n\t".into(), Some((Code::InvalidArgument, "message.text"))),
        ("a".repeat(70_000), Some((Code::ResourceExhausted, ""))),
        ("a".repeat(5 << 20), Some((Code::ResourceExhausted, ""))),
    ] {
        let sent = ada.chat().send_message(message(&channel, &text)).await;
        match refusal {
            None => drop(sent.expect("it fits")),
            Some((code, field)) => check(&sent.expect_err("too much"), code, field, &format!("{} bytes", text.len())),
        }
    }
    let slugs = ["", "a", "-ab", "ab-", "Ab", "a_b", "a b", "1ab", "a/b", "a.b", "\u{e9}t\u{e9}", &"a".repeat(41)];
    for slug in slugs {
        let target =
            Target { org: "org/acme".into(), project: project.clone(), unique: slug.into(), ..Target::default() };
        for (service, method, field) in [
            (ORGS, "CreateOrg", "org.slug"),
            (PROJECTS, "CreateProject", "project.slug"),
            (CHAT, "CreateChannel", "channel.slug"),
        ] {
            let path = format!("{service}/{method}");
            let status = refused(&ada, &path, request(&path, &target)).await;
            check(&status, Code::InvalidArgument, field, &format!("{method} of {slug:?}"));
        }
    }
    let emails = ["", "a", "a@", "@b", "a b@c", "a/b@c", "a@b@c", &format!("{}@example.org", "a".repeat(250))];
    for email in emails {
        let path = format!("{IDENTITY}/LogIn");
        let target = Target { email: email.into(), ..Target::default() };
        let status = refused(&ada, &path, request(&path, &target)).await;
        check(&status, Code::InvalidArgument, "email", email);
        let account = Account { email: email.into(), ..Account::default() };
        let register = canopy_proto::identity::v1::RegisterRequest {
            account: Some(Wire::new(&account)),
            password: crate::harness::PASSWORD.into(),
            ..Default::default()
        };
        let status = refused(&ada, &format!("{IDENTITY}/Register"), register.encode_to_vec()).await;
        check(&status, Code::InvalidArgument, "account.email", email);
    }
    // Every field at fault is named, not the first alone.
    let account = Account { email: "x".into(), display_name: "a".repeat(101), ..Account::default() };
    let register = canopy_proto::identity::v1::RegisterRequest {
        account: Some(Wire::new(&account)),
        password: "short".into(),
        sign_up_token: "a".repeat(301),
        request_id: "a".repeat(65),
    };
    let status = refused(&ada, &format!("{IDENTITY}/Register"), register.encode_to_vec()).await;
    let named: BTreeSet<_> = fields(&status).into_iter().collect();
    let expected = ["account.display_name", "account.email", "password", "request_id", "sign_up_token"];
    assert_eq!(named, expected.map(String::from).into());
    assert!(!status.message().contains("short"), "a password is not repeated");
    server.stop().await;
}
