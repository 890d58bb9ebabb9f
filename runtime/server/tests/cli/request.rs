//! Flags and JSON to request messages.

use std::fs;

use crate::cli_stage::Stage;
use canopy::cli;
use canopy::cli::mirror::{self, Area};
use canopy::cli::request;
use clap::Command;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value as Json, json};

fn parse(areas: &[Area], args: &[&str], stage: &Stage) -> Result<Json, String> {
    let root = Command::new("canopy").subcommands(mirror::commands(areas));
    let matches = root.try_get_matches_from([&["canopy"], args].concat()).map_err(|e| e.to_string())?;
    let (area, inner) = matches.subcommand().unwrap();
    let (command, flags) = inner.subcommand().unwrap();
    let method = areas.iter().find(|a| a.name == area).unwrap().method(command).unwrap();
    let (mut terminal, ..) = stage.terminal();
    let message =
        request::build(&method.descriptor.input(), &method.leaves, flags, &mut terminal).map_err(|e| e.report())?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    Ok(message.serialize_with_options(serde_json::value::Serializer, &options).unwrap())
}

/// Builds a request; `request_id` is left out of the comparison when random.
#[track_caller]
fn check(args: &[&str], expected: Json) {
    let mut json = parse(mirror::areas(), args, &Stage::new()).unwrap();
    if expected.get("request_id").is_none()
        && let Some(id) = json.as_object_mut().unwrap().remove("request_id")
    {
        let id = id.as_str().unwrap().to_owned();
        assert!(id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id} is not 128 random bits");
    }
    assert_eq!(json, expected, "{args:?}");
}

#[test]
fn flags_make_requests() {
    let send = ["chat", "send-message", "--parent", "org/a/project/b/chat/channel/c"];
    check(
        &[&send[..], &["--message.text", "hello"]].concat(),
        json!({"parent": send[3], "message": {"text": "hello"}}),
    );
    check(
        &[&send[..], &["--text=-5 degrees", "--request-id", "r1"]].concat(),
        json!({"parent": send[3], "message": {"text": "-5 degrees"}, "request_id": "r1"}),
    );
    check(&[&send[..], &["--text", "@@ann hi"]].concat(), json!({"parent": send[3], "message": {"text": "@ann hi"}}));
    check(
        &["org", "create-org", "--slug", "acme", "--org.title", "Acme"],
        json!({"org": {"slug": "acme", "title": "Acme"}}),
    );
    check(
        &["chat", "list-messages", "--parent", "p", "--order", "NEWEST_FIRST", "--page-size", "7"],
        json!({"parent": "p", "order": "ORDER_NEWEST_FIRST", "page_size": 7}),
    );
    check(
        &["chat", "list-messages", "--parent", "p", "--order", "order_newest_first", "--page_size", "7"],
        json!({"parent": "p", "order": "ORDER_NEWEST_FIRST", "page_size": 7}),
    );
    check(
        &["org", "grant-role", "--account", "account/a", "--on", "org/o", "--role", "project-admin"],
        json!({"grant": {"account": "account/a", "on": "org/o", "role": "ROLE_PROJECT_ADMIN"}}),
    );
    check(
        &["chat", "update-channel", "--name", "c", "--topic", "t", "--update-mask", "topic, slug"],
        json!({"channel": {"name": "c", "topic": "t"}, "update_mask": "topic,slug"}),
    );
    check(
        &["identity", "update-account", "--account.name", "account/me", "--display-name", "Ann"],
        json!({"account": {"name": "account/me", "display_name": "Ann"}}),
    );
}

