//! A newer client and an older server: fields that the server does not know
//! come back, stay through updates by others, and change when the newer
//! client changes them.
//!
//! The newer client is made here: the sources of this release with fields
//! added, compiled at run time, and dynamic messages over the wire's bytes.

use std::path::{Path, PathBuf};

use crate::harness::{Authorised, Caller, PASSWORD, Server};
use bytes::Bytes;
use canopy::edge::codec::BytesCodec;
use canopy_domain::Wire;
use canopy_proto::chat::v1 as chat;
use canopy_proto::identity::v1 as identity;
use canopy_proto::org::v1 as org;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::FieldMask;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};
use serde_json::{Value as Json, json};
use tonic::client::Grpc;
use tonic::{Code, Request, Status, Streaming};

/// What the next release adds to each resource: a plain field, and messages
/// in messages.
const ADDED: &str = "
  string mood = 100;
  Extra extra = 101;
  message Extra { string note = 1; Deep deep = 2; message Deep { repeated string tags = 1; map<string, int64> counts = 2; } }
";
const RESOURCES: [&str; 6] = ["Message", "Channel", "Org", "Project", "Account", "Grant"];

/// The sources of this release with [`ADDED`] in each of [`RESOURCES`], and a
/// field in a request.
struct NextRelease(PathBuf);

impl FileResolver for NextRelease {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let Ok(mut source) = std::fs::read_to_string(self.0.join(name)) else {
            return Err(protox::Error::file_not_found(name));
        };
        for resource in RESOURCES {
            let head = format!("\nmessage {resource} {{\n");
            source = source.replace(&head, &format!("{head}{ADDED}"));
        }
        let head = "\nmessage SendMessageRequest {\n";
        source = source.replace(head, &format!("{head}  string urgency = 100;\n"));
        File::from_source(name, &source)
    }
}

fn next_release() -> DescriptorPool {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut resolver = ChainFileResolver::new();
    resolver.add(NextRelease(proto.clone()));
    resolver.add(IncludeFileResolver::new(proto.join("third_party")));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    for area in ["chat", "identity", "org"] {
        compiler.open_file(format!("canopy/{area}/v1/{area}_service.proto")).unwrap_or_else(|e| panic!("{e:?}"));
    }
    let pool = compiler.descriptor_pool();
    let has = |resource: &str| pool.all_messages().any(|m| m.name() == resource && m.get_field(101).is_some());
    assert_eq!(RESOURCES.iter().filter(|resource| has(resource)).count(), RESOURCES.len(), "each has the new fields");
    pool
}

/// A client of the next release.
struct Newer {
    pool: DescriptorPool,
    caller: Caller,
}

impl Newer {
    fn encode(&self, method: &str, request: Json) -> (String, prost_reflect::MessageDescriptor, Bytes) {
        let (service, name) = method.split_once('/').unwrap();
        let service = self.pool.get_service_by_name(&format!("canopy.{service}")).expect(method);
        let descriptor = service.methods().find(|m| m.name() == name).expect(method);
        let request = DynamicMessage::deserialize(descriptor.input(), request).expect(method);
        (format!("/canopy.{method}"), descriptor.output(), request.encode_to_vec().into())
    }

    async fn ready(&self) -> Grpc<Authorised> {
        let service = Authorised::new(self.caller.channel.clone(), self.caller.token.clone());
        let mut grpc = Grpc::new(service);
        grpc.ready().await.expect("a connection");
        grpc
    }

    async fn try_call(&self, method: &str, request: Json) -> Result<Json, Status> {
        let (path, output, bytes) = self.encode(method, request);
        let answer = self.ready().await.unary(Request::new(bytes), path.parse().unwrap(), BytesCodec).await?;
        Ok(shown(&output, &answer.into_inner()))
    }

    async fn call(&self, method: &str, request: Json) -> Json {
        self.try_call(method, request).await.unwrap_or_else(|e| panic!("{method}: {e:?}"))
    }

