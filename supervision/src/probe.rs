//! What a child shows of itself without being asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::clock;
use crate::mailbox::{Depth, Mailbox};
use crate::tree::{Observe, TreeNode};

/// Longer texts are cut, so that one child's state or error cannot fill the
/// tree that is sent over the API.
pub const TEXT_BYTES_MAX: usize = 512;

/// Shared by a child and its [`ChildSpec`](crate::ChildSpec): the child writes,
/// `observe` reads, and neither waits for the other. Survives restarts.
#[derive(Default)]
pub struct Probe {
    handled: AtomicU64,
    heartbeat_ms: AtomicU64,
    texts: Mutex<Texts>,
    subtree: Option<Arc<dyn Observe>>,
}

#[derive(Default)]
struct Texts {
    state: String,
    last_error: Option<String>,
    mailbox: Option<Weak<dyn Depth>>,
}

impl Probe {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The probe of a supervisor, through which its parent sees its children.
    pub(crate) fn of_subtree(subtree: Arc<dyn Observe>) -> Arc<Self> {
        Arc::new(Self { subtree: Some(subtree), ..Self::default() })
    }

    /// Shows the depth of this mailbox; a restarted child calls it again.
    pub fn watch<M: Send + 'static>(&self, mailbox: &Mailbox<M>) {
        self.texts.lock().mailbox = Some(mailbox.depth_source());
    }

    /// One message was handled; also a heartbeat.
    pub fn handled(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.beat();
    }

    /// The child is alive, now.
    pub fn beat(&self) {
        self.heartbeat_ms.store(clock::unix_ms(), Ordering::Relaxed);
    }

    /// A line on what the child is doing, cut to [`TEXT_BYTES_MAX`].
    pub fn set_state(&self, state: impl Into<String>) {
        self.texts.lock().state = cut(state.into());
    }

    /// An error that the child survived, cut to [`TEXT_BYTES_MAX`]. The error
    /// that ended it is noted by its supervisor.
    pub fn set_last_error(&self, error: impl Into<String>) {
        self.texts.lock().last_error = Some(cut(error.into()));
    }

    pub fn mailbox_depth(&self) -> u64 {
        let mailbox = self.texts.lock().mailbox.as_ref().and_then(Weak::upgrade);
        mailbox.map_or(0, |mailbox| mailbox.depth() as u64)
    }

    /// Copies what the probe knows into `node`, and its subtree if there is
    /// depth left for it.
    pub(crate) fn describe(&self, node: &mut TreeNode, depth: usize, children_max: usize) {
        node.mailbox_depth = self.mailbox_depth();
        node.handled = self.handled.load(Ordering::Relaxed);
        node.heartbeat_ms = self.heartbeat_ms.load(Ordering::Relaxed);
        {
            let texts = self.texts.lock();
            node.state.clone_from(&texts.state);
            if texts.last_error.is_some() {
                node.last_error.clone_from(&texts.last_error);
            }
        }
        if let Some(subtree) = &self.subtree {
            let seen = subtree.observe(depth, children_max);
            node.children = seen.children;
            node.children_total = seen.children_total;
            node.handled = seen.handled;
            node.heartbeat_ms = seen.heartbeat_ms;
        }
    }
}

/// Cuts at a character boundary.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    text
}