#[test]
fn elements_of_a_list_begin_at_the_first_flag() {
    let subscribe = ["chat", "subscribe"];
    check(
        &[
            &subscribe[..],
            &["--channels.name", "a", "--channels.cursor", "5", "--name", "b", "--name", "c", "--cursor", "0"],
        ]
        .concat(),
        json!({"channels": [{"name": "a", "cursor": "5"}, {"name": "b"}, {"name": "c", "cursor": "0"}]}),
    );
    check(
        &[&subscribe[..], &["--cursor", "1", "--name", "a", "--cursor", "2", "--name", "b"]].concat(),
        json!({"channels": [{"cursor": "1", "name": "a"}, {"cursor": "2", "name": "b"}]}),
    );
    check(
        &[&subscribe[..], &["--name", "a", "--channels", r#"{"name": "b"}"#, "--cursor", "3"]].concat(),
        json!({"channels": [{"name": "a", "cursor": "3"}, {"name": "b"}]}),
    );
}

#[test]
fn json_is_the_whole_request_and_flags_override_it() {
    let whole = r#"{"parent": "p", "message": {"text": "a"}, "requestId": "r"}"#;
    check(
        &["chat", "send-message", "--json", whole],
        json!({"parent": "p", "message": {"text": "a"}, "request_id": "r"}),
    );
    check(
        &["chat", "send-message", "--json", whole, "--text", "b"],
        json!({"parent": "p", "message": {"text": "b"}, "request_id": "r"}),
    );
}

#[test]
fn values_come_from_files_and_standard_input() {
    let mut stage = Stage::new();
    let file = stage.home.path().join("text");
    fs::write(&file, "line one\nline two\r\n").unwrap();
    let from_file = format!("@{}", file.display());
    let send = |text: &str, stage: &Stage| {
        let args = ["chat", "send-message", "--parent", "p", "--request-id", "r", "--text", text];
        parse(mirror::areas(), &args, stage).map(|json| json["message"]["text"].as_str().unwrap().to_owned())
    };
    assert_eq!(send(&from_file, &stage).unwrap(), "line one\nline two");
    stage.stdin = "from stdin\n".to_owned();
    assert_eq!(send("@-", &stage).unwrap(), "from stdin");
    assert!(send("@/nowhere/at/all", &stage).unwrap_err().contains("there is no file"));

    stage.stdin = r#"{"parent": "from stdin"}"#.to_owned();
    let json = parse(mirror::areas(), &["chat", "list-channels", "--json", "@-"], &stage).unwrap();
    assert_eq!(json, json!({"parent": "from stdin"}));
    let twice = ["chat", "send-message", "--json", "@-", "--text", "@-"];
    assert!(parse(mirror::areas(), &twice, &stage).unwrap_err().contains("cannot both read standard input"));

    let large = stage.home.path().join("large");
    fs::File::create(&large).unwrap().set_len(request::FILE_BYTES_MAX + 1).unwrap();
    assert!(send(&format!("@{}", large.display()), &stage).unwrap_err().contains("more than 16777216 bytes"));
}

#[test]
fn a_required_secret_is_asked_for_on_a_terminal_only() {
    let mut stage = Stage::new();
    stage.typed = "long enough".to_owned();
    let log_in = ["identity", "log-in", "--email", "a@b.org", "--request-id", "r"];
    let refusal = parse(mirror::areas(), &log_in, &stage).unwrap_err();
    assert!(refusal.contains("--password is required") && refusal.contains("@FILE"), "{refusal}");
    stage.stdin_is_terminal = true;
    assert_eq!(
        parse(mirror::areas(), &log_in, &stage).unwrap(),
        json!({"email": "a@b.org", "password": "long enough", "request_id": "r"})
    );
}

#[tokio::test]
async fn ctrl_c_at_the_prompt_is_an_interrupt() {
    let mut stage = Stage::new();
    stage.stdin_is_terminal = true;
    let (mut terminal, _, stderr) = stage.terminal();
    terminal.prompt = Box::new(|_| Err(std::io::ErrorKind::Interrupted.into()));
    let line = "canopy identity log-in --email a@b.org --server http://127.0.0.1:1";
    let exit = cli::run(line.split(' ').map(Into::into).collect(), &mut terminal).await;
    assert_eq!((exit, stderr.text().as_str()), (cli::Exit::Interrupted, ""));
}

#[test]
fn mistakes_are_named() {
    for (args, expected) in [
        (&["chat", "send-message", "--text", "hi"][..], "--parent is required"),
        (&["org", "create-org"], "--slug is required"),
        (&["chat", "list-messages", "--parent", "p", "--page-size", "many"], "invalid digit"),
        (
            &["chat", "list-messages", "--parent", "p", "--order", "sideways"],
            "possible values: unspecified, newest-first",
        ),
        (&["chat", "send-message", "--json", "{\"parnet\": \"p\"}"], "parnet"),
        (&["chat", "send-message", "--json", "{} {}"], "trailing"),
        (&["chat", "subscribe", "--name", "a", "--cursor", "1", "--cursor", "2"], "given twice for one element"),
        (&["chat", "subscribe", "--channels", "a"], "--channels a:"),
    ] {
        let refusal = parse(mirror::areas(), args, &Stage::new()).expect_err("a mistake");
        assert!(refusal.contains(expected), "{args:?}: {refusal}");
    }
}

/// Kinds of fields that Canopy's own requests do not have yet.
fn artificial() -> Vec<Area> {
    let mut pool = DescriptorPool::global();
    let field = |name: &str, number: i32, kind: &str, more: Json| {
        let mut field = json!({"name": name, "number": number, "type": kind, "label": "LABEL_OPTIONAL"});
        field.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        field
    };
    let repeated = || json!({"label": "LABEL_REPEATED"});
    let typed = |name: &str| json!({"typeName": name});
    let file = json!({
        "name": "t.proto", "package": "canopy.test.v1", "syntax": "proto3",
        "dependency": ["google/protobuf/timestamp.proto", "google/protobuf/duration.proto"],
        "service": [{"name": "T", "method": [
            {"name": "Do", "inputType": ".canopy.test.v1.Q", "outputType": ".canopy.test.v1.Q"},
            {"name": "Upload", "inputType": ".canopy.test.v1.Q", "outputType": ".canopy.test.v1.Q", "clientStreaming": true}
        ]}],
        "messageType": [
            {"name": "Q", "oneofDecl": [{"name": "way"}], "nestedType": [
                {"name": "LabelsEntry", "options": {"mapEntry": true},
                 "field": [field("key", 1, "TYPE_STRING", json!({})), field("value", 2, "TYPE_INT32", json!({}))]}],
             "field": [
                field("raw", 1, "TYPE_BYTES", json!({})),
                field("dry_run", 2, "TYPE_BOOL", json!({})),
                field("tags", 3, "TYPE_STRING", repeated()),
                field("labels", 4, "TYPE_MESSAGE", json!({"label": "LABEL_REPEATED", "typeName": ".canopy.test.v1.Q.LabelsEntry"})),
                field("big", 5, "TYPE_SINT64", json!({})),
                field("ratio", 6, "TYPE_DOUBLE", json!({})),
                field("left", 7, "TYPE_MESSAGE", json!({"typeName": ".canopy.test.v1.Side", "oneofIndex": 0})),
                field("right", 8, "TYPE_STRING", json!({"oneofIndex": 0})),
                field("at", 9, "TYPE_MESSAGE", typed(".google.protobuf.Timestamp")),
                field("every", 10, "TYPE_MESSAGE", typed(".google.protobuf.Duration")),
                field("again", 11, "TYPE_MESSAGE", typed(".canopy.test.v1.Q")),
                field("none", 12, "TYPE_MESSAGE", typed(".canopy.test.v1.None")),
                field("token", 13, "TYPE_STRING", json!({}))]},
            {"name": "Side", "field": [field("x", 1, "TYPE_INT32", json!({}))]},
            {"name": "None"}
        ]
    });
    let descriptor = pool.get_message_by_name("google.protobuf.FileDescriptorProto").unwrap();
    let file = DynamicMessage::deserialize(descriptor, file).unwrap();
    pool.decode_file_descriptor_proto(file.encode_to_vec().as_slice()).unwrap();
    mirror::areas_of(&pool, |_| true)
}

#[test]
fn every_kind_of_field_has_a_flag() {
    let areas = artificial();
    let stage = Stage::new();
    let raw = stage.home.path().join("raw");
    fs::write(&raw, [0xff, 0]).unwrap();
    let from_file = format!("@{}", raw.display());
    for (args, expected) in [
        (&["--raw", "/wA="][..], json!({"raw": "/wA="})),
        (&["--raw", "_wA"], json!({"raw": "/wA="})),
        (&["--raw", from_file.as_str()], json!({"raw": "/wA="})),
        (&["--dry-run"], json!({"dry_run": true})),
        (&["--dry-run=false"], json!({})),
        (&["--tags", "a", "--tags", "b"], json!({"tags": ["a", "b"]})),
        (&["--labels", "a=1", "--labels", "b=-2"], json!({"labels": {"a": 1, "b": -2}})),
        (&["--big", "-9223372036854775808"], json!({"big": "-9223372036854775808"})),
        (&["--ratio", "0.5"], json!({"ratio": 0.5})),
        (&["--left.x", "3"], json!({"left": {"x": 3}})),
        (&["--x", "3"], json!({"left": {"x": 3}})),
        (&["--right", ""], json!({"right": ""})),
        (&["--at", "2026-01-31T12:00:00Z"], json!({"at": "2026-01-31T12:00:00Z"})),
        (&["--every", "1.5s"], json!({"every": "1.500s"})),
        (&["--again", r#"{"tags": ["x"]}"#], json!({"again": {"tags": ["x"]}})),
        (&["--none", "{}"], json!({"none": {}})),
        (&["--request.token", "t"], json!({"token": "t"})),
    ] {
        let args = [&["test", "do"], args].concat();
        assert_eq!(parse(&areas, &args, &stage).unwrap(), expected, "{args:?}");
    }
    for (args, expected) in [
        (&["--left.x", "3", "--right", "r"][..], "cannot be used with"),
        (&["--raw", "?"], "not base64"),
        (&["--labels", "a"], "KEY=VALUE"),
        (&["--dry-run=perhaps"], "invalid value"),
        (&["--big", "9223372036854775808"], "too large"),
    ] {
        let args = [&["test", "do"], args].concat();
        let refusal = parse(&areas, &args, &stage).expect_err("a mistake");
        assert!(refusal.contains(expected), "{args:?}: {refusal}");
    }
    assert!(areas[0].method("upload").is_none(), "a stream of requests has no place on a command line");
}
