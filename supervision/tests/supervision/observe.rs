//! The tree, seen while it runs.

use std::sync::Arc;
use std::time::Duration;

use canopy_supervision::{
    ChildSpec, DynamicSpec, DynamicSupervisor, Mailbox, Observe, Permitted, Probe, StartError, Status, Supervisor,
    TEXT_BYTES_MAX, TreeNode,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use crate::stage::{Order, Stage, settle};

/// One line per node, indented by depth.
fn outline(node: &TreeNode, depth: usize, lines: &mut Vec<String>) {
    let errors = node.last_error.as_deref().unwrap_or("-");
    let indent = "  ".repeat(depth);
    let total = node.children_total;
    lines.push(format!("{indent}{} {:?} {} {total} {errors}", node.id, node.status, node.restarts));
    for child in &node.children {
        outline(child, depth + 1, lines);
    }
}

fn check(node: &TreeNode, expected: &[&str]) {
    let mut lines = Vec::new();
    outline(node, 0, &mut lines);
    assert_eq!(lines, expected);
}

#[tokio::test(start_paused = true)]
async fn a_nested_tree_while_its_children_hang() {
    let stage = Stage::default();
    let orgs = DynamicSupervisor::new(DynamicSpec::new("orgs"));
    let inner = stage.supervisor("inner one_for_one\n x\n y transient").child(orgs.child_spec());
    let inner = Supervisor::new(inner);
    let root = Supervisor::new(stage.supervisor("root one_for_one\n a").child(inner.child_spec()));
    check(&root.observe(9, 9), &["root Stopped 0 0 -"]);
    root.start(None).await.expect("starts");
    for key in ["org/1", "org/2", "org/3"] {
        orgs.start_child(key, stage.child("o temporary")).await.expect("starts");
    }
    stage.order("x", Order::Crash);
    stage.order("y", Order::Stop(None));
    stage.order("a", Order::Hang);
    settle().await;
    stage.order("x", Order::Hang);
    settle().await;
    check(
        &root.observe(2, 9),
        &[
            "root Running 0 2 -",
            "  a Running 0 0 -",
            "  inner Running 0 3 -",
            "    x Running 1 0 x panicked",
            "    y Stopped 0 0 -",
            "    orgs Running 0 3 -",
        ],
    );
    check(&root.observe(0, 9), &["root Running 0 2 -"]);
    let bounded = root.observe(3, 2);
    assert_eq!(bounded.children[1].children.len(), 2, "x and y");
    assert_eq!(bounded.children[1].children_total, 3);
    let orgs_seen = &inner.observe(2, 9).children[2];
    assert_eq!(orgs_seen.children.len(), 3);
    assert!(orgs_seen.children.iter().all(|org| org.id.starts_with("org/") && org.started_ms > 0));
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_busy_stopping_can_be_seen() {
    let stage = Stage::default();
    let root = Supervisor::new(stage.supervisor("root one_for_all 9/5000 backoff=1000\n a slow=100\n b"));
    root.start(None).await.expect("starts");
    stage.order("b", Order::Crash);
    settle().await;
    check(&root.observe(1, 9), &["root Running 0 2 -", "  a Stopping 0 0 -", "  b Stopped 0 0 b panicked"]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    check(&root.observe(1, 9), &["root Running 0 2 -", "  a Stopped 0 0 -", "  b Restarting 0 0 b panicked"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    check(&root.observe(1, 9), &["root Running 0 2 -", "  a Running 1 0 -", "  b Running 1 0 b panicked"]);
}

struct Counter(Arc<Probe>);

impl Actor for Counter {
    type Msg = Permitted<u64>;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        self.0.set_state("idle");
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Self::Msg>, message: Self::Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let wait_ms = message.into_inner();
        self.0.handled();
        self.0.set_state(format!("waiting {wait_ms} ms"));
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_shows_what_its_child_writes() {
    let probe = Probe::new();
    let made = Arc::clone(&probe);
    let counter = ChildSpec::worker("counter", move |supervisor: ActorCell| {
        let probe = Arc::clone(&made);
        async move {
            let (actor, _) = Actor::spawn_linked(None, Counter(Arc::clone(&probe)), (), supervisor).await?;
            probe.watch(&Mailbox::new("other", actor.clone(), 1));
            Ok::<_, StartError>(actor.get_cell())
        }
    })
    .probe(Arc::clone(&probe));
    let mut spec = Stage::default().supervisor("root one_for_one");
    spec.children.push(counter);
    let root = Supervisor::new(spec);
    root.start(None).await.expect("starts");
    let mailbox: Mailbox<u64> = Mailbox::new("counter", ActorRef::from(root.child("counter").expect("runs")), 10);
    probe.watch(&mailbox);
    let see = || root.observe(1, 1).children.remove(0);
    let idle = see();
    assert_eq!((idle.state.as_str(), idle.handled, idle.heartbeat_ms), ("idle", 0, 0));
    for _ in 0..3 {
        mailbox.try_send(1000).expect("room");
    }
    settle().await;
    let busy = see();
    assert_eq!((busy.state.as_str(), busy.handled, busy.mailbox_depth), ("waiting 1000 ms", 1, 2));
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let later = see();
    assert_eq!((later.handled, later.mailbox_depth), (2, 1));
    assert_eq!(later.heartbeat_ms - busy.heartbeat_ms, 1000);
    probe.set_last_error("é".repeat(TEXT_BYTES_MAX));
    let error = see().last_error.expect("set");
    assert!(error.len() <= TEXT_BYTES_MAX && error.len() > TEXT_BYTES_MAX - 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_serialises() {
    let node = Supervisor::new(Stage::default().supervisor("root one_for_one")).observe(1, 1);
    assert_eq!(node.status, Status::Stopped);
    let json = serde_json::to_value(&node).expect("serialises");
    assert_eq!(json["kind"], "supervisor");
    assert_eq!(json["status"], "stopped");
    assert_eq!(json["children_total"], 0);
}

/// A supervisor's heartbeat is its last event or request.
#[tokio::test(start_paused = true)]
async fn supervisors_have_heartbeats() {
    let stage = Stage::default();
    let orgs = DynamicSupervisor::new(DynamicSpec::new("orgs"));
    let inner = Supervisor::new(stage.supervisor("inner one_for_one\n a").child(orgs.child_spec()));
    let root = Supervisor::new(stage.supervisor("root one_for_one").child(inner.child_spec()));
    root.start(None).await.expect("starts");
    orgs.start_child("org/1", stage.child("o temporary")).await.expect("starts");
    let see = || {
        let seen = root.observe(2, 9).children.remove(0);
        let orgs = seen.children[1].clone();
        (seen, orgs)
    };
    let (first, first_orgs) = see();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for id in ["a", "o"] {
        stage.order(id, Order::Crash);
    }
    settle().await;
    let (second, second_orgs) = see();
    assert_eq!((second.handled - first.handled, second_orgs.handled - first_orgs.handled), (1, 1));
    for node in [second, second_orgs] {
        assert_eq!(node.heartbeat_ms, node.started_ms + 1000, "{}", node.id);
    }
}
