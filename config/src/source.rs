//! The three sources of values: file, environment, command line.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Problem};
use crate::nearest::nearest;
use crate::origin::Origin;
use crate::setting::Raw;
use crate::table::Key;
use crate::{KEYS, SECTIONS};

/// What the name of every environment variable of ours starts with.
pub const ENV_PREFIX: &str = "CANOPY_";

/// Largest configuration file; the example, which has every key, is a hundredth of it. Unit: bytes.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A variable with our prefix that is not a key.
#[derive(Debug)]
pub struct ReservedVariable {
    /// The variable's name.
    pub name: &'static str,
    /// Why it is not a key.
    pub reason: &'static str,
}

/// The variables with our prefix that are not keys, and so are no error.
pub const RESERVED: &[ReservedVariable] = &[
    ReservedVariable { name: "CANOPY_CONFIG", reason: "path of this file: needed before there is a configuration" },
    ReservedVariable { name: "CANOPY_CONFIG_HOME", reason: "names the directory of the command line's contexts" },
    ReservedVariable {
        name: "CANOPY_CONTEXT",
        reason: "the command line client's context; a shell on a node may have it set",
    },
    ReservedVariable { name: "CANOPY_TOKEN", reason: "the command line client's token: a secret, and not the node's" },
    ReservedVariable {
        name: "CANOPY_ROOT_PASSPHRASE",
        reason: "with `store.root_key = \"passphrase\"`: a secret, so never part of the configuration",
    },
    ReservedVariable {
        name: "CANOPY_ROOT_KEY",
        reason: "with `store.root_key = \"environment\"`: a secret, so never part of the configuration",
    },
    ReservedVariable {
        name: "CANOPY_LOG",
        reason: "log filter of the command line client and of a node's first steps, before `log.level` is known",
    },
];

/// A value from one source.
pub(crate) struct Candidate {
    pub(crate) raw: Raw,
    pub(crate) origin: Origin,
}

/// The values of all sources, in rising precedence for each key, and what was wrong with their names.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) candidates: HashMap<&'static str, Vec<Candidate>>,
    pub(crate) problems: Vec<Problem>,
    /// Whether the file was understood; if not, its values are missing.
    pub(crate) file_failed: bool,
}

impl Sources {
    fn add(&mut self, key: &'static Key, raw: Raw, origin: Origin) {
        self.candidates.entry(key.path).or_default().push(Candidate { raw, origin });
    }

    fn unknown(&mut self, name: String, origin: Origin, nearest: Option<&str>) {
        let nearest = nearest.map(str::to_owned);
        self.problems.push(Problem::UnknownKey { name, origin, nearest });
    }

    pub(crate) fn add_file(&mut self, path: &Path) {
        let known = self.problems.len();
        match read_bounded(path) {
            Ok(text) => self.add_toml(path, &text),
            Err(reason) => {
                self.problems.push(Problem::Unreadable { path: path.to_owned(), reason });
            }
        }
        self.file_failed = self
            .problems
            .iter()
            .skip(known)
            .any(|problem| matches!(problem, Problem::Unreadable { .. } | Problem::Syntax { .. }));
    }

    fn add_toml(&mut self, path: &Path, text: &str) {
        let file = TomlFile { path, text };
        match DeTable::parse(text) {
            Ok(document) => self.add_document(&file, document.get_ref()),
            // The parser's `Display` quotes the line, which may hold a secret; its message does not.
            Err(error) => self.problems.push(Problem::Syntax {
                origin: file.origin(error.span().map_or(0, |span| span.start)),
                reason: error.message().replace('\n', ", "),
            }),
        }
    }

