//! What the table of keys is made of, and the macro that declares it together with the structs.

use crate::choice::Choice;
use crate::rule::TextRule;
use crate::source::ENV_PREFIX;

/// One configuration key: a row of the table.
#[derive(Debug)]
pub struct Key {
    /// Dotted path as in the file and in `--set`, such as `edge.listen`.
    pub path: &'static str,
    /// The description, one element per source line, each with its leading space.
    pub doc_lines: &'static [&'static str],
    /// The type's name for people: `integer`, `address`, `path`, …
    pub type_name: &'static str,
    /// What a number counts; every number has one.
    pub unit: Option<&'static str>,
    /// Inclusive bounds; every number has them.
    pub bounds: Option<Bounds>,
    /// The permitted words, for a key that is a choice.
    pub choices: &'static [Choice],
    /// Where the value may be shown.
    pub disclosure: Disclosure,
    pub(crate) rule: Option<TextRule>,
    pub(crate) allowed: fn(&Key) -> String,
    pub(crate) default: fn() -> String,
}

/// Inclusive bounds of a number, in the unit of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The smallest value accepted.
    pub min: u64,
    /// The largest value accepted.
    pub max: u64,
}

/// Where a key's value may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disclosure {
    /// Everywhere.
    Open,
    /// Not in an error: the key stands where a secret is easily put by mistake
    /// (`CANOPY_STORE_ROOT_KEY` for `CANOPY_ROOT_KEY`), and errors end in logs.
    OnceValid,
    /// Nowhere, only "(set)": it is a path, and any text is a valid path, so a secret pasted in its
    /// place cannot be told from one.
    Secret,
}

/// One `[section]` of the file.
#[derive(Debug)]
pub struct Section {
    /// The name between the brackets.
    pub name: &'static str,
    /// The description, one element per source line, each with its leading space.
    pub doc_lines: &'static [&'static str],
}

impl Key {
    /// The row for a path such as `edge.listen`.
    pub fn find(path: &str) -> Option<&'static Key> {
        crate::KEYS.iter().find(|key| key.path == path)
    }

    /// The environment variable that sets this key, such as `CANOPY_EDGE_LISTEN`.
    pub fn env_name(&self) -> String {
        format!("{ENV_PREFIX}{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// The section the key stands in; `None` at the top of the file.
    pub fn section(&self) -> Option<&'static str> {
        self.path.split_once('.').map(|(section, _)| section)
    }

    /// The last part of the path.
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The description on one line.
    pub fn doc(&self) -> String {
        one_line(self.doc_lines)
    }

    /// What values are accepted, for people.
    pub fn allowed(&self) -> String {
        (self.allowed)(self)
    }

    /// The default as a TOML value.
    pub fn default_literal(&self) -> String {
        (self.default)()
    }

    /// A TOML value of this key as it may be shown.
    pub(crate) fn shown(&self, literal: String) -> String {
        match self.disclosure {
            Disclosure::Open | Disclosure::OnceValid => literal,
            Disclosure::Secret if literal == "\"\"" => "(not set)".into(),
            Disclosure::Secret => "(set)".into(),
        }
    }
}

impl Section {
    /// The description on one line.
    pub fn doc(&self) -> String {
        one_line(self.doc_lines)
    }
}

