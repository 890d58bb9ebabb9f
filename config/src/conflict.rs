//! Values that are each right, and wrong together.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::KEYS;
use crate::choice::{LogInStrength, MailMode, SmtpTls, TlsMode, Verification};
use crate::error::Problem;
use crate::keys::{NodeConfig, host_of};
use crate::origin::Origins;

struct Check {
    keys: &'static [&'static str],
    holds: fn(&NodeConfig) -> bool,
    reason: &'static str,
    remedy: &'static str,
}

const CHECKS: &[Check] = &[
    Check {
        keys: &["edge.tls", "edge.listen"],
        holds: |config| config.edge.tls != TlsMode::Off || config.edge.listen.ip().is_loopback(),
        reason: "without TLS, passwords and tokens would cross the network in the clear",
        remedy: "listen on a loopback address such as 127.0.0.1, or set edge.tls to \"local-ca\" or \"files\"",
    },
    Check {
        keys: &["edge.tls", "edge.cert_file"],
        holds: |config| config.edge.tls != TlsMode::Files || config.edge.cert_file.is_some(),
        reason: "TLS from files needs a certificate",
        remedy: "set edge.cert_file to the PEM file of the certificate chain, or edge.tls to \"local-ca\"",
    },
    Check {
        keys: &["edge.tls", "edge.key_file"],
        holds: |config| config.edge.tls != TlsMode::Files || config.edge.key_file.is_some(),
        reason: "TLS from files needs a private key",
        remedy: "set edge.key_file to the PEM file of the private key, or edge.tls to \"local-ca\"",
    },
    Check {
        keys: &["edge.tls", "edge.admin_client_ca_file"],
        holds: |config| config.edge.tls != TlsMode::Off || config.edge.admin_client_ca_file.is_none(),
        reason: "without TLS no device could show a certificate, and nobody could administer the server",
        remedy: "set edge.tls to \"local-ca\" or \"files\", or leave edge.admin_client_ca_file empty",
    },
    Check {
        keys: &["edge.deadline_default_ms", "edge.deadline_max_ms"],
        holds: |config| config.edge.deadline_default_ms <= config.edge.deadline_max_ms,
        reason: "the default deadline is longer than the longest one",
        remedy: "lower edge.deadline_default_ms or raise edge.deadline_max_ms",
    },
    Check {
        keys: &["admission.per_org_in_flight_max", "admission.commands_in_flight_max"],
        holds: |config| config.admission.per_org_in_flight_max <= config.admission.commands_in_flight_max,
        reason: "one organisation may have more in flight than the node",
        remedy: "lower admission.per_org_in_flight_max or raise admission.commands_in_flight_max",
    },
    Check {
        keys: &["admission.per_connection_in_flight_max", "admission.per_org_in_flight_max"],
        holds: |config| config.admission.per_connection_in_flight_max <= config.admission.per_org_in_flight_max,
        reason: "one connection may have more in flight than its organisation",
        remedy: "lower admission.per_connection_in_flight_max or raise admission.per_org_in_flight_max",
    },
    Check {
        keys: &["actors.quarantine_base_ms", "actors.quarantine_max_ms"],
        holds: |config| config.actors.quarantine_base_ms <= config.actors.quarantine_max_ms,
        reason: "the first quarantine is longer than the longest one",
        remedy: "lower actors.quarantine_base_ms or raise actors.quarantine_max_ms",
    },
    Check {
        keys: &["store.feed_retention_s", "identity.delete_grace_s"],
        holds: |config| config.store.feed_retention_s <= config.identity.delete_grace_s,
        reason: "what an account's holder deletes would stay in its feed for longer than what is purged",
        remedy: "lower store.feed_retention_s or raise identity.delete_grace_s",
    },
    Check {
        keys: &["store.feed_retention_s", "org.delete_grace_s"],
        holds: |config| config.store.feed_retention_s <= config.org.delete_grace_s,
        reason: "what people delete would stay in feeds for longer than what is purged",
        remedy: "lower store.feed_retention_s or raise org.delete_grace_s",
    },
    Check {
        keys: &["mail.smtp_tls", "mail.smtp_host"],
        holds: |config| {
            config.mail.mode != MailMode::Smtp
                || config.mail.smtp_tls != SmtpTls::Off
                || config.mail.smtp_host == "localhost"
                || config.mail.smtp_host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        },
        reason: "without TLS, tokens that open accounts would cross the network in the clear",
        remedy: "set mail.smtp_tls to \"starttls\" or \"tls\", or mail.smtp_host to a loopback address",
    },
    Check {
        keys: &["identity.passkey_rp_id", "identity.passkey_origins"],
        holds: |config| {
            config.passkey_site().is_none_or(|(id, origins)| origins.iter().all(|origin| is_under(&id, origin)))
        },
        reason: "browsers make passkeys for a domain on its own pages alone, and on those of names under it",
        remedy: "set identity.passkey_rp_id to a domain that all hosts of identity.passkey_origins (else the host of \
                 mail.link_base) end with",
    },
    Check {
        keys: &["identity.log_in_strength", "identity.passkey_rp_id"],
        holds: |config| config.identity.log_in_strength != LogInStrength::Passkey || config.passkey_site().is_some(),
        reason: "nobody could log in with a passkey: browsers make them for a domain, and none is set",
        remedy: "set identity.passkey_rp_id to the domain of the pages, or identity.log_in_strength to \"two-factors\"",
    },
    Check {
        keys: &["mail.verification", "mail.mode"],
        holds: |config| config.mail.verification != Verification::Required || config.mail.mode != MailMode::None,
        reason: "nobody could confirm an address where no mail is sent",
        remedy: "set mail.mode to \"smtp\", or mail.verification to \"off\"",
    },
];

/// Whether an origin's host is a domain, or a name under it.
fn is_under(domain: &str, origin: &str) -> bool {
    let host = host_of(origin).to_lowercase();
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The checks that do not hold, without those on a key in `failed`.
pub(crate) fn find(config: &NodeConfig, origins: &Origins, failed: &HashSet<&'static str>) -> Vec<Problem> {
    let literals = config.literals();
    let value = |path: &&str| {
        let (key, literal) = KEYS.iter().zip(&literals).find(|(key, _)| key.path == *path)?;
        Some(format!("{path} = {} ({})", key.shown(literal.clone()), origins.get(path)))
    };
    CHECKS
        .iter()
        .filter(|check| !check.keys.iter().any(|key| failed.contains(key)))
        .filter(|check| !(check.holds)(config))
        .map(|check| Problem::Conflict {
            keys: check.keys.to_vec(),
            values: check.keys.iter().filter_map(value).collect(),
            reason: check.reason,
            remedy: check.remedy,
        })
        .collect()
}
