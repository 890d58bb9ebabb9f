//! The queue of mails has limits: what waits, and what was given up.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

use bytes::Bytes;
use canopy_domain::{Address, Code, Context, Draft, Module, NoTokens, Origin, Principal, Refusal, Rows, Settings};
use canopy_proto::methods::{mail_effects, mails};
use canopy_proto::ops::v1::{ListMailsRequest, ListMailsResponse, Mail, MailState, RetryMailRequest};
use canopy_proto::system::v1::finish_letter_request::Outcome;
use canopy_proto::system::v1::{
    DueLetter, FinishLetterRequest, Letter, LetterKind, PostLetterRequest, PostLetterResponse, TakeLettersRequest,
    TakeLettersResponse,
};
use prost::Message;

/// As the documentation has them.
const WAITING_MAX: usize = 10_000;
const DEAD_MAX: usize = 1_000;
/// The tables of letters and of when they are due.
const LETTERS: u16 = 3;
const DUE: u16 = 4;
const DEAD: u16 = 2;

/// The queue.
struct Queue {
    module: Module,
    rows: Rows,
    now_ms: i64,
    seq: u64,
}

impl Queue {
    fn new() -> Self {
        Self { module: canopy_system::mail(), rows: Rows::default(), now_ms: 1_000_000_000_000, seq: 0 }
    }