fn one_line(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Declares the configuration structs and the table of keys from the same rows.
///
/// A row is `/// doc` `name: Type = default`, then, in this order and each optional:
/// - `"unit" in LIMIT = min..=max`: a number's bounds, which also become the constant `LIMIT`;
/// - `rule RULE`: a [`TextRule`] for the text, or for each item of a list;
/// - `disclosed WHERE`: a [`Disclosure`] other than `Open`.
macro_rules! node_config {
    (
        $(#[doc = $root_doc:literal])+
        pub struct $Root:ident {
            $(
                $(#[doc = $root_field_doc:literal])+
                $root_field:ident: $root_type:ty = $root_default:expr;
            )*
        }
        $(
            $(#[doc = $section_doc:literal])+
            [$section:ident] $Section:ident {
                $(
                    $(#[doc = $doc:literal])+
                    $field:ident: $type:ty = $default:expr
                    $(, $unit:literal in $limit:ident = $range:expr)?
                    $(, rule $rule:path)?
                    $(, disclosed $disclosure:ident)?;
                )*
            }
        )*
    ) => {
        $(#[doc = $root_doc])+
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
        pub struct $Root {
            $(
                $(#[doc = $root_field_doc])+
                #[doc = concat!("\n\nDefault: `", stringify!($root_default), "`.")]
                pub $root_field: $root_type,
            )*
            $(
                $(#[doc = $section_doc])+
                pub $section: $Section,
            )*
        }

        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
            pub struct $Section {
                $(
                    $(#[doc = $doc])+
                    $(#[doc = concat!("\n\nUnit: ", $unit, ", within [`Self::", stringify!($limit), "`].")])?
                    #[doc = concat!("\n\nDefault: `", stringify!($default), "`.")]
                    pub $field: $type,
                )*
            }

            impl $Section {
                $($(
                    #[doc = concat!("Inclusive bounds of [`Self::", stringify!($field), "`]; unit: ", $unit, ".")]
                    pub const $limit: std::ops::RangeInclusive<$type> = $range;
                )?)*
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $($field: $default,)* }
                }
            }
        )*

        impl Default for $Root {
            fn default() -> Self {
                Self {
                    $($root_field: $root_default,)*
                    $($section: $Section::default(),)*
                }
            }
        }

        /// Every key, in the order of the file.
        pub const KEYS: &[$crate::table::Key] = &[
            $($crate::table::Key {
                path: stringify!($root_field),
                doc_lines: &[$($root_field_doc),+],
                type_name: <$root_type as $crate::setting::Setting>::TYPE,
                unit: None,
                bounds: None,
                choices: <$root_type as $crate::setting::Setting>::CHOICES,
                disclosure: $crate::table::Disclosure::Open,
                rule: None,
                allowed: <$root_type as $crate::setting::Setting>::allowed,
                default: || { let value: $root_type = $root_default; $crate::setting::Setting::literal(&value) },
            },)*
            $($($crate::table::Key {
                path: concat!(stringify!($section), ".", stringify!($field)),
                doc_lines: &[$($doc),+],
                type_name: <$type as $crate::setting::Setting>::TYPE,
                unit: node_config!(@optional $($unit)?),
                bounds: node_config!(@optional $($crate::table::Bounds {
                    min: *$Section::$limit.start() as u64,
                    max: *$Section::$limit.end() as u64,
                })?),
                choices: <$type as $crate::setting::Setting>::CHOICES,
                disclosure: node_config!(@disclosure $($disclosure)?),
                rule: node_config!(@optional $($rule)?),
                allowed: <$type as $crate::setting::Setting>::allowed,
                default: || { let value: $type = $default; $crate::setting::Setting::literal(&value) },
            },)*)*
        ];

        /// Every section, in the order of the file.
        pub const SECTIONS: &[$crate::table::Section] = &[
            $($crate::table::Section {
                name: stringify!($section),
                doc_lines: &[$($section_doc),+],
            },)*
        ];

        impl $Root {
            /// Takes every field from its sources, or its default.
            pub(crate) fn read(reader: &mut $crate::load::Reader) -> Self {
                let default = Self::default();
                Self {
                    $($root_field: reader.value(stringify!($root_field), default.$root_field),)*
                    $($section: $Section {
                        $($field: reader.value(
                            concat!(stringify!($section), ".", stringify!($field)),
                            default.$section.$field,
                        ),)*
                    },)*
                }
            }

            /// Every value as TOML, in the order of [`KEYS`].
            pub(crate) fn literals(&self) -> Vec<String> {
                vec![
                    $($crate::setting::Setting::literal(&self.$root_field),)*
                    $($($crate::setting::Setting::literal(&self.$section.$field),)*)*
                ]
            }
        }
    };
    (@optional) => { None };
    (@optional $value:expr) => { Some($value) };
    (@disclosure) => { $crate::table::Disclosure::Open };
    (@disclosure $disclosure:ident) => { $crate::table::Disclosure::$disclosure };
}
pub(crate) use node_config;
