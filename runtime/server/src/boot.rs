//! From a configuration to a running node, and down again.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use canopy_actors::{
    AttemptLimits, Backups, BreachedPasswords, Budgets, CommitHook, Denials, Mails, Node, NodeParts, PasskeySite,
    Passkeys, PasswordHashing, Purges, SignUpPolicy, Tokens, random_bytes, sweeper, wake_clock,
};
use canopy_config::{MailMode, NodeConfig, RootKeySource, SignUp, TlsMode};
use canopy_domain::{Modules, Policy, Refusal, Secret, TokenIssuer};
use canopy_store::{Store, StoreError, StoreOptions, Unlock};
use canopy_supervision::{ChildSpec, StartError, Strategy, Supervisor, SupervisorSpec};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::edge::authority::{Authority, AuthorityError, NodeNames};
use crate::edge::callers::Callers;
use crate::edge::certificate::{CertificateError, ReloadingCertificate};
use crate::edge::devices::{Devices, DevicesError};
use crate::edge::dispatch::{CallLimits, Dispatch, Edge};
use crate::edge::exchange::ReadLimits;
use crate::edge::front::Front;
use crate::edge::grants::Grants;
use crate::edge::keys::Keys;
use crate::edge::listener::Security;
use crate::edge::local::Local;
use crate::edge::pace::Pace;
use crate::edge::pages::{self, Pages};
use crate::edge::port::{BoundAddress, port};
use crate::edge::route::routes;
use crate::edge::tls::{self, TlsError};
use crate::post::{self, PostError};
use crate::subscription::Hub;

mod configured;

use configured::{admission, layers, limits, listener_options, log_in_strength, settings};

/// File in the data directory that holds the sign-up token.
pub const SIGN_UP_TOKEN_FILE: &str = "sign-up.token";
/// Shortest sign-up token that is taken: 16 characters cannot be guessed over
/// the network.
pub const SIGN_UP_TOKEN_BYTES_MIN: usize = 16;
/// Environment variable with the root key, as 64 hexadecimal digits.
pub const ROOT_KEY_VARIABLE: &str = "CANOPY_ROOT_KEY";
/// Environment variable with the passphrase that opens the root key.
pub const ROOT_PASSPHRASE_VARIABLE: &str = "CANOPY_ROOT_PASSPHRASE";

