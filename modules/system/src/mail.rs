//! The queue of mails. Other actors post letters, as effects of what they
//! commit; the node's worker takes those that are due, and says what came of
//! each. What was delivered is forgotten, and the keys that it was written
//! under are destroyed with its day.

use canopy_domain::{Code, Context, Draft, Module, Order, PageRequest, Refusal, Span, State, Table, Wire, decode};
use canopy_proto::identity::v1::{
    RequestPasswordResetRequest, RequestPasswordResetResponse, RequestVerificationRequest, RequestVerificationResponse,
};
use canopy_proto::methods::{mail_effects as methods, mails, verification};
use canopy_proto::ops::v1::{
    DeleteMailRequest, ListMailsRequest, ListMailsResponse, Mail, MailState, RetryMailRequest,
};
use canopy_proto::system::v1::finish_letter_request::Outcome;
use canopy_proto::system::v1::{
    DueLetter, FinishLetterRequest, FinishLetterResponse, Letter, LetterCount, LetterKind, MailDay, MailTotals,
    PostLetterRequest, PostLetterResponse, SweepMailsRequest, SweepMailsResponse, TakeLettersRequest,
    TakeLettersResponse, Wake,
};

use crate::letters;

/// Mails that wait; see [`Key`].
pub const WAITING: Table<Mail> = Table::new(1, "waiting_mails", 1).of_subjects();
/// Mails that were given up.
const DEAD: Table<Mail> = Table::new(2, "dead_mails", 1).of_subjects();
/// What the mails of both say.
const LETTERS: Table<Letter> = Table::new(3, "letters", 1).of_subjects();
/// By time (big-endian milliseconds), then as the mail.
const DUE: Table<Wake> = Table::new(4, "due_mails", 1);
/// By hour (big-endian), then keyed digest of kind and address.
const COUNTS: Table<LetterCount> = Table::new(5, "letter_counts", 1);
/// The one row, under [`SELF`].
const TOTALS: Table<MailTotals> = Table::new(6, "mail_totals", 1);
/// By day, as the mails: those whose keys are still there.
const DAYS: Table<MailDay> = Table::new(7, "mail_days", 1);

/// Key of a table's only row.
const SELF: [u8; 1] = [0];

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Mails that wait at once: as many as a mail server takes within an hour or
/// two. Beyond it, letters are dropped.
const WAITING_MAX: u32 = 10_000;
/// Mails kept of those that were given up; the oldest go first.
const DEAD_MAX: u32 = 1_000;
/// How long a mail is tried: RFC 5321 (4.5.4.1) has it be at least 4 days.
const GIVE_UP_MS: i64 = 4 * DAY_MS;
/// First wait before a mail is tried again; it doubles.
const RETRY_MS_MIN: i64 = 1_000;
/// Longest wait between tries, as RFC 5321 (4.5.4.1) has it.
const RETRY_MS_MAX: i64 = 30 * 60_000;
/// Letters of a kind that somebody is sent within an hour by the clock, where
/// a stranger can have them sent: nobody's mailbox is flooded through here.
const LETTERS_PER_HOUR_MAX: u32 = 5;
/// Letters taken at once.
const TAKE_MAX: usize = 100;
/// Rows forgotten in one commit.
const SWEEP_MAX: usize = 500;
/// Days whose keys are looked at: more than mails are tried.
const DAYS_LOOKED_AT_MAX: usize = 64;
/// Characters of an error that are kept.
const ERROR_CHARS_MAX: usize = 500;

/// The module of `system/mail`.
pub fn mail() -> Module {
    Module::new("mail")
        .command(methods::POST_LETTER, post)
        .command(verification::REQUEST_PASSWORD_RESET, request_reset)
        .command(verification::REQUEST_VERIFICATION, request_verification)
        .query(methods::TAKE_LETTERS, take)
        .command(methods::FINISH_LETTER, finish)
        .command(methods::SWEEP_MAILS, sweep)
        .query(mails::LIST_MAILS, list)
        .command(mails::RETRY_MAIL, retry)
        .command(mails::DELETE_MAIL, delete)
}

