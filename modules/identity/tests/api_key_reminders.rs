//! Holders of API keys are reminded before these expire: in time, and once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

use bytes::Bytes;
use canopy_domain::{
    Address, Context, Draft, Effect, Id, Module, NoTokens, Origin, Policy, Prepared, Principal, Role, Rows, Secret,
    Settings, Wire,
};
use canopy_proto::identity::v1::{
    Account, ApiKey, CreateApiKeyRequest, CreateApiKeyResponse, ListApiKeysRequest, ListApiKeysResponse,
    RegisterRequest, RevokeApiKeyRequest,
};
use canopy_proto::methods::{account_effects, api_keys, identity, mail_effects};
use canopy_proto::system::v1::{Letter, LetterKind, PostLetterRequest, RecordKeyUseRequest};
use prost::Message;

const EMAIL: &str = "ada@example.org";
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// When everything begins.
const T: i64 = 1_000_000_000_000;

/// An account, its time, and what it has done last.
struct Stage {
    module: Module,
    rows: Rows,
    issuer: NoTokens,
    now_ms: i64,
    wake_at_ms: i64,
    effects: Vec<Effect>,
    seq: u8,
}

impl Stage {
    fn new() -> Self {
        let module = canopy_identity::account();
        let issuer = NoTokens(Policy { mails: true, verification: false });
        let rows = Rows::default();
        let mut stage = Self { module, rows, issuer, now_ms: T, wake_at_ms: 0, effects: Vec::new(), seq: 0 };
        let account = Account { email: EMAIL.into(), ..Account::default() };
        let request = RegisterRequest { account: Some(Wire::new(&account)), ..RegisterRequest::default() };
        stage.tell(identity::REGISTER.path, &request);
        stage
    }

    fn address() -> Address {
        Address::account(Id::from_bytes([1; 16]))
    }

