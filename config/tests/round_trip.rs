//! A configuration written as a file and loaded again is the same configuration.

mod sources;
use canopy_config::{
    ActorsConfig, AdminPlace, AdmissionConfig, BackupConfig, ClusterConfig, ClusterMode, EdgeConfig, IdentityConfig,
    LogConfig, LogFormat, LogInStrength, MailConfig, MailMode, MetricsAccess, NodeConfig, OrgConfig, RootKeySource,
    SignUp, SmtpTls, StoreConfig, TlsMode, Verification,
};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::SocketAddr;
use std::path::PathBuf;

fn path() -> impl Strategy<Value = PathBuf> {
    let character = any::<char>().prop_filter("control", |character| !character.is_control());
    prop::collection::vec(character, 1..40).prop_map(|path| path.into_iter().collect::<String>().into())
}

fn ordered(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = (u64, u64)> {
    (range.clone(), range).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

fn edge() -> impl Strategy<Value = EdgeConfig> {
    let tls = select(vec![TlsMode::LocalCa, TlsMode::Files, TlsMode::Off]);
    let addresses = (any::<SocketAddr>(), tls, path(), path(), any::<bool>(), prop::option::of(path()));
    let hostname = select(vec!["localhost", "a.example", "192.0.2.1", "2001:db8::1"]);
    let hostnames = prop::collection::vec(hostname.prop_map(str::to_owned), 1..=64);
    let sizes = (
        EdgeConfig::REQUEST_BYTES,
        EdgeConfig::CONNECTIONS,
        EdgeConfig::STREAMS_PER_CONNECTION,
        EdgeConfig::HEADER_BYTES,
        EdgeConfig::CONNECTIONS_PER_ADDRESS,
    );
    let times = (
        ordered(EdgeConfig::DEADLINE_DEFAULT_MS),
        EdgeConfig::DRAIN_GRACE_MS,
        EdgeConfig::CERT_RELOAD_INTERVAL_MS,
        EdgeConfig::CONNECTION_AGE_S,
    );
    let metrics = select(vec![MetricsAccess::Loopback, MetricsAccess::Authorised, MetricsAccess::Off]);
    (addresses, hostnames, sizes, times, metrics).prop_map(
        |((mut listen, tls, cert, key, files, devices), hostnames, sizes, times, metrics)| {
            if tls == TlsMode::Off {
                listen.set_ip([127, 0, 0, 1].into());
            }
            // A flow label is no part of an address's text.
            if let SocketAddr::V6(listen) = &mut listen {
                listen.set_flowinfo(0);
            }
            let files = files || tls == TlsMode::Files;
            EdgeConfig {
                listen,
                tls,
                cert_file: files.then_some(cert),
                key_file: files.then_some(key),
                hostnames,
                request_bytes_max: sizes.0,
                connections_max: sizes.1,
                connections_per_address_max: sizes.4,
                streams_per_connection_max: sizes.2,
                header_bytes_max: sizes.3,
                connection_age_max_s: times.3,
                deadline_default_ms: times.0.0,
                deadline_max_ms: times.0.1,
                drain_grace_ms: times.1,
                metrics,
                admin_client_ca_file: devices.filter(|_| tls != TlsMode::Off),
                cert_reload_interval_ms: times.2,
            }
        },
    )
}

fn admission() -> impl Strategy<Value = AdmissionConfig> {
    (
        [1_usize..=65_536, 1..=65_536, 1..=65_536],
        AdmissionConfig::PER_ACTOR_MAILBOX,
        AdmissionConfig::SUBSCRIPTIONS_PER_CONNECTION,
        AdmissionConfig::PER_ORG_REQUESTS_PER_S,
        AdmissionConfig::PER_ORG_BYTES_PER_S,
    )
        .prop_map(|(mut in_flight, per_actor_mailbox_max, subscriptions_per_connection_max, requests, bytes)| {
            in_flight.sort_unstable();
            let [connection, org, node] = in_flight;
            AdmissionConfig {
                commands_in_flight_max: node,
                per_org_in_flight_max: org,
                per_org_requests_per_s_max: requests,
                per_org_bytes_per_s_max: bytes,
                per_connection_in_flight_max: connection,
                per_actor_mailbox_max,
                subscriptions_per_connection_max,
            }
        })
}

fn store() -> impl Strategy<Value = StoreConfig> {
    let root_key = vec![RootKeySource::KeyFile, RootKeySource::Passphrase, RootKeySource::Environment];
    (
        StoreConfig::OPEN_VAULTS,
        StoreConfig::BLOCK_CACHE_BYTES,
        StoreConfig::WRITE_BUFFER_BYTES,
        StoreConfig::GROUP_COMMITS,
        StoreConfig::GROUP_BYTES,
        select(root_key),
        prop::option::of(path()),
        StoreConfig::REQUEST_ID_RETENTION_S,
        StoreConfig::FEED_RETENTION_S,
    )
        .prop_map(|values| StoreConfig {
            open_vaults_max: values.0,
            block_cache_bytes: values.1,
            write_buffer_bytes: values.2,
            group_commits_max: values.3,
            group_bytes_max: values.4,
            root_key: values.5,
            root_key_file: values.6,
            request_id_retention_s: values.7,
            feed_retention_s: values.8,
        })
}

fn actors() -> impl Strategy<Value = ActorsConfig> {
    (
        ActorsConfig::IDLE_PASSIVATE_MS,
        ActorsConfig::RESTARTS,
        ActorsConfig::RESTART_PERIOD_MS,
        ordered(ActorsConfig::QUARANTINE_BASE_MS),
        ActorsConfig::PREPARE_THREADS,
    )
        .prop_map(|values| ActorsConfig {
            idle_passivate_ms: values.0,
            restarts_max: values.1,
            restart_period_ms: values.2,
            quarantine_base_ms: values.3.0,
            quarantine_max_ms: values.3.1,
            prepare_threads_max: values.4,
        })
}

fn identity() -> impl Strategy<Value = IdentityConfig> {
    (
        select(vec![SignUp::Token, SignUp::Open, SignUp::Closed]),
        IdentityConfig::ACCESS_TOKEN_TTL_S,
        IdentityConfig::REFRESH_TOKEN_TTL_S,
        IdentityConfig::ARGON2_MEMORY_KIB,
        IdentityConfig::ARGON2_PASSES,
        IdentityConfig::FAILED_LOG_INS_PER_ACCOUNT,
        IdentityConfig::FAILED_LOG_INS_PER_ADDRESS,
        IdentityConfig::DELETE_GRACE_S,
        (IdentityConfig::SESSION_MAX_S, IdentityConfig::RECENT_LOG_IN_MAX_S),
        (prop::option::of(path()), IdentityConfig::TOTP_TOLERANCE_S),
        select(vec![("", vec![]), ("example.org", vec!["https://example.org", "https://a.example.org:8443"])]),
        (
            select(vec![LogInStrength::Password, LogInStrength::TwoFactors]),
            IdentityConfig::ADMIN_LOG_IN_MAX_S,
            select(vec![AdminPlace::Any, AdminPlace::LogIn]),
        ),
    )
        .prop_map(|values| IdentityConfig {
            sign_up: values.0,
            log_in_strength: values.11.0,
            admin_log_in_max_s: values.11.1,
            admin_place: values.11.2,
            access_token_ttl_s: values.1,
            refresh_token_ttl_s: values.2,
            argon2_memory_kib: values.3,
            argon2_passes: values.4,
            breached_passwords_file: values.9.0,
            totp_tolerance_s: values.9.1,
            failed_log_ins_per_account_max: values.5,
            failed_log_ins_per_address_max: values.6,
            delete_grace_s: values.7,
            session_max_s: values.8.0,
            recent_log_in_max_s: values.8.1,
            passkey_rp_id: values.10.0.to_owned(),
            passkey_origins: values.10.1.into_iter().map(str::to_owned).collect(),
        })
}

fn mail() -> impl Strategy<Value = MailConfig> {
    let files = (prop::option::of(path()), prop::option::of(path()), prop::option::of(path()));
    (
        select(vec![MailMode::Files, MailMode::Smtp, MailMode::None]),
        files,
        select(vec!["canopy@localhost", "Canopy at Acme <canopy@acme.example>"]),
        select(vec!["localhost", "127.0.0.9", "::1"]),
        MailConfig::SMTP_PORT,
        select(vec![SmtpTls::Tls, SmtpTls::StartTls, SmtpTls::Off]),
        select(vec!["", "https://canopy.example.org/pages"]),
        select(vec![Verification::Auto, Verification::Off]),
    )
        .prop_map(|values| MailConfig {
            mode: values.0,
            dir: values.1.0,
            from: values.2.to_owned(),
            smtp_host: values.3.to_owned(),
            smtp_port: values.4,
            smtp_tls: values.5,
            smtp_ca_file: values.1.1,
            smtp_credentials_file: values.1.2,
            link_base: values.6.to_owned(),
            verification: values.7,
        })
}

fn config() -> impl Strategy<Value = NodeConfig> {
    let level = select(vec!["info", "warn,canopy_store=trace", "OFF"]).prop_map(str::to_owned);
    let log = (level, select(vec![LogFormat::Text, LogFormat::Json]));
    let log = log.prop_map(|(level, format)| LogConfig { level, format });
    let backup = prop::option::of(path()).prop_map(|dir| BackupConfig { dir });
    let org = (OrgConfig::DELETE_GRACE_S, OrgConfig::PEOPLE, OrgConfig::BYTES);
    let org =
        org.prop_map(|(delete_grace_s, people_max, bytes_max)| OrgConfig { delete_grace_s, people_max, bytes_max });
    let people = (identity(), mail(), org);
    (path(), edge(), admission(), store(), backup, actors(), people, log).prop_map(
        |(data_dir, edge, admission, store, backup, actors, (identity, mail, org), log)| NodeConfig {
            data_dir,
            edge,
            admission,
            store: StoreConfig {
                feed_retention_s: store.feed_retention_s.min(identity.delete_grace_s).min(org.delete_grace_s),
                ..store
            },
            backup,
            actors,
            identity,
            mail,
            org,
            cluster: ClusterConfig { mode: ClusterMode::Embedded },
            log,
        },
    )
}

proptest! {
    #[test]
    fn load_of_render_is_the_same(config in config()) {
        let rendered = config.render();
        let loaded = sources::file(&rendered).load();
        prop_assert_eq!(loaded.map(|loaded| loaded.config).map_err(|e| e.to_string()), Ok(config));
    }
}
