//! Stopping actors: ask, wait, kill.

use std::time::Duration;

use ractor::{ActorCell, ActorStatus};
use tokio::time::{Instant, timeout, timeout_at};

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
    while timeout(KILL_WAIT_MAX, ended(cell)).await.is_err() {
        tracing::error!(child = name, "killed child does not yield: it blocks its thread");
    }
}

/// Stops all in parallel under one deadline, asking in the order given, and
/// returns how many had to be abandoned because not even a kill ended them.
pub(crate) async fn stop_all(children: &[(ActorCell, Shutdown)], deadline: Instant) -> usize {
    for (cell, shutdown) in children {
        match shutdown {
            Shutdown::BrutalKill => cell.kill(),
            Shutdown::Timeout(_) | Shutdown::Infinity => cell.stop(Some(SHUTDOWN.to_owned())),
        }
    }
    if timeout_at(deadline, all_ended(children)).await.is_ok() {
        return 0;
    }
    let late = children.iter().filter(|(cell, _)| is_live(cell));
    late.clone().for_each(|(cell, _)| cell.kill());
    match timeout(KILL_WAIT_MAX, all_ended(children)).await {
        Ok(()) => 0,
        Err(_) => late.count(),
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
