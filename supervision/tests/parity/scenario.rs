//! The format of scenarios, which `stage.erl` reads too, and of traces.
//!
//! ```text
//! == name
//! sup ID STRATEGY RESTARTS/SECONDS [any|all] CHILD…   the first is the root
//! pool ID RESTARTS/SECONDS [any|all] CHILD…           a dynamic supervisor
//! member POOL CHILD…                                  what its children are like
//! worker ID CHILD… [slow|deaf|bitter]
//! > STEP
//! ```
//! CHILD is `in=SUP`, `permanent`, `transient` or `temporary`, `significant`,
//! and `brutal`, `infinity` or `timeout=MS`. Lines are in start order. Asked to
//! stop, a slow worker takes its time, a deaf one never does, and a bitter one
//! crashes.
//!
//! | step | what |
//! |---|---|
//! | `crash ID`, `stop ID REASON`, `kill ID` | a process ends |
//! | `refuse ID TIMES error\|panic\|init` | its next starts fail, in one of three ways |
//! | `decline ID TIMES` | its next starts are OTP's `ignore` |
//! | `add worker …` | `start_child`, and so on for `terminate`, `restart`, `delete SUP ID` and `count SUP` |
//! | `spawn POOL N`, `drop POOL N` | `start_child`, `terminate_child` of member `POOL/N` |
//! | `age SECONDS` | time passes |
//! | `shutdown` | the root is stopped by its parent |
//!
//! A trace has, for each step, its events, the answer after `=`, and the tree
//! after `:`: `sup[worker idle-]` and `pool{member}`.

/// What a child does when it is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Prompt,
    Slow,
    Deaf,
    Bitter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    OneForOne,
    OneForAll,
    RestForOne,
    Simple,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auto {
    Never,
    Any,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    Permanent,
    Transient,
    Temporary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    Brutal,
    Infinity,
    Ms(u64),
}

/// What a supervisor is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flags {
    pub(crate) strategy: Strategy,
    pub(crate) restarts_max: u32,
    pub(crate) period_s: u64,
    pub(crate) auto: Auto,
}

/// One line of a tree.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    /// Of supervisors.
    pub(crate) flags: Option<Flags>,
    /// Stands for every child of the pool that has its id.
    pub(crate) is_member: bool,
    pub(crate) restart: Restart,
    pub(crate) significant: bool,
    pub(crate) shutdown: Shutdown,
    pub(crate) manner: Manner,
}

impl Node {
    pub(crate) fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let has = |word: &str| words.contains(&word);
        let value = |prefix: &str| words.iter().find_map(|word| word.strip_prefix(prefix));
        let auto = match (has("any"), has("all")) {
            (true, _) => Auto::Any,
            (_, true) => Auto::All,
            _ => Auto::Never,
        };
        let flags = |strategy, intensity: &str| {
            let (restarts_max, period_s) = intensity.split_once('/').expect("RESTARTS/SECONDS");
            let restarts_max = restarts_max.parse().expect("a number");
            Flags { strategy, restarts_max, period_s: period_s.parse().expect("a number"), auto }
        };
        let flags = match (words[0], words.get(2)) {
            ("sup", Some(&"one_for_one")) => Some(flags(Strategy::OneForOne, words[3])),
            ("sup", Some(&"one_for_all")) => Some(flags(Strategy::OneForAll, words[3])),
            ("sup", Some(&"rest_for_one")) => Some(flags(Strategy::RestForOne, words[3])),
            ("pool", Some(intensity)) => Some(flags(Strategy::Simple, intensity)),
            ("worker" | "member", _) => None,
            _ => panic!("no line of a tree: {line}"),
        };
        let restart = match (has("transient"), has("temporary")) {
            (true, _) => Restart::Transient,
            (_, true) => Restart::Temporary,
            _ => Restart::Permanent,
        };
        let shutdown = match (has("brutal"), value("timeout=")) {
            (true, _) => Shutdown::Brutal,
            (_, Some(ms)) => Shutdown::Ms(ms.parse().expect("a number")),
            _ if has("infinity") || flags.is_some() => Shutdown::Infinity,
            _ => Shutdown::Ms(5000),
        };
        let manners = [("slow", Manner::Slow), ("deaf", Manner::Deaf), ("bitter", Manner::Bitter)];
        Self {
            id: words[1].to_owned(),
            parent: value("in=").map(ToOwned::to_owned),
            flags,
            is_member: words[0] == "member",
            restart,
            significant: has("significant"),
            shutdown,
            manner: manners.iter().find(|(word, _)| has(word)).map_or(Manner::Prompt, |&(_, manner)| manner),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) tree: Vec<String>,
    pub(crate) steps: Vec<String>,
}

impl Scenario {
    pub(crate) fn parse_all(text: &str) -> Vec<Self> {
        let mut scenarios: Vec<Self> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix("== ") {
                scenarios.push(Self { name: name.to_owned(), ..Self::default() });
                continue;
            }
            let scenario = scenarios.last_mut().expect("a scenario begins with its name");
            match line.strip_prefix("> ") {
                Some(step) => scenario.steps.push(step.to_owned()),
                None => scenario.tree.push(line.to_owned()),
            }
        }
        scenarios
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.tree.iter().map(|line| Node::parse(line)).collect()
    }

    pub(crate) fn text(&self) -> String {
        let steps = self.steps.iter().map(|step| format!("> {step}\n"));
        let tree = self.tree.iter().map(|line| format!("{line}\n"));
        format!("== {}\n{}", self.name, tree.chain(steps).collect::<String>())
    }
}

/// What one scenario led to, from its `==` line on.
pub(crate) type Trace = Vec<String>;

/// Takes out of a trace what neither side promises:
/// * a pool stops all of its children at once, so that the order of their ends
///   is no one's: neighbours among them are sorted;
/// * a supervisor that is killed leaves its children to end as they like:
///   the events of such a step are sorted.
pub(crate) fn canonical(trace: &[String]) -> Trace {
    let mut lines = trace.to_vec();
    let pool_of = |line: &str| -> Option<String> {
        let id = line.strip_prefix("exit ")?.split(' ').next()?;
        id.split_once('/').map(|(pool, _)| pool.to_owned())
    };
    let mut begin = 0;
    while begin < lines.len() {
        let pool = pool_of(&lines[begin]);
        let mut end = begin + 1;
        while end < lines.len() && pool.is_some() && pool_of(&lines[end]) == pool {
            end += 1;
        }
        lines[begin..end].sort();
        begin = end;
    }
    let mut begin = 0;
    while begin < lines.len() {
        let is_event = |line: &String| !line.starts_with(['>', '=', ':']);
        let mut end = begin + 1;
        if lines[begin].starts_with("> kill sup") {
            while end < lines.len() && is_event(&lines[end]) {
                end += 1;
            }
            lines[begin + 1..end].sort();
        }
        begin = end;
    }
    lines
}

/// Fails with the first step at which two traces differ.
pub(crate) fn compare(scenario: &Scenario, sides: [(&str, &[String]); 2]) -> Result<(), String> {
    let [(one, left), (other, right)] = sides.map(|(name, trace)| (name, canonical(trace)));
    if left == right {
        return Ok(());
    }
    let differs =
        left.iter().zip(&right).position(|(left, right)| left != right).unwrap_or(left.len().min(right.len()));
    let end =
        |trace: &[String]| trace.iter().take(differs + 12).map(|line| format!("    {line}\n")).collect::<String>();
    Err(format!(
        "{one} and {other} differ at line {differs} of their traces of\n{}\n{one}:\n{}\n{other}:\n{}",
        scenario.text(),
        end(&left),
        end(&right)
    ))
}