/// Time for a request to arrive, whatever its size: a lossy line's few retransmissions.
const REQUEST_GRACE: Duration = Duration::from_secs(10);
/// Beyond it, a request has to come at least at this rate: 4 MiB within 74 s.
const REQUEST_BYTES_PER_S_MIN: usize = 64 << 10;
/// Requests of the largest size whose bytes the node reads at once; 256 MiB unless configured.
const REQUESTS_READ_MAX: usize = 64;
/// Bytes of answers that a connection may leave lying before it is refused further calls.
const ANSWER_BYTES_PER_CONNECTION_MAX: usize = 16 << 20;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The data cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret that the configuration asks for is not there.
    #[error("{0} is not set: the configuration takes the root key from it")]
    NoRootKey(&'static str),
    /// A file of the data directory.
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// The local certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The authorities of devices.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of passwords that leaked.
    #[error("{0} is no file of breached passwords: {1}; set identity.breached_passwords_file to one, or to nothing")]
    BreachedPasswords(String, io::Error),
    /// Mail.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The tree started, and its port is not known.
    #[error("the port did not say where it listens")]
    NoAddress,
    /// The supervision tree.
    #[error(transparent)]
    Tree(#[from] StartError),
    /// An actor refused what the start needs.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The modules of this release.
pub fn modules() -> Modules {
    Modules::new([
        canopy_system::directory(),
        canopy_system::wakes(),
        canopy_system::installation(),
        canopy_system::mail(),
        canopy_system::purges(),
        canopy_identity::account(),
        canopy_identity::session(),
        canopy_org::org(),
        canopy_org::project(),
        canopy_org::backup(),
        canopy_org::audit(),
        canopy_chat::chat(),
    ])
}

/// The supervision tree: started in this order, stopped in reverse.
fn tree(node: &Node, config: &NodeConfig, port: ChildSpec, denials: &Denials, workers: Vec<ChildSpec>) -> Supervisor {
    let sweep_every = Duration::from_millis((config.actors.idle_passivate_ms / 4).max(10));
    let mut root = SupervisorSpec::new("canopy", Strategy::RestForOne)
        .child(node.tenants().child_spec())
        .child(wake_clock(node.clone()))
        .child(sweeper(node.clone(), sweep_every))
        // Before the port: it writes what was denied until that is closed.
        .child(denials.writer(node.clone()))
        .child(port);
    // Last, so that what serves does not start again when one crashes, and what
    // they do is put back before anything else stops.
    for worker in workers {
        root = root.child(worker);
    }
    Supervisor::new(root)
}

/// A running node.
pub struct Running {
    /// Actors and data.
    pub node: Node,
    /// Where it listens.
    pub address: SocketAddr,
    /// The CA that clients need; absent where there is none of its own.
    pub ca_pem: Option<String>,
    /// Shown to people who sign up.
    pub sign_up_token: Secret,
    tree: Supervisor,
    hub: Arc<Hub>,
    shutdown: watch::Sender<bool>,
}

/// Starts a node. No port is bound before its data is open.
///
/// # Errors
/// See [`BootError`]; nothing is left running.
pub async fn start(config: &NodeConfig, metrics: Option<PrometheusHandle>) -> Result<Running, BootError> {
    let mails = post::post(config)?.map(Mails::new);
    let breached = breached_passwords(config)?;
    let store = open_store(config).await?;
    let sign_up_token = sign_up_token(&config.data_dir)?;
    let tokens = Arc::new(tokens(config, &store, sign_up_token.clone())?);
    let grants = Arc::new(Grants::default());
    let callers = Arc::new(Callers::new(Arc::clone(&tokens)));
    let backups = Backups::new(config.backup_dir());
    let purges = Purges::new(config.backup_dir());
    let budgets = Budgets::new([canopy_org::ORG.id, canopy_org::QUOTA.id]);
    let mut hooks: Vec<Arc<dyn CommitHook>> = vec![
        Arc::clone(&grants) as _,
        Arc::clone(&callers) as _,
        Arc::new(backups.clone()) as _,
        Arc::new(purges.clone()) as _,
        Arc::new(budgets.clone()) as _,
    ];
    hooks.extend(mails.clone().map(|mails| Arc::new(mails) as Arc<dyn CommitHook>));
    let denials = Denials::default();
    let hashing = &config.identity;
    let site = config.passkey_site().map(|(id, origins)| PasskeySite { id, origins });
    let store_key = store.derive_key("passkey challenges");
    let node = Node::new(NodeParts {
        store,
        modules: modules(),
        limits: limits(config),
        issuer: Arc::clone(&tokens) as _,
        settings: settings(config),
        passkeys: Passkeys::new(site.as_ref(), &store_key, tokens.installation().to_owned())?,
        passwords: PasswordHashing::new(
            hashing.argon2_memory_kib,
            hashing.argon2_passes,
            config.actors.prepare_threads_max,
            AttemptLimits {
                account_failures_max: hashing.failed_log_ins_per_account_max,
                address_failures_max: hashing.failed_log_ins_per_address_max,
            },
        )?
        .with_breached(breached),
        budgets: Some(budgets),
        hooks,
    });
    grants.load_sys_admins(&node).await?;

    let devices = config.edge.admin_client_ca_file.as_deref().map(Devices::open).transpose()?;
    let (security, ca_pem, certificate) = security(config, devices.as_deref())?;
    let hub = Hub::new(Arc::clone(&tokens) as _);
    let observed = Arc::new(OnceLock::new());
    let edge = Arc::new(Edge {
        node: node.clone(),
        callers,
        grants,
        denials: denials.clone(),
        admission: admission(config),
        hub: Arc::clone(&hub),
        local: Local {
            installation_id: node.store().installation_id().to_string(),
            attestation_key: tokens.attestation_key(),
            sign_up: config.identity.sign_up.to_string(),
            log_in_strength: config.identity.log_in_strength.to_string(),
            tree: Arc::clone(&observed),
            keys: Keys(node.store().clone()),
        },
        paces: routes().iter().map(|_| Pace::default()).collect(),
        limits: CallLimits {
            read: ReadLimits {
                request_bytes_max: config.edge.request_bytes_max,
                grace: REQUEST_GRACE,
                bytes_per_s_min: REQUEST_BYTES_PER_S_MIN,
            },
            deadline_default: Duration::from_millis(config.edge.deadline_default_ms),
            deadline_max: Duration::from_millis(config.edge.deadline_max_ms),
            log_in_strength: log_in_strength(config),
            recent_log_in: Duration::from_secs(config.identity.recent_log_in_max_s),
            layers: layers(config, devices.clone()),
        },
    });
    let (shutdown, stopping) = watch::channel(false);
    if let Some(certificate) = certificate {
        let every = Duration::from_millis(config.edge.cert_reload_interval_ms);
        if let (Some(devices), Security::Tls(current)) = (devices, &security) {
            let (current, certificate) = (Arc::clone(current), Arc::clone(&certificate));
            tokio::spawn(keep_asking(devices, current, certificate, every, stopping.clone()));
        }
        tokio::spawn(keep_current(certificate, every, stopping));
    }
    let address = BoundAddress::default();
    let front = front(edge, config, metrics).await;
    let port = port(listener_options(config, security), front, Arc::clone(&address));
    let mut workers = vec![purges.worker(node.clone()), backups.worker(node.clone())];
    workers.extend(mails.map(|mails| mails.worker(node.clone())));
    let tree = tree(&node, config, port, &denials, workers);
    drop(observed.set(tree.clone()));
    tree.start(None).await?;
    let address = *address.get().ok_or(BootError::NoAddress)?;
    Ok(Running { node, address, ca_pem, sign_up_token, tree, hub, shutdown })
}

impl Running {
    /// Drains and stops: streams end, calls under way finish within the grace,
    /// actors stop in reverse order, data is synced and closed.
    ///
    /// # Errors
    /// The data could not be closed cleanly; nothing acknowledged is lost.
    pub async fn stop(self) -> Result<(), BootError> {
        self.node.stop_retrying();
        let _ = self.shutdown.send(true);
        self.hub.close();
        self.tree.stop().await;
        self.node.store().close().await?;
        Ok(())
    }
}

/// Renews or reloads the certificate until the node stops.
#[allow(clippy::disallowed_methods, reason = "certificates are checked against the system's clock")]
async fn keep_current(certificate: Arc<ReloadingCertificate>, every: Duration, mut stopping: watch::Receiver<bool>) {
    tokio::select! {
        () = certificate.watch(every, SystemTime::now) => {}
        // A sender that is gone means the same as a stop.
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

/// Has clients asked for certificates of the authorities that are in the file now, until the node
/// stops.
async fn keep_asking(
    devices: Arc<Devices>,
    current: Arc<ArcSwap<rustls::ServerConfig>>,
    certificate: Arc<ReloadingCertificate>,
    every: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let known = Arc::clone(&devices);
    let changed = move || match tls::server_config(Arc::clone(&certificate) as _, Some(&*known)) {
        Ok(config) => current.store(Arc::new(config)),
        Err(error) => tracing::error!(%error, "clients are asked for certificates of the authorities before"),
    };
    tokio::select! {
        () = devices.watch(every, changed) => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

async fn front(edge: Arc<Edge>, config: &NodeConfig, metrics: Option<PrometheusHandle>) -> Front {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    for service in canopy_proto::pool().services().filter(|s| s.package_name().starts_with("canopy.")) {
        reporter.set_service_status(service.full_name(), tonic_health::ServingStatus::Serving).await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(canopy_proto::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled with this program");
    let standard = tonic::service::Routes::new(health).add_service(reflection);
    let pages = pages::router(Pages { metrics_access: config.edge.metrics, metrics, edge: Arc::clone(&edge) });
    Front::new(Dispatch(edge), standard, pages)
}

/// What the node's store is opened with.
///
/// # Errors
/// A secret that the configuration asks for is not there.
pub fn store_options(config: &NodeConfig) -> Result<StoreOptions, BootError> {
    let secret = |variable: &'static str| match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Ok(Secret::new(value)),
        _ => Err(BootError::NoRootKey(variable)),
    };
    let unlock = match config.store.root_key {
        RootKeySource::KeyFile => {
            let path = config.root_key_path().unwrap_or_else(|| config.data_dir.join("root.key"));
            Unlock::KeyFile(path)
        }
        RootKeySource::Passphrase => Unlock::Passphrase(secret(ROOT_PASSPHRASE_VARIABLE)?),
        RootKeySource::Environment => Unlock::Key(secret(ROOT_KEY_VARIABLE)?),
    };
    let mut options = StoreOptions::new(config.data_dir.clone(), unlock);
    options.open_vaults_max = config.store.open_vaults_max;
    options.block_cache_bytes = config.store.block_cache_bytes;
    options.write_buffer_bytes = config.store.write_buffer_bytes;
    options.group_commits_max = config.store.group_commits_max;
    options.group_bytes_max = config.store.group_bytes_max;
    options.request_retention_ms = i64::try_from(config.store.request_id_retention_s * 1000).unwrap_or(i64::MAX);
    options.feed_retention_ms = i64::try_from(config.store.feed_retention_s * 1000).unwrap_or(i64::MAX);
    options.clock = canopy_actors::now_ms;
    Ok(options)
}

fn breached_passwords(config: &NodeConfig) -> Result<Option<BreachedPasswords>, BootError> {
    let Some(path) = &config.identity.breached_passwords_file else { return Ok(None) };
    let opened = BreachedPasswords::open(path);
    opened.map(Some).map_err(|e| BootError::BreachedPasswords(path.display().to_string(), e))
}

async fn open_store(config: &NodeConfig) -> Result<Store, BootError> {
    let options = store_options(config)?;
    let opened = tokio::task::spawn_blocking(move || Store::open(options)).await;
    Ok(opened.map_err(|e| BootError::File(config.data_dir.display().to_string(), io::Error::other(e)))??)
}

/// What signs tokens and statements.
///
/// # Errors
/// The store's key is no key.
pub(crate) fn tokens(config: &NodeConfig, store: &Store, sign_up_token: Secret) -> Result<Tokens, BootError> {
    let policy = match config.identity.sign_up {
        SignUp::Token => SignUpPolicy::Token(sign_up_token),
        SignUp::Open => SignUpPolicy::Open(sign_up_token),
        SignUp::Closed => SignUpPolicy::Closed,
    };
    let milliseconds = |s: u64| i64::try_from(s * 1000).unwrap_or(i64::MAX);
    Ok(Tokens::new(
        &store.derive_key("access tokens, ed25519"),
        store.installation_id().to_string(),
        milliseconds(config.identity.access_token_ttl_s),
        milliseconds(config.identity.refresh_token_ttl_s),
        policy,
    )?
    .with_policy(Policy { mails: config.mail.mode != MailMode::None, verification: config.verification_required() }))
}

/// Made at the first start; whoever shows it may sign up. It is there whole or
/// not at all, and checked: an empty one would let everybody in.
fn sign_up_token(data_dir: &Path) -> Result<Secret, BootError> {
    let path = data_dir.join(SIGN_UP_TOKEN_FILE);
    let failed = |e| BootError::File(path.display().to_string(), e);
    let token = match fs::read_to_string(&path) {
        Ok(token) => token.trim().to_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let token: String = random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
            let mut file = tempfile::NamedTempFile::new_in(data_dir).map_err(failed)?;
            file.write_all(token.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
            file.persist_noclobber(&path).map_err(|e| failed(e.error))?;
            fs::File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
            token
        }
        Err(e) => return Err(failed(e)),
    };
    if token.len() < SIGN_UP_TOKEN_BYTES_MIN {
        let short = format!(
            "holds less than {SIGN_UP_TOKEN_BYTES_MIN} characters: remove it, and the next start makes a new one"
        );
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, short)));
    }
    Ok(Secret::new(token))
}

type Secured = (Security, Option<String>, Option<Arc<ReloadingCertificate>>);

#[allow(clippy::disallowed_methods, reason = "certificates are checked against the system's clock")]
fn security(config: &NodeConfig, devices: Option<&Devices>) -> Result<Secured, BootError> {
    let edge = &config.edge;
    let now = SystemTime::now();
    let secured = |certificate: Arc<ReloadingCertificate>, ca_pem| -> Result<Secured, BootError> {
        let server = tls::server_config(Arc::clone(&certificate) as _, devices)?;
        Ok((Security::tls(server), ca_pem, Some(certificate)))
    };
    match edge.tls {
        TlsMode::Off => Ok((Security::Plaintext, None, None)),
        TlsMode::LocalCa => {
            let authority = Authority::open_or_create(&config.data_dir, now)?;
            let ca_pem = authority.ca_pem().to_owned();
            let names = NodeNames::new(&edge.hostnames, edge.listen.ip())?;
            secured(ReloadingCertificate::from_authority(authority, names, now)?, Some(ca_pem))
        }
        TlsMode::Files => {
            let path = |path: &Option<std::path::PathBuf>| path.clone().unwrap_or_default();
            secured(ReloadingCertificate::from_files(path(&edge.cert_file), path(&edge.key_file), now)?, None)
        }
    }
}
