//! Closed loop: a fixed number of callers, each sends its next request when the last is answered.
//! This finds the peak; its latencies say little, since a slow server slows its callers down.

use std::time::Duration;

use tokio::task::JoinSet;

use super::Sample;
use crate::LoadError;
use crate::clock::{nanoseconds, now_ns, seconds_between};

#[derive(Clone, Copy, Debug)]
pub struct ClosedPlan {
    pub callers: usize,
    pub seconds: f64,
}

/// Runs the plan. `caller(index)` makes one caller's state, `call` makes one call with it.
/// Every call that was begun is waited for. `cpu_s` reads the server's CPU seconds so far.
///
/// # Errors
/// Those of `cpu_s`; failed calls are counted.
pub async fn closed_loop<C, F>(
    plan: ClosedPlan,
    cpu_s: impl Fn() -> Result<f64, LoadError>,
    caller: impl Fn(usize) -> C,
    call: F,
) -> Result<Sample, LoadError>
where
    C: Send + 'static,
    F: for<'a> Fn(&'a mut C) -> futures::future::BoxFuture<'a, Result<(), LoadError>> + Clone + Send + Sync + 'static,
{
    let cpu_before = cpu_s()?;
    let start_ns = now_ns();
    let end_ns = start_ns + nanoseconds(Duration::from_secs_f64(plan.seconds));
    let mut callers = JoinSet::new();
    for index in 0..plan.callers {
        let mut state = caller(index);
        let call = call.clone();
        callers.spawn(async move {
            let (mut operations, mut errors) = (0_u64, 0_u64);
            while now_ns() < end_ns {
                match call(&mut state).await {
                    Ok(()) => operations += 1,
                    Err(_) => errors += 1,
                }
            }
            (operations, errors)
        });
    }
    let mut sample = Sample::default();
    while let Some(counts) = callers.join_next().await {
        match counts {
            Ok((operations, errors)) => {
                sample.operations += operations;
                sample.errors += errors;
            }
            Err(_) => sample.errors += 1,
        }
    }
    sample.wall_s = seconds_between(start_ns, now_ns());
    sample.cpu_s = cpu_s()? - cpu_before;
    Ok(sample)
}
