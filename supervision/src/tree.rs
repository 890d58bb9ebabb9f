//! The supervision tree as it is seen from outside, while it runs.

use serde::Serialize;

use crate::spec::ChildKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Starting,
    Running,
    Stopping,
    /// Its restart is due: back-off, or another attempt after a failed start.
    Restarting,
    Quarantined,
    /// Known and without an actor: OTP's `undefined`, as a transient child is
    /// after a normal exit.
    Stopped,
}

/// One child, or a supervisor with some of its children.
///
/// Times are milliseconds since the Unix epoch, 0 for never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeNode {
    pub id: String,
    pub kind: ChildKind,
    pub status: Status,
    /// How often its supervisor has started it again.
    pub restarts: u64,
    pub started_ms: u64,
    /// Messages queued, for a child whose probe watches a
    /// [`Mailbox`](crate::Mailbox).
    pub mailbox_depth: u64,
    pub handled: u64,
    pub heartbeat_ms: u64,
    pub state: String,
    pub last_error: Option<String>,
    /// At most the `children_max` that was asked for.
    pub children: Vec<TreeNode>,
    /// How many there are.
    pub children_total: u64,
}

impl TreeNode {
    pub(crate) fn new(id: &str, kind: ChildKind, status: Status) -> Self {
        Self {
            id: id.to_owned(),
            kind,
            status,
            restarts: 0,
            started_ms: 0,
            mailbox_depth: 0,
            handled: 0,
            heartbeat_ms: 0,
            state: String::new(),
            last_error: None,
            children: Vec::new(),
            children_total: 0,
        }
    }
}

/// Something that can be looked at without asking it.
pub trait Observe: Send + Sync {
    /// This node, with `depth` levels below it and at most `children_max`
    /// children of each. Sends no message, so that it works while every actor
    /// is busy.
    fn observe(&self, depth: usize, children_max: usize) -> TreeNode;
}
