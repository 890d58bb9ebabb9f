//! The API as a tree of commands, made at run time from the descriptors.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use canopy_proto::{Requirement, Rule, rules};
use clap::{Arg, ArgAction, Command};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MethodDescriptor};

use super::comment;
use super::field::{self, Leaf, kebab};
use super::options;

/// One method as the command line offers it.
#[derive(Debug)]
pub struct MethodEntry {
    /// `send-message`
    pub command: String,
    /// Input and output.
    pub descriptor: MethodDescriptor,
    /// What its `.proto` says of it; absent in pools other than Canopy's own.
    pub rule: Option<&'static Rule>,
    /// Its flags.
    pub leaves: Vec<Leaf>,
}

impl MethodEntry {
    fn new(descriptor: MethodDescriptor) -> Self {
        let rule = rules().get(path(&descriptor).as_str());
        let address = rule.map(|r| r.address.as_str()).unwrap_or_default();
        let leaves = field::leaves(&descriptor.input(), address);
        Self { command: kebab(descriptor.name()), descriptor, rule, leaves }
    }

    /// `canopy.chat.v1.Chat/SendMessage`
    pub fn path(&self) -> String {
        path(&self.descriptor)
    }

    /// The page token's field, where requests and answers come in pages.
    pub fn page_token(&self) -> Option<FieldDescriptor> {
        self.descriptor.output().get_field_by_name("next_page_token")?;
        self.descriptor.input().get_field_by_name("page_token")
    }

    /// The command with the request's fields as flags.
    pub fn command(&self, area: &str) -> Command {
        let comment = comment::of(&self.descriptor.parent_file(), self.descriptor.path());
        let about = comment::first_sentence(&comment);
        let mut long_about = comment.clone();
        if let Some(rule) = self.rule {
            long_about = format!("{comment}\n\n{}", comment::requirement(rule));
        }
        let long_about =
            format!("{long_about}\nAnswers {}{}.", self.stream_word(), self.descriptor.output().full_name());
        let mut command = Command::new(self.command.clone())
            .about(about)
            .long_about(long_about.trim().to_owned())
            .override_usage(self.usage(area))
            .next_line_help(true);
        let conflicts = field::conflicts(&self.leaves);
        for leaf in &self.leaves {
            let with = conflicts.get(&leaf.flag).cloned().unwrap_or_default();
            command = command.arg(leaf.arg().conflicts_with_all(with));
        }
        command = command.arg(
            Arg::new(options::JSON)
                .long("json")
                .value_name("JSON")
                .help("The whole request as JSON, or @FILE, or @- for standard input. Flags override it.")
                .help_heading("Request"),
        );
        if self.page_token().is_some() {
            command = command.arg(
                Arg::new(options::ALL)
                    .long("all")
                    .action(ArgAction::SetTrue)
                    .help("Follow the pages to the last one.")
                    .help_heading("Request"),
            );
        }
        command.args(options::args())
    }

    fn stream_word(&self) -> &'static str {
        if self.descriptor.is_server_streaming() { "a stream of " } else { "" }
    }

    fn usage(&self, area: &str) -> String {
        let mut usage = format!("canopy {area} {}", self.command);
        for leaf in self.leaves.iter().filter(|l| l.required) {
            // A list that has to be given is shown by its elements' flags.
            let shown_by_element = self.leaves.iter().any(|other| {
                other.required
                    && other.element.is_some()
                    && other.path.starts_with(&leaf.path)
                    && other.flag != leaf.flag
            });
            if !shown_by_element {
                usage.push_str(&format!(" --{} <{}>", leaf.shortest(), leaf.value_name()));
            }
        }
        usage + " [OPTIONS]"
    }
}

/// `package.Service/Method`
pub fn path(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().full_name(), method.name())
}

/// The services of one area.
#[derive(Debug)]
pub struct Area {
    /// `chat`, of `canopy.chat.v1`.
    pub name: String,
    /// What the services' comments say, a sentence each: first of the one that
    /// is named as the area.
    pub about: Vec<String>,
    /// In the order of the `.proto` files.
    pub methods: Vec<MethodEntry>,
}