    async fn follow(&self, channel: &str) -> Streaming<Bytes> {
        let request = json!({"channels": [{"name": channel, "cursor": "0"}]});
        let (path, _, bytes) = self.encode("chat.v1.Chat/Subscribe", request);
        let answer = self.ready().await.server_streaming(Request::new(bytes), path.parse().unwrap(), BytesCodec).await;
        answer.expect("a subscription").into_inner()
    }

    async fn next(&self, stream: &mut Streaming<Bytes>) -> Json {
        let bytes = stream.message().await.expect("an event").expect("more events");
        shown(&self.pool.get_message_by_name("canopy.chat.v1.SubscribeResponse").unwrap(), &bytes)
    }
}

fn shown(descriptor: &prost_reflect::MessageDescriptor, bytes: &Bytes) -> Json {
    let message = DynamicMessage::decode(descriptor.clone(), bytes.clone()).expect("an answer");
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).expect("JSON")
}

fn extra() -> Json {
    json!({"note": "n", "deep": {"tags": ["a", "b"], "counts": {"x": "7"}}})
}

/// A resource with the next release's fields added to `known`.
fn with_added(known: &Json) -> Json {
    let mut resource = known.clone();
    resource["mood"] = "calm".into();
    resource["extra"] = extra();
    resource
}

#[track_caller]
fn check(resource: &Json, mood: &str, field: &str, value: &str, when: &str) {
    assert_eq!(resource["mood"], mood, "{when}: {resource}");
    assert_eq!(resource["extra"], extra(), "{when}: {resource}");
    assert_eq!(resource[field], value, "{when}: {resource}");
}

