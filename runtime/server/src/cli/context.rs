//! Contexts: which servers there are, and the log-in at each, in one file
//! that nobody else may read.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::error::Error;
use super::options::Options;
use super::terminal::Terminal;

/// Longest wait for another command that is changing the file: it may be
/// refreshing a token over a slow network.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(30);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// The file holds a few kilobytes; more is a mistake.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The context that a first log-in makes.
const FIRST_NAME: &str = "default";

/// A token: wiped after use, and not printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes over the text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// Proof of one session, as the server handed it out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// `account/<id>`, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub account: String,
    /// `session/<id>`
    pub session: String,
    /// Sent with each call.
    pub access_token: Secret,
    /// Milliseconds since 1970-01-01 UTC.
    pub access_token_expire_time_ms: i64,
    /// Good once.
    pub refresh_token: Secret,
    /// Milliseconds since 1970-01-01 UTC.
    pub refresh_token_expire_time_ms: i64,
    /// Id of a refresh that was begun: repeated until its answer is stored, so
    /// that a lost answer does not cost the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_request_id: Option<String>,
}

/// One server and the log-in there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// URL.
    pub server: String,
    /// Path of a PEM file, or the PEM itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Path of the PEM file with this device's certificate: read at each call, for what issues it
    /// renews it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// Path of the PEM file with its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// Absent when logged out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
}

/// The content of `contexts.toml`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one used where no other is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// Where one call goes.
#[derive(Debug)]
pub struct Target {
    /// URL.
    pub server: String,
    /// Text of the PEM file.
    pub ca_pem: Option<String>,
    /// What the device shows.
    pub device: Option<Device>,
    /// The context whose log-in is used and kept; one that does not exist yet
    /// is made by a log-in.
    pub context: String,
    /// Whether that context exists and is of this server.
    pub is_known: bool,
    ca_source: Option<String>,
    client: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// A context without log-in for this server, to be kept. The PEM itself is
    /// kept rather than a path that may be relative.
    pub fn to_context(&self) -> Context {
        let (client_cert, client_key) = self.client.clone().unzip();
        Context { server: self.server.clone(), ca_pem: self.ca_source.clone(), client_cert, client_key, login: None }
    }
}

impl Contexts {
    /// What the options mean. A log-in is never shown to a server other than
    /// the one it was made at.
    ///
    /// # Errors
    /// No server is known, a context does not exist, or the authority's file
    /// cannot be read.
    pub fn target(&self, options: &Options) -> Result<Target, Error> {
        let named = options.context.as_deref();
        let current = self.current.as_deref();
        let context = named.or(current).and_then(|name| self.contexts.get(name).map(|c| (name, c)));
        if let Some(name) = named.filter(|_| context.is_none() && options.server.is_none()) {
            return Err(self.no_such(name));
        }
        let (name, server, known) = match (&options.server, context) {
            (None, None) => {
                return Err(Error::usage(
                    "no server is known",
                    "canopy context add NAME --server https://HOST:PORT --ca FILE, or give --server",
                ));
            }
            (None, Some((name, context))) => (name.to_owned(), context.server.clone(), Some(context)),
            (Some(server), Some((name, context))) if context.server == *server => {
                (name.to_owned(), server.clone(), Some(context))
            }
            (Some(server), Some((name, context))) if named.is_some() => {
                return Err(Error::usage(
                    format!("context {name} is of {}, not of {server}", context.server),
                    "leave out --server, or name another context",
                ));
            }
            (Some(server), _) => match self.contexts.iter().find(|(_, c)| named.is_none() && c.server == *server) {
                Some((name, context)) => (name.clone(), server.clone(), Some(context)),
                None => (self.name_for(named, server), server.clone(), None),
            },
        };
        let ca_source = match (&options.ca, known) {
            (Some(path), _) => Some(read_pem(path)?),
            (None, Some(context)) => context.ca_pem.clone(),
            (None, None) => None,
        };
        let ca_pem = match ca_source.as_deref() {
            Some(path) if !path.contains("-----BEGIN") => Some(read_pem(Path::new(path))?),
            pem => pem.map(str::to_owned),
        };
        let client = match (&options.client, known) {
            (Some((cert, key)), _) => Some((absolute(cert)?, absolute(key)?)),
            (None, Some(context)) => context.client_cert.clone().zip(context.client_key.clone()),
            (None, None) => None,
        };
        let device = client.as_ref().map(|(cert, key)| Device::read(cert, key)).transpose()?;
        Ok(Target { server, ca_pem, device, context: name, is_known: known.is_some(), ca_source, client })
    }

    fn name_for(&self, named: Option<&str>, server: &str) -> String {
        match named {
            Some(name) => name.to_owned(),
            None if self.contexts.is_empty() => FIRST_NAME.to_owned(),
            None => server.split("://").last().unwrap_or(server).trim_end_matches('/').to_owned(),
        }
    }

    /// The error for a name that stands for nothing, with those that do.
    pub fn no_such(&self, name: &str) -> Error {
        let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        let hint = if known.is_empty() {
            "canopy context add NAME --server https://HOST:PORT --ca FILE".to_owned()
        } else {
            format!("there are: {}", known.join(", "))
        };
        Error::usage(format!("there is no context {name}"), hint)
    }
}

