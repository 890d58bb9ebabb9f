//! The fields of a request message as flags.

use std::collections::{BTreeMap, HashMap};

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction};
use prost_reflect::{EnumDescriptor, EnumValueDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::comment::{self, Limits};

/// Messages inside messages that get flags of their own; what lies deeper is
/// given as JSON.
pub const DEPTH_MAX: usize = 5;

/// Flags that every method has, so that no field may be called the same.
pub const RESERVED: &[&str] =
    &["context", "server", "ca", "token", "timeout", "output", "show-secrets", "json", "all", "help", "version"];

/// One field that a flag sets.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// `message.text`; also the flag's id in clap.
    pub flag: String,
    /// `text`, where no other field of the request ends in that.
    pub alias: Option<String>,
    /// From the request down to the field.
    pub path: Vec<FieldDescriptor>,
    /// Where in `path` a repeated message stands, an element of which the
    /// field belongs to.
    pub element: Option<usize>,
    /// Never printed.
    pub secret: bool,
    /// The server refuses a request without it.
    pub required: bool,
    /// Set by the server: accepted, but not shown in help.
    pub hidden: bool,
}

impl Leaf {
    /// The field that the flag sets.
    ///
    /// # Panics
    /// Never: a path is made of at least one field.
    pub fn field(&self) -> &FieldDescriptor {
        self.path.last().expect("a path is made of at least one field")
    }

    /// The shorter way to write the flag.
    pub fn shortest(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.flag)
    }

    /// What stands for the value in help.
    pub fn value_name(&self) -> &'static str {
        let field = self.field();
        if field.is_map() {
            return "KEY=VALUE";
        }
        match field.kind() {
            Kind::Bool => "true|false",
            Kind::String => "TEXT",
            Kind::Bytes => "BASE64",
            Kind::Enum(_) => "NAME",
            Kind::Float | Kind::Double => "NUMBER",
            Kind::Message(m) if m.full_name() == FIELD_MASK => "FIELD,FIELD",
            Kind::Message(m) if m.full_name() == "google.protobuf.Timestamp" => "RFC3339",
            Kind::Message(m) if m.full_name() == "google.protobuf.Duration" => "SECONDSs",
            Kind::Message(_) => "JSON",
            _ => "INTEGER",
        }
    }

    /// The flag as clap takes it.
    pub fn arg(&self) -> Arg {
        let field = self.field();
        let mut arg = Arg::new(self.flag.clone())
            .long(self.flag.clone())
            .value_name(self.value_name())
            .help(self.help())
            .help_heading("Fields")
            .hide(self.hidden);
        if self.flag.contains('_') || self.path.iter().any(|f| f.name().contains('_')) {
            let names: Vec<&str> = self.path.iter().map(|f| f.name()).collect();
            arg = arg.alias(names.join("."));
        }
        if let Some(alias) = &self.alias {
            arg = arg.visible_alias(alias.clone());
            if alias.contains('-') {
                arg = arg.alias(alias.replace('-', "_"));
            }
        }
        let many = field.is_list() || field.is_map() || self.element.is_some();
        arg = arg.action(if many { ArgAction::Append } else { ArgAction::Set });
        if field.is_map() {
            return arg;
        }
        match field.kind() {
            Kind::Bool => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(["true", "false"])
                .hide_possible_values(true),
            Kind::Enum(of) => arg.ignore_case(true).value_parser(enum_parser(&of, field)),
            Kind::String | Kind::Bytes | Kind::Message(_) => arg,
            _ => arg.allow_negative_numbers(true),
        }
    }

    fn help(&self) -> String {
        let field = self.field();
        let mut text = comment::of(&field.parent_file(), field.path());
        let mut facts = Vec::new();
        if self.required {
            facts.push("Required.".to_owned());
        }
        let limits = Limits::of(field).sentence();
        if !limits.is_empty() {
            facts.push(limits);
        }
        if field.is_list() || field.is_map() {
            facts.push("May be given several times.".to_owned());
        }
        if self.field().name() == REQUEST_ID {
            facts.push("A random one where absent.".to_owned());
        }
        if !facts.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&facts.join(" "));
        }
        if self.secret {
            text.push_str("\nSecret: better @FILE, @- or the prompt than on the command line.");
        }
        text
    }
}

/// A request's field that makes repeats harmless.
pub const REQUEST_ID: &str = "request_id";

/// Given as `slug,topic`.
pub const FIELD_MASK: &str = "google.protobuf.FieldMask";

/// The leaves of a request message. `address` is the rule's: a field named
/// there in braces has to be given.
pub fn leaves(request: &MessageDescriptor, address: &str) -> Vec<Leaf> {
    let mut collected = Vec::new();
    collect(request, &[], None, &mut collected);

    let updates = request.get_field_by_name("update_mask").is_some();
    for leaf in &mut collected {
        let names: Vec<&str> = leaf.path.iter().map(|f| f.name()).collect();
        let names = names.join(".");
        let is_address = address.contains(&format!("{{{names}}}"));
        leaf.hidden = !is_address && leaf.path.iter().any(|f| comment::field_flag(f, "canopy.options.v1.output_only"));
        let parents_stand =
            leaf.path.split_last().is_none_or(|(_, parents)| parents.iter().all(|f| Limits::of(f).is_required(f)));
        // An update sends only the fields that it changes.
        let is_checked = leaf.path.len() == 1 || !updates;
        leaf.required = is_address
            || (!leaf.hidden && is_checked && parents_stand && Limits::of(leaf.field()).is_required(leaf.field()));
    }
    name_aliases(&mut collected);
    collected
}

