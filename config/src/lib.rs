//! The one typed configuration of a Canopy node.
//!
//! A value comes from, in falling precedence: a command line override, an environment variable, the
//! file `canopy.toml`, the default. The table in [`keys`] is the only place that knows a key: from it
//! come the structs, parsing, environment names, bounds, `canopy.example.toml` and `REFERENCE.md`.
//!
//! ```
//! use canopy_config::{load, LoadRequest, Origin};
//!
//! let loaded = load(LoadRequest {
//!     file: None,
//!     env: [("CANOPY_EDGE_DRAIN_GRACE_MS".into(), "2_000".into())],
//!     overrides: vec![("log.level".into(), "info,canopy_store=debug".into())],
//! })?;
//! assert_eq!(loaded.config.edge.drain_grace_ms, 2_000);
//! assert_eq!(loaded.origins.get("log.level"), &Origin::CommandLine);
//! # Ok::<(), canopy_config::ConfigError>(())
//! ```
//!
//! Invariants:
//! - A [`NodeConfig`] that [`load`] returns is within every bound and passes every cross-field check.
//!   There is no `Deserialize`, which would be a way around both.
//! - No value is a secret: keys that lead to one hold a path or say where to look.
//! - No message repeats a value that could be a misplaced secret (see [`Disclosure`]).
//! - The process environment is never read here; the caller passes it in.

mod choice;
mod conflict;
mod error;
mod explain;
pub mod keys;
mod load;
mod nearest;
mod origin;
mod reference;
mod rule;
mod setting;
mod source;
mod table;

pub use choice::{
    AdminPlace, Choice, ClusterMode, LogFormat, LogInStrength, MailMode, MetricsAccess, RootKeySource, SignUp, SmtpTls,
    TlsMode, Verification,
};
pub use error::{ConfigError, Problem};
pub use explain::Explained;
pub use keys::{
    ActorsConfig, AdmissionConfig, BackupConfig, ClusterConfig, EdgeConfig, IdentityConfig, KEYS, LogConfig,
    MailConfig, NodeConfig, OrgConfig, SECTIONS, StoreConfig,
};
pub use load::{DEV_OVERRIDES, LoadRequest, Loaded, load};
pub use origin::{Origin, Origins};
pub use reference::{example, reference};
pub use setting::{LIST_ITEMS, PATH_BYTES_MAX, TEXT_BYTES_MAX};
pub use source::{ENV_PREFIX, FILE_BYTES_MAX, RESERVED, ReservedVariable, split_override};
pub use table::{Bounds, Disclosure, Key, Section};
