//! What a shell does when nobody calls: it wakes up in time, lets go of what
//! has grown old, and passivates.

use bytes::Bytes;
use canopy_domain::{Context, Draft, Kind, Module, Principal, Refusal};
use canopy_store::{Trimmed, Writer};
use ractor::ActorId;

use super::{Shell, WAKE_MARGIN_MS, passivating};
use crate::call::Call;
use crate::{Node, clock};

/// How often an actor that is never idle looks whether its feed has grown too
/// old, unless that is kept for a shorter time.
const TRIM_WAIT_MS_MAX: i64 = 600_000;

/// When a feed's oldest entries go.
pub(super) struct Trimming {
    /// From the look at them on, until the next one: how long at least, in
    /// milliseconds.
    wait_ms: i64,
    /// When the next commit looks.
    pub(super) at_ms: i64,
    /// When the oldest entry is to go; zero where none is.
    due_ms: i64,
}

impl Trimming {
    pub(super) fn of(node: &Node, module: &Module) -> Option<Self> {
        let retention_ms = node.store().feed_retention_ms();
        let wait_ms = retention_ms.min(TRIM_WAIT_MS_MAX);
        let trims = retention_ms > 0 && !module.keeps_feed();
        trims.then(|| Self { wait_ms, at_ms: clock::now_ms().saturating_add(wait_ms), due_ms: 0 })
    }
}

impl Shell {
    /// Lets go of what has grown too old of the feed, as much as goes at once.
    pub(super) fn trim(&mut self, now_ms: i64) -> Result<Option<Trimmed>, Refusal> {
        let (Some(trimming), Some(writer)) = (&mut self.trimming, &mut self.writer) else { return Ok(None) };
        trimming.at_ms = now_ms.saturating_add(trimming.wait_ms);
        let trimmed = writer.trim_feed(now_ms)?;
        trimming.due_ms = trimmed.next_ms.unwrap_or(0);
        match trimmed.next_ms {
            // There is more: some goes with each commit.
            Some(next_ms) if next_ms <= now_ms => trimming.at_ms = now_ms,
            Some(next_ms) => trimming.at_ms = trimming.at_ms.max(next_ms),
            None => {}
        }
        if trimmed.entries > 0 {
            self.tell_state("trimmed");
        }
        Ok(Some(trimmed))
    }

