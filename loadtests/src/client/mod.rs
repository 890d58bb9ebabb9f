//! The load client: connections, closed and open loops, latencies, interleaved comparison.

mod closed;
pub mod codec;
mod connection;
mod deliveries;
mod latency;
mod open;
mod sample;

pub use closed::{ClosedPlan, closed_loop};
pub use connection::{Call, Connection, Endpoint};
pub use deliveries::{Deliveries, Framing};
pub use latency::{Latencies, percentile_ms};
pub use open::{Arrival, OpenPlan, Schedule, open_loop};
pub use sample::{Comparison, ROUNDS, Sample, interleave, median};
