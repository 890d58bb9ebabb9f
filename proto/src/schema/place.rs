//! Where in a message something was found, put into words only when it has
//! to be reported.

use std::fmt::Write as _;

use super::entry::{Key, key};
use super::kind::Kind;

/// A way down from the outermost message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) parent: Option<&'a Place<'a>>,
    pub(super) step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    Field(&'a str),
    /// An element and, where they are counted, its index.
    Item(&'a str, Option<usize>),
    /// A map's entry as it travels, and its key's type.
    Entry(&'a str, &'a [u8], Kind),
    /// A field of a map's entry: its entry says it already.
    Inside,
}

impl Place<'_> {
    pub(super) fn child<'a>(&'a self, step: Step<'a>) -> Place<'a> {
        Place { parent: Some(self), step }
    }

    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        let Some(parent) = self.parent else { return };
        parent.write(text);
        let dot = if text.is_empty() { "" } else { "." };
        let written = match self.step {
            Step::Field(name) => write!(text, "{dot}{name}"),
            Step::Item(name, Some(index)) => write!(text, "{dot}{name}[{index}]"),
            Step::Item(name, None) => write!(text, "{dot}{name}[]"),
            Step::Entry(name, entry, kind) => {
                write!(text, "{dot}{name}[{}]", key_text(entry, kind))
            }
            Step::Inside => Ok(()),
        };
        written.expect("a string takes what is written to it");
    }
}

/// The outermost message.
pub(super) const ROOT: Place<'static> = Place { parent: None, step: Step::Inside };

fn key_text(entry: &[u8], kind: Kind) -> String {
    /// Keys are part of an answer's text.
    const KEY_CHARS_MAX: usize = 64;
    match key(entry, kind) {
        Key::Text(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            format!("{:?}", text.chars().take(KEY_CHARS_MAX).collect::<String>())
        }
        Key::Unsigned(value) if kind == Kind::Bool => (value != 0).to_string(),
        Key::Unsigned(value) => value.to_string(),
        Key::Signed(value) => value.to_string(),
    }
}
