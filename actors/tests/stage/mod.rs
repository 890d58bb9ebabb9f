//! A node with a temporary store and modules that do as they are told.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::Duration;

use canopy_actors::{
    AttemptLimits, Call, CommitHook, Limits, Node, NodeParts, Passkeys, PasswordHashing, SignUpPolicy, Tokens, Turn,
    sweeper, wake_clock,
};
use canopy_domain::{
    Address, Change, Code, Context, Draft, Id, Module, Modules, Order, Origin, Principal, Reader, Refusal, Settings,
    Span, State, Table, Wire,
};
use canopy_proto::chat::v1::{ListMessagesRequest, ListMessagesResponse, Message, SendMessageRequest};
use canopy_proto::methods::{chat, directory, wakes};
use canopy_proto::system::v1::{
    ConfirmRequest, ListWakesRequest, ListWakesResponse, Reservation, ResolveRequest, SetWakeRequest, SetWakeResponse,
    Wake,
};
use canopy_store::{Store, StoreOptions, Unlock};
use canopy_supervision::{Observe, Strategy, Supervisor, SupervisorSpec, TreeNode};
use prost::Message as _;

/// For what should take milliseconds: it fails a hung test.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(2);

const ROWS: Table<Message> = Table::new(1, "rows", 1);
const DELIVERED: Table<Reservation> = Table::new(1, "delivered", 1);
const WAKES: Table<Wake> = Table::new(1, "wakes", 1);

/// A door that a decision waits at.
#[derive(Default)]
struct Gate {
    /// Whether somebody waits, and whether it is open.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

type Shared<T> = LazyLock<Mutex<HashMap<String, T>>>;

static GATES: Shared<Arc<Gate>> = LazyLock::new(Mutex::default);
/// How often a delivery is still to be refused, by its key.
static REFUSALS: Shared<u32> = LazyLock::new(Mutex::default);

fn gate(key: &str) -> Arc<Gate> {
    Arc::clone(GATES.lock().unwrap().entry(key.into()).or_default())
}

pub fn open_gate(key: &str) {
    let gate = gate(key);
    gate.state.lock().unwrap().1 = true;
    gate.changed.notify_all();
}

pub fn waits_at_gate(key: &str) -> bool {
    gate(key).state.lock().unwrap().0
}

/// Has the next deliveries of a key refused as unavailable.
pub fn refuse_deliveries(key: &str, times: u32) {
    REFUSALS.lock().unwrap().insert(key.into(), times);
}

/// Does what the text says: `panic`, `refuse`, `hold:<gate>`, `tell:<key>`
/// (an effect), `settle:<key>` (and waits for it), `many:<count>:<key>`,
/// `wake:<ms>`. Whatever is not refused leaves a row.
fn send(
    _: &State<'_>,
    request: SendMessageRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Wire<Message>, Refusal> {
    let text = request.message.unwrap_or_default().decode().unwrap().text;
    let (verb, argument) = text.split_once(':').unwrap_or((&text, ""));
    let tell = |draft: &mut Draft, key: String| {
        let confirm = ConfirmRequest { space: "test".into(), key, ..ConfirmRequest::default() };
        draft.effect(Address::system("directory"), directory::CONFIRM, &confirm);
    };
    match verb {
        "panic" => panic!("as asked"),
        "refuse" => return Err(Refusal::new(Code::FailedPrecondition, "as asked")),
        "hold" => {
            let gate = gate(argument);
            let mut state = gate.state.lock().unwrap();
            state.0 = true;
            while !state.1 {
                state = gate.changed.wait(state).unwrap();
            }
        }
        "tell" => tell(draft, argument.to_owned()),
        "settle" => {
            tell(draft, argument.to_owned());
            draft.settle();
        }
        "many" => {
            let (count, key) = argument.split_once(':').unwrap();
            for n in 0..count.parse().unwrap() {
                tell(draft, format!("{key}-{n:04}"));
            }
        }
        "wake" => draft.wake_at_ms(cx.now_ms + argument.parse::<i64>().unwrap()),
        _ => {}
    }
    let row = Wire::new(&Message { name: cx.seq.to_string(), text, ..Message::default() });
    draft.insert(&ROWS, cx.seq.to_be_bytes(), &row);
    Ok(row)
}

fn list(state: &State<'_>, _: ListMessagesRequest, _: &Context<'_>) -> Result<ListMessagesResponse, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: 100_000 };
    let messages = state.scan(&ROWS, span)?.into_iter().map(|(_, row)| row).collect();
    Ok(ListMessagesResponse { messages, cursor: state.seq()?, ..ListMessagesResponse::default() })
}

fn woken(_: &State<'_>, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
    let row = Wire::new(&Message { name: cx.seq.to_string(), text: "woken".into(), ..Message::default() });
    draft.insert(&ROWS, cx.seq.to_be_bytes(), &row);
    Ok(())
}

