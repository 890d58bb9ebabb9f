//! Subscriptions: streams that belong to the edge. A subscriber hears that
//! there is something, and reads it from the feed; a slow one reads later, and
//! holds nobody up.

mod history;
mod hub;
mod stream;
mod tail;
mod topic;

pub use hub::Hub;
pub use stream::{EventStream, OpenedStream};