/// The day that a mail was posted on, which is the subject it is sealed for,
/// and the seq that it was posted by.
#[derive(Clone, Copy)]
struct Key {
    day: u64,
    seq: u64,
}

impl Key {
    fn new(cx: &Context<'_>) -> Self {
        Self { day: day_of(cx.now_ms), seq: cx.seq }
    }

    fn parse(name: &str) -> Option<Self> {
        let (day, seq) = name.strip_prefix("mail/")?.split_once('-')?;
        let key = Self { day: day.parse().ok()?, seq: seq.parse().ok()? };
        (key.name() == name).then_some(key)
    }

    fn name(self) -> String {
        format!("mail/{}-{}", self.day, self.seq)
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = subject(self.day).to_vec();
        bytes.extend(self.seq.to_be_bytes());
        bytes
    }

    fn due(self, time_ms: i64) -> Vec<u8> {
        let mut bytes = time_ms.max(0).to_be_bytes().to_vec();
        bytes.extend(self.bytes());
        bytes
    }
}

fn day_of(time_ms: i64) -> u64 {
    u64::try_from(time_ms / DAY_MS).unwrap_or(0)
}

fn subject(day: u64) -> [u8; 16] {
    u128::from(day).to_be_bytes()
}

fn totals(state: &State<'_>) -> Result<(Option<Wire<MailTotals>>, MailTotals), Refusal> {
    let row = state.get(&TOTALS, &SELF)?;
    let totals = row.as_ref().map(decode).transpose()?.unwrap_or_default();
    Ok((row, totals))
}

/// Counts a letter; whether it is one too many.
fn count(state: &State<'_>, letter: &Letter, cx: &Context<'_>, draft: &mut Draft) -> Result<bool, Refusal> {
    if !letters::is_counted(letter.kind()) {
        return Ok(false);
    }
    let mut key = (cx.now_ms / HOUR_MS).max(0).to_be_bytes().to_vec();
    key.extend(state.digest(&format!("{}\0{}", letter.kind, letter.to.to_lowercase())));
    let before = state.get(&COUNTS, &key)?;
    let letters = before.as_ref().map(decode).transpose()?.map_or(0, |count| count.letters);
    if letters >= LETTERS_PER_HOUR_MAX {
        return Ok(true);
    }
    draft.put(&COUNTS, key, before.as_ref(), &Wire::new(&LetterCount { letters: letters + 1 }));
    Ok(false)
}

/// Puts a letter into the queue, or drops it.
fn enqueue(state: &State<'_>, letter: &Letter, cx: &Context<'_>, draft: &mut Draft) -> Result<bool, Refusal> {
    let (before, mut totals) = totals(state)?;
    let dropped = totals.waiting >= WAITING_MAX || count(state, letter, cx, draft)?;
    if dropped {
        totals.dropped += 1;
    } else {
        totals.waiting += 1;
        let key = Key::new(cx);
        let give_up = cx.now_ms + GIVE_UP_MS;
        let mail = Mail {
            name: key.name(),
            to: letter.to.clone(),
            kind: letters::kind_name(letter.kind()).into(),
            state: MailState::Waiting.into(),
            create_time_ms: cx.now_ms,
            next_time_ms: cx.now_ms,
            give_up_time_ms: if letter.expire_time_ms > 0 { give_up.min(letter.expire_time_ms) } else { give_up },
            ..Mail::default()
        };
        draft.insert(&WAITING, key.bytes(), &Wire::new(&mail));
        draft.insert(&LETTERS, key.bytes(), &Wire::new(letter));
        draft.insert(&DUE, key.due(cx.now_ms), &due_row(&mail));
        if state.get(&DAYS, &subject(key.day))?.is_none() {
            let end_time_ms = (cx.now_ms / DAY_MS + 1) * DAY_MS;
            draft.insert(&DAYS, subject(key.day), &Wire::new(&MailDay { end_time_ms }));
        }
    }
    draft.put(&TOTALS, SELF, before.as_ref(), &Wire::new(&totals));
    Ok(dropped)
}

