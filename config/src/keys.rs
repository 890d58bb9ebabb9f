//! The table of keys: the single source of every name, type, default, bound, unit and description.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::choice::{
    AdminPlace, ClusterMode, LogFormat, LogInStrength, MailMode, MetricsAccess, RootKeySource, SignUp, SmtpTls,
    TlsMode, Verification,
};
use crate::rule::{DOMAIN, HOSTNAME, LOG_FILTER, MAILBOX, ORIGIN, URL};
use crate::table::node_config;

node_config! {
    /// The configuration of one node.
    pub struct NodeConfig {
        /// Directory of everything the node stores; locked while a node uses it. A relative path is
        /// relative to the working directory of the process.
        data_dir: PathBuf = PathBuf::from("data");
    }

    /// The edge: the one port on which clients come in, and what it refuses.
    [edge] EdgeConfig {
        /// Address and port to listen on. Port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7443));
        /// Where the server certificate comes from.
        tls: TlsMode = TlsMode::LocalCa;
        /// PEM file with the certificate chain, leaf first. Needed with `tls = "files"`; empty: none.
        cert_file: Option<PathBuf> = None;
        /// PEM file with the certificate's private key. Needed with `tls = "files"`; empty: none.
        key_file: Option<PathBuf> = None, disclosed Secret;
        /// Host names and IP addresses that the local CA puts into the server certificate.
        hostnames: Vec<String> = vec!["localhost".to_owned()], rule HOSTNAME;
        /// Largest request message; a larger one is refused before it is decoded.
        request_bytes_max: usize = 4 * 1024 * 1024,
            "bytes" in REQUEST_BYTES = 1024..=64 * 1024 * 1024;
        /// Connections open at once; further ones are closed on accept. Each also takes a file
        /// descriptor, so the process limit must be higher.
        connections_max: usize = 10_000, "connections" in CONNECTIONS = 1..=1_000_000;
        /// Connections open at once from one address (of IPv6, from one /64), so that one machine
        /// cannot take them all. Everybody behind a NAT or a reverse proxy has one address: behind
        /// a proxy set it to `connections_max`.
        connections_per_address_max: usize = 2_000,
            "connections" in CONNECTIONS_PER_ADDRESS = 1..=1_000_000;
        /// HTTP/2 streams open at once on one connection.
        streams_per_connection_max: u32 = 256, "streams" in STREAMS_PER_CONNECTION = 1..=65_536;
        /// Largest header list of one request, decoded.
        header_bytes_max: u32 = 16 * 1024, "bytes" in HEADER_BYTES = 4 * 1024..=1024 * 1024;
        /// Age at which a connection is told to end (GOAWAY), a tenth more or less so that they do
        /// not all go at once; what runs then gets `drain_grace_ms`, and clients connect anew and
        /// resume. For nodes behind a load balancer that chooses once for each connection: with
        /// 3600, nodes that were added have their share after an hour. 0: no limit.
        connection_age_max_s: u64 = 0, "s" in CONNECTION_AGE_S = 0..=2_592_000;
        /// Deadline of a unary call whose client sets none.
        deadline_default_ms: u64 = 30_000, "ms" in DEADLINE_DEFAULT_MS = 100..=3_600_000;
        /// Longest deadline a client may ask for; a longer one is shortened to this.
        deadline_max_ms: u64 = 300_000, "ms" in DEADLINE_MAX_MS = 100..=86_400_000;
        /// Time that running calls get to finish when the node stops. Keep it below the service
        /// manager's own stop time-out.
        drain_grace_ms: u64 = 10_000, "ms" in DRAIN_GRACE_MS = 0..=600_000;
        /// Who may read the metrics page.
        metrics: MetricsAccess = MetricsAccess::Loopback;
        /// PEM file with the authorities that issue certificates to the devices that may administer
        /// the installation, read again when it changes. Clients show theirs in the TLS handshake;
        /// others do all else. Empty: any device may.
        admin_client_ca_file: Option<PathBuf> = None;
        /// How often the certificate files are looked at for a renewal.
        cert_reload_interval_ms: u64 = 5_000, "ms" in CERT_RELOAD_INTERVAL_MS = 100..=3_600_000;
    }

    /// Admission: how much may be in flight before the edge answers RESOURCE_EXHAUSTED.
    [admission] AdmissionConfig {
        /// Commands in flight on the node.
        commands_in_flight_max: usize = 8_192, "commands" in COMMANDS_IN_FLIGHT = 1..=1_048_576;
        /// Commands in flight for one organisation, so that one cannot starve the others.
        per_org_in_flight_max: usize = 2_048, "commands" in PER_ORG_IN_FLIGHT = 1..=1_048_576;
        /// Calls of one organisation per second, with as many at once after a quiet second: what
        /// its plan allows, or what one tenant may cost the others, where a sys-admin has set nothing
        /// else for it with `canopy org set-quota`. 0: no limit; a busy node shares its places fairly
        /// all the same.
        per_org_requests_per_s_max: u32 = 0, "calls/s" in PER_ORG_REQUESTS_PER_S = 0..=1_000_000;
        /// Bytes of one organisation's requests, answers and events per second. Calls beyond it are
        /// refused, events come later. 0: no limit.
        per_org_bytes_per_s_max: u32 = 0, "bytes/s" in PER_ORG_BYTES_PER_S = 0..=4_000_000_000;
        /// Commands in flight from one connection.
        per_connection_in_flight_max: usize = 256,
            "commands" in PER_CONNECTION_IN_FLIGHT = 1..=65_536;
        /// Commands waiting for one actor; the mailbox itself has no bound.
        per_actor_mailbox_max: usize = 1_024, "commands" in PER_ACTOR_MAILBOX = 1..=65_536;
        /// Subscriptions open at once on one connection.
        subscriptions_per_connection_max: usize = 1_024,
            "subscriptions" in SUBSCRIPTIONS_PER_CONNECTION = 1..=65_536;
    }

    /// The store: vaults, their memory, and the root key that opens them.
    [store] StoreConfig {
        /// Vaults open at once; the least recently used one is closed. An open vault costs a thread
        /// and a few file descriptors.
        open_vaults_max: usize = 256, "vaults" in OPEN_VAULTS = 8..=16_384;
        /// Cache of decoded blocks, shared by all vaults of the node.
        block_cache_bytes: u64 = 64 * 1024 * 1024,
            "bytes" in BLOCK_CACHE_BYTES = 1024 * 1024..=1024 * 1024 * 1024 * 1024;
        /// Memory for writes that are not yet in a table file, shared by all vaults of the node.
        write_buffer_bytes: u64 = 64 * 1024 * 1024,
            "bytes" in WRITE_BUFFER_BYTES = 1024 * 1024..=64 * 1024 * 1024 * 1024;
        /// Transactions that share one fsync at most.
        group_commits_max: usize = 1_024, "transactions" in GROUP_COMMITS = 1..=65_536;
        /// Bytes that share one fsync at most.
        group_bytes_max: usize = 4 * 1024 * 1024,
            "bytes" in GROUP_BYTES = 64 * 1024..=256 * 1024 * 1024;
        /// Where the root key comes from. The key itself never stands in the configuration.
        root_key: RootKeySource = RootKeySource::KeyFile, disclosed OnceValid;
        /// File with the root key, for `root_key = "key-file"`; empty: `root.key` in `data_dir`.
        root_key_file: Option<PathBuf> = None, disclosed Secret;
        /// How long a request id is remembered, so that a repeat gets the first reply.
        request_id_retention_s: u64 = 86_400, "s" in REQUEST_ID_RETENTION_S = 60..=2_592_000;
        /// How long what was changed, and what stood there before, can be read in an actor's feed.
        /// Subscribers who were away for longer list anew what is there. Longer than a holiday costs
        /// disk; it may not be longer than `identity.delete_grace_s` and `org.delete_grace_s`, so that
        /// nothing which people delete outlives what is purged. Audits are kept. 0: for as long as the
        /// actor is there, what people delete included.
        feed_retention_s: u64 = 864_000, "s" in FEED_RETENTION_S = 0..=31_536_000;
    }

    /// Backups that the server writes while it serves.
    [backup] BackupConfig {
        /// Directory of the files; empty: `backups` in `data_dir`. Another disk is the better place:
        /// a backup is of use when the data is not. The files hold no keys.
        dir: Option<PathBuf> = None;
    }

    /// Actors: when they are put to sleep, restarted and quarantined.
    [actors] ActorsConfig {
        /// Idle time after which an actor is passivated; the next message activates it again.
        idle_passivate_ms: u64 = 60_000, "ms" in IDLE_PASSIVATE_MS = 100..=86_400_000;
        /// Restarts of one actor within `restart_period_ms` before its address is quarantined.
        restarts_max: u32 = 5, "restarts" in RESTARTS = 1..=1_000;
        /// Window in which restarts are counted.
        restart_period_ms: u64 = 10_000, "ms" in RESTART_PERIOD_MS = 100..=3_600_000;
        /// First quarantine of an address; it doubles with each further one.
        quarantine_base_ms: u64 = 1_000, "ms" in QUARANTINE_BASE_MS = 10..=3_600_000;
        /// Longest quarantine of an address.
        quarantine_max_ms: u64 = 300_000, "ms" in QUARANTINE_MAX_MS = 10..=86_400_000;
        /// Threads for what is slow before an actor decides, such as hashing a password. Each may
        /// hold `identity.argon2_memory_kib`, and twice that where the processor is wanted all the time.
        prepare_threads_max: usize = 2, "threads" in PREPARE_THREADS = 1..=256;
    }

    /// Identity: accounts, tokens and password hashing.
    [identity] IdentityConfig {
        /// Who may make an account.
        sign_up: SignUp = SignUp::Token;
        /// What everybody's log-ins have to show. Who has shown less sets up what is missing, logs in
        /// again, and until then gets nothing else. Sessions that are open when it is raised are
        /// held to it, API keys are not.
        log_in_strength: LogInStrength = LogInStrength::Password;
        /// Life of an access token.
        access_token_ttl_s: u64 = 300, "s" in ACCESS_TOKEN_TTL_S = 30..=3_600;
        /// Life of a refresh token; a session unused for this long has ended.
        refresh_token_ttl_s: u64 = 2_592_000, "s" in REFRESH_TOKEN_TTL_S = 1_800..=31_536_000;
        /// Life of a session, however often it is refreshed: then people log in again.
        session_max_s: u64 = 7_776_000, "s" in SESSION_MAX_S = 3_600..=31_536_000;
        /// How long ago a person may have logged in for what asks for a recent log-in: ending other
        /// sessions, another password or address, new API keys, keys of the installation, purges.
        recent_log_in_max_s: u64 = 900, "s" in RECENT_LOG_IN_MAX_S = 60..=86_400;
        /// How long after a log-in a sys-admin's session administers the installation; then they log
        /// in again, whatever it is. 0: as long as the session lives.
        admin_log_in_max_s: u64 = 0, "s" in ADMIN_LOG_IN_MAX_S = 0..=86_400;
        /// From where a sys-admin's session administers the installation, so that a stolen one is of
        /// less use. What is refused for it is a security event of the account.
        admin_place: AdminPlace = AdminPlace::Any;
        /// Memory of one Argon2id hash (RFC 9106). The minimum, with two passes, is the least that
        /// OWASP recommends.
        argon2_memory_kib: u32 = 65_536, "KiB" in ARGON2_MEMORY_KIB = 19_456..=1_048_576;
        /// Passes of one Argon2id hash over its memory (RFC 9106).
        argon2_passes: u32 = 3, "passes" in ARGON2_PASSES = 2..=16;
        /// File of passwords that leaked, none of which is taken for a new one: Have I Been Pwned's
        /// `pwned-passwords-sha1-ordered-by-hash`, some 40 GB, of which a few blocks are read for each
        /// new password. Another one may take its place at any time, by a rename. Empty: no such file;
        /// the 10,000 most frequent passwords are refused all the same.
        breached_passwords_file: Option<PathBuf> = None;
        /// Wrong passwords for one account from one network address before the next one has to
        /// wait: a second, then twice as long each time. From all addresses together that the
        /// account is not used from, it may be four times as many.
        failed_log_ins_per_account_max: u32 = 5, "log-ins" in FAILED_LOG_INS_PER_ACCOUNT = 1..=1_000;
        /// Wrong passwords from one network address (of IPv6, from one /64), for any accounts,
        /// before the next one has to wait. Everybody behind a NAT or a reverse proxy has one
        /// address: behind a proxy set it high.
        failed_log_ins_per_address_max: u32 = 50,
            "log-ins" in FAILED_LOG_INS_PER_ADDRESS = 1..=1_000_000;
        /// Time before and after its own 30 seconds in which a code of an authenticator app is taken, for
        /// people whose devices' clocks are wrong. Each second makes a code that somebody saw good for
        /// longer; the server's own clock is better kept by NTP.
        totp_tolerance_s: u64 = 0, "s" in TOTP_TOLERANCE_S = 0..=30;
        /// Time between the deletion of an account and its purge, in which its holder can undelete
        /// it. After it, its keys are destroyed.
        delete_grace_s: u64 = 1_209_600, "s" in DELETE_GRACE_S = 1..=31_536_000;
        /// Domain that passkeys are made for, such as `example.org`: they work on its pages and those
        /// of names under it, and no longer once it changes. Empty: the host of `passkey_origins`, else
        /// of `mail.link_base`; where these are empty too, there are no passkeys.
        passkey_rp_id: String = String::new(), rule DOMAIN;
        /// Pages that may use passkeys, such as `https://canopy.example.org`. Empty: that of
        /// `mail.link_base`, else of `passkey_rp_id` itself.
        passkey_origins: Vec<String> = Vec::new(), rule ORIGIN;
    }

    /// Mail: how the server reaches people to verify an address, to set a new password, to invite.
    [mail] MailConfig {
        /// What becomes of a mail.
        mode: MailMode = MailMode::Files;
        /// Directory of the files of `mode = "files"`; empty: `mail` in `data_dir`. One `.eml` each, not
        /// sealed, with tokens that open accounts: for development only.
        dir: Option<PathBuf> = None;
        /// Whom mails are from.
        from: String = "Canopy <canopy@localhost>".to_owned(), rule MAILBOX;
        /// Mail server to hand mails to.
        smtp_host: String = "localhost".to_owned(), rule HOSTNAME;
        /// Its port: 587 for STARTTLS, 465 for TLS, as RFC 8314 has it.
        smtp_port: u32 = 587, "port" in SMTP_PORT = 1..=65_535;
        /// How the way to the mail server is protected.
        smtp_tls: SmtpTls = SmtpTls::StartTls;
        /// PEM file with the certificate authority of a mail server that the machine's own do not
        /// vouch for; empty: the machine's own.
        smtp_ca_file: Option<PathBuf> = None;
        /// File with two lines, user name and password, to log in to the mail server with; empty: no
        /// log-in.
        smtp_credentials_file: Option<PathBuf> = None, disclosed Secret;
        /// Where the pages are that links in mails lead to, such as `https://canopy.example.org`;
        /// empty: mails name the command to type.
        link_base: String = String::new(), rule URL;
        /// Whether an account is of use before the holder of its e-mail address has confirmed it. Where
        /// that is required, nobody is told whether an address has an account.
        verification: Verification = Verification::Auto;
    }

    /// Organisations and projects.
    [org] OrgConfig {
        /// Time between the deletion of an org or project and its purge, in which it can be
        /// undeleted. After it, its keys are destroyed.
        delete_grace_s: u64 = 2_592_000, "s" in DELETE_GRACE_S = 1..=31_536_000;
        /// People who may hold a role in one organisation, where a sys-admin has set nothing else
        /// for it with `canopy org set-quota`. 0: no limit.
        people_max: u32 = 0, "people" in PEOPLE = 0..=1_000_000;
        /// Bytes that the vaults of one organisation may take on disk, where a sys-admin has set
        /// nothing else for it with `canopy org set-quota`. 0: no limit.
        bytes_max: u64 = 0, "bytes" in BYTES = 0..=1_000_000_000_000_000;
    }

    /// The cluster: how nodes find each other.
    [cluster] ClusterConfig {
        /// What carries membership, placement and the replicated log.
        mode: ClusterMode = ClusterMode::Embedded;
    }

    /// The log, written to standard error.
    [log] LogConfig {
        /// What is logged: a level (error, warn, info, debug, trace, off), or several `target=level`,
        /// separated by commas.
        level: String = "info".to_owned(), rule LOG_FILTER;
        /// How a line is written.
        format: LogFormat = LogFormat::Text;
    }
}

