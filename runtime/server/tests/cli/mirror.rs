//! The command line has a command for each method, and tells what it knows.

use std::collections::HashSet;

use crate::cli_stage::Stage;
use canopy::cli::{self, Exit, mirror};
use canopy_proto::{Requirement, rules};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::json;

#[test]
fn clap_accepts_the_tree() {
    cli::command().debug_assert();
}

#[test]
fn each_method_that_is_served_has_one_command() {
    let mirrored: HashSet<String> = mirror::areas().iter().flat_map(|a| &a.methods).map(|m| m.path()).collect();
    for (path, rule) in rules() {
        let served = rule.requires != Requirement::Internal;
        assert_eq!(mirrored.contains(*path), served, "{path}");
    }
    for area in mirror::areas() {
        let mut names = HashSet::new();
        for method in &area.methods {
            assert!(names.insert(&method.command), "{} {} names two methods", area.name, method.command);
        }
    }
}

/// `areas_of` keeps one method of each name, so that a second service's would
/// vanish: looked for in the descriptors themselves.
#[test]
fn services_of_an_area_share_no_method_name() {
    let mut names = HashSet::new();
    for (path, rule) in rules() {
        let area = path.rsplit_once('.').unwrap().0;
        if rule.requires != Requirement::Internal {
            assert!(names.insert((area, rule.descriptor.name())), "{path} has a namesake in {area}");
        }
    }
}

#[test]
fn areas_keep_clear_of_commands_written_by_hand() {
    for area in mirror::areas() {
        assert!(!cli::HAND_WRITTEN.contains(&area.name.as_str()), "{} is a command", area.name);
    }
    for command in cli::command().get_subcommands() {
        let name = command.get_name();
        let is_area = mirror::areas().iter().any(|a| a.name == name);
        assert!(is_area || cli::HAND_WRITTEN.contains(&name), "{name} is missing from HAND_WRITTEN");
    }
}

#[tokio::test]
async fn commands_of_the_server_are_left_to_it() {
    let (mut terminal, stdout, stderr) = Stage::new().terminal();
    let command = cli::command().subcommand(clap::Command::new("serve"));
    let matches = cli::parse(command, vec!["canopy".into(), "serve".into()], &mut terminal).unwrap();
    assert_eq!(cli::dispatch(&matches, &mut terminal).await, None);
    assert_eq!((stdout.text(), stderr.text()), (String::new(), String::new()));
}

#[test]
fn each_field_has_a_flag_of_its_own() {
    for method in mirror::areas().iter().flat_map(|a| &a.methods) {
        let mut flags = HashSet::new();
        for leaf in &method.leaves {
            for flag in std::iter::once(&leaf.flag).chain(&leaf.alias) {
                assert!(flags.insert(flag.clone()), "{}: --{flag} stands for two fields", method.path());
            }
        }
        for field in method.descriptor.input().fields() {
            let is_covered = method.leaves.iter().any(|l| l.path[0] == field);
            assert!(is_covered, "{}: {} has no flag", method.path(), field.name());
        }
    }
}

#[test]
fn the_newest_version_of_a_method_counts() {
    let mut pool = DescriptorPool::new();
    let file = |version: &str| {
        json!({
            "name": format!("{version}.proto"), "package": format!("canopy.test.{version}"), "syntax": "proto3",
            "service": [{"name": "T", "method": [
                {"name": "Do", "inputType": format!(".canopy.test.{version}.Q"), "outputType": format!(".canopy.test.{version}.Q")}]}],
            "messageType": [{"name": "Q"}]
        })
    };
    let newest = |pool: &DescriptorPool| mirror::areas_of(pool, |_| true)[0].method("do").unwrap().path();
    let descriptor = DescriptorPool::global().get_message_by_name("google.protobuf.FileDescriptorProto").unwrap();
    for (added, expected) in [
        ("v1beta1", "v1beta1"),
        ("v1", "v1"),
        ("v2alpha1", "v2alpha1"),
        ("v1beta2", "v2alpha1"),
        ("v2", "v2"),
        ("v10", "v10"),
    ] {
        let file = DynamicMessage::deserialize(descriptor.clone(), file(added)).unwrap();
        pool.decode_file_descriptor_proto(file.encode_to_vec().as_slice()).unwrap();
        assert_eq!(newest(&pool), format!("canopy.test.{expected}.T/Do"));
    }
}

