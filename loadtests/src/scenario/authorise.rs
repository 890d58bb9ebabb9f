//! What the check of a caller's role adds to a call: of a person with 1,000 roles in an org with
//! 100,000 members, beyond the check of a method that asks for no role.
//!
//! The gate is asked in this process, as the edge asks it for each call: over the wire, a call's other
//! 30 µs and their noise would hide it. `small_us` is the same for a person with one role in an org of
//! one.

use super::{Scenario, Settings};
use crate::LoadError;
use crate::canopy::authorise::{Checks, Shape};
use crate::client::median;
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "authorise",
    about: "the role check of a call: 1,000 roles of one person, 100,000 members of an org",
    thresholds: &[Threshold::gate("added_us", Bound::AtMost(10.0)), Threshold::goal("added_us", Bound::AtMost(3.0))],
};

const LARGE: Shape = Shape { roles: 1_000, members: 100_000 };
const SMALL: Shape = Shape { roles: 1, members: 1 };
/// Checks of one round.
const CHECKS: u32 = 100_000;

/// # Errors
/// The node cannot be started, or the caller is refused.
pub async fn run(settings: &Settings) -> Result<Report, LoadError> {
    let mut report = Report::new(SCENARIO.name);
    let scratch = settings.scratch()?;
    settings.say(&format!("authorise: granting {} roles", LARGE.roles + LARGE.members));
    let large = Checks::open(&scratch.path().join("large"), LARGE).await?;
    let small = Checks::open(&scratch.path().join("small"), SMALL).await?;
    let load_ms = large.load_ms().await?;
    small.load_ms().await?;
    let (mut added, mut one) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds.max(1) {
        let (bare, role) = (large.bare_us(CHECKS).await?, large.role_us(CHECKS).await?);
        added.push(role - bare);
        let (bare, role) = (small.bare_us(CHECKS).await?, small.role_us(CHECKS).await?);
        one.push(role - bare);
    }
    large.close().await?;
    small.close().await?;
    report.set("added_us", median(added));
    report.set("small_us", median(one));
    report.set("load_ms", load_ms);
    Ok(report)
}