impl NodeConfig {
    /// The directory of backups.
    pub fn backup_dir(&self) -> PathBuf {
        self.backup.dir.clone().unwrap_or_else(|| self.data_dir.join("backups"))
    }

    /// The directory of mails written to files.
    pub fn mail_dir(&self) -> PathBuf {
        self.mail.dir.clone().unwrap_or_else(|| self.data_dir.join("mail"))
    }

    /// The domain that passkeys are made for, and the pages that may use them. `None` where nothing
    /// says how browsers reach the server.
    pub fn passkey_site(&self) -> Option<(String, Vec<String>)> {
        let (identity, links) = (&self.identity, page_of(&self.mail.link_base));
        let named = Some(identity.passkey_rp_id.clone()).filter(|id| !id.is_empty());
        let origins = match identity.passkey_origins.as_slice() {
            [] => vec![links.or_else(|| Some(format!("https://{}", named.as_ref()?)))?],
            origins => origins.to_vec(),
        };
        let id = named.or_else(|| origins.first().map(|origin| host_of(origin).to_owned()))?;
        Some((id.to_lowercase(), origins))
    }

    /// Whether an account is to be verified before it is of use.
    pub fn verification_required(&self) -> bool {
        match self.mail.verification {
            Verification::Auto => self.mail.mode == MailMode::Smtp,
            Verification::Required => true,
            Verification::Off => false,
        }
    }

    /// The file that holds the root key; `None` unless `store.root_key` is `key-file`.
    pub fn root_key_path(&self) -> Option<PathBuf> {
        (self.store.root_key == RootKeySource::KeyFile).then(|| {
            let configured = self.store.root_key_file.clone();
            configured.unwrap_or_else(|| self.data_dir.join("root.key"))
        })
    }
}

/// The origin of a URL, where browsers make passkeys: `https` and a name, or `localhost`.
fn page_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let origin = format!("{scheme}://{}", rest.split('/').next()?);
    (ORIGIN.accepts)(&origin).then_some(origin)
}

/// The host of an origin, without its port.
pub(crate) fn host_of(origin: &str) -> &str {
    let rest = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    rest.split_once(':').map_or(rest, |(host, _)| host)
}