/// A resource that can be updated by mask.
struct Case {
    /// In requests.
    field: &'static str,
    create: (&'static str, Json),
    get: &'static str,
    list: Option<(&'static str, Json, &'static str)>,
    update: &'static str,
    known: &'static str,
}

fn cases(project: &str) -> [Case; 3] {
    [
        Case {
            field: "org",
            create: ("org.v1.Orgs/CreateOrg", json!({"org": {"slug": "umbrella", "title": "first"}})),
            get: "org.v1.Orgs/GetOrg",
            list: Some(("org.v1.Orgs/ListOrgs", json!({}), "orgs")),
            update: "org.v1.Orgs/UpdateOrg",
            known: "title",
        },
        Case {
            field: "project",
            create: (
                "org.v1.Projects/CreateProject",
                json!({"parent": "org/acme", "project": {"slug": "app", "title": "first"}}),
            ),
            get: "org.v1.Projects/GetProject",
            list: Some(("org.v1.Projects/ListProjects", json!({"parent": "org/acme"}), "projects")),
            update: "org.v1.Projects/UpdateProject",
            known: "title",
        },
        Case {
            field: "channel",
            create: (
                "chat.v1.Chat/CreateChannel",
                json!({"parent": format!("{project}/chat"), "channel": {"slug": "general", "topic": "first"}}),
            ),
            get: "chat.v1.Chat/GetChannel",
            list: Some(("chat.v1.Chat/ListChannels", json!({"parent": format!("{project}/chat")}), "channels")),
            update: "chat.v1.Chat/UpdateChannel",
            known: "topic",
        },
    ]
}

/// The same update by a client of this release, which knows nothing of the
/// new fields.
async fn update_by_older(caller: &Caller, field: &str, name: &str, value: &str) {
    let (name, value) = (name.to_owned(), value.to_owned());
    let update_mask = Some(FieldMask { paths: vec![if field == "channel" { "topic" } else { "title" }.into()] });
    match field {
        "org" => {
            let org = Some(Wire::new(&org::Org { name, title: value, ..Default::default() }));
            let request = org::UpdateOrgRequest { org, update_mask, ..Default::default() };
            caller.orgs().update_org(request).await.map(drop)
        }
        "project" => {
            let project = Some(Wire::new(&org::Project { name, title: value, ..Default::default() }));
            let request = org::UpdateProjectRequest { project, update_mask, ..Default::default() };
            caller.projects().update_project(request).await.map(drop)
        }
        "channel" => {
            // Without a mask: all that it knows, and only that.
            let channel = Some(Wire::new(&chat::Channel { name, topic: value, ..Default::default() }));
            let request = chat::UpdateChannelRequest { channel, ..Default::default() };
            caller.chat().update_channel(request).await.map(drop)
        }
        _ => {
            let account = Some(Wire::new(&identity::Account { name, display_name: value, ..Default::default() }));
            let request = identity::UpdateAccountRequest { account, ..Default::default() };
            caller.identity().update_account(request).await.map(drop)
        }
    }
    .unwrap_or_else(|e| panic!("{field}: {e:?}"));
}

/// Updates by either client, by mask or whole; the resource ends with mood
/// `wild` and the known field `fourth`.
async fn check_updates(newer: &Newer, case: &Case, name: &str) {
    let (field, known) = (case.field, case.known);
    let update = |resource: Json, mask: &str| {
        let mut request = json!({ field: resource });
        request[field]["name"] = name.into();
        if !mask.is_empty() {
            request["update_mask"] = mask.into();
        }
        newer.call(case.update, request)
    };
    // In JSON a mask is written with lower camel case.
    let known_path = if known == "display_name" { "displayName" } else { known };
    let answer = update(json!({ known: "second" }), known_path).await;
    check(&answer, "calm", known, "second", "another field was updated");
    let answer = update(json!({ known: "third", "mood": "ignored" }), known_path).await;
    check(&answer, "calm", known, "third", "the mask leaves the new field out");
    update_by_older(&newer.caller, field, name, "fourth").await;
    let answer = newer.call(case.get, json!({ "name": name })).await;
    check(&answer, "calm", known, "fourth", "an older client updated it");
    let answer = update(json!({ known: "ignored", "mood": "wild" }), "mood").await;
    check(&answer, "wild", known, "fourth", "the mask names the new field alone");
    let status =
        newer.try_call(case.update, json!({ field: {"name": name, "mood": "x"}, "update_mask": "name" })).await;
    assert_eq!(status.expect_err("a fixed field").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn resources_keep_what_this_release_does_not_know() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let newer = Newer { pool: next_release(), caller: ada };
    let cases = cases(&project);
    let mut names = Vec::new();
    for case in &cases {
        let (method, mut request) = (case.create.0, case.create.1.clone());
        request[case.field] = with_added(&request[case.field]);
        let created = newer.call(method, request).await;
        check(&created, "calm", case.known, "first", "created");
        let name = created["name"].as_str().unwrap().to_owned();
        check_updates(&newer, case, &name).await;
        names.push(name);
    }

    let server = server.restart().await;
    let newer = Newer { caller: server.log_in("ada@example.org").await, ..newer };
    for (case, name) in cases.iter().zip(&names) {
        let shown = newer.call(case.get, json!({ "name": name })).await;
        check(&shown, "wild", case.known, "fourth", "after a restart");
        if let Some((method, request, collection)) = &case.list {
            let listed = newer.call(method, request.clone()).await;
            let found = listed[collection].as_array().unwrap().iter().find(|row| row["name"] == name.as_str());
            check(found.expect("it is listed"), "wild", case.known, "fourth", "listed");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn accounts_keep_what_this_release_does_not_know() {
    let server = Server::start().await;
    let nobody = Newer { pool: next_release(), caller: server.nobody().await };
    let account = with_added(&json!({"email": "eve@example.org", "display_name": "first"}));
    let created = nobody.call("identity.v1.Identity/Register", json!({"account": account, "password": PASSWORD})).await;
    check(&created, "calm", "display_name", "first", "registered");
    let case = Case {
        field: "account",
        create: ("", Json::Null),
        get: "identity.v1.Identity/GetAccount",
        list: None,
        update: "identity.v1.Identity/UpdateAccount",
        known: "display_name",
    };
    let newer = Newer { caller: server.log_in("eve@example.org").await, ..nobody };
    check_updates(&newer, &case, "account/me").await;

    let server = server.restart().await;
    let newer = Newer { caller: server.nobody().await, ..newer };
    let log_in = json!({"email": "eve@example.org", "password": PASSWORD});
    let answer = newer.call("identity.v1.Identity/LogIn", log_in).await;
    check(&answer["account"], "wild", "display_name", "fourth", "after a restart, logged in");
    server.stop().await;
}

#[tokio::test]
async fn grants_keep_what_this_release_does_not_know() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    let bob = server.person("bob@example.org").await;
    ada.create_org("acme").await;
    let newer = Newer { pool: next_release(), caller: ada };
    let grant = with_added(&json!({"account": bob.account, "on": "org/acme", "role": "ROLE_GUEST"}));
    let granted = newer.call("org.v1.Orgs/GrantRole", json!({ "grant": grant })).await;
    check(&granted, "calm", "account", &bob.account, "granted");
    let server = server.restart().await;
    let newer = Newer { caller: server.log_in("ada@example.org").await, ..newer };
    let listed = newer.call("org.v1.Orgs/ListGrants", json!({"parent": "org/acme"})).await;
    let found = listed["grants"].as_array().unwrap().iter().find(|row| row["account"] == bob.account.as_str());
    check(found.expect("it is listed"), "calm", "role", "ROLE_GUEST", "listed");
    server.stop().await;
}

#[tokio::test]
async fn messages_keep_what_this_release_does_not_know() {
    let server = Server::start().await;
    let ada = server.person("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;
    let newer = Newer { pool: next_release(), caller: ada };
    let mut stream = newer.follow(&channel).await;
    assert!(newer.next(&mut stream).await.get("opened").is_some());

    let message = with_added(&json!({"text": "first"}));
    let send = json!({"parent": channel, "message": message, "urgency": "high", "request_id": "r"});
    let sent = newer.call("chat.v1.Chat/SendMessage", send.clone()).await;
    check(&sent, "calm", "text", "first", "sent");
    assert_eq!(newer.call("chat.v1.Chat/SendMessage", send.clone()).await, sent, "a repeat is answered alike");
    let mut other = send;
    other["message"]["mood"] = "other".into();
    let status = newer.try_call("chat.v1.Chat/SendMessage", other).await.expect_err("another request");
    assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
    check(&newer.next(&mut stream).await["sent"], "calm", "text", "first", "followed");
    let name = sent["name"].as_str().unwrap();

    // By an older client: the text alone.
    let edited = chat::Message { name: name.into(), text: "second".into(), ..Default::default() };
    let request = chat::EditMessageRequest { message: Some(Wire::new(&edited)), request_id: String::new() };
    newer.caller.chat().edit_message(request).await.unwrap();
    check(&newer.next(&mut stream).await["edited"], "calm", "text", "second", "an older client edited it");
    let edit = json!({"message": {"name": name, "text": "third", "mood": "wild"}});
    check(&newer.call("chat.v1.Chat/EditMessage", edit).await, "wild", "text", "third", "a newer client edited it");
    check(&newer.next(&mut stream).await["edited"], "wild", "text", "third", "followed");
    drop(stream);

    let server = server.restart().await;
    let newer = Newer { caller: server.log_in("ada@example.org").await, ..newer };
    check(&newer.call("chat.v1.Chat/GetMessage", json!({ "name": name })).await, "wild", "text", "third", "got");
    let listed = newer.call("chat.v1.Chat/ListMessages", json!({ "parent": channel })).await;
    check(&listed["messages"][0], "wild", "text", "third", "listed");
    let mut stream = newer.follow(&channel).await;
    let replayed = [newer.next(&mut stream).await, newer.next(&mut stream).await];
    check(&replayed[1]["sent"], "calm", "text", "first", "replayed from the feed");

    // What is deleted leaves nothing, in fields of whichever release.
    let deleted = newer.call("chat.v1.Chat/DeleteMessage", json!({ "name": name })).await;
    let got = newer.call("chat.v1.Chat/GetMessage", json!({ "name": name })).await;
    let mut followed = newer.next(&mut stream).await;
    while followed.get("deleted").is_none() {
        followed = newer.next(&mut stream).await;
    }
    for gone in [&deleted, &got, &followed["deleted"]] {
        assert_eq!((gone.get("mood"), gone.get("extra"), gone.get("text")), (None, None, None), "{gone}");
        assert!(gone["delete_time_ms"].is_string(), "{gone}");
    }
    drop(stream);
    server.stop().await;
}
