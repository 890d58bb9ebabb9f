//! What a configuration says, to each part in its own words.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use canopy_actors::Limits;
use canopy_config::{AdminPlace, LogInStrength, NodeConfig};
use canopy_domain::{QuotaDefaults, Settings};
use canopy_proto::identity::v1 as identity;

use super::{ANSWER_BYTES_PER_CONNECTION_MAX, REQUESTS_READ_MAX};
use crate::edge::admission::{Admission, AdmissionLimits};
use crate::edge::devices::Devices;
use crate::edge::layers::Layers;
use crate::edge::listener::{Options, Security};
use crate::edge::rate::RateLimits;

pub(super) fn log_in_strength(config: &NodeConfig) -> identity::LogInStrength {
    match config.identity.log_in_strength {
        LogInStrength::Password => identity::LogInStrength::Password,
        LogInStrength::TwoFactors => identity::LogInStrength::TwoFactors,
        LogInStrength::Passkey => identity::LogInStrength::Passkey,
    }
}

pub(super) fn layers(config: &NodeConfig, devices: Option<Arc<Devices>>) -> Layers {
    let log_in_max_s = config.identity.admin_log_in_max_s;
    Layers {
        devices,
        same_place: config.identity.admin_place == AdminPlace::LogIn,
        log_in_max: (log_in_max_s > 0).then(|| Duration::from_secs(log_in_max_s)),
    }
}

pub(super) fn settings(config: &NodeConfig) -> Settings {
    let ms = |s: u64| i64::try_from(s.saturating_mul(1000)).unwrap_or(i64::MAX);
    Settings {
        delete_grace_ms: ms(config.org.delete_grace_s),
        account_delete_grace_ms: ms(config.identity.delete_grace_s),
        session_max_ms: ms(config.identity.session_max_s),
        totp_tolerance_ms: ms(config.identity.totp_tolerance_s),
        log_in_strength: log_in_strength(config),
        quota: QuotaDefaults {
            people_max: i64::from(config.org.people_max),
            bytes_max: i64::try_from(config.org.bytes_max).unwrap_or(i64::MAX),
            requests_per_s_max: i64::from(config.admission.per_org_requests_per_s_max),
        },
    }
}

pub(super) fn limits(config: &NodeConfig) -> Limits {
    let actors = &config.actors;
    Limits {
        mailbox_max: config.admission.per_actor_mailbox_max,
        restarts_max: actors.restarts_max,
        restart_period: Duration::from_millis(actors.restart_period_ms),
        quarantine_base: Duration::from_millis(actors.quarantine_base_ms),
        quarantine_max: Duration::from_millis(actors.quarantine_max_ms),
        idle: Duration::from_millis(actors.idle_passivate_ms),
    }
}

pub(super) fn admission(config: &NodeConfig) -> Admission {
    let admission = &config.admission;
    Admission::new(AdmissionLimits {
        calls_max: admission.commands_in_flight_max,
        org_calls_max: admission.per_org_in_flight_max,
        connection_calls_max: admission.per_connection_in_flight_max,
        connection_subscriptions_max: admission.subscriptions_per_connection_max,
        request_bytes_max: config.edge.request_bytes_max.saturating_mul(REQUESTS_READ_MAX),
        connection_answer_bytes_max: ANSWER_BYTES_PER_CONNECTION_MAX,
        org_rates: RateLimits {
            requests_per_s: NonZeroU32::new(admission.per_org_requests_per_s_max),
            bytes_per_s: NonZeroU32::new(admission.per_org_bytes_per_s_max),
            request_bytes_max: u32::try_from(config.edge.request_bytes_max).unwrap_or(u32::MAX),
        },
    })
}

pub(super) fn listener_options(config: &NodeConfig, security: Security) -> Options {
    let edge = &config.edge;
    let mut options = Options::new(edge.listen, security);
    options.connections_max = edge.connections_max;
    options.connections_per_address_max = edge.connections_per_address_max;
    options.header_bytes_max = edge.header_bytes_max;
    let age_s = edge.connection_age_max_s;
    options.connection_age_max = (age_s > 0).then(|| Duration::from_secs(age_s));
    options.drain_grace = Duration::from_millis(edge.drain_grace_ms);
    options.http2.streams_max = edge.streams_per_connection_max;
    options
}
