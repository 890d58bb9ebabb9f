//! This side: scenarios performed by the crate, in virtual time.
//!
//! Workers note their starts and ends themselves. The ends of supervisors below
//! the root are what the crate logs, which is what an operator sees of them.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use canopy_supervision as sup;
use canopy_supervision::{
    ChildError, ChildSpec, DynamicSpec, DynamicSupervisor, Intensity, StartError, Status, Supervisor, SupervisorSpec,
};
use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorRef};

use crate::cast::{Log, Order, Parent, Worker};
use crate::scenario::{Auto, Flags, Node, Restart, Scenario, Shutdown, Strategy, Trace};

/// Longer than any worker takes to be stopped, time-outs included: as long as
/// something goes on, something is noted within this time.
const SETTLE: Duration = Duration::from_millis(30);

/// Performs a scenario in a runtime of its own.
pub(crate) fn perform(scenario: &Scenario) -> Trace {
    let stage = Stage::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let supervisors = scenario.nodes().into_iter().filter(|node| node.flags.is_some()).map(|node| node.id).collect();
    let log = Log { stage: stage.clone(), supervisors };
    tracing::subscriber::with_default(log, || runtime.expect("a runtime").block_on(stage.perform(scenario)))
}

#[derive(Clone)]
enum Handle {
    Fixed(Supervisor),
    Pool(DynamicSupervisor),
}

#[derive(Clone, Default)]
pub(crate) struct Stage {
    notes: Arc<Mutex<Vec<String>>>,
    pub(crate) workers: Arc<Mutex<HashMap<String, ActorRef<Order>>>>,
    supervisors: Arc<Mutex<HashMap<String, Handle>>>,
    /// What was ordered for the next starts of a worker: how often, and what.
    starts: Arc<Mutex<HashMap<String, (u32, String)>>>,
}

impl Stage {
    async fn perform(&self, scenario: &Scenario) -> Trace {
        let nodes = scenario.nodes();
        let members: HashMap<&str, &Node> =
            nodes.iter().filter(|node| node.is_member).map(|node| (node.id.as_str(), node)).collect();
        let root = &nodes[0];
        self.build(&nodes, root);
        let mut trace = vec![format!("== {}", scenario.name)];
        for step in std::iter::once("start").chain(scenario.steps.iter().map(String::as_str)) {
            let answer = self.play(step, root, &members).await;
            let mut noted = usize::MAX;
            while noted != self.notes.lock().len() {
                noted = self.notes.lock().len();
                tokio::time::sleep(SETTLE).await;
            }
            trace.push(format!("> {step}"));
            trace.append(&mut self.notes.lock());
            trace.extend(answer.map(|answer| format!("= {answer}")));
            let mut tree = String::new();
            self.show(&root.id, &mut tree);
            trace.push(format!(": {tree}"));
        }
        trace
    }

    pub(crate) fn note(&self, event: impl Into<String>) {
        self.notes.lock().push(event.into());
    }

    /// Makes the supervisor that a node describes, and all below it.
    fn build(&self, nodes: &[Node], node: &Node) -> Handle {
        let flags = node.flags.expect("a supervisor");
        let intensity = Intensity { restarts_max: flags.restarts_max, period: Duration::from_secs(flags.period_s) };
        let auto_shutdown = match flags.auto {
            Auto::Never => sup::AutoShutdown::Never,
            Auto::Any => sup::AutoShutdown::AnySignificant,
            Auto::All => sup::AutoShutdown::AllSignificant,
        };
        let handle = if let Some(strategy) = strategy(&flags) {
            let mut spec = SupervisorSpec::new(node.id.as_str(), strategy).intensity(intensity);
            spec.auto_shutdown = auto_shutdown;
            let children = nodes.iter().filter(|child| child.parent.as_deref() == Some(&node.id));
            spec.children = children.map(|child| self.child(nodes, child)).collect();
            Handle::Fixed(Supervisor::new(spec))
        } else {
            Handle::Pool(DynamicSupervisor::new(DynamicSpec {
                intensity,
                auto_shutdown,
                ..DynamicSpec::new(node.id.as_str())
            }))
        };
        self.supervisors.lock().insert(node.id.clone(), handle.clone());
        handle
    }

