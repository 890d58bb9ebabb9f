//! What a sys-admin's role rests on beside the session that shows it: a device that is known, where the call comes
//! from, and how long ago the log-in was. Where one of them is missing the caller is no sys-admin for the moment, and
//! may what their other roles allow.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use canopy_domain::{Code, Origin, Refusal};

use super::callers::{Caller, LogIn};
use super::devices::Devices;
use super::grants::Grants;
use super::listener::Peer;
use super::load::network;

/// What is asked for, by configuration; each is for itself.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// A certificate of one of these authorities.
    pub devices: Option<Arc<Devices>>,
    /// The network address and the program that the session was opened from.
    pub same_place: bool,
    /// A log-in no longer ago than this.
    pub log_in_max: Option<Duration>,
}

/// Whether a caller administers the installation.
#[derive(Debug)]
pub enum Standing {
    /// They do not.
    No,
    /// They do.
    SysAdmin {
        /// Until then, unless a layer is shown anew; milliseconds since 1970.
        until_ms: i64,
    },
    /// They would, and a layer is missing.
    Held(Box<Held>),
}

/// A sys-admin who is none for the moment.
#[derive(Debug, Clone)]
pub struct Held {
    /// What is missing, and how to show it.
    pub refusal: Refusal,
    /// The session is used elsewhere than where it was opened, which its holder
    /// should know of.
    pub is_elsewhere: bool,
}

impl Standing {
    /// Whether the caller administers the installation now.
    pub fn is_sys_admin(&self) -> bool {
        self.until_ms().is_some()
    }

    /// Until when they do, in milliseconds since 1970.
    pub fn until_ms(&self) -> Option<i64> {
        match self {
            Standing::SysAdmin { until_ms } => Some(*until_ms),
            Standing::No | Standing::Held(_) => None,
        }
    }
}

impl Layers {
    /// How a caller stands. A key never administers the installation, whoever
    /// its owner is.
    pub fn standing(
        &self,
        grants: &Grants,
        caller: &Caller,
        peer: &Peer,
        origin: impl FnOnce() -> Origin,
        now_ms: i64,
    ) -> Standing {
        if caller.bounds.is_some() || !grants.is_sys_admin(Some(caller.account)) {
            return Standing::No;
        }
        let Some(log_in) = caller.log_in() else { return Standing::No };
        let shown = self.device(peer, now_ms).and_then(|until_ms| {
            self.place(log_in, origin)?;
            Ok(until_ms.min(self.log_in(log_in, now_ms)?))
        });
        match shown {
            Ok(until_ms) => Standing::SysAdmin { until_ms },
            Err(held) => Standing::Held(Box::new(held)),
        }
    }

    fn device(&self, peer: &Peer, now_ms: i64) -> Result<i64, Held> {
        let Some(devices) = &self.devices else { return Ok(i64::MAX) };
        devices.vouch(peer.device.as_ref(), now_ms).map_err(|refusal| Held { refusal, is_elsewhere: false })
    }

    fn place(&self, log_in: &LogIn, origin: impl FnOnce() -> Origin) -> Result<(), Held> {
        if !self.same_place {
            return Ok(());
        }
        let origin = origin();
        if same_network(&log_in.place, &origin.place()) && log_in.client == origin.client {
            return Ok(());
        }
        let message = "this server is administered from where a session was opened alone, and it is used from another \
                       network address, or by another program";
        let refusal = Refusal::new(Code::FailedPrecondition, message).reason("LogInElsewhere").hint(
            "log in from here with `canopy identity log-in`, then repeat it; if that was not you, end the session with \
             `canopy identity end-session`",
        );
        Err(Held { refusal, is_elsewhere: true })
    }

    fn log_in(&self, log_in: &LogIn, now_ms: i64) -> Result<i64, Held> {
        let Some(at_most) = self.log_in_max else { return Ok(i64::MAX) };
        let until_ms = log_in.time_ms.saturating_add(i64::try_from(at_most.as_millis()).unwrap_or(i64::MAX));
        if now_ms < until_ms {
            return Ok(until_ms);
        }
        let minutes = at_most.as_secs().div_ceil(60);
        let message = format!("this server is administered within {minutes} minutes after a log-in alone");
        let refusal = Refusal::new(Code::FailedPrecondition, message)
            .reason("LogInTooOld")
            .hint("log in again with `canopy identity log-in`, then repeat it");
        Err(Held { refusal, is_elsewhere: false })
    }
}

/// Whether two addresses are one, of IPv6 of one /64: there, a device takes another one every day.
fn same_network(one: &str, other: &str) -> bool {
    let read = |text: &str| text.parse::<IpAddr>().ok().map(network);
    read(one).is_some_and(|one| Some(one) == read(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_by_network() {
        for (one, other, expected) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            // A session from before this was kept, or a peer without an address.
            ("", "192.0.2.1", false),
            ("192.0.2.1", "", false),
            ("", "", false),
        ] {
            assert_eq!(same_network(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_log_in_counts_for_so_long() {
        let log_in =
            LogIn { time_ms: 1_000, strength: Default::default(), place: String::new(), client: String::new() };
        let layers = Layers { log_in_max: Some(Duration::from_secs(60)), ..Layers::default() };
        assert_eq!(layers.log_in(&log_in, 60_999).map_err(|held| held.refusal.code), Ok(61_000));
        let held = layers.log_in(&log_in, 61_000).expect_err("it is over");
        assert_eq!((held.refusal.details().reason, held.is_elsewhere), (Some("LogInTooOld"), false));
        assert_eq!(Layers::default().log_in(&log_in, i64::MAX).map_err(|held| held.refusal.code), Ok(i64::MAX));
    }
}
