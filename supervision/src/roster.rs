//! What a supervisor tells of its children when it is asked.

use std::sync::Arc;

use ractor::ActorCell;

use crate::spec::ChildKind;
use crate::tree::Status;

/// One line of `which_children`.
#[derive(Debug, Clone)]
pub struct ChildInfo {
    /// Its id, or its key under a dynamic supervisor.
    pub id: Arc<str>,
    pub kind: ChildKind,
    pub status: Status,
    pub cell: Option<ActorCell>,
}

/// The answer of `count_children`, with the four numbers that OTP's
/// `count_children/1` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChildCounts {
    /// Children that are known, with an actor or without. A dynamic
    /// supervisor has a spec for each of its children, OTP's one for all.
    pub specs: usize,
    /// Those with a live actor.
    pub active: usize,
    /// Supervisors among `specs`.
    pub supervisors: usize,
    /// Workers among `specs`.
    pub workers: usize,
}
