//! How children are stopped, and how long it may take.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use canopy_supervision::{ChildSpec, DynamicSpec, DynamicSupervisor, Observe, Status, Supervisor};
use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use crate::stage::{Stage, check, settle};

#[tokio::test(start_paused = true)]
async fn asked_then_killed() {
    check(
        "s one_for_one
         brutal brutal
         quick timeout=100
         slow slow=50 timeout=100
         late slow=200 timeout=100
         patient slow=60000 infinity",
        "shutdown",
        "> start
         started brutal, started quick, started slow, started late, started patient
         > shutdown
         stopped patient, killed late, stopped slow, stopped quick, killed brutal, supervisor ended: shutdown",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_child_is_killed_after_its_time_out() {
    check(
        "s one_for_all\n a timeout=100\n b",
        "hang a\n crash b\n advance 97\n advance 3",
        "> start
         started a, started b
         > hang a
         > crash b
         crashed b
         > advance 97
         > advance 3
         killed a, started a, started b",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_killed_takes_its_children_along() {
    let stage = crate::stage::Stage::default();
    let supervisor = canopy_supervision::Supervisor::new(stage.supervisor("s one_for_one\n a\n b"));
    let cell = supervisor.start(None).await.expect("starts");
    stage.events();
    cell.kill();
    crate::stage::settle().await;
    let mut events: Vec<String> = stage.events().split(", ").map(ToOwned::to_owned).collect();
    events.sort();
    assert_eq!(events, ["killed a", "killed b"]);
    assert!(supervisor.child("a").is_none());
    supervisor.start(None).await.expect("starts again");
    assert_eq!(stage.events(), "started a, started b");
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_killed_during_its_start_leaves_nothing_behind() {
    let stage = crate::stage::Stage::default();
    let inner = Supervisor::new(stage.supervisor("inner one_for_one\n b\n c late=60000\n d"));
    let root = Supervisor::new(stage.supervisor("root one_for_one\n a").child(inner.child_spec()));
    let kill = async {
        settle().await;
        assert_eq!(stage.events(), "started a, started b, starting c");
        root.cell().expect("it is starting").kill();
    };
    let (answer, ()) = tokio::join!(root.start(None), kill);
    assert!(answer.is_err());
    tokio::time::sleep(Duration::from_secs(61)).await;
    let mut events: Vec<String> = stage.events().split(", ").map(ToOwned::to_owned).collect();
    events.sort();
    assert_eq!(events, ["killed a", "killed b"]);
    assert!(root.cell().is_none() && inner.cell().is_none());
    assert!(root.which_children().iter().all(|child| child.cell.is_none()));
    root.start(None).await.expect("starts again");
    assert_eq!(stage.events(), "started a, started b, starting c, started c, started d");
}

/// Holds its thread until it is told to go on, as nothing in Rust can end it.
struct Stubborn {
    go: Arc<Mutex<mpsc::Receiver<()>>>,
    stage: Stage,
}

impl Actor for Stubborn {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        self.stage.note("started".into());
        Ok(())
    }

    #[allow(clippy::disallowed_methods, reason = "to block is what it is for, and its runtime has several threads")]
    async fn handle(&self, _: ActorRef<()>, (): (), (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.stage.note("busy".into());
        // Lets other threads have what this one would run next.
        tokio::task::block_in_place(|| self.go.lock().recv())?;
        self.stage.note("done".into());
        Ok(())
    }
}

/// A killed supervisor stops nobody in order; its next incarnation does not
/// start a child while the one before is alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_incarnations_of_a_child_never_live_at_once() {
    let stage = Stage::default();
    let (tell, go) = mpsc::channel();
    let go = Arc::new(Mutex::new(go));
    let child = {
        let stage = stage.clone();
        ChildSpec::worker("a", move |supervisor: ActorCell| {
            let stubborn = Stubborn { go: Arc::clone(&go), stage: stage.clone() };
            async move { Ok(Actor::spawn_linked(None, stubborn, (), supervisor).await?.0.get_cell()) }
        })
    };
    let orgs = DynamicSupervisor::new(DynamicSpec::new("orgs"));
    let fixed = Supervisor::new(stage.supervisor("s one_for_one").child(child.clone()));
    for is_dynamic in [false, true] {
        let (cell, actor) = if is_dynamic {
            let cell = orgs.start(None).await.expect("starts");
            (cell, orgs.start_child("a", child.clone()).await.expect("starts"))
        } else {
            (fixed.start(None).await.expect("starts"), fixed.child("a").expect("it runs"))
        };
        actor.send_message(()).expect("it is alive");
        until(|| stage.peek().ends_with("busy")).await;
        cell.kill();
        cell.wait(None).await.expect("no time-out");
        let (orgs, fixed, child) = (orgs.clone(), fixed.clone(), child.clone());
        let see = (orgs.clone(), fixed.clone());
        let again = ractor::concurrency::spawn(async move {
            if is_dynamic {
                orgs.start(None).await.expect("starts again");
                orgs.start_child("a", child).await.expect("starts again");
            } else {
                fixed.start(None).await.expect("starts again");
            }
        });
        until(|| {
            let node = if is_dynamic { see.0.observe(0, 0) } else { see.1.observe(0, 0) };
            node.status == Status::Starting
        })
        .await;
        tell.send(()).expect("it waits");
        again.await.expect("it ends");
        assert_eq!(stage.events(), "started, busy, done, started");
        if is_dynamic {
            see.0.stop().await;
        } else {
            see.1.stop().await;
        }
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), met).await.expect("it comes to that");
}
