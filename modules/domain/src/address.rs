//! Addresses of actors and names of what they hold.

use std::fmt;
use std::sync::Arc;

use crate::{Id, Refusal};

/// First segment of what belongs to no org.
pub const SYSTEM: &str = "system";

/// What is wrong with an address or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Longer than [`Name::BYTES_MAX`].
    #[error("the name has {0} bytes, at most {max} are allowed", max = Name::BYTES_MAX)]
    TooLong(usize),
    /// An empty segment, or characters that no id or slug has.
    #[error("`{0}` is not a name: segments are ids, slugs or `me`, parted by `/`")]
    Malformed(String),
    /// A name of another kind of thing.
    #[error("`{found}` does not name what is asked for: expected `{expected}`")]
    WrongKind {
        /// What was given.
        found: String,
        /// The pattern, `*` standing for an id or slug.
        expected: String,
    },
}

/// The hierarchical name of an actor, made of opaque ids: `org/<id>`,
/// `org/<id>/project/<id>/chat`, `org/<id>/job/backup/<id>`, `account/<id>`,
/// `system/directory`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Arc<str>);

impl Address {
    /// Reads an address that has been checked before, or is written in code.
    ///
    /// # Errors
    /// The text is no well-formed name, or names no kind of actor.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let name = Name::parse(text)?;
        let address = Self(text.into());
        match address.kind() {
            Some(_) => Ok(address),
            None => Err(AddressError::WrongKind { found: name.as_str().into(), expected: "an actor's address".into() }),
        }
    }

    /// `account/<id>`
    pub fn account(id: Id) -> Self {
        Self(format!("account/{id}").into())
    }

    /// `session/<id>`
    pub fn session(id: Id) -> Self {
        Self(format!("session/{id}").into())
    }

    /// `org/<id>`
    pub fn org(id: Id) -> Self {
        Self(format!("org/{id}").into())
    }

    /// `<org>/project/<id>`
    pub fn project(&self, id: Id) -> Self {
        Self(format!("{}/project/{id}", self.0).into())
    }

    /// `system/<name>`
    pub fn system(name: &str) -> Self {
        Self(format!("{SYSTEM}/{name}").into())
    }

    /// The written form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind of actor that lives here.
    pub fn kind(&self) -> Option<Kind<'_>> {
        let mut parts = self.0.split('/');
        let kind = match (parts.next()?, parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("account", _, None, ..) => Kind::Account,
            ("session", _, None, ..) => Kind::Session,
            ("org", _, None, ..) => Kind::Org,
            ("org", _, Some("audit"), None, ..) => Kind::Audit,
            ("org", _, Some("project"), Some(_), None) => Kind::Project,
            ("org", _, Some("project"), Some(_), Some(module)) => Kind::Module(module),
            ("org", _, Some("job"), Some(job), Some(_)) => Kind::Job(job),
            (SYSTEM, name, None, ..) => Kind::System(name),
            _ => return None,
        };
        parts.next().is_none().then_some(kind)
    }

    /// The org that this address belongs to.
    pub fn org_address(&self) -> Option<Address> {
        self.prefix(2).filter(|a| a.0.starts_with("org/"))
    }

    /// The audit that what is done here stands in: the org's, else the
    /// installation's.
    pub fn audit(&self) -> Address {
        match self.org_address() {
            Some(org) => Self(format!("{org}/audit").into()),
            None => Self::system("audit"),
        }
    }

    /// The project that this address belongs to.
    pub fn project_address(&self) -> Option<Address> {
        Name(&self.0).owner("project").ok().map(|text| Self(text.into()))
    }

    /// The last id: of the org for `org/<id>`, of the project for its address,
    /// of the job for its own.
    pub fn id(&self) -> Option<Id> {
        self.0.split('/').rev().find_map(Id::parse)
    }

    /// The ids in a name of something that this actor holds: for
    /// `<address>/channel/a/message/b` and `["channel", "message"]`, `a` and `b`.
    /// Without collections, the name must be the address itself.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: the name is of something else.
    pub fn held<'n, const N: usize>(
        &self,
        field: &str,
        name: &'n str,
        collections: [&str; N],
    ) -> Result<[&'n str; N], Refusal> {
        let wrong = || {
            let shape: String = collections.iter().map(|c| format!("/{c}/*")).collect();
            Refusal::invalid(field, format!("`{name}` is not of the form `{self}{shape}`"))
        };
        let rest = name.strip_prefix(self.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let rest = rest.ok_or_else(wrong)?;
        let mut segments = rest.split('/').skip(1);
        let mut ids = [""; N];
        for (id, collection) in ids.iter_mut().zip(collections) {
            if segments.next() != Some(collection) {
                return Err(wrong());
            }
            *id = segments.next().filter(|s| !s.is_empty()).ok_or_else(wrong)?;
        }
        if segments.next().is_some() { Err(wrong()) } else { Ok(ids) }
    }

    fn prefix(&self, segments: usize) -> Option<Address> {
        Name(&self.0).prefix(segments).map(|text| Self(text.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What lives at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind<'a> {
    /// A person.
    Account,
    /// A log-in.
    Session,
    /// An organisation.
    Org,
    /// A project of an org.
    Project,
    /// A module's instance in a project.
    Module(&'a str),
    /// What was done in an org.
    Audit,
    /// A job of an org, by what it does.
    Job(&'a str),
    /// Part of the installation itself.
    System(&'a str),
}

impl<'a> Kind<'a> {
    /// The name that method rules use: `org`, `chat`, `directory`.
    pub fn name(self) -> &'a str {
        match self {
            Kind::Account => "account",
            Kind::Session => "session",
            Kind::Org => "org",
            Kind::Project => "project",
            Kind::Audit => "audit",
            Kind::Module(name) | Kind::Job(name) | Kind::System(name) => name,
        }
    }
}

/// A name from outside: an address, or something that an actor holds. Its
/// segments may be ids, slugs or e-mail addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a str);

impl<'a> Name<'a> {
    /// Longest accepted name, in bytes.
    pub const BYTES_MAX: usize = 300;

    /// Checks the form, which leaves no room for `..`, empty segments,
    /// control characters, backslashes or encoded slashes.
    ///
    /// # Errors
    /// Too long, or not of the form.
    pub fn parse(text: &'a str) -> Result<Self, AddressError> {
        if text.len() > Self::BYTES_MAX {
            return Err(AddressError::TooLong(text.len()));
        }
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let well_formed = |segment: &str| {
            !segment.is_empty()
                && (segment.bytes().all(plain)
                    // An e-mail address, which may hold what others may not.
                    || (segment.contains('@')
                        && segment.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '%' && c != '\\')))
        };
        if text.split('/').all(well_formed) {
            Ok(Self(text))
        } else {
            Err(AddressError::Malformed(text.chars().take(80).collect()))
        }
    }

    /// The text as given.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Segments from the front.
    pub fn segments(self) -> impl Iterator<Item = &'a str> {
        self.0.split('/')
    }

    /// The `n`-th segment, from 0.
    pub fn segment(self, n: usize) -> Option<&'a str> {
        self.0.split('/').nth(n)
    }

    /// The first `n` segments, if there are as many.
    pub fn prefix(self, n: usize) -> Option<&'a str> {
        let mut ends = self.0.match_indices('/').map(|(i, _)| i).chain([self.0.len()]);
        let end = ends.nth(n.checked_sub(1)?)?;
        self.0.get(..end)
    }

    /// The part that addresses an actor of `kind`.
    ///
    /// # Errors
    /// The name does not start as addresses of that kind do.
    pub fn owner(self, kind: &str) -> Result<&'a str, AddressError> {
        let pattern: &[&str] = match kind {
            "account" => &["account", "*"],
            "session" => &["session", "*"],
            "org" => &["org", "*"],
            // The installation's own, or an org's.
            "audit" if self.segment(0) == Some(SYSTEM) => &[SYSTEM, "audit"],
            "audit" => &["org", "*", "audit"],
            "project" => &["org", "*", "project", "*"],
            "backup" => &["org", "*", "job", "backup", "*"],
            module => &["org", "*", "project", "*", module],
        };
        let mut segments = self.segments();
        let fits = pattern.iter().all(|p| segments.next().is_some_and(|s| *p == "*" || *p == s));
        match self.prefix(pattern.len()) {
            Some(prefix) if fits => Ok(prefix),
            _ => Err(AddressError::WrongKind { found: self.0.into(), expected: pattern.join("/") }),
        }
    }
}