    fn child(&self, nodes: &[Node], node: &Node) -> ChildSpec {
        if node.flags.is_none() {
            return self.worker(node, &node.id);
        }
        let mut spec = match self.build(nodes, node) {
            Handle::Fixed(supervisor) => supervisor.child_spec(),
            Handle::Pool(supervisor) => supervisor.child_spec(),
        };
        let (stage, id, start) = (self.clone(), node.id.clone(), Arc::clone(&spec.start));
        spec.start = Arc::new(move |parent| {
            stage.note(format!("start {id}"));
            start(parent)
        });
        described(spec, node)
    }

    fn worker(&self, node: &Node, id: &str) -> ChildSpec {
        let (stage, manner, name) = (self.clone(), node.manner, id.to_owned());
        let spec = ChildSpec::worker(id, move |parent: ActorCell| {
            let worker = Worker::new(stage.clone(), name.clone(), manner);
            async move { worker.start(parent).await }
        });
        described(spec, node)
    }

    /// What is ordered for the start of `id`, which uses it up.
    pub(crate) fn take(&self, id: &str) -> Option<String> {
        let mut starts = self.starts.lock();
        let (left, what) = starts.get_mut(id).filter(|(left, _)| *left > 0)?;
        *left -= 1;
        Some(what.clone())
    }

    fn supervisor(&self, id: &str) -> Handle {
        self.supervisors.lock()[id].clone()
    }

    fn fixed(&self, id: &str) -> Supervisor {
        match self.supervisor(id) {
            Handle::Fixed(supervisor) => supervisor,
            Handle::Pool(_) => panic!("{id} is a pool"),
        }
    }

    fn pool(&self, id: &str) -> DynamicSupervisor {
        match self.supervisor(id) {
            Handle::Pool(supervisor) => supervisor,
            Handle::Fixed(_) => panic!("{id} is no pool"),
        }
    }

    fn cell(&self, id: &str) -> ActorCell {
        let supervisor = self.supervisors.lock().get(id).cloned();
        match supervisor {
            Some(Handle::Fixed(supervisor)) => supervisor.cell().expect("it runs"),
            Some(Handle::Pool(supervisor)) => supervisor.cell().expect("it runs"),
            None => self.workers.lock()[id].get_cell(),
        }
    }

    fn order(&self, id: &str, order: Order) {
        let worker = self.workers.lock().get(id).cloned();
        if worker.is_none_or(|worker| worker.send_message(order).is_err()) {
            self.note(format!("{id} is not there"));
        }
    }

    async fn play(&self, step: &str, root: &Node, members: &HashMap<&str, &Node>) -> Option<String> {
        let words: Vec<&str> = step.split_whitespace().collect();
        let id = words.get(1).copied().unwrap_or_default();
        match words[0] {
            "start" => return Some(self.start(root).await),
            "crash" => self.order(id, Order::Crash),
            "stop" => self.order(id, Order::Stop(words[2].to_owned())),
            "kill" => self.cell(id).kill(),
            "refuse" => {
                let ordered = (words[2].parse().expect("a number"), words[3].to_owned());
                self.starts.lock().insert(id.to_owned(), ordered);
            }
            "decline" => {
                let ordered = (words[2].parse().expect("a number"), "decline".to_owned());
                self.starts.lock().insert(id.to_owned(), ordered);
            }
            "age" => tokio::time::sleep(Duration::from_secs(id.parse().expect("a number"))).await,
            "shutdown" => match self.supervisor(&root.id) {
                Handle::Fixed(supervisor) => supervisor.stop().await,
                Handle::Pool(supervisor) => supervisor.stop().await,
            },
            "count" => return Some(self.count(id)),
            "terminate" => return Some(answered(self.fixed(id).terminate_child(words[2]).await)),
            "restart" => return Some(answered(self.fixed(id).restart_child(words[2]).await)),
            "delete" => return Some(answered(self.fixed(id).delete_child(words[2]).await)),
            "add" => {
                let node = Node::parse(&words[1..].join(" "));
                let parent = node.parent.as_deref().expect("in=SUP");
                return Some(answered(self.fixed(parent).start_child(self.worker(&node, &node.id)).await));
            }
            "spawn" => {
                let key = format!("{id}/{}", words[2]);
                let spec = self.worker(members[id], &key);
                return Some(answered(self.pool(id).start_child(key, spec).await.map_err(Into::into)));
            }
            "drop" => {
                return Some(answered(self.pool(id).terminate_child(&format!("{id}/{}", words[2])).await));
            }
            other => panic!("no step {other}"),
        }
        None
    }

