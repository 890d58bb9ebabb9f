//! System actors that do something again and again.
//!
//! - They own nothing.
//! - They send themselves a tick; nobody else sends them anything.
//! - They exit with the node, and are restarted if they crash.
//! - If one dies, idle actors stay longer, wake-ups come later, or what was
//!   denied stands in audits later.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use canopy_cluster::PARTS;
use canopy_domain::Address;
use canopy_proto::methods::wakes;
use canopy_proto::system::v1::{ListWakesRequest, ListWakesResponse, Wake};
use canopy_supervision::{ChildSpec, Probe};
use prost::Message;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Semaphore;

use crate::shell::{Note, WAKE_MARGIN_MS};
use crate::{Node, clock};

/// Longest wait between two looks at the wake-ups.
const WAKE_WAIT_MS_MAX: i64 = 5_000;
/// Wake-ups handled in one look.
const WAKES_MAX: u32 = 500;
/// Wake-ups under way at once: each may open a vault, and most let go of it
/// when they are done.
const WAKES_AT_ONCE: usize = 64;

pub(crate) type Tick = Arc<dyn Fn(Node) -> Pin<Box<dyn Future<Output = Duration> + Send>> + Send + Sync>;

struct Periodic;

struct State {
    node: Node,
    tick: Tick,
    /// Whether it is done once more at the end.
    ticks_last: bool,
    probe: Arc<Probe>,
}

impl Actor for Periodic {
    type Msg = ();
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, myself: ActorRef<()>, state: State) -> Result<State, ActorProcessingErr> {
        myself.send_message(())?;
        Ok(state)
    }

    async fn post_stop(&self, _: ActorRef<()>, state: &mut State) -> Result<(), ActorProcessingErr> {
        if state.ticks_last {
            (state.tick)(state.node.clone()).await;
        }
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<()>, (): (), state: &mut State) -> Result<(), ActorProcessingErr> {
        let wait = (state.tick)(state.node.clone()).await;
        state.probe.handled();
        myself.send_after(wait, || ());
        Ok(())
    }
}

pub(crate) fn periodic(id: &'static str, node: Node, tick: Tick, ticks_last: bool) -> ChildSpec {
    let probe = Probe::new();
    let shared = Arc::clone(&probe);
    let state = move || State { node: node.clone(), tick: Arc::clone(&tick), ticks_last, probe: Arc::clone(&shared) };
    ChildSpec::actor(id, probe, move || (Periodic, state()))
}

/// Has idle actors passivate. Looks at each about once in `every`: at a part at
/// a time, so that they end evenly over it and nobody waits behind them all.
pub fn sweeper(node: Node, every: Duration) -> ChildSpec {
    let next = Arc::new(AtomicUsize::new(0));
    let wait = every / u32::try_from(PARTS).unwrap_or(1);
    periodic(
        "sweeper",
        node,
        Arc::new(move |node| {
            let part = next.fetch_add(1, Ordering::Relaxed) % PARTS;
            Box::pin(async move {
                node.sweep(part).await;
                wait
            })
        }),
        false,
    )
}

/// Activates addresses when their time has come.
pub fn wake_clock(node: Node) -> ChildSpec {
    let started = Arc::new(AtomicBool::new(false));
    let under_way = Arc::new(Semaphore::new(WAKES_AT_ONCE));
    let tick: Tick = Arc::new(move |node| Box::pin(wake_due(node, Arc::clone(&started), Arc::clone(&under_way))));
    periodic("wake clock", node, tick, false)
}

async fn wake_due(node: Node, started: Arc<AtomicBool>, under_way: Arc<Semaphore>) -> Duration {
    let now_ms = clock::now_ms();
    let target = Address::system("wakes");
    // Who registered for effects under way may not have lived to deliver them:
    // after a start their time has come.
    let until_ms = if started.load(Ordering::Acquire) { now_ms } else { now_ms + WAKE_MARGIN_MS };
    let request = ListWakesRequest { until_ms, limit: WAKES_MAX }.encode_to_vec().into();
    let wait_ms = match node.ask(&target, wakes::LIST_WAKES.path, request, &target, "").await {
        Ok(answer) => {
            let is_first = !started.swap(true, Ordering::AcqRel);
            let due = ListWakesResponse::decode(answer).unwrap_or_default();
            let address = |wake: &Wake| {
                let parsed = Address::parse(&wake.address);
                parsed
                    .inspect_err(|error| tracing::error!(address = wake.address, %error, "wake-up for no address"))
                    .ok()
            };
            let addresses: Vec<_> = due.wakes.iter().filter_map(address).collect();
            if is_first {
                // Before any is activated: that may take a while.
                for hook in node.hooks() {
                    addresses.iter().filter(|address| hook.wants(address)).for_each(|address| hook.found(address));
                }
            }
            for address in &addresses {
                // Nobody closes it.
                let permit = Arc::clone(&under_way).acquire_owned().await.ok();
                node.note(address, Note::Wake(permit.map(Arc::new))).await;
            }
            match due.next_ms {
                0 => WAKE_WAIT_MS_MAX,
                next_ms => (next_ms - now_ms).clamp(50, WAKE_WAIT_MS_MAX),
            }
        }
        Err(refusal) => {
            tracing::warn!(%refusal, "wake-ups cannot be read; trying again");
            WAKE_WAIT_MS_MAX
        }
    };
    Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0))
}
