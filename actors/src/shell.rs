//! The actor of a partition: account, session, org, project, module instance,
//! or a part of the system.
//!
//! - It owns the partition's one writer.
//! - The node sends it commands, and notes of its own work: effects delivered,
//!   time to wake, time to passivate.
//! - It exits when it is idle, when the node stops, or when a decision panics.
//! - If it dies, commands it had taken are answered `ABORTED` or, where they
//!   were committed, as committed; commands still queued go to its successor.

mod idle;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use bytes::Bytes;
use canopy_domain::{Address, Code, Context, Draft, DraftParts, Kind, Module, Principal, Refusal};
use canopy_proto::system::v1::{Origin, RequestRecord};
use canopy_store::{Commit, RequestKey, Writer};
use canopy_supervision::{Mailbox, Permitted, Probe};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use crate::budget::Budget;
use crate::call::{Call, Command, Reply, given_up};
use crate::completion::{Completion, Completions};
use crate::delivery::{Delivery, Outgoing, Settled};
use crate::{Node, audit, clock};
use idle::Trimming;

/// Undelivered effects read at once after a restart.
const EFFECTS_READ_MAX: usize = 1_000;
/// How long before a registered wake-up a new registration is due. Longer
/// than delivering effects takes when nothing is wrong.
pub(crate) const WAKE_MARGIN_MS: i64 = 30_000;
/// Bytes of a request's digest that are kept.
const DIGEST_BYTES: usize = 16;

/// What a shell is told.
pub(crate) enum Msg {
    /// A call that may change the partition.
    Command(Box<Command>),
    /// Something of its own work.
    Note(Note),
}

/// News of a shell's own work.
#[derive(Debug, Clone)]
pub(crate) enum Note {
    /// An effect has been made by its receiver.
    Delivered { seq: u64, n: u32 },
    /// A time that the partition asked for may have come. Others wait to be
    /// woken until the permit is given back.
    Wake(Option<Arc<OwnedSemaphorePermit>>),
    /// Nobody called for a while: end, if nothing is under way.
    Passivate,
}

/// How others reach an active shell.
pub(crate) struct Handle {
    /// Bounded: for calls.
    pub(crate) calls: Mailbox<Msg>,
    /// For notes, which have a bound of their own and are few.
    pub(crate) notes: Mailbox<Msg>,
    /// When somebody last called, in milliseconds since 1970.
    pub(crate) used_ms: AtomicI64,
}

/// The actor; what it works on is in [`Shell`].
pub(crate) struct ShellActor;

/// What a shell is started from.
pub(crate) struct Arguments {
    pub(crate) node: Node,
    pub(crate) address: Address,
    pub(crate) module: Arc<Module>,
    pub(crate) writer: Writer,
    pub(crate) probe: Arc<Probe>,
}

/// A shell's state.
pub(crate) struct Shell {
    node: Node,
    address: Address,
    module: Arc<Module>,
    /// Absent after passivation, and while a fresh one cannot be had.
    writer: Option<Writer>,
    /// Passivated: what comes now is for the successor.
    ended: bool,
    completions: Arc<Completions>,
    delivery: Arc<Delivery>,
    /// When the system wakes this address if it does not get to it before;
    /// zero for never.
    wake_registered_ms: i64,
    /// Absent where the feed is kept whole.
    trimming: Option<Trimming>,
    /// Whether it did anything but wake.
    was_called: bool,
    /// What its commits spend, where it belongs to an org.
    budget: Option<Arc<Budget>>,
    probe: Arc<Probe>,
}

impl Actor for ShellActor {
    type Msg = Permitted<Msg>;
    type State = Shell;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, arguments: Arguments) -> Result<Shell, ActorProcessingErr> {
        let Arguments { node, address, module, writer, probe } = arguments;
        let delivery = Delivery::new(address.clone(), node.clone());
        let completions = Completions::new(address.clone(), node.hooks(), Arc::clone(&delivery));
        let writer = Some(writer);
        let budget = node.budget(&address);
        if let Some(budget) = budget.as_ref().filter(|_| address.kind() == Some(Kind::Org)) {
            budget.show_at(&probe);
        }
        let trimming = Trimming::of(&node, &module);
        let mut shell = Shell {
            node,
            address,
            module,
            writer,
            ended: false,
            completions,
            delivery,
            wake_registered_ms: 0,
            trimming,
            was_called: false,
            budget,
            probe,
        };
        shell.resume()?;
        shell.tell_state("activated");
        metrics::gauge!("canopy_actors_active").increment(1.0);
        Ok(shell)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        shell: &mut Shell,
    ) -> Result<(), ActorProcessingErr> {
        // Boxed: what a message needs while it is handled is not to be part of
        // every actor that waits for one.
        match message.into_inner() {
            Msg::Command(command) => Box::pin(shell.command(*command)).await,
            Msg::Note(Note::Delivered { seq, n }) => shell.delivered(seq, n),
            Msg::Note(Note::Wake(_permit)) => {
                if Box::pin(shell.wake(myself.get_id())).await {
                    myself.stop(None);
                }
            }
            Msg::Note(Note::Passivate) => {
                if Box::pin(shell.passivate(myself.get_id())).await {
                    myself.stop(None);
                }
            }
        }
        shell.probe.handled();
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, _: &mut Shell) -> Result<(), ActorProcessingErr> {
        metrics::gauge!("canopy_actors_active").decrement(1.0);
        Ok(())
    }
}

