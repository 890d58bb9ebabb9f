//! What whoever runs the server settles for all modules.

use canopy_proto::identity::v1::LogInStrength;

/// Settings that decisions rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Milliseconds between the deletion of an org or project and its purge.
    pub delete_grace_ms: i64,
    /// Milliseconds between the deletion of an account and its purge.
    pub account_delete_grace_ms: i64,
    /// Milliseconds from a log-in to the end of its session, however often it
    /// is refreshed.
    pub session_max_ms: i64,
    /// Milliseconds before and after its own 30 seconds in which a code of an
    /// authenticator app is taken.
    pub totp_tolerance_ms: i64,
    /// What people's log-ins have to show.
    pub log_in_strength: LogInStrength,
    /// What an org may have where nothing else was set for it.
    pub quota: QuotaDefaults,
}

/// The limits of an org where nothing else was set for it; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaDefaults {
    /// People with a role.
    pub people_max: i64,
    /// Calls a second.
    pub requests_per_s_max: i64,
    /// Bytes on disk.
    pub bytes_max: i64,
}

impl Default for Settings {
    /// What the configuration's own defaults say.
    fn default() -> Self {
        Self {
            delete_grace_ms: 30 * 24 * 3_600_000,
            account_delete_grace_ms: 14 * 24 * 3_600_000,
            session_max_ms: 90 * 24 * 3_600_000,
            totp_tolerance_ms: 0,
            log_in_strength: LogInStrength::Password,
            quota: QuotaDefaults::default(),
        }
    }
}