    fn add_document(&mut self, file: &TomlFile<'_>, document: &DeTable<'_>) {
        for (name, value) in document.iter() {
            let origin = file.origin(name.span().start);
            let name = name.get_ref().as_ref();
            if let Some(section) = SECTIONS.iter().find(|section| section.name == name) {
                match value.get_ref() {
                    DeValue::Table(table) => self.add_section(file, section.name, table),
                    _ => self.unknown(name.to_owned(), origin, Some(&format!("[{name}]"))),
                }
            } else if let Some(key) = Key::find(name) {
                self.add(key, file.raw(value), file.origin(value.span().start));
            } else {
                let names = SECTIONS.iter().map(|section| section.name);
                let names = names.chain(KEYS.iter().map(|key| key.path));
                self.unknown(name.to_owned(), origin, nearest(name, names));
            }
        }
    }

    fn add_section(&mut self, file: &TomlFile<'_>, section: &str, table: &DeTable<'_>) {
        for (name, value) in table.iter() {
            let path = format!("{section}.{}", name.get_ref());
            match Key::find(&path) {
                Some(key) => self.add(key, file.raw(value), file.origin(value.span().start)),
                None => {
                    let nearest = nearest(&path, KEYS.iter().map(|key| key.path));
                    self.unknown(path, file.origin(name.span().start), nearest);
                }
            }
        }
    }

    pub(crate) fn add_environment(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        let names: Vec<String> = KEYS.iter().map(Key::env_name).collect();
        for (variable, value) in env {
            if !variable.starts_with(ENV_PREFIX) || RESERVED.iter().any(|r| r.name == variable) {
                continue;
            }
            let origin = Origin::Environment { variable: variable.clone() };
            match KEYS.iter().zip(&names).find(|(_, name)| **name == variable) {
                Some((key, _)) => self.add(key, Raw::Untyped(value), origin),
                None => {
                    let known = names.iter().map(String::as_str);
                    let known = known.chain(RESERVED.iter().map(|reserved| reserved.name));
                    let nearest = nearest_variable(&variable, known);
                    self.unknown(variable, origin, nearest.as_deref());
                }
            }
        }
    }

    pub(crate) fn add_overrides(&mut self, overrides: Vec<(String, String)>) {
        for (path, value) in overrides {
            match Key::find(&path) {
                Some(key) => self.add(key, Raw::Untyped(value), Origin::CommandLine),
                None => {
                    let nearest = nearest(&path, KEYS.iter().map(|key| key.path));
                    self.unknown(path, Origin::CommandLine, nearest);
                }
            }
        }
    }
}

/// Compares without the prefix, which would make every pair of short names alike.
fn nearest_variable<'a>(variable: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let bare = |name: &'a str| name.strip_prefix(ENV_PREFIX).unwrap_or(name);
    let wanted = variable.strip_prefix(ENV_PREFIX).unwrap_or(variable);
    nearest(wanted, known.map(bare)).map(|name| format!("{ENV_PREFIX}{name}"))
}

/// Splits a command line override at its first `=`.
///
/// # Errors
/// If there is no `=`, or nothing before it. The text is not repeated in the error.
pub fn split_override(text: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(ConfigError { problems: vec![Problem::NotAnOverride] }),
    }
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes <= FILE_BYTES_MAX) {
        Ok(text)
    } else {
        Err(format!("it is larger than {FILE_BYTES_MAX} bytes"))
    }
}

struct TomlFile<'a> {
    path: &'a Path,
    text: &'a str,
}

impl TomlFile<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }

    fn raw(&self, value: &Spanned<DeValue<'_>>) -> Raw {
        match value.get_ref() {
            DeValue::String(text) => Raw::String(text.clone().into_owned()),
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_or(Raw::Other("an integer beyond 128 bits"), Raw::Integer),
            DeValue::Array(items) => Raw::List(items.iter().map(|item| self.raw(item)).collect()),
            DeValue::Float(_) => Raw::Other("a float"),
            DeValue::Boolean(_) => Raw::Other("a boolean"),
            DeValue::Datetime(_) => Raw::Other("a date or time"),
            DeValue::Table(_) => Raw::Other("a table"),
        }
    }
}