fn collect(message: &MessageDescriptor, prefix: &[FieldDescriptor], element: Option<usize>, leaves: &mut Vec<Leaf>) {
    for field in message.fields() {
        let mut path = prefix.to_vec();
        path.push(field.clone());
        let inside = match field.kind() {
            Kind::Message(m) if !field.is_map() && has_flags(&m, &path) => Some(m),
            _ => None,
        };
        // Elements of a list inside an element cannot be told apart by flags.
        let inside = inside.filter(|_| !(field.is_list() && element.is_some()));
        if inside.is_none() || field.is_list() {
            let names: Vec<String> = path.iter().map(|f| f.name().replace('_', "-")).collect();
            let mut flag = names.join(".");
            if RESERVED.contains(&flag.as_str()) {
                flag = format!("request.{flag}");
            }
            let secret = comment::field_flag(&field, "canopy.options.v1.secret");
            let path = path.clone();
            leaves.push(Leaf { flag, alias: None, path, element, secret, required: false, hidden: false });
        }
        if let Some(inside) = inside {
            let element = if field.is_list() { Some(path.len() - 1) } else { element };
            collect(&inside, &path, element, leaves);
        }
    }
}

fn has_flags(message: &MessageDescriptor, path: &[FieldDescriptor]) -> bool {
    !message.full_name().starts_with("google.protobuf.")
        && message.fields().len() > 0
        && path.len() < DEPTH_MAX
        && path.iter().all(|f| f.parent_message() != message)
}

fn name_aliases(leaves: &mut [Leaf]) {
    let last = |leaf: &Leaf| leaf.field().name().replace('_', "-");
    let mut counts: HashMap<String, usize> = HashMap::new();
    for leaf in leaves.iter().filter(|l| !l.hidden) {
        *counts.entry(last(leaf)).or_default() += 1;
    }
    let flags: Vec<String> = leaves.iter().map(|l| l.flag.clone()).collect();
    for leaf in leaves.iter_mut().filter(|l| !l.hidden && l.path.len() > 1) {
        let alias = last(leaf);
        let is_free = !RESERVED.contains(&alias.as_str()) && !flags.contains(&alias);
        if is_free && counts.get(&alias) == Some(&1) {
            leaf.alias = Some(alias);
        }
    }
}

/// Pairs of flags of which a request carries one at most: those of different
/// branches of a oneof.
pub fn conflicts(leaves: &[Leaf]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for a in leaves {
        for b in leaves.iter().filter(|b| b.flag != a.flag) {
            // Flags of different elements do not meet; one element is checked
            // when it is built.
            if a.element.is_some() || b.element.is_some() {
                continue;
            }
            let parting = a.path.iter().zip(&b.path).find(|(x, y)| x != y);
            if let Some((x, y)) = parting
                && let (Some(of_x), Some(of_y)) = (x.containing_oneof(), y.containing_oneof())
                && of_x == of_y
            {
                found.entry(a.flag.clone()).or_default().push(b.flag.clone());
            }
        }
    }
    found
}

fn enum_parser(of: &EnumDescriptor, field: &FieldDescriptor) -> PossibleValuesParser {
    let refuses_zero = Limits::of(field).is_required(field);
    let values = of.values().map(|value| {
        let short = short_name(&value);
        let mut names = vec![value.name().to_owned(), short.replace('-', "_")];
        names.retain(|name| *name != short);
        let about = comment::first_sentence(&comment::of(&of.parent_file(), value.path()));
        let mut shown = PossibleValue::new(short).aliases(names).hide(refuses_zero && value.number() == 0);
        if !about.is_empty() {
            shown = shown.help(about);
        }
        shown
    });
    PossibleValuesParser::new(values.collect::<Vec<_>>())
}

/// `ROLE_PROJECT_ADMIN` of `Role` is `project-admin`.
pub fn short_name(value: &EnumValueDescriptor) -> String {
    let prefix = format!("{}_", kebab(value.parent_enum().name()).replace('-', "_").to_uppercase());
    let name = value.name();
    name.strip_prefix(&prefix).unwrap_or(name).to_lowercase().replace('_', "-")
}

/// The enum's value by its name with or without prefix, in any case.
pub fn enum_value(of: &EnumDescriptor, text: &str) -> Option<EnumValueDescriptor> {
    let wanted = text.to_lowercase().replace('_', "-");
    of.values().find(|v| short_name(v) == wanted || v.name().to_lowercase().replace('_', "-") == wanted)
}

/// `SendMessage` is `send-message`, `GetURLInfo` is `get-url-info`.
pub fn kebab(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut text = String::new();
    for (i, c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| chars.get(i));
        let after = chars.get(i + 1);
        let begins_word = before.is_some_and(|b| b.is_lowercase() || b.is_ascii_digit())
            || (before.is_some_and(|b| b.is_uppercase()) && after.is_some_and(|a| a.is_lowercase()));
        if c.is_uppercase() && begins_word {
            text.push('-');
        }
        text.extend(c.to_lowercase());
    }
    text
}