impl Area {
    /// The method of that command.
    pub fn method(&self, command: &str) -> Option<&MethodEntry> {
        self.methods.iter().find(|m| m.command == command)
    }

    fn command(&self) -> Command {
        let methods = self.methods.iter().map(|m| m.command(&self.name));
        Command::new(self.name.clone())
            .about(self.about.first().cloned().unwrap_or_default())
            .long_about(self.about.join(" "))
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand_value_name("METHOD")
            .subcommand_help_heading("Methods")
            .disable_help_subcommand(true)
            .args(options::args())
            .subcommands(methods)
    }
}

/// Every area that is served to the outside.
pub fn areas() -> &'static [Area] {
    static AREAS: LazyLock<Vec<Area>> = LazyLock::new(|| {
        areas_of(canopy_proto::pool(), |method| {
            rules().get(path(method).as_str()).is_some_and(|rule| rule.requires != Requirement::Internal)
        })
    });
    &AREAS
}

/// The areas of a pool. Of several versions of a method the newest counts.
/// Methods that take a stream of requests have no place on a command line.
pub fn areas_of(pool: &DescriptorPool, is_served: impl Fn(&MethodDescriptor) -> bool) -> Vec<Area> {
    type Newest = (Version, MethodDescriptor);
    let mut newest: BTreeMap<String, Vec<Newest>> = BTreeMap::new();
    let mut abouts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for service in pool.services() {
        let Some((area, version)) = area_of(service.package_name()) else {
            continue;
        };
        for method in service.methods().filter(|m| is_served(m) && !m.is_client_streaming()) {
            let about = comment::first_sentence(&comment::of(&service.parent_file(), service.path()));
            let lines = abouts.entry(area.to_owned()).or_default();
            if !about.is_empty() && !lines.contains(&about) {
                let name = service.name().to_lowercase();
                let is_areas = name.strip_suffix('s').unwrap_or(&name) == area.strip_suffix('s').unwrap_or(area);
                lines.insert(if is_areas { 0 } else { lines.len() }, about);
            }
            let methods = newest.entry(area.to_owned()).or_default();
            match methods.iter_mut().find(|(_, other)| other.name() == method.name()) {
                Some(other) if other.0 < version => *other = (version, method),
                Some(_) => {}
                None => methods.push((version, method)),
            }
        }
    }
    newest
        .into_iter()
        .map(|(name, methods)| Area {
            about: abouts.remove(&name).unwrap_or_default(),
            methods: methods.into_iter().map(|(_, method)| MethodEntry::new(method)).collect(),
            name,
        })
        .collect()
}

/// Major version, then alpha < beta < stable, then the number after those.
type Version = (u32, u8, u32);

/// `canopy.chat.v1` is `chat` in version 1.
fn area_of(package: &str) -> Option<(&str, Version)> {
    let (area, version) = package.strip_prefix("canopy.")?.split_once('.')?;
    let version = version.strip_prefix('v')?;
    let (major, rank, minor) = if let Some((major, minor)) = version.split_once("alpha") {
        (major, 0, minor)
    } else if let Some((major, minor)) = version.split_once("beta") {
        (major, 1, minor)
    } else {
        (version, 2, "")
    };
    Some((area, (major.parse().ok()?, rank, minor.parse().unwrap_or(0))))
}

/// Whether this field of an answer holds a page's rows: the only list of
/// messages there is.
pub fn rows_field(answer: &prost_reflect::MessageDescriptor) -> Option<FieldDescriptor> {
    let mut lists = answer.fields().filter(|f| f.is_list() && matches!(f.kind(), Kind::Message(_)));
    let only = lists.next()?;
    let others_are_plain =
        answer.fields().all(|f| f == only || !(f.is_list() || f.is_map() || matches!(f.kind(), Kind::Message(_))));
    (lists.next().is_none() && others_are_plain).then_some(only)
}

/// A command per area, to be put under `canopy`.
pub fn commands(areas: &[Area]) -> impl Iterator<Item = Command> + '_ {
    areas.iter().map(Area::command)
}
