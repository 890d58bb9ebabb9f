//! Answers as people and scripts see them.

use canopy::cli::output::{CELL_CHARS_MAX, Format, Style, answer, event, time};
use prost_reflect::DynamicMessage;
use serde_json::{Value as Json, json};

fn message(name: &str, json: Json) -> DynamicMessage {
    let descriptor = canopy_proto::pool().get_message_by_name(name).unwrap();
    DynamicMessage::deserialize(descriptor, json).unwrap()
}

fn style(format: Format) -> Style {
    Style { format, show_secrets: false }
}

fn channels() -> DynamicMessage {
    message(
        "canopy.chat.v1.ListChannelsResponse",
        json!({"channels": [
            {"name": "c/1", "slug": "general", "topic": "All", "createTimeMs": "1800000000000"},
            {"name": "c/22", "slug": "ops"}
        ]}),
    )
}

#[test]
fn lists_are_tables() {
    assert_eq!(
        answer(&channels(), style(Format::Table)).unwrap(),
        "\
NAME  SLUG     TOPIC  CREATE_TIME               UPDATE_TIME  ETAG
c/1   general  All    2027-01-15 08:00:00.000Z
c/22  ops
"
    );
}

#[test]
fn json_holds_every_field_in_order() {
    assert_eq!(
        answer(&channels(), style(Format::Json)).unwrap(),
        r#"{
  "channels": [
    {
      "name": "c/1",
      "slug": "general",
      "topic": "All",
      "create_time_ms": "1800000000000",
      "update_time_ms": "0",
      "etag": ""
    },
    {
      "name": "c/22",
      "slug": "ops",
      "topic": "",
      "create_time_ms": "0",
      "update_time_ms": "0",
      "etag": ""
    }
  ],
  "next_page_token": ""
}
"#
    );
    let empty = message("canopy.chat.v1.ListChannelsResponse", json!({}));
    assert_eq!(
        answer(&empty, style(Format::Json)).unwrap(),
        "{\n  \"channels\": [],\n  \"next_page_token\": \"\"\n}\n"
    );
}

#[test]
fn yaml_holds_numbers() {
    let grant = message("canopy.org.v1.Grant", json!({"account": "account/a", "role": 3, "createTimeMs": 5}));
    assert_eq!(
        answer(&grant, style(Format::Yaml)).unwrap(),
        "account: account/a\non: ''\nrole: ROLE_PROJECT_ADMIN\ncreate_time_ms: 5\ngranted_by: ''\n"
    );
}

#[test]
fn a_resource_is_lines() {
    let grant = message("canopy.org.v1.Grant", json!({"account": "account/a", "on": "org/o", "role": 3}));
    assert_eq!(
        answer(&grant, style(Format::Table)).unwrap(),
        "account         account/a\non              org/o\nrole            project-admin\ncreate_time_ms\ngranted_by\n"
    );
}

#[test]
fn secrets_are_not_printed_unless_asked_for() {
    let log_in = message(
        "canopy.identity.v1.LogInResponse",
        json!({"account": {"name": "account/a"}, "credentials": {"accessToken": "v4.public.AAA", "refreshToken": "RRR"}}),
    );
    for format in [Format::Json, Format::Yaml, Format::Table] {
        for shown in [answer(&log_in, style(format)).unwrap(), event(&log_in, style(format)).unwrap()] {
            assert!(shown.contains("account/a") && shown.contains("***"), "{shown}");
            assert!(!shown.contains("AAA") && !shown.contains("RRR"), "{shown}");
        }
        let shown = answer(&log_in, Style { format, show_secrets: true }).unwrap();
        assert!(shown.contains("v4.public.AAA") && shown.contains("RRR"), "{shown}");
    }
}

#[test]
fn events_are_a_line_each() {
    let sent = message(
        "canopy.chat.v1.SubscribeResponse",
        json!({"channel": "c", "cursor": "7", "sent": {"name": "c/message/1", "text": "two\nlines"}}),
    );
    assert_eq!(
        event(&sent, style(Format::Table)).unwrap(),
        "channel=c  cursor=7  sent.name=c/message/1  sent.text=two\\nlines\n"
    );
    let json = event(&sent, style(Format::Json)).unwrap();
    assert_eq!(json.matches('\n').count(), 1);
    assert_eq!(serde_json::from_str::<Json>(&json).unwrap()["cursor"], "7");
    let opened = message("canopy.chat.v1.SubscribeResponse", json!({"channel": "c", "opened": {}}));
    assert_eq!(event(&opened, style(Format::Table)).unwrap(), "channel=c  cursor=0  opened={}\n");
    assert_eq!(event(&opened, style(Format::Yaml)).unwrap(), "---\nchannel: c\ncursor: 0\nopened: {}\n");
}

#[test]
fn what_others_wrote_cannot_steer_the_terminal() {
    let json = json!({"name": "m", "text": "\u{1b}[2Jgone\u{9b}31m"});
    let one = message("canopy.chat.v1.Message", json.clone());
    let list = message("canopy.chat.v1.ListMessagesResponse", json!({"messages": [json]}));
    for shown in [
        answer(&one, style(Format::Table)).unwrap(),
        answer(&list, style(Format::Table)).unwrap(),
        event(&one, style(Format::Table)).unwrap(),
    ] {
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.contains("gone"));
    }
}

#[test]
fn long_cells_are_cut_and_lines_are_not() {
    let json = json!({"name": "m", "text": "é".repeat(200)});
    let list = message("canopy.chat.v1.ListMessagesResponse", json!({"messages": [&json]}));
    let row = answer(&list, style(Format::Table)).unwrap().lines().nth(1).unwrap().to_owned();
    assert_eq!(row.matches('é').count(), CELL_CHARS_MAX - 1);
    let one = answer(&message("canopy.chat.v1.Message", json), style(Format::Table)).unwrap();
    assert_eq!(one.matches('é').count(), 200);
}

#[test]
fn times_are_utc() {
    for (ms, expected) in [
        (1, "1970-01-01 00:00:00.001Z"),
        (-1, "1969-12-31 23:59:59.999Z"),
        (951_782_400_000, "2000-02-29 00:00:00.000Z"),
        (4_107_542_399_999, "2100-02-28 23:59:59.999Z"),
        (4_107_542_400_000, "2100-03-01 00:00:00.000Z"),
    ] {
        assert_eq!(time(ms), expected);
    }
}
