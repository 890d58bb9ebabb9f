//! Streams that are to look again when what lets them read is taken away.

use std::collections::HashMap;
use std::sync::Arc;

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// The streams that rest on one thing: a session, the grants of an org.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<HashMap<usize, Arc<AtomicWaker>>>);

/// A waker is known by where it stands, which is unique while it is kept here.
fn key(waker: &Arc<AtomicWaker>) -> usize {
    Arc::as_ptr(waker).addr()
}

impl Watchers {
    /// From now on [`Watchers::wake`] wakes this stream.
    pub fn add(&self, waker: &Arc<AtomicWaker>) {
        self.0.lock().insert(key(waker), Arc::clone(waker));
    }

    /// The stream is gone.
    pub fn remove(&self, waker: &Arc<AtomicWaker>) {
        self.0.lock().remove(&key(waker));
    }

    /// Has every stream look again.
    pub fn wake(&self) {
        for waker in self.0.lock().values() {
            waker.wake();
        }
    }
}
