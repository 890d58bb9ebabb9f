//! Scripted actors that write what happens to them into one trace.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use canopy_supervision::{
    AutoShutdown, Backoff, ChildSpec, Intensity, Restart, Shutdown, StartError, Strategy, Supervisor, SupervisorSpec,
};
use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};

/// Returns when every task has done all it can without time passing: the
/// paused clock moves only then.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub(crate) enum Order {
    /// Panics.
    Crash,
    /// Returns an error.
    Fail,
    Stop(Option<String>),
    /// Never returns from its handler.
    Hang,
}

#[derive(Clone, Default)]
pub(crate) struct Stage {
    trace: Arc<Mutex<Vec<String>>>,
    actors: Arc<Mutex<HashMap<String, ActorRef<Order>>>>,
    /// How many of its next starts an actor refuses.
    refusals: Arc<Mutex<HashMap<String, u32>>>,
    /// How many of its next starts an actor declines, which is no failure.
    declines: Arc<Mutex<HashMap<String, u32>>>,
}

/// Takes one from what is left for `id`.
fn take_one(left: &Mutex<HashMap<String, u32>>, id: &str) -> bool {
    let mut left = left.lock();
    let Some(count) = left.get_mut(id).filter(|count| **count > 0) else {
        return false;
    };
    *count -= 1;
    true
}

impl Stage {
    pub(crate) fn note(&self, event: String) {
        self.trace.lock().push(event);
    }

    /// What happened since the last call.
    pub(crate) fn events(&self) -> String {
        std::mem::take(&mut *self.trace.lock()).join(", ")
    }

    /// The same, and they stay.
    pub(crate) fn peek(&self) -> String {
        self.trace.lock().join(", ")
    }

    pub(crate) fn refuse(&self, id: &str, times: u32) {
        self.refusals.lock().insert(id.to_owned(), times);
    }

    pub(crate) fn decline(&self, id: &str, times: u32) {
        self.declines.lock().insert(id.to_owned(), times);
    }

    pub(crate) fn actor(&self, id: &str) -> ActorRef<Order> {
        self.actors.lock()[id].clone()
    }

    pub(crate) fn order(&self, id: &str, order: Order) {
        self.actor(id).send_message(order).expect("it is alive");
    }

    /// `id [permanent|transient|temporary] [significant] [brutal|infinity|timeout=ms] [slow=ms] [late=ms]`;
    /// a slow one takes that long to stop, and `late=ms` that long to start.
    pub(crate) fn child(&self, line: &str) -> ChildSpec {
        let mut words = line.split_whitespace();
        let id = words.next().expect("an id").to_owned();
        let words: Vec<&str> = words.collect();
        let slow_ms = number(&words, "slow=").unwrap_or(0);
        let late_ms = number(&words, "late=").unwrap_or(0);
        let (stage, name) = (self.clone(), id.clone());
        let mut spec = ChildSpec::worker(id, move |supervisor: ActorCell| {
            let declines = take_one(&stage.declines, &name);
            let scripted = Scripted::new(stage.clone(), name.clone(), slow_ms, late_ms);
            async move {
                if declines {
                    scripted.note("declined");
                    return Err(StartError::Ignored);
                }
                let (actor, _) = Actor::spawn_linked(None, scripted, (), supervisor).await?;
                Ok::<_, StartError>(actor.get_cell())
            }
        });
        for word in &words {
            match *word {
                "permanent" => spec.restart = Restart::Permanent,
                "transient" => spec.restart = Restart::Transient,
                "temporary" => spec.restart = Restart::Temporary,
                "significant" => spec.significant = true,
                "brutal" => spec.shutdown = Shutdown::BrutalKill,
                "infinity" => spec.shutdown = Shutdown::Infinity,
                _ => {}
            }
        }
        if let Some(wait_ms) = number(&words, "timeout=") {
            spec.shutdown = Shutdown::Timeout(Duration::from_millis(wait_ms));
        }
        spec
    }

    /// The first line: `id strategy [restarts_max/period_ms] [any|all] [backoff=base_ms]`;
    /// then one child a line.
    pub(crate) fn supervisor(&self, text: &str) -> SupervisorSpec {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let words: Vec<&str> = lines.next().expect("a first line").split_whitespace().collect();
        let strategy = match words[1] {
            "one_for_one" => Strategy::OneForOne,
            "one_for_all" => Strategy::OneForAll,
            "rest_for_one" => Strategy::RestForOne,
            other => panic!("no strategy {other}"),
        };
        let mut spec = SupervisorSpec::new(words[0], strategy)
            .intensity(Intensity { restarts_max: 100, period: Duration::from_secs(5) });
        for word in &words[2..] {
            match (*word, word.split_once('/')) {
                ("any", _) => spec.auto_shutdown = AutoShutdown::AnySignificant,
                ("all", _) => spec.auto_shutdown = AutoShutdown::AllSignificant,
                (_, Some((restarts_max, period_ms))) => {
                    spec.intensity = Intensity {
                        restarts_max: restarts_max.parse().expect("a number"),
                        period: Duration::from_millis(period_ms.parse().expect("a number")),
                    }
                }
                _ => {}
            }
        }
        if let Some(base_ms) = number(&words, "backoff=") {
            spec.backoff = Some(Backoff {
                base: Duration::from_millis(base_ms),
                max: Duration::from_millis(base_ms * 4),
                jitter: 0.0,
            });
        }
        spec.children = lines.map(|line| self.child(line)).collect();
        spec
    }
}