fn passivating() -> Refusal {
    Refusal::new(Code::Unavailable, "the actor is ending: it was idle").retry_after_ms(10)
}

impl Shell {
    fn writer(&mut self) -> Result<&mut Writer, Refusal> {
        self.writer.as_mut().ok_or_else(passivating)
    }

    /// Sends what was committed and is not known to be delivered; tells
    /// whether there was any.
    fn resume(&mut self) -> Result<bool, Refusal> {
        let mut any = false;
        for pending in self.writer()?.pending_effects(EFFECTS_READ_MAX)? {
            let target = Address::parse(&pending.effect.target);
            let rule = canopy_proto::rules().get(pending.effect.method.as_str());
            let (Ok(target), Some(rule)) = (target, rule) else {
                tracing::error!(address = %self.address, effect.method = pending.effect.method, "effect has no receiver");
                continue;
            };
            let request = pending.effect.request;
            let outgoing = Outgoing { n: pending.n, target, method: rule.path, request, settled: None };
            self.delivery.send(pending.seq, vec![outgoing]);
            any = true;
        }
        Ok(any)
    }

    /// What `observe` shows of this actor, until the next such moment.
    fn tell_state(&self, what: &str) {
        if let Some(writer) = &self.writer {
            let kept = match writer.feed_floor() {
                1 => String::new(),
                floor => format!(", feed kept from {floor}"),
            };
            self.probe.set_state(format!("{what} at seq {}{kept}", writer.next_seq() - 1));
        }
    }

    /// A writer whose group failed knows nothing for sure: takes a fresh one,
    /// as often as it takes.
    async fn recover(&mut self) -> Result<(), Refusal> {
        if self.ended {
            return Err(passivating());
        }
        if self.writer.as_ref().is_none_or(Writer::is_failed) {
            self.probe.set_last_error("a commit failed");
            self.writer = None;
            self.writer = Some(self.node.open_writer(&self.address, &self.module).await?);
            self.tell_state("recovered");
        }
        Ok(())
    }

    async fn command(&mut self, mut command: Command) {
        self.was_called = true;
        let mut reply = Some(command.take_reply());
        let span = command.span.clone();
        let done = self.decide(&command, &mut reply).instrument(span).await;
        if let (Err(refusal), Some(reply)) = (done, reply) {
            reply.send(Err(refusal));
        }
    }

    async fn decide(&mut self, command: &Command, reply: &mut Option<Reply>) -> Result<(), Refusal> {
        self.recover().await?;
        if !command.turn.begin() {
            metrics::counter!("canopy_actors_commands_given_up_total").increment(1);
            return Err(given_up());
        }
        let call = &command.call;
        let now_ms = clock::now_ms();
        let request = request_key(call);
        let writer = self.writer.as_ref().ok_or_else(passivating)?;
        let live = writer.live();
        if let Some((key, digest)) = &request
            && let Some(record) = live.request_record(key, now_ms)?
        {
            drop(live);
            if record.payload_digest != *digest {
                return Err(Refusal::invalid("request_id", "was used for another request")
                    .hint("use a fresh request id for a different request"));
            }
            self.answer_when_durable(Ok(record.reply), reply.take())?;
            return Ok(());
        }
        if let Some(refusal) = &command.refused {
            return Err(refusal.clone());
        }
        let mut draft = Draft::default();
        let cx = Context {
            now_ms,
            entropy: clock::random_bytes(),
            address: &self.address,
            principal: &call.principal,
            origin: &call.origin,
            role: call.role,
            seq: writer.next_seq(),
            prepared: &command.prepared,
            issuer: self.node.issuer(),
            settings: self.node.settings(),
        };
        let decided = self.module.decide(call.method, &live, &call.request, &cx, &mut draft);
        drop(live);
        let answer = match decided {
            Ok(answer) if !draft.is_empty() => answer,
            // Even a refusal may rest on what is not durable yet.
            other => return self.answer_when_durable(other, reply.take()),
        };
        let mut parts = draft.into_parts();
        self.audit(call, now_ms, &mut parts);
        self.register_wake(&parts, now_ms).await?;
        let record = request
            .filter(|_| parts.verdict.is_none())
            .map(|(key, digest)| (key, RequestRecord { payload_digest: digest, reply: answer.clone(), seq: 0 }));
        self.commit(call, now_ms, parts, record, answer, reply.take())
    }

