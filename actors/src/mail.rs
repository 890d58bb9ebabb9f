//! The worker that hands letters to the mail server.
//!
//! - It owns nothing: what waits is in the partition of `system/mail`.
//! - A hook on that partition's commits wakes it, and so does the time that the
//!   next letter is due. It takes what is due, has each delivered, and tells the
//!   partition what came of it.
//! - It exits with the node, and is restarted if it crashes.
//! - If it dies, what it was sending is sent again: a letter goes out at least
//!   once, and twice under the same Message-Id.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use canopy_domain::{Address, Change, Code, Kind, Refusal};
use canopy_proto::Method;
use canopy_proto::methods::{account_emails, directory, mail_effects as methods};
use canopy_proto::system::v1::finish_letter_request::Outcome;
use canopy_proto::system::v1::{
    BeginProofRequest, CheckSenderRequest, CheckSenderResponse, DueLetter, FinishLetterRequest, Letter, LetterKind,
    Reservation, ResolveRequest, SweepMailsRequest, TakeLettersRequest, TakeLettersResponse,
};
use canopy_supervision::{ChildSpec, Probe};
use parking_lot::Mutex;
use prost::Message;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::call::CommitHook;
use crate::{Node, clock};

/// Letters taken at once.
const TAKE_MAX: u32 = 32;
/// Letters handed to the mail server at once.
const AT_ONCE: usize = 4;
/// Longest wait before the partition is asked again.
const WAIT_MS_MAX: i64 = 60_000;
/// Wait after the partition could not be asked.
const WAIT_MS_ERROR: i64 = 1_000;

/// Why a letter was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// It may be delivered later.
    Later(String),
    /// It never will be.
    Never(String),
}

/// A letter on its way.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// What it says.
    pub letter: Letter,
    /// The same each time it is tried: `<day>-<number>.<installation>`.
    pub id: String,
    /// When it was written, in milliseconds since 1970.
    pub time_ms: i64,
}

/// What a delivery comes to.
pub type Delivering<'a> = Pin<Box<dyn Future<Output = Result<(), Undelivered>> + Send + 'a>>;

/// Who delivers letters.
pub trait Post: Send + Sync {
    /// Delivers a letter, in bounded time.
    fn deliver<'a>(&'a self, outbound: &'a Outbound) -> Delivering<'a>;
}

struct Inner {
    post: Box<dyn Post>,
    worker: Mutex<Option<ActorRef<Note>>>,
    /// Whether the worker has been told and has not looked yet.
    told: AtomicBool,
}

/// The letters of this node. A cheap handle.
#[derive(Clone)]
pub struct Mails(Arc<Inner>);

impl Mails {
    /// Letters that `post` delivers.
    pub fn new(post: Box<dyn Post>) -> Self {
        metrics::describe_counter!("canopy_mail_letters_total", "Letters that were tried, by what came of it");
        Self(Arc::new(Inner { post, worker: Mutex::default(), told: AtomicBool::new(false) }))
    }

    /// The worker.
    pub fn worker(&self, node: Node) -> ChildSpec {
        let (mails, probe) = (self.clone(), Probe::new());
        let shared = Arc::clone(&probe);
        let state = move || State { node: node.clone(), mails: mails.clone(), probe: Arc::clone(&shared), due_ms: 0 };
        ChildSpec::actor("mails", probe, move || (Worker, state()))
    }
}

impl CommitHook for Mails {
    fn wants(&self, address: &Address) -> bool {
        address.kind() == Some(Kind::System("mail"))
    }

    fn committed(&self, _: &Address, _: u64, _: &[Change]) {
        if self.0.told.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(worker) = self.0.worker.lock().as_ref() {
            // One that is gone looks when it is back.
            let _ = worker.send_message(Note::Committed);
        }
    }
}

/// Why the worker looks.
#[derive(Debug, Clone, Copy)]
enum Note {
    /// Something was committed.
    Committed,
    /// A time has come.
    Due(i64),
}

struct Worker;

struct State {
    node: Node,
    mails: Mails,
    probe: Arc<Probe>,
    /// The time that the worker is told of next; others are stale.
    due_ms: i64,
}

impl Actor for Worker {
    type Msg = Note;
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, myself: ActorRef<Note>, state: State) -> Result<State, ActorProcessingErr> {
        state.probe.set_state("idle");
        state.mails.0.told.store(true, Ordering::Release);
        myself.send_message(Note::Committed)?;
        *state.mails.0.worker.lock() = Some(myself);
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Note>, note: Note, state: &mut State) -> Result<(), ActorProcessingErr> {
        if matches!(note, Note::Due(due_ms) if due_ms != state.due_ms) {
            return Ok(());
        }
        state.mails.0.told.store(false, Ordering::Release);
        let wait_ms = match state.work().await {
            Ok(next_ms) => {
                let now_ms = clock::now_ms();
                if next_ms > 0 { (next_ms - now_ms).clamp(0, WAIT_MS_MAX) } else { WAIT_MS_MAX }
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "mails wait");
                state.probe.set_last_error(refusal.message);
                WAIT_MS_ERROR
            }
        };
        state.probe.set_state("idle");
        state.probe.handled();
        // A later look replaces an earlier one.
        state.due_ms = state.due_ms.wrapping_add(1);
        let due_ms = state.due_ms;
        myself.send_after(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)), move || Note::Due(due_ms));
        Ok(())
    }
}