    /// Lets go of all that has grown too old of the feed, one part after the
    /// other; tells whether nobody called meanwhile, who would wait for it.
    async fn trim_all(&mut self, now_ms: i64) -> Result<bool, Refusal> {
        while let Some(trimmed) = self.trim(now_ms)? {
            if trimmed.entries > 0 {
                trimmed.ticket.await?;
            }
            if trimmed.next_ms.is_none_or(|next_ms| next_ms > now_ms) {
                break;
            }
            if self.probe.mailbox_depth() > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// When the system is to wake the address so that its feed is trimmed; zero
    /// where that is not needed.
    fn trim_due_ms(&self) -> i64 {
        // Who keeps the wake-ups cannot wait for itself.
        let asks = self.address.kind() != Some(Kind::System("wakes"));
        self.trimming.as_ref().filter(|_| asks).map_or(0, |trimming| trimming.due_ms)
    }

    /// Whether the system does not know of it yet.
    fn needs_trim_wake(&self, now_ms: i64) -> bool {
        let (due_ms, known_ms) = (self.trim_due_ms(), self.writer.as_ref().map_or(0, Writer::trim_wake_ms));
        due_ms > 0 && !(known_ms > now_ms && known_ms <= due_ms)
    }

    /// Does what is due; tells whether it ended, for there was nothing to do but
    /// to trim its feed: many may be woken for that at once.
    pub(super) async fn wake(&mut self, me: ActorId) -> bool {
        match self.try_wake().await {
            Ok(was_due) => !was_due && !self.was_called && self.passivate(me).await,
            Err(refusal) => {
                if !self.node.forget_wake_if_shredded(&self.address).await {
                    tracing::warn!(address = %self.address, %refusal, "wake-up failed; it is tried again");
                    self.probe.set_last_error(refusal.message);
                }
                false
            }
        }
    }

    /// Tells whether the module had asked for this.
    async fn try_wake(&mut self) -> Result<bool, Refusal> {
        self.recover().await?;
        let now_ms = clock::now_ms();
        let due = self.writer()?.wake_at_ms().is_some_and(|at_ms| at_ms > 0 && at_ms <= now_ms);
        if due {
            let call = Call {
                method: "canopy.system.v1.Wakes/Wake",
                request: Bytes::new(),
                principal: Principal::Actor(self.address.clone()),
                origin: canopy_domain::Origin::default(),
                role: None,
                request_id: String::new(),
            };
            let mut draft = Draft::default();
            let writer = self.writer.as_ref().ok_or_else(passivating)?;
            let cx = Context {
                now_ms,
                entropy: clock::random_bytes(),
                address: &self.address,
                principal: &call.principal,
                origin: &call.origin,
                role: None,
                seq: writer.next_seq(),
                prepared: &[],
                issuer: self.node.issuer(),
                settings: self.node.settings(),
            };
            self.module.wake(&writer.live(), &cx, &mut draft)?;
            let mut parts = draft.into_parts();
            // Done with, unless the module asks for another time.
            parts.wake_at_ms.get_or_insert(0);
            self.register_wake(&parts, now_ms).await?;
            self.commit(&call, now_ms, parts, None, Bytes::new(), None)?;
        }
        self.trim_all(now_ms).await?;
        self.settle_wake(now_ms).await?;
        Ok(due)
    }

    /// Leaves with the system the time that is still to come, or none.
    async fn settle_wake(&mut self, now_ms: i64) -> Result<(), Refusal> {
        if !self.completions.is_idle() {
            // A wish may be on its way to the disk: what is registered stays.
            return Ok(());
        }
        let wish_ms = self.writer()?.wake_at_ms().unwrap_or(0);
        let effects_ms = if self.delivery.is_idle() { 0 } else { now_ms + WAKE_MARGIN_MS };
        let trim_ms = self.trim_due_ms();
        let due_ms = [wish_ms, effects_ms, trim_ms].into_iter().filter(|at_ms| *at_ms > 0).min().unwrap_or(0);
        if due_ms != self.wake_registered_ms || due_ms == 0 {
            self.node.set_wake(&self.address, due_ms).await?;
            self.wake_registered_ms = due_ms;
        }
        if self.needs_trim_wake(now_ms) {
            self.writer()?.note_trim_wake(trim_ms)?;
        }
        Ok(())
    }

    /// Lets go of the partition if nothing is under way.
    pub(super) async fn passivate(&mut self, me: ActorId) -> bool {
        let busy = self.probe.mailbox_depth() > 0 || !self.completions.is_idle() || !self.delivery.is_idle();
        if busy {
            return false;
        }
        if self.writer.as_ref().is_none_or(Writer::is_failed) {
            // There is nothing to leave in order: the next activation does.
            return self.end(me);
        }
        // Effects beyond what one activation reads, and those whose note of
        // delivery is still in the mailbox: nobody else would send or forget
        // them before the next activation.
        match self.resume() {
            Ok(false) => {}
            Ok(true) => return false,
            Err(_) if self.node.forget_wake_if_shredded(&self.address).await => return self.end(me),
            Err(refusal) => {
                tracing::warn!(address = %self.address, %refusal, "passivation waits");
                return false;
            }
        }
        match self.put_in_order(clock::now_ms()).await {
            Ok(true) => self.end(me),
            Ok(false) => false,
            Err(refusal) => {
                tracing::warn!(address = %self.address, %refusal, "passivation waits");
                false
            }
        }
    }

    /// Removes what has grown old, and leaves with the system when to come back;
    /// tells whether that could be done now, and nobody called meanwhile.
    async fn put_in_order(&mut self, now_ms: i64) -> Result<bool, Refusal> {
        self.writer()?.purge_request_records(now_ms)?;
        if !self.trim_all(now_ms).await? {
            return Ok(false);
        }
        let registers = self.needs_trim_wake(now_ms);
        let turn = if registers { self.node.registration() } else { None };
        if registers && turn.is_none() {
            // Too many do so now: it is told to passivate again.
            return Ok(false);
        }
        if registers || self.wake_registered_ms != 0 {
            self.settle_wake(now_ms).await?;
        }
        Ok(true)
    }

    fn end(&mut self, me: ActorId) -> bool {
        self.node.vacate(&self.address, me);
        self.writer = None;
        self.ended = true;
        true
    }
}
