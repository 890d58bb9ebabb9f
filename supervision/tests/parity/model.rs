//! What a tree has to do, written from `supervisor.erl`'s functions, which the
//! comments name. Shares nothing with the crate.
//!
//! All happens at once: a step is over before the next one begins.

use std::collections::HashMap;

use crate::census::Census;
use crate::scenario::{Auto, Flags, Manner, Node, Restart, Scenario, Shutdown, Strategy, Trace};

/// The state of one supervisor.
pub(crate) struct Sup {
    pub(crate) node: Node,
    pub(crate) flags: Flags,
    /// When it restarted something, in seconds.
    restarts: Vec<u64>,
    /// In start order.
    pub(crate) children: Vec<Child>,
}

pub(crate) struct Child {
    pub(crate) node: Node,
    pub(crate) place: Place,
}

/// What `pid` is in OTP's child record.
pub(crate) enum Place {
    Undefined,
    Restarting,
    Worker,
    Sup(Box<Sup>),
}

enum Started {
    Up(Place),
    Ignored,
    /// Below a supervisor, which child it was.
    Failed(String),
}

/// How a supervisor ends by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Shutdown,
    Meltdown,
}

impl End {
    fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Meltdown => "meltdown",
        }
    }
}

pub(crate) struct Model {
    nodes: Vec<Node>,
    root: Option<Box<Sup>>,
    now_s: u64,
    /// What was ordered for the next starts of a worker: how often, and what.
    starts: HashMap<String, (u32, String)>,
    trace: Trace,
}

/// The trace of a scenario.
pub(crate) fn perform(scenario: &Scenario) -> Trace {
    let mut model = Model::new(scenario);
    for step in &scenario.steps {
        model.play(step);
    }
    model.trace
}