/// What a device shows to servers that ask which one it is.
#[derive(Debug)]
pub struct Device {
    /// PEM of its certificate, and of what leads to its authority.
    pub cert_pem: String,
    /// PEM of the private key.
    pub key_pem: Secret,
}

impl Device {
    /// Reads both files.
    ///
    /// # Errors
    /// One cannot be read, or holds no PEM of its kind.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, Error> {
        let cert_pem = read_pem(cert)?;
        let key_pem = fs::read_to_string(key).map(Secret::new).map_err(|source| Error::file("read", key, source))?;
        if !key_pem.expose().contains("PRIVATE KEY-----") {
            return Err(Error::usage(format!("{} holds no private key", key.display()), "give a PEM file"));
        }
        Ok(Self { cert_pem, key_pem })
    }
}

/// A path that means the same wherever a later command runs.
///
/// # Errors
/// The working directory is gone.
pub fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::file("find", path, source))
}

/// Reads a PEM file of certificates.
///
/// # Errors
/// The file cannot be read, or holds no PEM.
pub fn read_pem(path: &Path) -> Result<String, Error> {
    let pem = fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(Error::usage(format!("{} holds no certificate", path.display()), "give a PEM file"));
    }
    Ok(pem)
}

/// The directory that holds `contexts.toml` and its lock.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Uses this directory, made at the first write.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// `CANOPY_CONFIG_HOME`, else `canopy` under `XDG_CONFIG_HOME`, else under
    /// `~/.config`.
    ///
    /// # Errors
    /// None of the variables is set.
    pub fn locate(terminal: &Terminal) -> Result<Self, Error> {
        if let Some(dir) = terminal.env("CANOPY_CONFIG_HOME") {
            return Ok(Self::at(dir));
        }
        // The XDG specification has relative paths ignored.
        let base = terminal.env("XDG_CONFIG_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let base = base.or_else(|| terminal.env("HOME").map(|home| Path::new(home).join(".config")));
        match base {
            Some(base) => Ok(Self::at(base.join("canopy"))),
            None => Err(Error::usage("there is no place for contexts", "set HOME or CANOPY_CONFIG_HOME")),
        }
    }

    /// `contexts.toml`
    pub fn path(&self) -> PathBuf {
        self.dir.join("contexts.toml")
    }

    /// Reads the file; no file is no contexts.
    ///
    /// # Errors
    /// Others can read the file, it cannot be read, or it is not understood.
    pub fn load(&self) -> Result<Contexts, Error> {
        let path = self.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(source) => return Err(Error::file("open", path, source)),
        };
        let fail = |source| Error::file("read", &path, source);
        let mode = file.metadata().map_err(fail)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::usage(
                format!("others can read {}, which holds tokens (mode {mode:o})", path.display()),
                format!("chmod 600 {}, and log out and in again if others may have done so", path.display()),
            ));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
        toml::from_str(&text).map_err(|why| {
            // The parser's own message quotes the line, which may hold a token.
            let line = why.span().and_then(|span| text.get(..span.start)).map_or(0, |t| t.matches('\n').count() + 1);
            Error::usage(
                format!("{} is not understood at line {line}: {}", path.display(), why.message()),
                "correct the line, or remove the file and log in again",
            )
        })
    }

    /// Waits until no other command changes the file.
    ///
    /// # Errors
    /// The directory cannot be written, or another command holds the lock for
    /// longer than [`LOCK_WAIT_MAX`].
    pub async fn lock(&self) -> Result<Lock<'_>, Error> {
        self.lock_within(LOCK_WAIT_MAX).await
    }

    /// As [`Store::lock`], with another limit.
    ///
    /// # Errors
    /// As [`Store::lock`].
    pub async fn lock_within(&self, wait_max: Duration) -> Result<Lock<'_>, Error> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.dir).map_err(|source| Error::file("make", &self.dir, source))?;
        let path = self.dir.join("contexts.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::file("open", &path, source))?;
        let until = Instant::now() + wait_max;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Lock { store: self, _file: file });
                }
                Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(LOCK_POLL).await,
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::usage(
                        format!("another canopy command has held {} for long", path.display()),
                        "wait for it, or end it",
                    ));
                }
                Err(TryLockError::Error(source)) => return Err(Error::file("lock", path, source)),
            }
        }
    }
}

/// The right to change the file; let go of when dropped, or when the process
/// ends.
#[derive(Debug)]
pub struct Lock<'a> {
    store: &'a Store,
    _file: File,
}

impl Lock<'_> {
    /// The file as it is now.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load(&self) -> Result<Contexts, Error> {
        self.store.load()
    }

    /// Replaces the file in one step, so that a crash leaves the old or the
    /// new one.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save(&self, contexts: &Contexts) -> Result<(), Error> {
        let text = toml::to_string_pretty(contexts).map_err(|why| Error::Answer(why.into()))?;
        let text = Zeroizing::new(text);
        let path = self.store.path();
        let fresh = self.store.dir.join("contexts.toml.new");
        self.replace(&fresh, &path, text.as_bytes()).map_err(|source| Error::file("write", path, source))
    }

    fn replace(&self, fresh: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // A file left by a crash may have another mode.
        match fs::remove_file(fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(fresh, path)?;
        File::open(&self.store.dir)?.sync_all()
    }
}
