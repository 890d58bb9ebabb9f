//! Starts and restarts, which run beside the supervisor's actor.

use std::sync::Arc;
use std::time::Duration;

use ractor::concurrency::JoinHandle;
use ractor::{ActorCell, ActorRef};
use tokio::time::sleep;

use super::entry::{Aftermath, Due, Ticket};
use super::process::Msg;
use super::{Shared, opened};
use crate::clock;
use crate::error::StartError;
use crate::spec::ChildSpec;
use crate::stop::ended;

/// Starts a child in a task of its own, which a caller that goes away does not
/// cancel: others may wait for the same key.
pub(super) fn run(
    shared: &Arc<Shared>,
    actor: ActorRef<Msg>,
    ticket: Ticket,
    spec: ChildSpec,
) -> JoinHandle<Result<ActorCell, StartError>> {
    let shared = Arc::clone(shared);
    ractor::concurrency::spawn(async move { start(&shared, &actor, ticket, &spec).await })
}

async fn start(
    shared: &Arc<Shared>,
    actor: &ActorRef<Msg>,
    ticket: Ticket,
    spec: &ChildSpec,
) -> Result<ActorCell, StartError> {
    let supervisor = &*shared.spec.id;
    let linked_to = actor.get_cell();
    // ractor links an actor when its `pre_start` is over: until then it does
    // not end with its supervisor by itself.
    let result = tokio::select! {
        biased;
        () = opened(ticket.given_up()) => Err(shared.seat.not_running()),
        result = spec.start_under(&linked_to) => result,
    };
    let aftermath = {
        let mut table = shared.table.lock();
        let aftermath = match &result {
            Ok(cell) => table.started(&ticket, cell),
            Err(StartError::Ignored) => table.ignored(&ticket),
            Err(error) => table.failed(&ticket, error, clock::now()),
        };
        shared.report_quarantine(&table);
        aftermath
    };
    let Some(aftermath) = aftermath else {
        if let Ok(cell) = result {
            cell.kill();
            ended(&cell).await;
        }
        return Err(shared.seat.not_running());
    };
    match &result {
        Ok(_) => tracing::debug!(supervisor, child = &*ticket.key, "child started"),
        Err(StartError::Ignored) => tracing::debug!(supervisor, child = &*ticket.key, "child chose not to run"),
        Err(error) => tracing::warn!(supervisor, child = &*ticket.key, %error, "child did not start"),
    }
    if let Some(ending) = follow(shared, actor, aftermath) {
        // Fails only when the supervisor has ended.
        let _ = actor.send_message(Msg::End(ending));
    }
    result
}

/// Why a dynamic supervisor ends by itself.
pub(super) enum Ending {
    Meltdown {
        child: Arc<str>,
        last_error: String,
    },
    /// [`AutoShutdown`](crate::AutoShutdown).
    Shutdown,
}

/// Does what an exit or a failed start asks for, except for an end of the
/// supervisor, which it hands back: only the supervisor itself can end.
pub(super) fn follow(shared: &Arc<Shared>, actor: &ActorRef<Msg>, aftermath: Aftermath) -> Option<Ending> {
    let supervisor = &*shared.spec.id;
    match aftermath {
        Aftermath::Nothing => {}
        Aftermath::Restart { due, attempt } => {
            shared.restarts_total.increment(1);
            let delay = shared.spec.backoff.map_or(Duration::ZERO, |backoff| backoff.draw(attempt));
            tracing::info!(supervisor, child = &*due.key, ?delay, "child restarts");
            restart_later(shared, actor.clone(), due, delay);
        }
        Aftermath::Held { key, until, due } => {
            let hold = until.saturating_duration_since(clock::now());
            tracing::warn!(supervisor, child = &*key, ?hold, "child quarantined after crashing repeatedly");
            if let Some(due) = due {
                restart_later(shared, actor.clone(), due, hold);
            }
        }
        Aftermath::Meltdown { key, last_error } => return Some(Ending::Meltdown { child: key, last_error }),
        Aftermath::Shutdown => return Some(Ending::Shutdown),
    }
    None
}

/// Restarts a child after `delay`, unless something else has happened to it.
pub(super) fn restart_later(shared: &Arc<Shared>, actor: ActorRef<Msg>, due: Due, delay: Duration) {
    let shared = Arc::clone(shared);
    let restart = async move {
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let begun = {
            let mut table = shared.table.lock();
            let begun = table.begin_restart(&due, clock::now());
            shared.report_quarantine(&table);
            begun
        };
        if let Some((ticket, spec)) = begun {
            // Its failure has been entered, and nobody waits for its cell.
            let _ = start(&shared, &actor, ticket, &spec).await;
        }
    };
    // Boxed, because a restart can lead to another.
    let restart: futures::future::BoxFuture<'static, ()> = Box::pin(restart);
    ractor::concurrency::spawn(restart);
}
