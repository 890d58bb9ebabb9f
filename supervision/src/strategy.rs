//! What an exit asks for, decided without a runtime.
//!
//! The rules are those of `do_restart/3`, `do_auto_shutdown/2` and
//! `restart/3` in `supervisor.erl`. Children are numbered in start order.

use crate::exit::Exit;
use crate::spec::Restart;

/// Which siblings share a child's fate when it is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Only the child itself.
    OneForOne,
    /// All: the others are stopped, then all are started.
    OneForAll,
    /// Those after it in start order are stopped; it and they are started.
    RestForOne,
}

/// Whether a supervisor stops, with reason `shutdown`, when significant
/// children end by themselves and are not restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoShutdown {
    /// Never; a significant child is then an invalid spec, as in OTP.
    #[default]
    Never,
    /// With the first.
    AnySignificant,
    /// With the last that was active.
    AllSignificant,
}

/// Where a child stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has a live actor.
    Alive,
    /// It has none, and its restart is due: OTP's `restarting`.
    Due,
    /// It has none: OTP's `undefined`.
    Absent,
}

/// One child, as far as decisions depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) restart: Restart,
    pub(crate) significant: bool,
    pub(crate) presence: Presence,
}

/// What follows from an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The child is to be restarted, with its [`group`], intensity permitting.
    Restart,
    /// The child stays away; a temporary one is forgotten.
    Stay,
    /// As `Stay`, and the supervisor shuts down.
    Shutdown,
}

/// Whether a child that ended like this is started again.
pub(crate) fn restarts(restart: Restart, exit: &Exit) -> bool {
    match restart {
        Restart::Permanent => true,
        Restart::Transient => exit.is_abnormal(),
        Restart::Temporary => false,
    }
}

/// The verdict on the exit of child `exited`, whose own presence is ignored.
pub(crate) fn verdict(auto_shutdown: AutoShutdown, slots: &[Slot], exited: usize, exit: &Exit) -> Verdict {
    let Some(slot) = slots.get(exited) else {
        return Verdict::Stay;
    };
    if restarts(slot.restart, exit) {
        return Verdict::Restart;
    }
    let shutdown = slot.significant
        && match auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => !slots
                .iter()
                .enumerate()
                .any(|(index, other)| index != exited && other.significant && other.presence != Presence::Absent),
        };
    if shutdown { Verdict::Shutdown } else { Verdict::Stay }
}

/// Who is stopped, forgotten and started when one child is restarted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Group {
    /// Live siblings to stop, in this order: last started first.
    pub(crate) stop: Vec<usize>,
    /// Temporary siblings, which a group restart ends for good.
    pub(crate) forget: Vec<usize>,
    /// Children to start, in this order. Among them are transient ones that
    /// had ended normally, as in OTP.
    pub(crate) start: Vec<usize>,
}

/// The group of child `restarted`.
pub(crate) fn group(strategy: Strategy, slots: &[Slot], restarted: usize) -> Group {
    let first = match strategy {
        Strategy::OneForOne => {
            return Group { start: vec![restarted], ..Group::default() };
        }
        Strategy::OneForAll => 0,
        Strategy::RestForOne => restarted,
    };
    let affected = || slots.iter().enumerate().skip(first);
    let pick = |wanted: &dyn Fn(usize, &Slot) -> bool| -> Vec<usize> {
        affected().filter(|(index, slot)| wanted(*index, slot)).map(|(index, _)| index).collect()
    };
    let mut stop = pick(&|index, slot| index != restarted && slot.presence == Presence::Alive);
    stop.reverse();
    Group {
        stop,
        forget: pick(&|_, slot| slot.restart == Restart::Temporary),
        start: pick(&|_, slot| slot.restart != Restart::Temporary),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `p`, `t`, `x` are permanent, transient, temporary; a capital is
    /// significant; `-` after it is absent, `*` due.
    fn slots(text: &str) -> Vec<Slot> {
        text.split_whitespace()
            .map(|word| Slot {
                restart: match word.to_lowercase().chars().next() {
                    Some('p') => Restart::Permanent,
                    Some('t') => Restart::Transient,
                    _ => Restart::Temporary,
                },
                significant: word.starts_with(char::is_uppercase),
                presence: match word.chars().nth(1) {
                    Some('-') => Presence::Absent,
                    Some('*') => Presence::Due,
                    _ => Presence::Alive,
                },
            })
            .collect()
    }

    #[test]
    fn groups() {
        let check = |strategy, text: &str, restarted, stop: &[usize], start: &[usize]| {
            let group = group(strategy, &slots(text), restarted);
            assert_eq!((&*group.stop, &*group.start), (stop, start), "{strategy:?} {text}");
        };
        check(Strategy::OneForOne, "p p- p", 1, &[], &[1]);
        check(Strategy::OneForAll, "p p- p", 1, &[2, 0], &[0, 1, 2]);
        check(Strategy::RestForOne, "p p- p p", 1, &[3, 2], &[1, 2, 3]);
        check(Strategy::RestForOne, "p p p-", 2, &[], &[2]);
        // A temporary sibling is stopped and not started again.
        check(Strategy::OneForAll, "x p- x p", 1, &[3, 2, 0], &[1, 3]);
        // A transient sibling that had ended, and one whose restart is due, come along.
        check(Strategy::OneForAll, "t- p- p*", 1, &[], &[0, 1, 2]);
    }

    #[test]
    fn automatic_shutdown() {
        let check = |auto, text: &str, exited, exit: Exit, expected| {
            let answer = verdict(auto, &slots(text), exited, &exit);
            assert_eq!(answer, expected, "{auto:?} {text} {exit:?}");
        };
        let crash = || Exit::Abnormal("boom".into());
        use AutoShutdown::{AllSignificant, AnySignificant, Never};
        check(Never, "T p", 0, Exit::Normal, Verdict::Stay);
        check(AnySignificant, "T T", 0, Exit::Normal, Verdict::Shutdown);
        check(AnySignificant, "T t", 1, Exit::Normal, Verdict::Stay);
        check(AnySignificant, "T p", 0, crash(), Verdict::Restart);
        check(AnySignificant, "X p", 0, crash(), Verdict::Shutdown);
        check(AllSignificant, "T T", 0, Exit::Shutdown, Verdict::Stay);
        check(AllSignificant, "T T- p", 0, Exit::Shutdown, Verdict::Shutdown);
        // A significant sibling whose restart is due is still active.
        check(AllSignificant, "T T* p", 0, Exit::Normal, Verdict::Stay);
    }
}
