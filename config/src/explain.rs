//! What each value is, and why.

use crate::KEYS;
use crate::load::Loaded;
use crate::origin::Origin;

/// One key with its value and where that came from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Explained {
    /// The key's path, such as `edge.listen`.
    pub key: &'static str,
    /// The value as TOML; `(set)` or `(not set)` if it leads to a secret.
    pub value: String,
    /// Where the value came from.
    pub origin: Origin,
    /// The default as TOML, shown like the value.
    pub default: String,
    /// The description on one line.
    pub doc: String,
    /// What a number counts.
    pub unit: Option<&'static str>,
}

impl Loaded {
    /// Every key in the order of the file, safe to print.
    pub fn explain(&self) -> Vec<Explained> {
        KEYS.iter()
            .zip(self.config.literals())
            .map(|(key, literal)| Explained {
                key: key.path,
                value: key.shown(literal),
                origin: self.origins.get(key.path).clone(),
                default: key.shown(key.default_literal()),
                doc: key.doc(),
                unit: key.unit,
            })
            .collect()
    }
}