/// Takes note of each delivery, under its seq.
fn confirm(
    _: &State<'_>,
    request: ConfirmRequest,
    cx: &Context<'_>,
    draft: &mut Draft,
) -> Result<Reservation, Refusal> {
    if let Some(left) = REFUSALS.lock().unwrap().get_mut(&request.key).filter(|left| **left > 0) {
        *left -= 1;
        return Err(Refusal::new(Code::Unavailable, "as asked"));
    }
    let row = Reservation { space: request.key, ..Reservation::default() };
    draft.insert(&DELIVERED, cx.seq.to_be_bytes(), &Wire::new(&row));
    Ok(row)
}

/// All deliveries in order, one a line.
fn resolve(state: &State<'_>, _: ResolveRequest, _: &Context<'_>) -> Result<Reservation, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: 100_000 };
    let rows = state.scan(&DELIVERED, span)?;
    let keys: Vec<_> = rows.into_iter().map(|(_, row)| row.decode().unwrap().space).collect();
    Ok(Reservation { holder: keys.join("\n"), ..Reservation::default() })
}

fn set_wake(
    state: &State<'_>,
    request: SetWakeRequest,
    _: &Context<'_>,
    draft: &mut Draft,
) -> Result<SetWakeResponse, Refusal> {
    let key = state.digest(&request.address);
    let before = state.get(&WAKES, &key)?;
    let after = Wire::new(&Wake { address: request.address, time_ms: request.time_ms });
    draft.put(&WAKES, key, before.as_ref(), &after);
    Ok(SetWakeResponse {})
}

fn list_wakes(state: &State<'_>, request: ListWakesRequest, _: &Context<'_>) -> Result<ListWakesResponse, Refusal> {
    let span = Span { prefix: &[], after: None, order: Order::Ascending, limit: 1_000 };
    let wakes = state.scan(&WAKES, span)?.into_iter().map(|(_, row)| row.decode().unwrap());
    let (due, later): (Vec<_>, Vec<_>) =
        wakes.filter(|wake| wake.time_ms > 0).partition(|wake| wake.time_ms <= request.until_ms);
    let next_ms = later.iter().map(|wake| wake.time_ms).min().unwrap_or(0);
    Ok(ListWakesResponse { wakes: due, next_ms })
}

fn modules() -> Modules {
    Modules::new([
        Module::new("chat").command(chat::SEND_MESSAGE, send).query(chat::LIST_MESSAGES, list).on_wake(woken),
        Module::new("directory").keep_feed().command(directory::CONFIRM, confirm).query(directory::RESOLVE, resolve),
        Module::new("wakes").command(wakes::SET_WAKE, set_wake).query(wakes::LIST_WAKES, list_wakes),
    ])
}

/// Few crashes, short holds; actors stay.
pub fn limits() -> Limits {
    Limits {
        mailbox_max: 2_000,
        restarts_max: 3,
        restart_period: Duration::from_secs(60),
        quarantine_base: Duration::from_millis(200),
        quarantine_max: Duration::from_secs(1),
        idle: Duration::from_secs(600),
    }
}

pub fn address(n: u8) -> Address {
    let [org, project] = [1, n].map(|byte| Id::from_bytes([byte; 16]));
    Address::parse(&format!("org/{org}/project/{project}/chat")).unwrap()
}

/// Hears of one address only.
#[derive(Default)]
struct Hook(Mutex<Vec<Address>>);

/// Whose commits the hook wants.
pub fn hooked() -> Address {
    address(99)
}

impl CommitHook for Hook {
    fn wants(&self, address: &Address) -> bool {
        *address == hooked()
    }

    fn committed(&self, _: &Address, _: u64, _: &[Change]) {}

    fn found(&self, address: &Address) {
        self.0.lock().unwrap().push(address.clone());
    }
}

/// A running node.
#[derive(Clone)]
pub struct Stage {
    pub node: Node,
    hook: Arc<Hook>,
    limits: Limits,
    feed_retention_ms: i64,
    tree: Supervisor,
    dir: Arc<tempfile::TempDir>,
}

impl Stage {
    pub async fn start(limits: Limits) -> Self {
        Self::start_keeping(limits, 0).await
    }