    async fn start(&self, root: &Node) -> String {
        let (parent, _) = Actor::spawn(None, Parent(self.clone(), root.id.clone()), ()).await.expect("starts");
        let parent = Some(parent.get_cell());
        self.note(format!("start {}", root.id));
        let started = match self.supervisor(&root.id) {
            Handle::Fixed(supervisor) => supervisor.start(parent).await,
            Handle::Pool(supervisor) => supervisor.start(parent).await,
        };
        match started {
            Ok(_) => "ok".to_owned(),
            Err(error) => {
                self.note(format!("unstarted {}", root.id));
                format!("failed{}", path(&error))
            }
        }
    }

    fn count(&self, id: &str) -> String {
        let (counts, specs) = match self.supervisor(id) {
            Handle::Fixed(supervisor) => (supervisor.count_children(), true),
            // OTP's has one spec, these have one for each child.
            Handle::Pool(supervisor) => (supervisor.count_children(), false),
        };
        let specs = if specs { format!("{} ", counts.specs) } else { String::new() };
        format!("{specs}{} {} {}", counts.active, counts.supervisors, counts.workers)
    }

    fn show(&self, id: &str, tree: &mut String) {
        let handle = self.supervisor(id);
        let alive = match &handle {
            Handle::Fixed(supervisor) => supervisor.cell().is_some(),
            Handle::Pool(supervisor) => supervisor.cell().is_some(),
        };
        if !alive {
            tree.push('-');
            return;
        }
        let (children, brackets) = match handle {
            Handle::Fixed(supervisor) => (supervisor.which_children(), ['[', ']']),
            Handle::Pool(supervisor) => {
                let mut children = supervisor.which_children(usize::MAX);
                children.sort_by(|one, other| one.id.cmp(&other.id));
                (children, ['{', '}'])
            }
        };
        write!(tree, "{id}{}", brackets[0]).expect("a String");
        for (index, child) in children.iter().enumerate() {
            tree.push_str(if index > 0 { " " } else { "" });
            match child.status {
                Status::Stopped => write!(tree, "{}-", child.id).expect("a String"),
                Status::Running if child.kind == sup::ChildKind::Supervisor => self.show(&child.id, tree),
                Status::Running => tree.push_str(&child.id),
                other => write!(tree, "{}:{other:?}", child.id).expect("a String"),
            }
        }
        tree.push(brackets[1]);
    }
}

fn strategy(flags: &Flags) -> Option<sup::Strategy> {
    match flags.strategy {
        Strategy::OneForOne => Some(sup::Strategy::OneForOne),
        Strategy::OneForAll => Some(sup::Strategy::OneForAll),
        Strategy::RestForOne => Some(sup::Strategy::RestForOne),
        Strategy::Simple => None,
    }
}

fn described(mut spec: ChildSpec, node: &Node) -> ChildSpec {
    spec.restart = match node.restart {
        Restart::Permanent => sup::Restart::Permanent,
        Restart::Transient => sup::Restart::Transient,
        Restart::Temporary => sup::Restart::Temporary,
    };
    spec.shutdown = match node.shutdown {
        Shutdown::Brutal => sup::Shutdown::BrutalKill,
        Shutdown::Infinity => sup::Shutdown::Infinity,
        Shutdown::Ms(ms) => sup::Shutdown::Timeout(Duration::from_millis(ms)),
    };
    spec.significant = node.significant;
    spec
}

/// The children that did not start, from the top down.
fn path(error: &StartError) -> String {
    match error {
        StartError::Child { child, source } => format!(" {child}{}", path(source)),
        _ => String::new(),
    }
}

/// OTP's words for an answer.
fn answered<T>(answer: Result<T, ChildError>) -> String {
    let error = match answer {
        Ok(_) => return "ok".to_owned(),
        Err(ChildError::Start(StartError::Ignored)) => return "ok undefined".to_owned(),
        Err(error) => error,
    };
    let name = match error {
        ChildError::NotFound { .. } => "not_found",
        ChildError::AlreadyPresent { .. } => "already_present",
        ChildError::Running { .. } => "running",
        ChildError::Restarting { .. } => "restarting",
        ChildError::NotRunning { .. } | ChildError::Start(StartError::NotRunning { .. }) => "noproc",
        ChildError::Start(StartError::AlreadyStarted { .. }) => "already_started",
        ChildError::Start(StartError::InvalidSpec { .. }) => "invalid",
        ChildError::Start(_) => "failed",
    };
    format!("error {name}")
}