fn due_row(mail: &Mail) -> Wire<Wake> {
    Wire::new(&Wake { address: mail.name.clone(), time_ms: mail.next_time_ms })
}

fn post(
    state: &State<'_>,
    request: PostLetterRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<PostLetterResponse, Refusal> {
    let letter = request.letter.ok_or_else(|| Refusal::invalid("letter", "is required"))?;
    Ok(PostLetterResponse { dropped: enqueue(state, &letter, cx, draft)? })
}

/// Whether there is such an account is found out by the worker, later: neither
/// the answer nor its time can tell.
fn ask_for(
    state: &State<'_>,
    (to, kind): (String, LetterKind),
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    if !cx.issuer.policy().mails {
        return Err(
            Refusal::new(Code::FailedPrecondition, "this server sends no mail").hint("ask whoever runs the server")
        );
    }
    let letter = Letter { to, kind: kind.into(), expire_time_ms: cx.now_ms + HOUR_MS, ..Letter::default() };
    enqueue(state, &letter, cx, draft)?;
    Ok(())
}

fn request_reset(
    state: &State<'_>,
    request: RequestPasswordResetRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RequestPasswordResetResponse, Refusal> {
    ask_for(state, (request.email, LetterKind::ResetRequested), cx, draft)?;
    Ok(RequestPasswordResetResponse {})
}

fn request_verification(
    state: &State<'_>,
    request: RequestVerificationRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<RequestVerificationResponse, Refusal> {
    ask_for(state, (request.email, LetterKind::VerificationRequested), cx, draft)?;
    Ok(RequestVerificationResponse {})
}

fn take(state: &State<'_>, request: TakeLettersRequest, _: &Context<'_>) -> Result<TakeLettersResponse, Refusal> {
    let limit = (request.limit as usize).clamp(1, TAKE_MAX);
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: limit + 1 };
    let mut answer = TakeLettersResponse::default();
    for (_, row) in state.scan(&DUE, span)? {
        let due = decode(&row)?;
        if due.time_ms > request.until_ms || answer.letters.len() == limit {
            answer.next_ms = due.time_ms;
            break;
        }
        let Some(key) = Key::parse(&due.address) else { continue };
        let (Some(mail), Some(letter)) = (state.read(&WAITING, &key.bytes())?, state.read(&LETTERS, &key.bytes())?)
        else {
            continue;
        };
        answer.letters.push(DueLetter {
            name: mail.name,
            letter: Some(letter),
            attempts: mail.attempts,
            create_time_ms: mail.create_time_ms,
        });
    }
    answer.sweep = over(state, request.until_ms)?.is_some() || !old_counts(state, request.until_ms, 1)?.is_empty();
    Ok(answer)
}

/// What is found of a mail: where it stands, and its rows.
struct Found {
    key: Key,
    table: &'static Table<Mail>,
    row: Wire<Mail>,
    mail: Mail,
}

fn find(state: &State<'_>, name: &str) -> Result<Option<Found>, Refusal> {
    let Some(key) = Key::parse(name) else { return Ok(None) };
    for table in [&WAITING, &DEAD] {
        if let Some(row) = state.get(table, &key.bytes())? {
            let mail = decode(&row)?;
            return Ok(Some(Found { key, table, row, mail }));
        }
    }
    Ok(None)
}

impl Found {
    /// Takes the mail out of where it stands; its letter stays.
    fn take_out(&self, draft: &mut Draft, totals: &mut MailTotals) {
        draft.delete(self.table, self.key.bytes(), &self.row);
        self.uncount(totals);
        if self.is_waiting() {
            draft.delete(&DUE, self.key.due(self.mail.next_time_ms), &due_row(&self.mail));
        }
    }

    fn uncount(&self, totals: &mut MailTotals) {
        let count = if self.is_waiting() { &mut totals.waiting } else { &mut totals.dead };
        *count = count.saturating_sub(1);
    }

    fn is_waiting(&self) -> bool {
        self.table.id == WAITING.id
    }

    fn forget_letter(&self, state: &State<'_>, draft: &mut Draft) -> Result<(), Refusal> {
        if let Some(letter) = state.get(&LETTERS, &self.key.bytes())? {
            draft.delete(&LETTERS, self.key.bytes(), &letter);
        }
        Ok(())
    }

    /// Has the mail wait, again or anew.
    fn wait_until(&self, time_ms: i64, draft: &mut Draft, totals: &mut MailTotals, mut mail: Mail) -> Wire<Mail> {
        mail.next_time_ms = time_ms;
        mail.set_state(MailState::Waiting);
        let row = self.row.updated(&mail, None);
        let due_before = self.is_waiting().then_some(self.mail.next_time_ms);
        if self.is_waiting() {
            draft.put(&WAITING, self.key.bytes(), Some(&self.row), &row);
        } else {
            draft.delete(self.table, self.key.bytes(), &self.row);
            draft.insert(&WAITING, self.key.bytes(), &row);
        }
        if due_before != Some(time_ms) {
            if let Some(before_ms) = due_before {
                draft.delete(&DUE, self.key.due(before_ms), &due_row(&self.mail));
            }
            draft.insert(&DUE, self.key.due(time_ms), &due_row(&mail));
        }
        self.uncount(totals);
        totals.waiting += 1;
        row
    }
}

/// How long a mail waits after its n-th attempt.
fn wait_ms(attempts: u32) -> i64 {
    RETRY_MS_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(RETRY_MS_MAX)
}

fn finish(
    state: &State<'_>,
    request: FinishLetterRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<FinishLetterResponse, Refusal> {
    let outcome = request.outcome.ok_or_else(|| Refusal::invalid("outcome", "is required"))?;
    let found = find(state, &request.name)?.filter(Found::is_waiting);
    // Else it was removed, or told to be tried anew, meanwhile.
    let Some(found) = found.filter(|found| found.mail.attempts == request.attempts) else {
        return Ok(FinishLetterResponse {});
    };
    let (before, mut totals) = totals(state)?;
    let mut mail = found.mail.clone();
    mail.attempts += 1;
    let kept = |error: String| error.chars().take(ERROR_CHARS_MAX).collect();
    match outcome {
        Outcome::Sent(_) => {
            found.take_out(draft, &mut totals);
            found.forget_letter(state, draft)?;
        }
        Outcome::Later(error) => {
            mail.error = kept(error);
            let next_ms = cx.now_ms + wait_ms(mail.attempts);
            if next_ms < mail.give_up_time_ms {
                found.wait_until(next_ms, draft, &mut totals, mail);
            } else {
                bury(state, &found, mail, draft, &mut totals)?;
            }
        }
        Outcome::Never(error) => {
            mail.error = kept(error);
            bury(state, &found, mail, draft, &mut totals)?;
        }
    }
    draft.put(&TOTALS, SELF, before.as_ref(), &Wire::new(&totals));
    Ok(FinishLetterResponse {})
}

/// Gives a mail up; the oldest of those given up makes room.
fn bury(
    state: &State<'_>,
    found: &Found,
    mut mail: Mail,
    draft: &mut Draft,
    totals: &mut MailTotals,
) -> Result<(), Refusal> {
    found.take_out(draft, totals);
    if totals.dead >= DEAD_MAX {
        let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: 1 };
        for (_, row) in state.scan(&DEAD, span)? {
            if let Some(oldest) = find(state, &decode(&row)?.name)? {
                oldest.take_out(draft, totals);
                oldest.forget_letter(state, draft)?;
            }
        }
    }
    mail.set_state(MailState::Dead);
    mail.next_time_ms = 0;
    draft.insert(&DEAD, found.key.bytes(), &found.row.updated(&mail, None));
    totals.dead += 1;
    Ok(())
}

/// A stored row, with its key.
type Keyed<K, T> = (K, Wire<T>);

/// A day that is over, of which nothing is left. An hour later, so that a clock
/// that is set back writes nothing of a day that is gone.
fn over(state: &State<'_>, now_ms: i64) -> Result<Option<Keyed<[u8; 16], MailDay>>, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: DAYS_LOOKED_AT_MAX };
    let is_empty = |day: &[u8]| -> Result<bool, Refusal> {
        let span = Span { prefix: day, after: None, order: Order::Ascending, limit: 1 };
        Ok(state.scan(&WAITING, span)?.is_empty() && state.scan(&DEAD, span)?.is_empty())
    };
    for (key, row) in state.scan(&DAYS, span)? {
        if decode(&row)?.end_time_ms + HOUR_MS <= now_ms && is_empty(&key)? {
            return Ok(<[u8; 16]>::try_from(&*key).ok().map(|day| (day, row)));
        }
    }
    Ok(None)
}

fn old_counts(state: &State<'_>, now_ms: i64, limit: usize) -> Result<Vec<Keyed<Vec<u8>, LetterCount>>, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit };
    let hour = (now_ms / HOUR_MS).max(0).to_be_bytes();
    let rows = state.scan(&COUNTS, span)?.into_iter();
    Ok(rows.map(|(key, row)| (key.to_vec(), row)).take_while(|(key, _)| key[..] < hour[..]).collect())
}

fn sweep(
    state: &State<'_>,
    _: SweepMailsRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<SweepMailsResponse, Refusal> {
    for (key, row) in old_counts(state, cx.now_ms, SWEEP_MAX)? {
        draft.delete(&COUNTS, key, &row);
    }
    if let Some((day, row)) = over(state, cx.now_ms)? {
        draft.delete(&DAYS, day, &row);
        draft.shred(day);
    }
    Ok(SweepMailsResponse {})
}

fn list(state: &State<'_>, request: ListMailsRequest, _: &Context<'_>) -> Result<ListMailsResponse, Refusal> {
    let table = if request.state() == MailState::Dead { &DEAD } else { &WAITING };
    let page = PageRequest { size: request.page_size, token: &request.page_token };
    let (rows, next_page_token) = page.read(state.0, table.id, &[], Order::Ascending)?;
    let mails = rows.into_iter().map(|(_, row)| table.row(row)).collect();
    Ok(ListMailsResponse { mails, next_page_token, dropped: totals(state)?.1.dropped })
}

fn retry(
    state: &State<'_>,
    request: RetryMailRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Mail>, Refusal> {
    let found = find(state, &request.name)?.ok_or_else(|| Refusal::not_found(&request.name))?;
    let (before, mut totals) = totals(state)?;
    let mail = Mail { attempts: 0, give_up_time_ms: cx.now_ms + GIVE_UP_MS, ..found.mail.clone() };
    let row = found.wait_until(cx.now_ms, draft, &mut totals, mail);
    draft.put(&TOTALS, SELF, before.as_ref(), &Wire::new(&totals));
    Ok(row)
}

fn delete(
    state: &State<'_>,
    request: DeleteMailRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Mail>, Refusal> {
    let found = find(state, &request.name)?.ok_or_else(|| Refusal::not_found(&request.name))?;
    let (before, mut totals) = totals(state)?;
    found.take_out(draft, &mut totals);
    found.forget_letter(state, draft)?;
    draft.put(&TOTALS, SELF, before.as_ref(), &Wire::new(&totals));
    Ok(found.row)
}
