//! The types a value can have: how each is read, written and described.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::choice::Choice;
use crate::table::Key;

/// Longest path; Linux's `PATH_MAX`. Unit: bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest text; a log filter longer than this is a mistake. Unit: bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Items of a list: a certificate needs a name, and with more than these a hello grows past one
/// packet. Unit: items.
pub const LIST_ITEMS: RangeInclusive<usize> = 1..=64;
/// How much of a wrong value an error repeats. Unit: characters.
const FOUND_CHARS_MAX: usize = 64;

/// A value as its source had it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    /// From the environment or the command line, where everything is text.
    Untyped(String),
    /// A TOML string.
    String(String),
    /// A TOML integer.
    Integer(i128),
    /// A TOML array.
    List(Vec<Raw>),
    /// A TOML type that no key has, by name.
    Other(&'static str),
}

impl Raw {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Raw::Untyped(text) | Raw::String(text) => Some(text),
            _ => None,
        }
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Raw::Integer(number) => Some(*number),
            Raw::Untyped(text) => parse_integer(text),
            _ => None,
        }
    }

    /// What was found, for an error.
    pub(crate) fn description(&self) -> String {
        match self {
            Raw::Untyped(text) => shortened(text),
            Raw::String(text) => format!("the string {}", shortened(text)),
            Raw::Integer(number) => format!("the integer {number}"),
            Raw::List(items) => {
                let items: Vec<_> = items.iter().map(Raw::description).collect();
                let text: String = items.join(", ").chars().take(FOUND_CHARS_MAX).collect();
                format!("the list [{text}] of {} items", items.len())
            }
            Raw::Other(name) => (*name).to_owned(),
        }
    }
}

/// A type that a key can have.
pub(crate) trait Setting: Sized {
    /// The type's name for people.
    const TYPE: &'static str;
    const CHOICES: &'static [Choice] = &[];

    /// The value, or `None` if the type, the key's bounds or its rule do not permit it.
    fn read(raw: &Raw, key: &Key) -> Option<Self>;

    /// The value as TOML; reading it back gives the same value.
    fn literal(&self) -> String;

    /// What [`read`](Setting::read) accepts, for people.
    fn allowed(key: &Key) -> String;
}

macro_rules! integer_setting {
    ($($Integer:ty),+) => {$(
        impl Setting for $Integer {
            const TYPE: &'static str = "integer";

            fn read(raw: &Raw, key: &Key) -> Option<Self> {
                let number = u64::try_from(raw.integer()?).ok()?;
                let bounds = key.bounds?;
                (bounds.min..=bounds.max)
                    .contains(&number)
                    .then(|| <$Integer>::try_from(number).ok())
                    .flatten()
            }

            fn literal(&self) -> String {
                self.to_string()
            }

            fn allowed(key: &Key) -> String {
                let unit = key.unit.unwrap_or_default();
                match key.bounds {
                    Some(bounds) => {
                        format!("an integer from {} to {} {unit}", bounds.min, bounds.max)
                    }
                    None => "an integer".to_owned(),
                }
            }
        }
    )+};
}
integer_setting!(u32, u64, usize);

impl Setting for SocketAddr {
    const TYPE: &'static str = "address";

    fn read(raw: &Raw, _key: &Key) -> Option<Self> {
        raw.text()?.parse().ok()
    }

    fn literal(&self) -> String {
        quoted(&self.to_string())
    }

    fn allowed(_key: &Key) -> String {
        "an IP address and a port, such as \"127.0.0.1:7443\" or \"[::1]:7443\"".to_owned()
    }
}

impl Setting for PathBuf {
    const TYPE: &'static str = "path";

    fn read(raw: &Raw, _key: &Key) -> Option<Self> {
        let text = raw.text()?;
        let permitted = !text.is_empty() && text.len() <= PATH_BYTES_MAX && !text.contains(char::is_control);
        permitted.then(|| PathBuf::from(text))
    }

    fn literal(&self) -> String {
        quoted(&self.to_string_lossy())
    }

    fn allowed(_key: &Key) -> String {
        format!("a path of at most {PATH_BYTES_MAX} bytes without control characters")
    }
}

/// The empty text stands for `None`: TOML has no null.
impl Setting for Option<PathBuf> {
    const TYPE: &'static str = "path";

    fn read(raw: &Raw, key: &Key) -> Option<Self> {
        match raw.text()? {
            "" => Some(None),
            _ => PathBuf::read(raw, key).map(Some),
        }
    }

    fn literal(&self) -> String {
        self.as_ref().map_or_else(|| quoted(""), Setting::literal)
    }

    fn allowed(key: &Key) -> String {
        format!("{}, or nothing", PathBuf::allowed(key))
    }
}

impl Setting for String {
    const TYPE: &'static str = "text";

    fn read(raw: &Raw, key: &Key) -> Option<Self> {
        raw.text().filter(|text| text_permitted(text, key)).map(str::to_owned)
    }

    fn literal(&self) -> String {
        quoted(self)
    }

    fn allowed(key: &Key) -> String {
        let rule = key.rule.map_or("text", |rule| rule.allowed);
        format!("{rule}; at most {TEXT_BYTES_MAX} bytes")
    }
}

/// As untyped text: the items separated by commas. No items, where the rule takes nothing.
impl Setting for Vec<String> {
    const TYPE: &'static str = "list";

    fn read(raw: &Raw, key: &Key) -> Option<Self> {
        let items: Vec<&str> = match raw {
            Raw::Untyped(text) if text.is_empty() => Vec::new(),
            Raw::Untyped(text) => text.split(',').map(str::trim).collect(),
            Raw::List(items) => items.iter().map(Raw::text).collect::<Option<_>>()?,
            _ => return None,
        };
        let permitted = match items.as_slice() {
            [] => key.rule.is_some_and(|rule| (rule.accepts)("")),
            items => {
                LIST_ITEMS.contains(&items.len())
                    && items.iter().all(|item| !item.is_empty() && text_permitted(item, key))
            }
        };
        permitted.then(|| items.into_iter().map(str::to_owned).collect())
    }

    fn literal(&self) -> String {
        let items: Vec<_> = self.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }

    fn allowed(key: &Key) -> String {
        let rule = key.rule.map_or("texts", |rule| rule.allowed);
        format!("a list, with commas between, of {} to {} {rule}", LIST_ITEMS.start(), LIST_ITEMS.end())
    }
}

fn text_permitted(text: &str, key: &Key) -> bool {
    text.len() <= TEXT_BYTES_MAX && key.rule.is_none_or(|rule| (rule.accepts)(text))
}

/// As TOML has it: digits with single underscores between them.
fn parse_integer(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let well_formed =
        digits.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    well_formed.then(|| text.replace('_', "").parse().ok()).flatten()
}

/// A text as a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn shortened(text: &str) -> String {
    let start: String = text.chars().take(FOUND_CHARS_MAX).collect();
    let rest = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{rest}")
}
