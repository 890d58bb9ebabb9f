//! Texts made from the table of keys: the example file, the reference page, a configuration's file.

use std::fmt::Write as _;

use crate::keys::NodeConfig;
use crate::source::RESERVED;
use crate::table::{Key, Section};
use crate::{KEYS, SECTIONS};

const WRITTEN: &str = "writing to a String cannot fail";

/// `canopy.example.toml`: every key, described and commented out, at its default.
pub fn example() -> String {
    let mut text = String::from(
        "# Canopy node configuration: every key, at its default.\n\
         # Made from the table in config/src/keys.rs; a test keeps it up to date.\n\
         #\n\
         # A command line override (--set key=value) beats an environment variable, which beats this\n\
         # file, which beats the default. An unknown key is an error. No key holds a secret.\n",
    );
    for (section, keys) in sections() {
        if let Some(section) = section {
            text.push('\n');
            comment(&mut text, section.doc_lines);
            writeln!(text, "[{}]", section.name).expect(WRITTEN);
        }
        for key in keys {
            text.push('\n');
            comment(&mut text, key.doc_lines);
            for choice in key.choices {
                let doc = choice.doc_lines.concat();
                writeln!(text, "#   {:?}:{doc}", choice.name).expect(WRITTEN);
            }
            if key.choices.is_empty() {
                writeln!(text, "# Allowed: {}.", key.allowed()).expect(WRITTEN);
            }
            writeln!(text, "# Environment: {}.", key.env_name()).expect(WRITTEN);
            writeln!(text, "#{} = {}", key.name(), key.default_literal()).expect(WRITTEN);
        }
    }
    text
}

/// `REFERENCE.md`: every key in tables, and the variables that are not keys.
pub fn reference() -> String {
    let mut text = String::from(
        "# Node configuration\n\n\
         Made from the table in `config/src/keys.rs`; a test keeps it up to date.\n\n\
         A command line override (`--set edge.listen=127.0.0.1:7443`) beats an environment variable, \
         which beats `canopy.toml`, which beats the default. An unknown key or variable is an error, \
         and so is a value out of bounds, even one that a stronger source overrides. In a variable or \
         an override, text is written without quotes and list items are separated by commas. \
         `canopy local config --origin` shows each value and where it came from.\n\n\
         No key holds a secret. Those marked *hidden* lead to one: their values are never shown.\n",
    );
    for (section, keys) in sections() {
        match section {
            Some(section) => {
                write!(text, "\n## `[{}]`\n\n{}\n", section.name, section.doc()).expect(WRITTEN);
            }
            None => text.push_str("\n## Top of the file\n"),
        }
        text.push_str("\n| key | default | unit | allowed | environment | meaning |\n|---|---|---|---|---|---|\n");
        for key in keys {
            text.push_str(&row(key));
        }
    }
    text.push_str("\n## Variables that are not keys\n\n| variable | why it is not a key |\n|---|---|\n");
    for reserved in RESERVED {
        writeln!(text, "| `{}` | {} |", reserved.name, reserved.reason).expect(WRITTEN);
    }
    text
}

/// A complete file with every value of `config`.
pub(crate) fn render(config: &NodeConfig) -> String {
    let literals = config.literals();
    let mut text = String::new();
    let mut section = None;
    for (key, literal) in KEYS.iter().zip(literals) {
        if key.section() != section {
            section = key.section();
            writeln!(text, "\n[{}]", section.unwrap_or_default()).expect(WRITTEN);
        }
        writeln!(text, "{} = {literal}", key.name()).expect(WRITTEN);
    }
    text
}

/// The keys at the top of the file, then each section with its own.
fn sections() -> impl Iterator<Item = (Option<&'static Section>, impl Iterator<Item = &'static Key>)> {
    std::iter::once(None).chain(SECTIONS.iter().map(Some)).map(|section| {
        let name = section.map(|section| section.name);
        (section, KEYS.iter().filter(move |key| key.section() == name))
    })
}

fn row(key: &Key) -> String {
    let allowed = if key.choices.is_empty() {
        key.allowed()
    } else {
        let choices = key.choices.iter();
        let choices = choices.map(|choice| format!("`{:?}`:{}", choice.name, choice.doc_lines.concat()));
        choices.collect::<Vec<_>>().join("<br>")
    };
    let hidden = match key.disclosure {
        crate::Disclosure::Secret => " *Hidden.*",
        _ => "",
    };
    format!(
        "| `{}` | `{}` | {} | {allowed} | `{}` | {}{hidden} |\n",
        key.path,
        key.default_literal(),
        key.unit.unwrap_or("–"),
        key.env_name(),
        key.doc(),
    )
}

fn comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        writeln!(text, "#{line}").expect(WRITTEN);
    }
}
