//! `canopy doctor`: looks for what would keep a server from starting or
//! running well, and says what to do about it.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use canopy_config::{NodeConfig, RootKeySource, TlsMode};
use clap::{ArgMatches, Command};

use crate::boot::{ROOT_KEY_VARIABLE, ROOT_PASSPHRASE_VARIABLE};
use crate::cli::{Exit, Terminal};
use crate::edge::devices::Devices;

/// Files that a node needs beside one for each connection: a few for each
/// open vault.
const FILES_PER_VAULT: u64 = 12;
/// Free space under which a disk counts as full soon, in bytes.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// What a look found.
enum Finding {
    Fine(String),
    Warning(String, &'static str),
    Fault(String, &'static str),
}

use Finding::{Fault, Fine, Warning};

pub(super) fn command() -> Command {
    Command::new("doctor")
        .about("Checks the configuration, the data directory and the machine")
        .args(super::config_args())
}

pub(super) fn run(matches: &ArgMatches, terminal: &mut Terminal) -> Exit {
    let mut findings = Vec::new();
    match super::load_config(matches, terminal, false) {
        Ok(loaded) => {
            let config = &loaded.config;
            findings.push(Fine("the configuration is valid".into()));
            findings.push(data_dir(&config.data_dir));
            findings.extend(free_space(
                &config.data_dir,
                "data",
                "writes are refused once the disk is full: make room",
            ));
            findings.extend(backups(config));
            findings.push(root_key(config, terminal));
            findings.extend(breached_passwords(config));
            findings.push(port(config));
            findings.push(open_files(config));
            findings.push(processor());
            findings.extend(transport(config));
            findings.extend(devices(config));
        }
        Err(error) => findings.push(Fault(error.to_string(), "correct the configuration")),
    }
    let mut exit = Exit::Success;
    for finding in &findings {
        let line = match finding {
            Fine(what) => format!("ok    {what}"),
            Warning(what, hint) => format!("warn  {what}\n      {hint}"),
            Fault(what, hint) => {
                exit = Exit::Unexpected;
                format!("FAIL  {what}\n      {hint}")
            }
        };
        if writeln!(terminal.stdout, "{line}").is_err() {
            break;
        }
    }
    exit
}

fn data_dir(dir: &Path) -> Finding {
    let shown = dir.display();
    match std::fs::metadata(dir) {
        Ok(found) if !found.is_dir() => Fault(format!("{shown} is no directory"), "set data_dir to a directory"),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            Warning(format!("others can look into {shown}"), "chmod 700 it")
        }
        Ok(_) => Fine(format!("data directory {shown}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Fine(format!("{shown} will be made at the first start"))
        }
        Err(error) => Fault(format!("{shown}: {error}"), "let the server's user read and write it"),
    }
}

/// The directory, or the nearest one above it that is there.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}

fn free_space(dir: &Path, what: &str, hint: &'static str) -> Option<Finding> {
    let found = rustix::fs::statvfs(existing(dir)).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let shown = format!("{} MiB free for {what}", free >> 20);
    Some(if free < FREE_BYTES_MIN { Warning(shown, hint) } else { Fine(shown) })
}

/// Where backups go, and whether that is of use when the data is lost.
fn backups(config: &NodeConfig) -> Vec<Finding> {
    let dir = config.backup_dir();
    let shown = dir.display();
    let there = existing(&dir);
    // A file without a name: whether one can be made shows in no other way.
    let written = if there.is_dir() {
        tempfile::tempfile_in(there).map(drop).map_err(|e| e.to_string())
    } else {
        Err(format!("{} is no directory", there.display()))
    };
    if let Err(error) = written {
        let hint = "set backup.dir to a directory that the server's user can write to";
        return vec![Fault(format!("backups cannot be written into {shown}: {error}"), hint)];
    }
    let mut findings = vec![Fine(if there == dir {
        format!("backups go into {shown}")
    } else {
        format!("{shown} will be made for the first backup")
    })];
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    if device(there) == device(existing(&config.data_dir)) {
        findings.push(Warning(
            "backups lie on the disk that the data is on".into(),
            "set backup.dir to another disk, or copy them away: one that is lost with the data is of no use",
        ));
    } else {
        findings.extend(free_space(there, "backups", "backups fail once their disk is full: make room"));
    }
    findings
}

fn root_key(config: &NodeConfig, terminal: &Terminal) -> Finding {
    let variable = |name: &str| match terminal.env(name) {
        Some(_) => Fine(format!("root key from {name}")),
        None => Fault(format!("{name} is not set"), "set it, or choose another store.root_key"),
    };
    match config.store.root_key {
        RootKeySource::Passphrase => variable(ROOT_PASSPHRASE_VARIABLE),
        RootKeySource::Environment => variable(ROOT_KEY_VARIABLE),
        RootKeySource::KeyFile => {
            let path = config.root_key_path().unwrap_or_else(|| config.data_dir.join("root.key"));
            match std::fs::metadata(&path) {
                Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                    Fault(format!("others can read {}", path.display()), "chmod 600 it")
                }
                Ok(_) if path.starts_with(&config.data_dir) => Warning(
                    format!("the root key lies beside the data, in {}", path.display()),
                    "who steals the disk has both: keep it elsewhere (store.root_key_file), and a copy safe",
                ),
                Ok(_) => Fine(format!("root key in {}", path.display())),
                Err(_) => Fine(format!("a root key will be made in {}", path.display())),
            }
        }
    }
}

fn breached_passwords(config: &NodeConfig) -> Option<Finding> {
    let path = config.identity.breached_passwords_file.as_ref()?;
    let shown = path.display();
    Some(match canopy_actors::check_breached_passwords(path) {
        Ok(bytes) => Fine(format!("new passwords are looked for in {shown} ({} MiB)", bytes >> 20)),
        Err(error) => Fault(
            format!("{shown} is no file of breached passwords: {error}"),
            "the server does not start: set identity.breached_passwords_file to one, or to nothing",
        ),
    })
}

fn port(config: &NodeConfig) -> Finding {
    match TcpListener::bind(config.edge.listen) {
        Ok(_) => Fine(format!("{} is free", config.edge.listen)),
        Err(error) => Warning(
            format!("{}: {error}", config.edge.listen),
            "a running server holds it, or set edge.listen to another address",
        ),
    }
}

fn open_files(config: &NodeConfig) -> Finding {
    let vaults = u64::try_from(config.store.open_vaults_max).unwrap_or(u64::MAX);
    let connections = u64::try_from(config.edge.connections_max).unwrap_or(u64::MAX);
    let needed = connections.saturating_add(vaults.saturating_mul(FILES_PER_VAULT));
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(limit) if limit < needed => Warning(
            format!("{limit} files may be open, and the limits allow for {needed}"),
            "raise the limit (LimitNOFILE, ulimit -n) or lower edge.connections_max and store.open_vaults_max",
        ),
        limit => Fine(match limit {
            Some(limit) => format!("{limit} files may be open, {needed} are allowed for"),
            None => format!("any number of files may be open, {needed} are allowed for"),
        }),
    }
}

#[cfg(target_arch = "x86_64")]
fn processor() -> Finding {
    if std::arch::is_x86_feature_detected!("avx2") {
        Fine("the processor has AVX2".into())
    } else {
        Fault("the processor lacks AVX2".into(), "use a portable build: see the comment in .cargo/config.toml")
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> Finding {
    Fine("the processor needs no particular build".into())
}

fn transport(config: &NodeConfig) -> Option<Finding> {
    (config.edge.tls == TlsMode::Off)
        .then(|| Warning("TLS is off".into(), "fine on loopback behind a proxy; browsers then speak HTTP/1.1 only"))
}

fn devices(config: &NodeConfig) -> Option<Finding> {
    let path = config.edge.admin_client_ca_file.as_deref()?;
    Some(match Devices::open(path) {
        Ok(_) => Fine(format!("devices with a certificate by {} administer the installation", path.display())),
        Err(error) => Fault(
            error.to_string(),
            "write the PEM of the authorities that issue certificates to devices, or leave edge.admin_client_ca_file \
             empty",
        ),
    })
}