/// What is particular to one method; clap leaves spaces at line ends.
async fn particular_help(line: &str) -> String {
    let ran = Stage::new().run(line).await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    let help = ran.stdout.split("\nConnection:").next().unwrap();
    help.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[tokio::test]
async fn help_comes_from_the_protos() {
    assert_eq!(
        particular_help("canopy chat send-message --help").await,
        "\
Sends a message to a channel.

Needs at least the role project-user.
Answers canopy.chat.v1.Message.

Usage: canopy chat send-message --parent <TEXT> [OPTIONS]

Options:
  -h, --help
          Print help (see a summary with '-h')

Fields:
      --parent <TEXT>
          The channel's name.
          Required. 1 to 300 characters.

      --message.name <TEXT>
          `<channel>/message/<number>`; numbers grow in the order of sending.

          [alias: --name]

      --message.text <TEXT>
          At most 16,000 bytes of UTF-8. Empty once the message is deleted.
          At most 16000 bytes.

          [alias: --text]

      --request-id <TEXT>
          At most 64 characters. A random one where absent.

Request:
      --json <JSON>
          The whole request as JSON, or @FILE, or @- for standard input. Flags override it.
"
    );
}

#[tokio::test]
async fn help_marks_what_is_required_and_what_is_secret() {
    assert_eq!(
        particular_help("canopy identity log-in --help").await,
        "\
Opens a session with an e-mail address and a password.

Anybody may call this, without logging in.
Answers canopy.identity.v1.LogInResponse.

Usage: canopy identity log-in --email <TEXT> --password <TEXT> [OPTIONS]

Options:
  -h, --help
          Print help (see a summary with '-h')

Fields:
      --email <TEXT>
          Required. 3 to 254 characters, matching ^[^@/ ]+@[^@/ ]+$.

      --password <TEXT>
          Required. 1 to 256 characters.
          Secret: better @FILE, @- or the prompt than on the command line.

      --device <TEXT>
          What the client calls itself, to be recognised in a list of sessions.
          At most 200 characters.

      --request-id <TEXT>
          At most 64 characters. A random one where absent.

      --code <TEXT>
          Where the account has a second factor: what the authenticator app shows now,
          or a recovery code. `FAILED_PRECONDITION` asks for it.
          At most 40 characters.
          Secret: better @FILE, @- or the prompt than on the command line.

Request:
      --json <JSON>
          The whole request as JSON, or @FILE, or @- for standard input. Flags override it.
"
    );
}

#[tokio::test]
async fn help_shows_values_lists_and_pages() {
    let messages = particular_help("canopy chat list-messages --help").await;
    for expected in ["Possible values:", "- unspecified:  Oldest first.", "- newest-first", "0 to 1000.", "--all"] {
        assert!(messages.contains(expected), "{expected} is not in:\n{messages}");
    }
    let subscribe = particular_help("canopy chat subscribe --help").await;
    let usage = "Usage: canopy chat subscribe --name <TEXT> [OPTIONS]";
    for expected in [usage, "Answers a stream of", "1 to 100 times.", "--channels.cursor <INTEGER>"] {
        assert!(subscribe.contains(expected), "{expected} is not in:\n{subscribe}");
    }
}

#[tokio::test]
async fn help_lists_areas_and_methods() {
    let stage = Stage::new();
    let root = stage.run("canopy --help").await;
    for line in [
        "  chat        Channels and messages of a project.",
        "  identity    Accounts and sessions: who is calling.",
        "  130  interrupted",
    ] {
        assert!(root.stdout.contains(line), "{line} is not in:\n{}", root.stdout);
    }
    assert!(!root.stdout.contains("system"), "internal methods are not offered");
    let chat = stage.run("canopy chat --help").await;
    assert!(chat.stdout.contains("  send-message             Sends a message to a channel.\n"), "{}", chat.stdout);
}

#[tokio::test]
async fn the_nearest_name_is_suggested() {
    for (line, expected) in [
        ("canopy chta list-channels", "'chat'"),
        ("canopy chat send-mesage", "'send-message'"),
        ("canopy chat send-message --parnet p", "'--parent'"),
        ("canopy chat send-message --txt p", "'--text'"),
        ("canopy chat list-messages --parent p --order newest-frist", "'newest-first'"),
    ] {
        let ran = Stage::new().run(line).await;
        assert_eq!(ran.exit, Exit::Usage, "{line}");
        assert!(ran.stderr.contains("similar") && ran.stderr.contains(expected), "{line}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn completions_know_the_methods() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = Stage::new().run(&format!("canopy completion {shell}")).await;
        assert_eq!(ran.exit, Exit::Success);
        assert!(ran.stdout.contains("send-message") && ran.stdout.contains("update-mask"), "{shell}");
    }
}