    /// Has what stands in an audit stand there: committed with the decision, it
    /// can be neither forgotten nor told of what never was.
    fn audit(&self, call: &Call, now_ms: i64, parts: &mut DraftParts) {
        let rule = canopy_proto::rules().get(call.method).filter(|rule| rule.audited);
        let (Some(writer), Some(rule)) = (&self.writer, rule) else { return };
        let mut entry = audit::entry(call, &self.address, now_ms);
        entry.target_seq = writer.next_seq();
        entry.details = parts.details.drain(..).map(|(name, value)| audit::detail(name, value)).collect();
        if let Some(refusal) = &parts.verdict {
            audit::deny(&mut entry, refusal.code);
        }
        // Before the decision's own effects, which are delivered in order and may
        // be the end of the org.
        let above = rule.audited_above.then(|| Address::system("audit"));
        let audits = [self.address.audit()].into_iter().chain(above);
        parts.effects.splice(0..0, audits.map(|audit| audit::effect(&audit, &entry)));
        parts.settle = true;
    }

    fn answer_when_durable(&mut self, answer: Result<Bytes, Refusal>, reply: Option<Reply>) -> Result<(), Refusal> {
        let ticket = self.writer()?.barrier();
        if let Some(reply) = reply {
            self.completions.push(Completion::answer(ticket, answer, reply));
        }
        Ok(())
    }

    fn commit(
        &mut self,
        call: &Call,
        now_ms: i64,
        parts: DraftParts,
        record: Option<(RequestKey, RequestRecord)>,
        answer: Bytes,
        reply: Option<Reply>,
    ) -> Result<(), Refusal> {
        let settled = (parts.settle && !parts.effects.is_empty()).then(|| Settled::new(parts.effects.len()));
        let numbered = (0u32..).zip(&parts.effects);
        let effects = numbered.map(|(n, effect)| Outgoing::new(n, effect, settled.clone())).collect();
        if let Some(budget) = &self.budget {
            budget.spend(bytes_of(&parts));
        }
        let changes = if self.completions.has_hooks() { parts.changes.clone() } else { Vec::new() };
        let session = match &call.principal {
            Principal::Person { session, .. } => session.to_string(),
            Principal::Key { name, .. } => name.clone(),
            Principal::Nobody | Principal::Actor(_) => String::new(),
        };
        let ticket = self.writer()?.submit(Commit {
            time_ms: now_ms,
            principal: call.principal.as_str().to_owned(),
            origin: Origin { peer: call.origin.peer.clone(), client: call.origin.client.clone(), session },
            request_id: call.request_id.clone(),
            method: call.method,
            changes: parts.changes,
            effects: parts.effects,
            wake_at_ms: parts.wake_at_ms,
            shreds: parts.shreds,
            record,
        });
        let wake_at_ms = parts.wake_at_ms.filter(|at_ms| *at_ms > 0);
        let answer = parts.verdict.map_or(Ok(answer), Err);
        self.completions.push(Completion { ticket, changes, answer, reply, effects, settled, wake_at_ms });
        if self.trimming.as_ref().is_some_and(|trimming| now_ms >= trimming.at_ms)
            && let Err(refusal) = self.trim(now_ms)
        {
            tracing::warn!(address = %self.address, %refusal, "the feed cannot be trimmed; it is tried again");
        }
        Ok(())
    }

    /// Has the system wake this address before anything is committed that must
    /// not be forgotten: effects to deliver, a time to act.
    async fn register_wake(&mut self, parts: &DraftParts, now_ms: i64) -> Result<(), Refusal> {
        let for_effects = (!parts.effects.is_empty()).then_some(now_ms + WAKE_MARGIN_MS);
        let for_time = parts.wake_at_ms.filter(|at_ms| *at_ms > 0);
        let Some(due_ms) = for_effects.into_iter().chain(for_time).min() else { return Ok(()) };
        let registered = self.wake_registered_ms;
        let suffices = registered > now_ms + WAKE_MARGIN_MS / 4 && registered <= due_ms;
        // Who keeps the wake-ups cannot wait for itself.
        if suffices || self.address.kind() == Some(Kind::System("wakes")) {
            return Ok(());
        }
        self.node.set_wake(&self.address, due_ms).await?;
        self.wake_registered_ms = due_ms;
        Ok(())
    }

    fn delivered(&mut self, seq: u64, n: u32) {
        if let Ok(writer) = self.writer() {
            // Forgotten in a crash, the effect goes out again, and its request
            // id makes it one: nobody needs to wait for this.
            drop(writer.complete_effects(&[(seq, n)]));
        }
    }
}

/// What a decision takes when it is committed, roughly: its rows, and the feed
/// entry with what they were and are.
fn bytes_of(parts: &DraftParts) -> usize {
    let row = |row: &Option<Bytes>| row.as_ref().map_or(0, Bytes::len);
    let changes = parts.changes.iter().map(|c| 2 * (c.key.len() + row(&c.after)) + row(&c.before));
    changes.chain(parts.effects.iter().map(|effect| effect.request.len())).sum()
}

/// Under what a request's first answer is kept, and the digest that tells
/// whether a repeat is the same request.
fn request_key(call: &Call) -> Option<(RequestKey, Bytes)> {
    if call.request_id.is_empty() {
        return None;
    }
    let key = RequestKey::new(call.principal.as_str(), call.method, &call.request_id);
    let digest = Sha256::digest(&call.request);
    let digest = digest.get(..DIGEST_BYTES).map(Bytes::copy_from_slice).unwrap_or_default();
    Some((key, digest))
}
