//! The actor that owns the port.
//!
//! - It owns the listening socket and, through it, every connection.
//! - Its listener tells it when it has ended; nobody else sends it anything.
//! - It exits when the tree stops it, after draining, or when its listener ends by itself.
//! - If it dies, connections break, and its supervisor listens anew at the same address: clients
//!   connect again, and repeat what was under way under the same request ids.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use canopy_supervision::{ChildSpec, Probe, Shutdown};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::front::Front;
use super::listener::{Listener, Options, ServeReport};

/// What the drain may take beyond its grace: aborting what is left.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(2);

/// Where the port is, once it is known: port 0 takes a free one, and a restart keeps it.
pub type BoundAddress = Arc<OnceLock<SocketAddr>>;

struct Port;

struct Arguments {
    options: Options,
    front: Front,
    address: BoundAddress,
    probe: Arc<Probe>,
}

struct State {
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<ServeReport>>,
}

/// The listener has ended.
struct Ended;

impl Actor for Port {
    type Msg = Ended;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Ended>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { mut options, front, address, probe } = arguments;
        if let Some(known) = address.get() {
            options.address = *known;
        }
        let bound = Listener::bind(options)?;
        let local = *address.get_or_init(|| bound.local_addr());
        probe.set_state(format!("listens on {local}"));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let report = bound.serve(front, async move { drop(stopped.await) }).await;
            // Refused while the actor stops, which is when nobody asks.
            let _ = myself.send_message(Ended);
            report
        });
        Ok(State { stop: Some(stop), serving: Some(serving) })
    }

    async fn handle(&self, _: ActorRef<Ended>, Ended: Ended, _: &mut State) -> Result<(), ActorProcessingErr> {
        Err("the listener ended by itself".into())
    }

    async fn post_stop(&self, _: ActorRef<Ended>, state: &mut State) -> Result<(), ActorProcessingErr> {
        drop(state.stop.take());
        if let Some(serving) = state.serving.take() {
            let report = serving.await?;
            tracing::info!(?report, "port closed");
        }
        Ok(())
    }
}

/// The child that serves `front`.
pub fn port(options: Options, front: Front, address: BoundAddress) -> ChildSpec {
    let probe = Probe::new();
    let grace = options.drain_grace;
    let shared = Arc::clone(&probe);
    let arguments = move || Arguments {
        options: options.clone(),
        front: front.clone(),
        address: Arc::clone(&address),
        probe: Arc::clone(&shared),
    };
    ChildSpec::actor("port", probe, move || (Port, arguments())).shutdown(Shutdown::Timeout(grace + SHUTDOWN_MARGIN))
}
