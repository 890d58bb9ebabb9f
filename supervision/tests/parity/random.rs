//! Random trees and steps, each made from one number.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::model::Model;
use crate::perform;
use crate::scenario::{Scenario, Trace, compare};

/// Where random scenarios begin if nobody says otherwise.
const SEED: u64 = 20_260_101;
/// Scenarios that only the model and the crate perform.
const CASES: u64 = 3_000;
/// Supervisors below one another, the root included.
const DEPTH_MAX: usize = 3;
/// Lines of a tree, but for what a supervisor needs below it.
const LINES_MAX: usize = 14;
/// With the steps' virtual time between them, no age that can be made of
/// these is near the period.
const AGES_S: [u64; 2] = [40, 200];
const PERIOD_S: u64 = 100;

/// The numbers to make `usual` scenarios from.
pub(crate) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    };
    let seed = number("CANOPY_SUPERVISION_SEED", SEED);
    seed..seed.saturating_add(number("CANOPY_SUPERVISION_CASES", usual))
}

/// A scenario and what the model makes of it. The model is asked for every
/// step, so that it is one that can be taken.
pub(crate) fn scenario(seed: u64) -> (Scenario, Trace) {
    let mut random = Random(StdRng::seed_from_u64(seed));
    let mut tree = Vec::new();
    random.supervisor(&mut tree, "root", "", 1, false);
    let mut scenario = Scenario { name: format!("seed_{seed}"), tree, steps: Vec::new() };
    let mut model = Model::new(&scenario);
    let steps = random.below(12) + 3;
    let mut spawned = 0;
    for _ in 0..steps {
        if !model.is_alive() {
            break;
        }
        let Some(step) = random.step(&model, &mut spawned) else {
            continue;
        };
        model.play(&step);
        scenario.steps.push(step);
    }
    if model.is_alive() && random.one_in(3) {
        model.play("shutdown");
        scenario.steps.push("shutdown".to_owned());
    }
    (scenario, model.trace())
}

