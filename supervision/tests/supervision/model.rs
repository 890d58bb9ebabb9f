//! Random failures against a model that is written from `supervisor.erl`'s
//! functions, line by line, and shares nothing with the crate.

use canopy_supervision::Supervisor;
use proptest::prelude::*;

use crate::stage::{Order, Stage, settle, watcher};

#[derive(Debug, Clone)]
struct Case {
    strategy: &'static str,
    restarts_max: usize,
    children: Vec<&'static str>,
    /// Which child, by index modulo their number, and how it ends.
    exits: Vec<(usize, &'static str)>,
}

fn case() -> impl Strategy<Value = Case> {
    let restart = prop::sample::select(vec!["permanent", "transient", "temporary"]);
    let exit = prop::sample::select(vec!["crash", "fail", "stop", "stop shutdown", "stop weary", "kill"]);
    (
        prop::sample::select(vec!["one_for_one", "one_for_all", "rest_for_one"]),
        0_usize..8,
        prop::collection::vec(restart, 1..7),
        prop::collection::vec((0_usize..7, exit), 1..16),
    )
        .prop_map(|(strategy, restarts_max, children, exits)| Case { strategy, restarts_max, children, exits })
}

struct Child {
    id: usize,
    restart: &'static str,
    /// `pid =/= undefined`.
    alive: bool,
}

/// The state of `supervisor.erl`, in start order.
struct Model {
    children: Vec<Child>,
    restarts: usize,
    dead: bool,
}

impl Model {
    fn new(case: &Case) -> (Self, Vec<String>) {
        let children = case.children.iter().enumerate().map(|(id, restart)| Child { id, restart, alive: true });
        let trace = (0..case.children.len()).map(|id| format!("started {id}")).collect();
        let model = Self { children: children.collect(), restarts: 0, dead: false };
        (model, trace)
    }

    /// `do_restart/3`.
    fn exit(&mut self, case: &Case, id: usize, exit: &str) -> Vec<String> {
        let mut trace = vec![match exit {
            "crash" | "fail" => format!("crashed {id}"),
            "kill" => format!("killed {id}"),
            _ => format!("stopped {id}"),
        }];
        let place = self.place(id);
        self.children[place].alive = false;
        let normal = matches!(exit, "stop" | "stop shutdown");
        match self.children[place].restart {
            "permanent" => {}
            "transient" if !normal => {}
            "transient" => return trace,
            _ => {
                self.children.remove(place);
                return trace;
            }
        }
        // add_restart/1: no time passes.
        self.restarts += 1;
        if self.restarts > case.restarts_max {
            self.terminate(0, &mut trace);
            self.dead = true;
            trace.push("supervisor failed".to_owned());
            return trace;
        }
        // restart/3, restart_multiple_children/3.
        let first = match case.strategy {
            "one_for_one" => {
                self.children[place].alive = true;
                trace.push(format!("started {id}"));
                return trace;
            }
            "rest_for_one" => place,
            _ => 0,
        };
        self.terminate(first, &mut trace);
        for child in &mut self.children[first..] {
            child.alive = true;
            trace.push(format!("started {}", child.id));
        }
        trace
    }

    /// `terminate_children/2`.
    fn terminate(&mut self, first: usize, trace: &mut Vec<String>) {
        for child in self.children[first..].iter_mut().rev().filter(|child| child.alive) {
            child.alive = false;
            trace.push(format!("stopped {}", child.id));
        }
        let mut place = 0;
        self.children.retain(|child| {
            place += 1;
            place <= first || child.restart != "temporary"
        });
    }

    fn place(&self, id: usize) -> usize {
        self.children.iter().position(|child| child.id == id).expect("known")
    }
}

async fn run(case: Case) {
    let stage = Stage::default();
    let children: Vec<String> =
        (0..).zip(&case.children).map(|(id, restart): (usize, _)| format!("{id} {restart}")).collect();
    let head = format!("s {} {}/5000\n", case.strategy, case.restarts_max);
    let supervisor = Supervisor::new(stage.supervisor(&(head + &children.join("\n"))));
    let parent = watcher(&stage).await;
    supervisor.start(Some(parent)).await.expect("starts");
    let (mut model, started) = Model::new(&case);
    assert_eq!(stage.events(), started.join(", "));
    let mut elapsed_ms = 0;
    for (number, exit) in &case.exits {
        let alive: Vec<usize> = model.children.iter().filter(|child| child.alive).map(|child| child.id).collect();
        if model.dead || alive.is_empty() {
            break;
        }
        let id = alive[number % alive.len()];
        let name = id.to_string();
        match *exit {
            "crash" => stage.order(&name, Order::Crash),
            "fail" => stage.order(&name, Order::Fail),
            "kill" => stage.actor(&name).kill(),
            stop => stage.order(&name, Order::Stop(stop.strip_prefix("stop ").map(ToOwned::to_owned))),
        }
        settle().await;
        elapsed_ms += 1;
        assert!(elapsed_ms < 5000, "the model has no clock");
        let events = stage.events();
        let events = events.split(": supervisor s").next().unwrap_or_default();
        assert_eq!(events, model.exit(&case, id, exit).join(", "), "{exit} {id} in {case:?}");
        let known: Vec<(String, bool)> =
            supervisor.which_children().into_iter().map(|child| (child.id.to_string(), child.cell.is_some())).collect();
        let expected: Vec<(String, bool)> =
            model.children.iter().map(|child| (child.id.to_string(), child.alive)).collect();
        if !model.dead {
            assert_eq!(known, expected, "{case:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_the_model(case in case()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(run(case));
    }
}
