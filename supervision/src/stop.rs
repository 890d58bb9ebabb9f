//! Stopping actors: ask, wait, kill.

use std::time::Duration;

use ractor::{ActorCell, ActorStatus};
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock;
use crate::exit::SHUTDOWN;
use crate::spec::Shutdown;

/// A kill takes effect when the actor next awaits. One that has not after this
/// long blocks its thread, which is worth a line in the log.
const KILL_WAIT_MAX: Duration = Duration::from_secs(5);

/// Stops one child and returns when it has ended: `shutdown/1` in
/// `supervisor.erl`. Waits for a killed child without bound, so that two
/// incarnations of a child never live at once.
pub(crate) async fn stop_child(name: &str, cell: &ActorCell, shutdown: Shutdown) {
    match shutdown {
        Shutdown::BrutalKill => {}
        Shutdown::Infinity => {
            cell.stop(Some(SHUTDOWN.to_owned()));
            return ended(cell).await;
        }
        Shutdown::Timeout(wait_max) => {
            cell.stop(Some(SHUTDOWN.to_owned()));
            if timeout(wait_max, ended(cell)).await.is_ok() {
                return;
            }
            tracing::warn!(child = name, ?wait_max, "child did not stop in time: killing it");
        }
    }
    cell.kill();
    killed(name, cell).await;
}

/// Returns when a child that has been killed has ended.
pub(crate) async fn killed(name: &str, cell: &ActorCell) {
    while timeout(KILL_WAIT_MAX, ended(cell)).await.is_err() {
        tracing::error!(child = name, "killed child does not yield: it blocks its thread");
    }
}

/// Stops all in parallel, asking in the order given, each killed when its own
/// time-out or the common deadline has passed. Returns how many had to be
/// abandoned because not even a kill ended them.
pub(crate) async fn stop_all(children: &[(ActorCell, Shutdown)], deadline: Instant) -> usize {
    let asked_at = clock::now();
    let mut patience: Vec<(Instant, &ActorCell)> = Vec::with_capacity(children.len());
    for (cell, shutdown) in children {
        let until = match shutdown {
            Shutdown::BrutalKill => {
                cell.kill();
                asked_at
            }
            Shutdown::Timeout(wait_max) => deadline.min(asked_at + *wait_max),
            Shutdown::Infinity => deadline,
        };
        if *shutdown != Shutdown::BrutalKill {
            cell.stop(Some(SHUTDOWN.to_owned()));
        }
        patience.push((until, cell));
    }
    // All run down at once, so that waiting for them one by one, the least
    // patient first, meets every time-out.
    patience.sort_by_key(|&(until, _)| until);
    for (until, cell) in patience {
        if timeout_at(until, ended(cell)).await.is_err() {
            cell.kill();
        }
    }
    match timeout(KILL_WAIT_MAX, all_ended(children)).await {
        Ok(()) => 0,
        Err(_) => children.iter().filter(|(cell, _)| is_live(cell)).count(),
    }
}

/// Past its last message, and perhaps in its `post_stop`.
pub(crate) fn is_ending(cell: &ActorCell) -> bool {
    cell.get_status() >= ActorStatus::Stopping
}

fn is_live(cell: &ActorCell) -> bool {
    cell.get_status() != ActorStatus::Stopped
}

async fn all_ended(children: &[(ActorCell, Shutdown)]) {
    for (cell, _) in children {
        ended(cell).await;
    }
}

/// When this returns, the exit is in the supervisor's queue: ractor notifies
/// the supervisor before it publishes `Stopped`.
pub(crate) async fn ended(cell: &ActorCell) {
    // Without a time-out there is nothing that can fail.
    let _ = cell.wait(None).await;
}
