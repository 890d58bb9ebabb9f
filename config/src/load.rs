//! From sources to a checked configuration.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::conflict;
use crate::error::{ConfigError, Problem};
use crate::keys::NodeConfig;
use crate::origin::Origins;
use crate::setting::Setting;
use crate::source::Sources;
use crate::table::{Disclosure, Key};

/// What [`load`] reads. Does not print: the environment has secrets in it.
#[derive(Clone)]
pub struct LoadRequest<E> {
    /// The configuration file; `None` for none. A file that is named must exist.
    pub file: Option<PathBuf>,
    /// The process environment; variables without [`ENV_PREFIX`](crate::ENV_PREFIX) are passed over.
    pub env: E,
    /// Pairs of key path and value from the command line; of several for one key the last counts.
    pub overrides: Vec<(String, String)>,
}

/// A checked configuration, and where each value came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: NodeConfig,
    /// Where each value came from.
    pub origins: Origins,
}

/// Loads a configuration: command line over environment over file over default. Pure but for reading
/// the file.
///
/// # Errors
/// All problems of all sources at once: a file that cannot be read or is not TOML, unknown keys, bad
/// values (even if a stronger source overrides them, lest they surface when it goes), and values that
/// contradict each other.
pub fn load<E>(request: LoadRequest<E>) -> Result<Loaded, ConfigError>
where
    E: IntoIterator<Item = (String, String)>,
{
    let mut sources = Sources::default();
    if let Some(file) = &request.file {
        sources.add_file(file);
    }
    sources.add_environment(request.env);
    sources.add_overrides(request.overrides);

    let mut reader = Reader { sources, failed: HashSet::new(), origins: Origins::default() };
    let config = NodeConfig::read(&mut reader);
    let Reader { sources, failed, origins } = reader;
    let mut problems = sources.problems;
    // A key that failed stands at its default here, and would contradict what nobody wrote.
    if !sources.file_failed {
        problems.extend(conflict::find(&config, &origins, &failed));
    }
    if problems.is_empty() { Ok(Loaded { config, origins }) } else { Err(ConfigError { problems }) }
}

/// Hands each field its value, and keeps account of origins and problems.
pub(crate) struct Reader {
    sources: Sources,
    failed: HashSet<&'static str>,
    origins: Origins,
}

impl Reader {
    pub(crate) fn value<T: Setting>(&mut self, path: &'static str, default: T) -> T {
        let key = Key::find(path).expect("fields and rows come from the same macro");
        let mut value = default;
        for candidate in self.sources.candidates.remove(path).unwrap_or_default() {
            if let Some(read) = T::read(&candidate.raw, key) {
                value = read;
                self.origins.set(path, candidate.origin);
            } else {
                self.failed.insert(path);
                self.sources.problems.push(Problem::BadValue {
                    key: path,
                    origin: candidate.origin,
                    found: match key.disclosure {
                        Disclosure::Open => candidate.raw.description(),
                        Disclosure::OnceValid | Disclosure::Secret => "not a permitted value".into(),
                    },
                    allowed: key.allowed(),
                });
            }
        }
        value
    }
}

/// The overrides of a throw-away installation on one's own machine: no TLS, anybody may sign up, and
/// the cheapest password hash that the bounds permit. A command that offers this puts them before the
/// user's own overrides.
pub const DEV_OVERRIDES: &[(&str, &str)] = &[
    ("edge.listen", "127.0.0.1:7443"),
    ("edge.tls", "off"),
    ("identity.sign_up", "open"),
    ("identity.argon2_memory_kib", "19456"),
    ("identity.argon2_passes", "2"),
];

impl NodeConfig {
    /// The configuration of a throw-away installation: the defaults with [`DEV_OVERRIDES`].
    pub fn dev() -> Self {
        let overrides = DEV_OVERRIDES.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        load(LoadRequest { file: None, env: [], overrides: overrides.collect() })
            .expect("the overrides are within the bounds")
            .config
    }

    /// The configuration as a complete file; loading it gives the same configuration.
    pub fn render(&self) -> String {
        crate::reference::render(self)
    }
}