    fn decide(&mut self, decide: impl FnOnce(&Module, &Rows, &Context<'_>, &mut Draft) -> Bytes) -> Bytes {
        self.seq += 1;
        let address = Self::address();
        let principal =
            Principal::Person { account: address.clone(), session: Address::session(Id::from_bytes([2; 16])) };
        let prepared = [Prepared::PasswordHash(Secret::new("hash"))];
        let cx = Context {
            now_ms: self.now_ms,
            entropy: [self.seq; 32],
            address: &address,
            principal: &principal,
            origin: &Origin::default(),
            role: None,
            seq: u64::from(self.seq),
            prepared: &prepared,
            issuer: &self.issuer,
            settings: Settings::default(),
        };
        let mut draft = Draft::default();
        let answer = decide(&self.module, &self.rows, &cx, &mut draft);
        let parts = draft.into_parts();
        self.effects = parts.effects;
        self.rows.apply(&parts.changes);
        self.wake_at_ms = parts.wake_at_ms.unwrap_or(self.wake_at_ms);
        answer
    }

    fn tell(&mut self, method: &'static str, request: &impl Message) -> Bytes {
        let request = request.encode_to_vec().into();
        self.decide(|module, rows, cx, draft| module.decide(method, rows, &request, cx, draft).unwrap())
    }

    /// A key of a life; its name.
    fn create(&mut self, display_name: &str, life_ms: i64) -> String {
        let key = ApiKey {
            display_name: display_name.into(),
            role_max: Role::Guest.into(),
            expire_time_ms: self.now_ms + life_ms,
            ..ApiKey::default()
        };
        let request = CreateApiKeyRequest { api_key: Some(Wire::new(&key)), ..self.parent() };
        let answer = CreateApiKeyResponse::decode(self.tell(api_keys::CREATE_API_KEY.path, &request)).unwrap();
        answer.api_key.unwrap().decode().unwrap().name
    }

    fn parent(&self) -> CreateApiKeyRequest {
        CreateApiKeyRequest { parent: Self::address().to_string(), ..CreateApiKeyRequest::default() }
    }

    fn revoke(&mut self, name: &str) {
        self.tell(api_keys::REVOKE_API_KEY.path, &RevokeApiKeyRequest { name: name.into(), request_id: String::new() });
    }

    /// A machine uses a key.
    fn used(&mut self, name: &str) {
        let request = RecordKeyUseRequest { key: name.into(), time_ms: self.now_ms, ..RecordKeyUseRequest::default() };
        self.tell(account_effects::RECORD_KEY_USE.path, &request);
    }

    /// Goes on until it wakes, and tells of which keys it reminds.
    #[track_caller]
    fn wake(&mut self) -> Vec<Letter> {
        assert!(self.wake_at_ms > 0, "it is to wake");
        self.now_ms = self.now_ms.max(self.wake_at_ms);
        self.wake_at_ms = 0;
        self.decide(|module, rows, cx, draft| module.wake(rows, cx, draft).map(|()| Bytes::new()).unwrap());
        let letter = |effect: &Effect| {
            assert_eq!((effect.target.as_str(), effect.method), ("system/mail", mail_effects::POST_LETTER.path));
            PostLetterRequest::decode(effect.request.clone()).unwrap().letter.unwrap()
        };
        let letters: Vec<_> = self.effects.iter().map(letter).collect();
        assert!(letters.iter().all(|letter| (letter.kind(), letter.to.as_str()) == (LetterKind::ApiKeyExpires, EMAIL)));
        letters
    }

    fn key(&mut self, name: &str) -> ApiKey {
        let request = ListApiKeysRequest { parent: Self::address().to_string(), ..ListApiKeysRequest::default() };
        let request = request.encode_to_vec().into();
        let method = api_keys::LIST_API_KEYS.path;
        let answer = self.decide(|module, rows, cx, _| module.ask(method, rows, &request, cx).unwrap());
        let listed = ListApiKeysResponse::decode(answer).unwrap().api_keys;
        listed.iter().map(|key| key.decode().unwrap()).find(|key| key.name == name).unwrap()
    }
}

fn names(letters: &[Letter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.resource.as_str()).collect()
}

#[test]
fn a_week_before_its_end_or_a_tenth_of_its_life() {
    for (life_ms, before_ms) in [
        (366 * DAY_MS, Some(7 * DAY_MS)),
        (70 * DAY_MS, Some(7 * DAY_MS)),
        (69 * DAY_MS, Some(69 * DAY_MS / 10)),
        (DAY_MS, Some(DAY_MS / 10)),
        (DAY_MS - 1, None),
        (HOUR_MS, None),
    ] {
        let mut stage = Stage::new();
        let name = stage.create("ci", life_ms);
        assert_eq!(stage.wake_at_ms, before_ms.map_or(0, |before_ms| T + life_ms - before_ms), "{life_ms}");
        if before_ms.is_some() {
            let letters = stage.wake();
            let [letter] = letters.as_slice() else { panic!("{letters:?}") };
            assert_eq!((letter.about.as_str(), &letter.resource), ("ci", &name));
            assert_eq!(letter.expire_time_ms, T + life_ms, "of no use after that");
            assert_eq!(stage.key(&name).remind_time_ms, stage.now_ms);
            assert_eq!(stage.wake_at_ms, 0, "once");
        }
    }
}

#[test]
fn each_key_is_told_of_once_in_its_turn() {
    let mut stage = Stage::new();
    let [late, first, second] = [("late", 300 * DAY_MS), ("first", 30 * DAY_MS), ("second", 30 * DAY_MS)]
        .map(|(n, life)| stage.create(n, life));
    assert_eq!(stage.wake_at_ms, T + 27 * DAY_MS);
    let mut told = names(&stage.wake()).into_iter().map(str::to_owned).collect::<Vec<_>>();
    told.sort();
    let mut both = [first.clone(), second];
    both.sort();
    assert_eq!(told, both);
    assert_eq!(stage.wake_at_ms, T + 293 * DAY_MS);
    // Woken too early, or again, or used: nothing is told twice, and the time stays.
    stage.used(&first);
    assert_eq!(stage.wake_at_ms, T + 293 * DAY_MS);
    stage.wake_at_ms = stage.now_ms;
    assert!(stage.wake().is_empty());
    assert_eq!(stage.wake_at_ms, T + 293 * DAY_MS);
    assert_eq!(names(&stage.wake()), [&late]);
    assert_eq!(stage.wake_at_ms, 0);
}

#[test]
fn of_keys_that_are_over_nobody_is_reminded() {
    let mut stage = Stage::new();
    let revoked = stage.create("revoked", 30 * DAY_MS);
    let kept = stage.create("kept", 60 * DAY_MS);
    stage.revoke(&revoked);
    assert!(stage.wake().is_empty());
    assert_eq!(stage.wake_at_ms, T + 54 * DAY_MS);
    // The server was away for longer than the key lived.
    stage.now_ms = T + 60 * DAY_MS;
    assert!(stage.wake().is_empty());
    assert_eq!((stage.wake_at_ms, stage.key(&kept).remind_time_ms), (0, 0));
}

#[test]
fn a_key_without_a_wake_up_gets_one_when_it_is_used() {
    let mut stage = Stage::new();
    let name = stage.create("of an older release", 100 * DAY_MS);
    stage.wake_at_ms = 0;
    stage.used(&name);
    assert_eq!(stage.wake_at_ms, T + 93 * DAY_MS);
    // Even late.
    stage.wake_at_ms = 0;
    stage.now_ms = T + 99 * DAY_MS;
    stage.used(&name);
    assert_eq!(names(&stage.wake()), [&name]);
    stage.used(&name);
    assert_eq!(stage.wake_at_ms, 0);
}

#[test]
fn a_server_without_mail_wakes_once_and_tells_nobody() {
    let mut stage = Stage::new();
    let name = stage.create("ci", 100 * DAY_MS);
    stage.issuer.0.mails = false;
    assert!(stage.wake().is_empty());
    assert_eq!((stage.wake_at_ms, stage.key(&name).remind_time_ms), (0, 0));
    // Mail comes before the key's end.
    stage.issuer.0.mails = true;
    stage.now_ms += DAY_MS;
    stage.used(&name);
    assert_eq!(names(&stage.wake()), [&name]);
}