impl State {
    /// Sends all that is due; when the next letter will be, or zero.
    async fn work(&self) -> Result<i64, Refusal> {
        while !self.node.is_stopping() {
            let take = TakeLettersRequest { until_ms: clock::now_ms(), limit: TAKE_MAX };
            let taken = self.ask(&queue(), methods::TAKE_LETTERS, &take).await?;
            let taken = TakeLettersResponse::decode(taken).unwrap_or_default();
            if taken.sweep {
                self.ask(&queue(), methods::SWEEP_MAILS, &SweepMailsRequest::default()).await?;
            }
            if taken.letters.is_empty() {
                if !taken.sweep {
                    return Ok(taken.next_ms);
                }
                continue;
            }
            self.probe.set_state(format!("sending {} letters", taken.letters.len()));
            for letters in taken.letters.chunks(AT_ONCE) {
                let sending: Vec<_> = letters.iter().map(|due| self.send(due)).collect();
                for finished in futures::future::join_all(sending).await {
                    finished?;
                }
                self.probe.beat();
            }
        }
        Ok(0)
    }

    async fn send(&self, due: &DueLetter) -> Result<(), Refusal> {
        let letter = due.letter.clone().unwrap_or_default();
        let delivered = self.deliver(due, letter).await;
        let (ended, outcome) = match delivered {
            Ok(()) => ("sent", Outcome::Sent(true)),
            Err(Undelivered::Later(error)) => ("later", Outcome::Later(error)),
            Err(Undelivered::Never(error)) => ("never", Outcome::Never(error)),
        };
        metrics::counter!("canopy_mail_letters_total", "outcome" => ended).increment(1);
        if let Outcome::Later(error) | Outcome::Never(error) = &outcome {
            tracing::warn!(mail = due.name, attempts = due.attempts + 1, error, "a mail was not delivered");
            self.probe.set_last_error(error.clone());
        }
        let finish = FinishLetterRequest {
            name: due.name.clone(),
            attempts: due.attempts,
            outcome: Some(outcome),
            request_id: String::new(),
        };
        self.ask(&queue(), methods::FINISH_LETTER, &finish).await.map(drop)
    }

    /// The account with an address, if there is one.
    async fn holder(&self, email: &str) -> Result<Option<Address>, Undelivered> {
        let resolve = ResolveRequest { space: "email".into(), key: email.to_owned() };
        let holder = match self.ask(&Address::system("directory"), directory::RESOLVE, &resolve).await {
            Err(refusal) if refusal.code == Code::NotFound => return Ok(None),
            answer => Reservation::decode(answer.map_err(later)?).unwrap_or_default().holder,
        };
        Address::parse(&holder).map(Some).map_err(|e| Undelivered::Never(e.to_string()))
    }

    /// Has the account with an address, if there is one, write the letter that
    /// was asked for.
    async fn begin(&self, asked: &Letter) -> Result<(), Undelivered> {
        let Some(account) = self.holder(&asked.to).await? else { return Ok(()) };
        let begin = BeginProofRequest {
            account: account.to_string(),
            email: asked.to.clone(),
            kind: asked.kind,
            request_id: String::new(),
        };
        match self.ask(&account, account_emails::BEGIN_PROOF, &begin).await {
            Err(refusal) if refusal.code == Code::NotFound => Ok(()),
            answer => answer.map(drop).map_err(later),
        }
    }

    /// Whether whom a letter is for has blocked the person that it is from.
    async fn is_blocked(&self, letter: &Letter) -> Result<bool, Undelivered> {
        if letter.sender_account.is_empty() {
            return Ok(false);
        }
        let Some(account) = self.holder(&letter.to).await? else { return Ok(false) };
        let check = CheckSenderRequest { account: account.to_string(), sender: letter.sender_account.clone() };
        let answer = self.ask(&account, account_emails::CHECK_SENDER, &check).await.map_err(later)?;
        Ok(CheckSenderResponse::decode(answer).unwrap_or_default().blocked)
    }

    /// Delivers a letter, or does what there is to do in its place.
    async fn deliver(&self, due: &DueLetter, letter: Letter) -> Result<(), Undelivered> {
        if matches!(letter.kind(), LetterKind::ResetRequested | LetterKind::VerificationRequested) {
            return self.begin(&letter).await;
        }
        if self.is_blocked(&letter).await? {
            return Ok(());
        }
        let number = due.name.trim_start_matches("mail/");
        let id = format!("{number}.{}", self.node.store().installation_id());
        let outbound = Outbound { letter, id, time_ms: due.create_time_ms };
        self.mails.0.post.deliver(&outbound).await
    }

    async fn ask<Q: Message, R>(&self, target: &Address, method: Method<Q, R>, request: &Q) -> Result<Bytes, Refusal> {
        let request = request.encode_to_vec().into();
        self.node.ask(target, method.path, request, &queue(), "").await
    }
}

fn later(refusal: Refusal) -> Undelivered {
    Undelivered::Later(refusal.message)
}

fn queue() -> Address {
    Address::system("mail")
}