struct Random(StdRng);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0.random_range(0..limit)
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    /// A name of `list`, if there is one.
    fn of(&mut self, list: &[String]) -> Option<String> {
        (!list.is_empty()).then(|| list[self.below(list.len())].clone())
    }

    fn supervisor(&mut self, tree: &mut Vec<String>, id: &str, child: &str, depth: usize, tolerant: bool) {
        let strategy = self.pick(&["one_for_one", "one_for_all", "rest_for_one"]);
        let restarts_max = if tolerant { "1000" } else { self.pick(&["0", "1", "2", "3", "5", "1000"]) };
        let auto = self.pick(&["", "", " any", " all"]);
        tree.push(format!("sup {id} {strategy} {restarts_max}/{PERIOD_S}{auto}{child}"));
        for number in 0..self.below(5) {
            let kind = if depth < DEPTH_MAX && tree.len() < LINES_MAX { self.below(6) } else { 5 };
            let name = if depth == 1 { format!("{number}") } else { format!("{}.{number}", &id[1..]) };
            match kind {
                0 | 1 => {
                    let (child, tolerant) = self.entry(id, auto);
                    self.supervisor(tree, &format!("s{name}"), &child, depth + 1, tolerant);
                }
                2 => self.pool(tree, &format!("p{name}"), id, auto),
                _ => {
                    let worker = self.worker(auto);
                    tree.push(format!("worker w{name} in={id}{worker}"));
                }
            }
        }
    }

    /// How a supervisor stands in its parent, and whether it has to tolerate
    /// everything: a meltdown is for a transient entry another end than OTP's.
    fn entry(&mut self, parent: &str, auto: &str) -> (String, bool) {
        let restart = self.pick(&["permanent", "permanent", "temporary", "transient"]);
        let significant = self.significant(restart, auto);
        (format!(" in={parent} {restart}{significant}"), restart == "transient")
    }

    fn pool(&mut self, tree: &mut Vec<String>, id: &str, parent: &str, auto: &str) {
        let (child, tolerant) = self.entry(parent, auto);
        let restarts_max = if tolerant { "1000" } else { self.pick(&["0", "1", "2", "5"]) };
        let own_auto = self.pick(&["", "", " any", " all"]);
        tree.push(format!("pool {id} {restarts_max}/{PERIOD_S}{own_auto}{child}"));
        let member = self.worker(own_auto);
        tree.push(format!("member {id}{member}"));
    }

    fn significant(&mut self, restart: &str, auto: &str) -> &'static str {
        if restart != "permanent" && !auto.is_empty() && self.one_in(2) { " significant" } else { "" }
    }

    fn worker(&mut self, auto: &str) -> String {
        let restart = self.pick(&["permanent", "permanent", "transient", "temporary"]);
        let significant = self.significant(restart, auto);
        let ending = self.pick(&["", "", "", " brutal", " infinity", " infinity slow", " timeout=20 deaf", " bitter"]);
        format!(" {restart}{significant}{ending}")
    }

    fn step(&mut self, model: &Model, spawned: &mut usize) -> Option<String> {
        let census = model.census();
        let kind = self.pick(&["refuse", "error", "panic", "init"]);
        let kind = if kind == "refuse" { "error" } else { kind };
        Some(match self.below(20) {
            0..=6 => format!("crash {}", self.of(&census.workers)?),
            7 => format!("kill {}", self.of(&census.workers)?),
            8 | 9 => {
                let reason = self.pick(&["normal", "shutdown", "shutdown:why", "weary"]);
                format!("stop {} {reason}", self.of(&census.workers)?)
            }
            10 | 11 => format!("refuse {} {} {kind}", self.of(&census.workers)?, 1 + self.below(3)),
            12 => {
                // A member that declines its restart is where OTP differs.
                let worker = self.of(&census.workers).filter(|worker| !worker.contains('/'))?;
                format!("decline {worker} 1")
            }
            13 => format!("age {}", AGES_S[self.below(AGES_S.len())]),
            14 | 15 => {
                *spawned += 1;
                format!("spawn {} {spawned}", self.of(&census.pools)?)
            }
            16 => match self.of(&census.workers)?.split_once('/') {
                Some((pool, number)) => format!("drop {pool} {number}"),
                None => format!("count {}", self.of(&census.supervisors)?),
            },
            17 => {
                *spawned += 1;
                let worker = self.worker("");
                format!("add worker x{spawned} in={}{worker}", self.of(&census.supervisors)?)
            }
            _ => {
                let (sup, child) = census.children.get(self.below(census.children.len().max(1)))?;
                format!("{} {sup} {child}", self.pick(&["terminate", "terminate", "restart", "delete"]))
            }
        })
    }
}

/// Leaves out steps as long as the rest still differs.
fn shrunk(scenario: &Scenario) -> Scenario {
    let fails = |candidate: &Scenario| {
        // Steps that cannot be taken any more are no find.
        let expected = std::panic::catch_unwind(|| crate::model::perform(candidate));
        expected.is_ok_and(|expected| {
            let ours = std::panic::catch_unwind(|| perform::perform(candidate));
            ours.is_ok_and(|ours| compare(candidate, [("model", &expected), ("crate", &ours)]).is_err())
        })
    };
    let mut best = scenario.clone();
    let mut index = best.steps.len();
    while index > 0 {
        index -= 1;
        let mut candidate = best.clone();
        candidate.steps.remove(index);
        if fails(&candidate) {
            best = candidate;
        }
    }
    best
}

#[test]
fn the_crate_does_what_the_model_says() {
    let seeds = seeds(CASES);
    println!("seeds {seeds:?}");
    for seed in seeds {
        let (scenario, expected) = scenario(seed);
        let ours = perform::perform(&scenario);
        if compare(&scenario, [("the model", &expected), ("this crate", &ours)]).is_err() {
            let least = shrunk(&scenario);
            let sides = [("the model", &*crate::model::perform(&least)), ("this crate", &*perform::perform(&least))];
            let difference = compare(&least, sides).expect_err("it differs");
            panic!("CANOPY_SUPERVISION_SEED={seed} CANOPY_SUPERVISION_CASES=1 repeats this:\n{difference}");
        }
    }
}