    /// With feeds that are trimmed.
    pub async fn start_keeping(limits: Limits, feed_retention_ms: i64) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), limits, feed_retention_ms).await
    }

    async fn start_in(dir: Arc<tempfile::TempDir>, limits: Limits, feed_retention_ms: i64) -> Self {
        let hook = Arc::<Hook>::default();
        let node = node(dir.path(), limits.clone(), feed_retention_ms, Arc::clone(&hook) as _);
        let spec = SupervisorSpec::new("test", Strategy::RestForOne)
            .child(node.tenants().child_spec())
            .child(wake_clock(node.clone()))
            .child(sweeper(node.clone(), LOOK));
        let tree = Supervisor::new(spec);
        tree.start(None).await.unwrap();
        Self { node, hook, limits, feed_retention_ms, tree, dir }
    }

    /// Who the hook was told of at the start.
    pub fn found(&self) -> Vec<Address> {
        self.hook.0.lock().unwrap().clone()
    }

    async fn stop(self) -> (Arc<tempfile::TempDir>, Limits, i64) {
        self.node.stop_retrying();
        self.tree.stop().await;
        self.node.store().close().await.unwrap();
        (self.dir, self.limits, self.feed_retention_ms)
    }

    /// Stops the node, and starts one on its data.
    pub async fn restart(self) -> Self {
        let (dir, limits, feed_retention_ms) = self.stop().await;
        Self::start_in(dir, limits, feed_retention_ms).await
    }

    /// From where on the feed of an address is kept.
    pub async fn floor(&self, address: &Address) -> u64 {
        within(self.node.snapshot(address)).await.unwrap().floor().unwrap()
    }

    /// The seq of the row that a text left.
    pub async fn send(&self, address: &Address, text: &str) -> Result<u64, Refusal> {
        self.send_once(address, text, "").await
    }

    pub async fn send_once(&self, address: &Address, text: &str, request_id: &str) -> Result<u64, Refusal> {
        let message = Message { text: text.into(), ..Message::default() };
        let request = SendMessageRequest { message: Some(Wire::new(&message)), ..SendMessageRequest::default() };
        let call = call(chat::SEND_MESSAGE.path, &request, request_id);
        let answer = within(self.node.command(address, call)).await?;
        Ok(Message::decode(answer).unwrap().name.parse().unwrap())
    }

    /// As [`Stage::send`], for whoever may give up waiting.
    pub async fn send_in_turn(&self, address: &Address, text: &str, turn: &Arc<Turn>) -> Result<(), Refusal> {
        let message = Message { text: text.into(), ..Message::default() };
        let request = SendMessageRequest { message: Some(Wire::new(&message)), ..SendMessageRequest::default() };
        let call = call(chat::SEND_MESSAGE.path, &request, "");
        within(self.node.command_in_turn(address, call, turn)).await.map(drop)
    }

    /// What rows say, read around the mailbox: nobody is activated.
    pub async fn rows(&self, address: &Address) -> Vec<String> {
        let call = call(chat::LIST_MESSAGES.path, &ListMessagesRequest::default(), "");
        let answer = within(self.node.query(address, &call)).await.unwrap();
        let rows = ListMessagesResponse::decode(answer).unwrap().messages;
        rows.iter().map(|row| row.decode().unwrap().text).collect()
    }

    /// Keys of the effects that their receiver made, in order.
    pub async fn delivered(&self) -> Vec<String> {
        let call = call(directory::RESOLVE.path, &ResolveRequest::default(), "");
        let answer = within(self.node.query(&Address::system("directory"), &call)).await.unwrap();
        Reservation::decode(answer).unwrap().holder.lines().map(str::to_owned).collect()
    }

    /// The actor at an address, if it is active.
    pub fn actor(&self, address: &Address) -> Option<TreeNode> {
        let children = self.node.tenants().observe(2, 10_000).children;
        children.into_iter().find(|child| *child.id == *address.as_str())
    }
}

fn node(dir: &Path, limits: Limits, feed_retention_ms: i64, hook: Arc<dyn CommitHook>) -> Node {
    let mut options = StoreOptions::new(dir.join("data"), Unlock::KeyFile(dir.join("root.key")));
    options.feed_retention_ms = feed_retention_ms;
    let store = Store::open(options).unwrap();
    let tokens = Tokens::new(&[7; 32], "test".into(), 1_000, 1_000, SignUpPolicy::Closed).unwrap();
    Node::new(NodeParts {
        store,
        modules: modules(),
        limits,
        issuer: Arc::new(tokens),
        settings: Settings::default(),
        passkeys: Passkeys::new(None, &[7; 32], "test".into()).unwrap(),
        passwords: PasswordHashing::new(64, 1, 1, AttemptLimits::default()).unwrap(),
        budgets: None,
        hooks: vec![hook],
    })
}

fn call(method: &'static str, request: &impl prost::Message, request_id: &str) -> Call {
    Call {
        method,
        request: request.encode_to_vec().into(),
        principal: Principal::Nobody,
        origin: Origin::default(),
        role: None,
        request_id: request_id.into(),
    }
}

pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("ends before the deadline")
}

/// Looks until a condition holds.
pub async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let mut look = tokio::time::interval(LOOK);
    within(async {
        while !holds().await {
            look.tick().await;
        }
    })
    .await;
}