    fn decide(
        &mut self,
        decide: impl FnOnce(&Module, &Rows, &Context<'_>, &mut Draft) -> Result<Bytes, Refusal>,
    ) -> Result<Bytes, Refusal> {
        let address = Address::system("mail");
        let principal = Principal::Actor(Address::system("test"));
        let cx = Context {
            now_ms: self.now_ms,
            entropy: [0; 32],
            address: &address,
            principal: &principal,
            origin: &Origin::default(),
            role: None,
            seq: self.seq + 1,
            prepared: &[],
            issuer: &NoTokens::default(),
            settings: Settings::default(),
        };
        let mut draft = Draft::default();
        let answer = decide(&self.module, &self.rows, &cx, &mut draft)?;
        if !draft.is_empty() {
            self.rows.apply(draft.changes());
            self.seq += 1;
        }
        Ok(answer)
    }

    fn tell(&mut self, method: &'static str, request: &impl Message) -> Result<Bytes, Refusal> {
        let request = request.encode_to_vec().into();
        self.decide(|module, rows, cx, draft| module.decide(method, rows, &request, cx, draft))
    }

    fn ask(&mut self, method: &'static str, request: &impl Message) -> Bytes {
        let request = request.encode_to_vec().into();
        self.decide(|module, rows, cx, _| module.ask(method, rows, &request, cx)).unwrap()
    }

    /// Posts a letter of a kind that nobody counts; whether it was dropped.
    fn post(&mut self, to: usize) -> bool {
        let kind = LetterKind::PasswordWasChanged.into();
        let letter = Some(Letter { to: format!("person-{to}@example.org"), kind, ..Letter::default() });
        let request = PostLetterRequest { letter, request_id: String::new() };
        PostLetterResponse::decode(self.tell(mail_effects::POST_LETTER.path, &request).unwrap()).unwrap().dropped
    }

    fn take(&mut self, limit: u32) -> Vec<DueLetter> {
        let request = TakeLettersRequest { until_ms: self.now_ms, limit };
        TakeLettersResponse::decode(self.ask(mail_effects::TAKE_LETTERS.path, &request)).unwrap().letters
    }

    fn finish(&mut self, due: &DueLetter, outcome: Outcome) {
        let request = FinishLetterRequest {
            name: due.name.clone(),
            attempts: due.attempts,
            outcome: Some(outcome),
            request_id: String::new(),
        };
        self.tell(mail_effects::FINISH_LETTER.path, &request).unwrap();
    }

    fn give_up(&mut self, letters: usize) -> Vec<DueLetter> {
        let one = |_| {
            let due = self.take(1).remove(0);
            self.finish(&due, Outcome::Never("no such mailbox".into()));
            due
        };
        (0..letters).map(one).collect()
    }

    fn list(&mut self, state: MailState) -> (Vec<Mail>, u64) {
        let request = ListMailsRequest { state: state.into(), page_size: 1_000, ..ListMailsRequest::default() };
        let listed = ListMailsResponse::decode(self.ask(mails::LIST_MAILS.path, &request)).unwrap();
        (listed.mails.iter().map(|mail| mail.decode().unwrap()).collect(), listed.dropped)
    }

    fn count(&self, table: u16) -> usize {
        self.rows.keys(table).len()
    }
}

#[test]
fn beyond_what_may_wait_letters_are_dropped_and_counted() {
    let mut queue = Queue::new();
    for n in 0..WAITING_MAX {
        assert!(!queue.post(n), "{n}");
    }
    assert!(queue.post(WAITING_MAX) && queue.post(WAITING_MAX + 1), "there is no room");
    let waiting = |queue: &Queue| [canopy_system::WAITING.id, LETTERS, DUE].map(|table| queue.count(table));
    assert_eq!(waiting(&queue), [WAITING_MAX; 3], "nothing of them is kept");
    assert_eq!(queue.list(MailState::Waiting).1, 2);

    // One that is away makes room for one, and one that is tried again for none.
    let due = queue.take(2);
    queue.finish(&due[0], Outcome::Sent(true));
    queue.finish(&due[1], Outcome::Later("busy".into()));
    assert_eq!(waiting(&queue), [WAITING_MAX - 1; 3]);
    assert!(!queue.post(WAITING_MAX));
    assert!(queue.post(WAITING_MAX + 1));
    // So does one that is given up, whose letter is kept.
    queue.give_up(1);
    assert!(!queue.post(WAITING_MAX + 1));
    assert!(queue.post(WAITING_MAX + 2));
    assert_eq!(waiting(&queue), [WAITING_MAX, WAITING_MAX + 1, WAITING_MAX]);
    assert_eq!(queue.list(MailState::Waiting).1, 4);
}

#[test]
fn of_those_given_up_the_oldest_go() {
    const BEYOND: usize = 3;
    let mut queue = Queue::new();
    for n in 0..DEAD_MAX + BEYOND {
        assert!(!queue.post(n));
    }
    let given_up = queue.give_up(DEAD_MAX);
    let names = |letters: &[DueLetter]| letters.iter().map(|due| due.name.clone()).collect::<Vec<_>>();
    let dead = |queue: &mut Queue| queue.list(MailState::Dead).0.into_iter().map(|mail| mail.name).collect::<Vec<_>>();
    assert_eq!(dead(&mut queue), names(&given_up));
    assert_eq!([DEAD, LETTERS, DUE].map(|table| queue.count(table)), [DEAD_MAX, DEAD_MAX + BEYOND, BEYOND]);

    let more = queue.give_up(BEYOND);
    let kept = [&given_up[BEYOND..], &more].concat();
    assert_eq!(dead(&mut queue), names(&kept), "the oldest have made room");
    assert_eq!([DEAD, LETTERS, DUE].map(|table| queue.count(table)), [DEAD_MAX, DEAD_MAX, 0], "with what they said");
    let mut retry = |due: &DueLetter| {
        queue.tell(mails::RETRY_MAIL.path, &RetryMailRequest { name: due.name.clone(), request_id: String::new() })
    };
    assert_eq!(retry(&given_up[0]).unwrap_err().code, Code::NotFound);
    retry(&kept[0]).unwrap();
    // One that waits again makes room for another one.
    queue.post(0);
    queue.now_ms += 1;
    let again = queue.give_up(2);
    assert_eq!(names(&again)[0], kept[0].name);
    assert_eq!(queue.count(DEAD), DEAD_MAX);
}