fn number(words: &[&str], prefix: &str) -> Option<u64> {
    let value = words.iter().find_map(|word| word.strip_prefix(prefix))?;
    Some(value.parse().expect("a number"))
}

struct Scripted {
    stage: Stage,
    id: String,
    slow_ms: u64,
    late_ms: u64,
    started: AtomicBool,
    /// The trace has its end.
    ended: AtomicBool,
}

impl Scripted {
    fn new(stage: Stage, id: String, slow_ms: u64, late_ms: u64) -> Self {
        Self { stage, id, slow_ms, late_ms, started: AtomicBool::new(false), ended: AtomicBool::new(false) }
    }

    fn note(&self, what: &str) {
        self.stage.note(format!("{what} {}", self.id));
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if self.started.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed) {
            self.note("killed");
        }
    }
}

impl Actor for Scripted {
    type Msg = Order;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Order>, (): ()) -> Result<(), ActorProcessingErr> {
        if self.late_ms > 0 {
            self.note("starting");
            tokio::time::sleep(Duration::from_millis(self.late_ms)).await;
        }
        if take_one(&self.stage.refusals, &self.id) {
            self.note("refused");
            return Err(format!("{} does not want to", self.id).into());
        }
        self.started.store(true, Ordering::Relaxed);
        self.note("started");
        self.stage.actors.lock().insert(self.id.clone(), myself);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Order>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if self.slow_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.slow_ms)).await;
        }
        self.ended.store(true, Ordering::Relaxed);
        self.note("stopped");
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Order>, order: Order, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Crash | Order::Fail => {
                self.ended.store(true, Ordering::Relaxed);
                self.note("crashed");
                assert!(matches!(order, Order::Fail), "{} panicked", self.id);
                return Err(format!("{} failed", self.id).into());
            }
            Order::Stop(reason) => myself.stop(reason),
            Order::Hang => std::future::pending().await,
        }
        Ok(())
    }
}

/// Stands above the supervisor under test and writes down how it ends.
struct Watcher(Stage);

impl Actor for Watcher {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => {
                self.0.note(format!("supervisor failed: {error}"));
            }
            SupervisionEvent::ActorTerminated(_, _, reason) => {
                self.0.note(format!("supervisor ended: {}", reason.unwrap_or_default()));
            }
            _ => {}
        }
        Ok(())
    }
}

pub(crate) async fn watcher(stage: &Stage) -> ActorCell {
    let (watcher, _) = Actor::spawn(None, Watcher(stage.clone()), ()).await.expect("starts");
    watcher.get_cell()
}

/// Runs `script`, one order a line, against the supervisor that `spec`
/// describes, and compares what each line leads to.
pub(crate) async fn check(spec: &str, script: &str, expected: &str) {
    let stage = Stage::default();
    let supervisor = Supervisor::new(stage.supervisor(spec));
    let mut answer = String::new();
    let mut lines = vec!["start"];
    lines.extend(script.lines().map(str::trim).filter(|line| !line.is_empty()));
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let id = words.get(1).copied().unwrap_or_default();
        let mut refused = None;
        match words[0] {
            "start" => {
                let parent = watcher(&stage).await;
                refused = supervisor.start(Some(parent)).await.err().map(|error| error.to_string());
            }
            "crash" => stage.order(id, Order::Crash),
            "fail" => stage.order(id, Order::Fail),
            "hang" => stage.order(id, Order::Hang),
            "stop" => stage.order(id, Order::Stop(words.get(2).map(|reason| (*reason).to_owned()))),
            "kill" => stage.actor(id).kill(),
            "refuse" => stage.refuse(id, words[2].parse().expect("a number")),
            "decline" => stage.decline(id, words[2].parse().expect("a number")),
            "advance" => {
                tokio::time::sleep(Duration::from_millis(id.parse().expect("a number"))).await;
            }
            "terminate" => {
                refused = supervisor.terminate_child(id).await.err().map(|error| error.to_string());
            }
            "restart" => {
                refused = supervisor.restart_child(id).await.err().map(|error| error.to_string());
            }
            "delete" => {
                refused = supervisor.delete_child(id).await.err().map(|error| error.to_string());
            }
            "add" => {
                let child = stage.child(&words[1..].join(" "));
                refused = supervisor.start_child(child).await.err().map(|error| error.to_string());
            }
            "shutdown" => supervisor.stop().await,
            other => panic!("no order {other}"),
        }
        settle().await;
        let mut events = stage.events();
        if let Some(error) = refused {
            events = [events, error].join(" | ");
        }
        answer.push_str(format!("> {line}\n{events}").trim_end());
        answer.push('\n');
    }
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let answer: Vec<&str> = answer.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(answer, expected, "\nanswered:\n{}\n", answer.join("\n"));
}