impl Model {
    /// A tree after its start.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let nodes = scenario.nodes();
        let trace = vec![format!("== {}", scenario.name), "> start".to_owned()];
        let mut model = Self { root: None, now_s: 0, starts: HashMap::new(), trace, nodes };
        let root = model.nodes[0].clone();
        let answer = match model.start(&root) {
            Started::Up(Place::Sup(sup)) => {
                model.root = Some(sup);
                "ok".to_owned()
            }
            Started::Failed(path) => format!("failed{path}"),
            _ => unreachable!("the root is a supervisor"),
        };
        model.trace.push(format!("= {answer}"));
        model.show();
        model
    }

    pub(crate) fn trace(self) -> Trace {
        self.trace
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.root.is_some()
    }

    /// Supervisors that run, and children by how they stand.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        if let Some(root) = &self.root {
            census.take(root);
        }
        census
    }

    fn event(&mut self, event: impl Into<String>) {
        self.trace.push(event.into());
    }

    fn show(&mut self) {
        let mut tree = ": ".to_owned();
        match &self.root {
            Some(root) => root.show(&mut tree),
            None => tree.push('-'),
        }
        self.trace.push(tree);
    }

    pub(crate) fn play(&mut self, step: &str) {
        self.trace.push(format!("> {step}"));
        let words: Vec<&str> = step.split_whitespace().collect();
        let id = words.get(1).copied().unwrap_or_default();
        let answer = match words[0] {
            "crash" => self.ends(id, "crash", true),
            "stop" => self.ends(id, words[2], !matches!(words[2], "normal" | "shutdown") && !words[2].contains(':')),
            "kill" => self.ends(id, "killed", true),
            "refuse" | "decline" => {
                let ordered = (words[2].parse().expect("a number"), words.get(3).unwrap_or(&words[0]).to_string());
                self.starts.insert(id.to_owned(), ordered);
                None
            }
            "age" => {
                self.now_s += id.parse::<u64>().expect("a number");
                None
            }
            "shutdown" => {
                if let Some(mut root) = self.root.take() {
                    self.terminate_children(&mut root, 0);
                    self.event(format!("exit {} shutdown", root.node.id));
                }
                None
            }
            _ => Some(self.ask(&words)),
        };
        self.trace.extend(answer.map(|answer| format!("= {answer}")));
        self.show();
    }

    /// `do_start_child/2`.
    fn start(&mut self, node: &Node) -> Started {
        let Some(flags) = node.flags else {
            return self.start_worker(node);
        };
        self.event(format!("start {}", node.id));
        let children = self.nodes.iter().filter(|child| child.parent.as_ref() == Some(&node.id)).cloned();
        let children = children.map(|node| Child { node, place: Place::Undefined }).collect();
        let mut sup = Box::new(Sup { node: node.clone(), flags, restarts: Vec::new(), children });
        // init_children/2.
        match self.start_children(&mut sup, 0) {
            Ok(()) => Started::Up(Place::Sup(sup)),
            Err((failed, path)) => {
                self.terminate_children(&mut sup, 0);
                self.event(format!("unstarted {}", node.id));
                Started::Failed(format!(" {failed}{path}"))
            }
        }
    }

    fn start_worker(&mut self, node: &Node) -> Started {
        let ordered = self.starts.get_mut(&node.id).filter(|(left, _)| *left > 0).map(|(left, what)| {
            *left -= 1;
            what.clone()
        });
        match ordered.as_deref() {
            None => {
                self.event(format!("start {}", node.id));
                Started::Up(Place::Worker)
            }
            Some("decline") => {
                self.event(format!("decline {}", node.id));
                Started::Ignored
            }
            Some(_) => {
                self.event(format!("refuse {}", node.id));
                Started::Failed(String::new())
            }
        }
    }

    /// `start_children/2` from a place on; the child that did not start.
    fn start_children(&mut self, sup: &mut Sup, first: usize) -> Result<(), (String, String)> {
        let mut index = first;
        while let Some(child) = sup.children.get_mut(index) {
            match self.start(&child.node.clone()) {
                Started::Up(place) => child.place = place,
                Started::Ignored if child.node.restart == Restart::Temporary => {
                    sup.children.remove(index);
                    continue;
                }
                Started::Ignored => child.place = Place::Undefined,
                Started::Failed(path) => return Err((child.node.id.clone(), path)),
            }
            index += 1;
        }
        Ok(())
    }

    /// `terminate_children/2` from a place on.
    fn terminate_children(&mut self, sup: &mut Sup, first: usize) {
        for child in sup.children[first..].iter_mut().rev() {
            self.terminate(child);
        }
        let mut index = 0;
        sup.children.retain(|child| {
            index += 1;
            index <= first || child.node.restart != Restart::Temporary
        });
    }

    /// `do_terminate/2`.
    fn terminate(&mut self, child: &mut Child) {
        let node = &child.node;
        let reason = match (node.shutdown, node.manner) {
            (Shutdown::Brutal, _) | (Shutdown::Ms(_), Manner::Deaf) => "killed",
            (_, Manner::Bitter) => "crash",
            _ => "shutdown",
        };
        match std::mem::replace(&mut child.place, Place::Undefined) {
            Place::Undefined | Place::Restarting => {}
            Place::Worker => self.event(format!("exit {} {reason}", node.id)),
            Place::Sup(mut sup) => {
                self.terminate_children(&mut sup, 0);
                self.event(format!("exit {} {reason}", node.id));
            }
        }
    }

    /// A worker ends by itself.
    fn ends(&mut self, id: &str, reason: &str, abnormal: bool) -> Option<String> {
        self.event(format!("exit {id} {reason}"));
        let mut root = self.root.take().expect("it runs");
        match self.deliver(&mut root, id, abnormal) {
            Some(Some(end)) => self.event(format!("exit {} {}", root.node.id, end.reason())),
            Some(None) => self.root = Some(root),
            None => panic!("no worker {id} runs"),
        }
        None
    }

    /// Brings an exit to the supervisor that knows the child: `None` where
    /// none does, else how the supervisor ends of it, if it does.
    fn deliver(&mut self, sup: &mut Sup, id: &str, abnormal: bool) -> Option<Option<End>> {
        if sup.children.iter().any(|child| child.node.id == id && matches!(child.place, Place::Worker)) {
            return Some(self.exited(sup, id, abnormal));
        }
        for index in 0..sup.children.len() {
            // Taken out while its own children are looked at.
            let place = std::mem::replace(&mut sup.children[index].place, Place::Undefined);
            let Place::Sup(mut inner) = place else {
                sup.children[index].place = place;
                continue;
            };
            let delivered = self.deliver(&mut inner, id, abnormal);
            if let Some(Some(end)) = delivered {
                let inner = inner.node.id.clone();
                self.event(format!("exit {inner} {}", end.reason()));
                return Some(self.exited(sup, &inner, end == End::Meltdown));
            }
            sup.children[index].place = Place::Sup(inner);
            if delivered.is_some() {
                return delivered;
            }
        }
        None
    }

    /// `do_restart/3`.
    fn exited(&mut self, sup: &mut Sup, id: &str, abnormal: bool) -> Option<End> {
        let index = sup.index(id);
        let child = &mut sup.children[index];
        child.place = Place::Undefined;
        let significant = child.node.significant;
        match child.node.restart {
            Restart::Permanent => return self.restart(sup, id),
            Restart::Transient if abnormal => return self.restart(sup, id),
            Restart::Transient if sup.flags.strategy != Strategy::Simple => {}
            _ => {
                sup.children.remove(index);
            }
        }
        // do_auto_shutdown/2.
        let ends = significant
            && match sup.flags.auto {
                Auto::Never => false,
                Auto::Any => true,
                Auto::All => {
                    !sup.children.iter().any(|child| child.node.significant && !matches!(child.place, Place::Undefined))
                }
            };
        if ends {
            self.terminate_children(sup, 0);
        }
        ends.then_some(End::Shutdown)
    }

    /// `restart/2`, again as long as it says `try_again`.
    fn restart(&mut self, sup: &mut Sup, id: &str) -> Option<End> {
        let mut id = id.to_owned();
        loop {
            // add_restart/1.
            sup.restarts.push(self.now_s);
            let period_s = sup.flags.period_s;
            sup.restarts.retain(|at| at + period_s >= self.now_s);
            let index = sup.index(&id);
            if sup.restarts.len() > sup.flags.restarts_max as usize {
                sup.children[index].place = Place::Undefined;
                self.terminate_children(sup, 0);
                return Some(End::Meltdown);
            }
            let first = match sup.flags.strategy {
                Strategy::OneForOne | Strategy::Simple => {
                    match self.start(&sup.children[index].node.clone()) {
                        Started::Up(place) => sup.children[index].place = place,
                        Started::Ignored if sup.flags.strategy == Strategy::Simple => {
                            sup.children.remove(index);
                        }
                        Started::Ignored => sup.children[index].place = Place::Undefined,
                        Started::Failed(_) => {
                            sup.children[index].place = Place::Restarting;
                            continue;
                        }
                    }
                    return None;
                }
                Strategy::RestForOne => index,
                Strategy::OneForAll => 0,
            };
            // restart_multiple_children/3.
            sup.children[index].place = Place::Undefined;
            self.terminate_children(sup, first);
            match self.start_children(sup, first) {
                Ok(()) => return None,
                Err((failed, _)) => {
                    let index = sup.index(&failed);
                    sup.children[index].place = Place::Restarting;
                    id = failed;
                }
            }
        }
    }

    /// `handle_call/3`.
    fn ask(&mut self, words: &[&str]) -> String {
        let Some(mut root) = self.root.take() else {
            return "error noproc".to_owned();
        };
        let added = (words[0] == "add").then(|| Node::parse(&words[1..].join(" ")));
        let sup = added.as_ref().and_then(|node| node.parent.clone()).unwrap_or_else(|| words[1].to_owned());
        let answer = match root.find(&sup) {
            Some(sup) => self.answer(sup, words, added),
            None => panic!("no supervisor {sup} runs"),
        };
        self.root = Some(root);
        answer
    }

    fn answer(&mut self, sup: &mut Sup, words: &[&str], added: Option<Node>) -> String {
        let child = words.get(2).copied().unwrap_or_default();
        let member = format!("{}/{child}", sup.node.id);
        let position = |sup: &Sup, id: &str| sup.children.iter().position(|child| child.node.id == id);
        match words[0] {
            "count" => return sup.count(),
            "add" => return self.add(sup, added.expect("a child")),
            "spawn" => {
                let node = self.nodes.iter().find(|node| node.is_member && node.id == sup.node.id);
                let node = Node { id: member, ..node.expect("what members are like").clone() };
                return self.add(sup, node);
            }
            _ => {}
        }
        let id = if words[0] == "drop" { member.as_str() } else { child };
        let Some(index) = position(sup, id) else {
            return "error not_found".to_owned();
        };
        let node = sup.children[index].node.clone();
        match (words[0], &sup.children[index].place) {
            ("terminate" | "drop", _) => {
                self.terminate(&mut sup.children[index]);
                if node.restart == Restart::Temporary || words[0] == "drop" {
                    sup.children.remove(index);
                }
                "ok".to_owned()
            }
            ("restart", Place::Undefined) => match self.start(&node) {
                Started::Up(place) => {
                    sup.children[index].place = place;
                    "ok".to_owned()
                }
                Started::Ignored => "ok undefined".to_owned(),
                Started::Failed(_) => "error failed".to_owned(),
            },
            ("delete", Place::Undefined) => {
                sup.children.remove(index);
                "ok".to_owned()
            }
            ("restart" | "delete", Place::Restarting) => "error restarting".to_owned(),
            ("restart" | "delete", _) => "error running".to_owned(),
            (other, _) => panic!("no step {other}"),
        }
    }

    /// `handle_start_child/2`.
    fn add(&mut self, sup: &mut Sup, node: Node) -> String {
        let known = sup.children.iter().find(|child| child.node.id == node.id);
        match known.map(|child| &child.place) {
            Some(Place::Undefined | Place::Restarting) => return "error already_present".to_owned(),
            Some(_) => return "error already_started".to_owned(),
            None => {}
        }
        if node.significant && (node.restart == Restart::Permanent || sup.flags.auto == Auto::Never) {
            return "error invalid".to_owned();
        }
        let forgets = node.restart == Restart::Temporary || sup.flags.strategy == Strategy::Simple;
        match self.start(&node) {
            Started::Up(place) => {
                sup.children.push(Child { node, place });
                "ok".to_owned()
            }
            Started::Ignored => {
                if !forgets {
                    sup.children.push(Child { node, place: Place::Undefined });
                }
                "ok undefined".to_owned()
            }
            Started::Failed(_) => "error failed".to_owned(),
        }
    }
}

impl Sup {
    fn index(&self, id: &str) -> usize {
        self.children.iter().position(|child| child.node.id == id).expect("it is known")
    }

    fn find(&mut self, id: &str) -> Option<&mut Self> {
        if self.node.id == id {
            return Some(self);
        }
        self.children.iter_mut().find_map(|child| match &mut child.place {
            Place::Sup(sup) => sup.find(id),
            _ => None,
        })
    }
}
