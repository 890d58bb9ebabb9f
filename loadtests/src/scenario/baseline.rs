//! The baselines by themselves: what this machine can do at best.
//!
//! A baseline below 85% of what was measured for the design on a like machine is wrong, so these
//! figures are goals here: a slower machine is no failure.

use super::chat::{SENDERS, SUBSCRIBERS};
use super::commit::{Bench, VAULTS, on_disk, raw};
use super::edge::Station;
use super::room::Room;
use super::{Scenario, Settings, chat, edge, start};
use crate::LoadError;
use crate::baseline::raw_fjall::Shape;
use crate::client::{Sample, median};
use crate::report::Report;
use crate::threshold::{Bound, Threshold};

pub const SCENARIO: Scenario = Scenario {
    name: "baseline",
    about: "bare tonic echo and fan-out, raw fjall with group commit, by themselves",
    thresholds: &[
        Threshold::goal("echo_per_s", Bound::AtLeast(0.85 * 23_000.0)),
        Threshold::goal("fanout_per_s", Bound::AtLeast(0.85 * 2_100_000.0)),
        Threshold::goal("fjall_commits_per_s", Bound::AtLeast(0.85 * 52_000.0)),
    ],
};

/// Bytes of an echo and of a fan-out message.
const PAYLOAD_BYTES: usize = 128;

/// # Errors
/// When a baseline does not start, or the data directory is in memory.
pub async fn run(settings: &Settings) -> Result<Report, LoadError> {
    on_disk(&settings.data)?;
    let mut report = Report::new(SCENARIO.name);
    echo(settings, &mut report).await?;
    fanout(settings, &mut report).await?;
    fjall(settings, &mut report).await?;
    let bare = start::run(&settings.baseline(), settings).await?;
    report.set("start_ms", bare.figure("empty_ms").unwrap_or(f64::NAN));
    report.set("start_rss_mb", bare.figure("idle_rss_mb").unwrap_or(f64::NAN));
    Ok(report)
}

async fn echo(settings: &Settings, report: &mut Report) -> Result<(), LoadError> {
    for (tls, prefix) in [(false, "echo"), (true, "echo_tls")] {
        settings.say(&format!("baseline: {prefix}"));
        let target: &dyn edge::Target = &settings.baseline();
        let station = Station::open(target.launch(tls, PAYLOAD_BYTES).await?, settings).await?;
        let mut rounds = Vec::new();
        for _ in 0..settings.rounds {
            rounds.push(station.peak(settings.seconds).await?);
        }
        enter(report, prefix, "", &rounds);
        let rate = Settings::half(median(rounds.iter().map(Sample::per_s)));
        let paced = station.at_rate(rate, settings.seconds).await?;
        report.errors += paced.errors;
        report.set(&format!("{prefix}_p99_ms"), paced.p99_ms);
    }
    Ok(())
}

async fn fanout(settings: &Settings, report: &mut Report) -> Result<(), LoadError> {
    settings.say("baseline: fan-out");
    let target: &dyn chat::Target = &settings.baseline();
    let room = Room::open(target.launch(SUBSCRIBERS).await?, SUBSCRIBERS, PAYLOAD_BYTES, settings).await?;
    let senders = settings.callers.unwrap_or(SENDERS);
    let mut rounds = Vec::new();
    for _ in 0..settings.rounds {
        rounds.push(room.burst(senders, settings.seconds).await?);
    }
    enter(report, "fanout", "", &rounds);
    let rate = Settings::half(median(rounds.iter().map(Sample::per_s)) / room.subscribers_f64());
    let paced = room.at_rate(rate, settings.seconds).await?;
    report.errors += paced.errors;
    report.set("fanout_p99_ms", paced.p99_ms);
    let tally = room.close();
    report.lost += tally.lost;
    report.duplicated += tally.duplicated;
    report.errors += tally.reordered;
    Ok(())
}

async fn fjall(settings: &Settings, report: &mut Report) -> Result<(), LoadError> {
    for (vaults, shape, prefix) in [
        (VAULTS, Shape::single(), "fjall"),
        (1, Shape::single(), "fjall_hot"),
        (VAULTS, Shape::default(), "fjall_command"),
    ] {
        settings.say(&format!("baseline: {prefix}, {vaults} vaults"));
        let data = settings.scratch()?;
        let mut bench = Bench::new(raw(data.path(), vaults, shape).await?, vaults, settings);
        let mut rounds = Vec::new();
        for _ in 0..settings.rounds {
            rounds.push(bench.peak(settings.seconds).await?);
        }
        enter(report, prefix, "commits_", &rounds);
        let rate = Settings::half(median(rounds.iter().map(Sample::per_s)));
        let paced = bench.at_rate(rate, settings.seconds).await?;
        report.errors += paced.errors;
        report.set(&format!("{prefix}_p99_ms"), paced.p99_ms);
        let (lost, duplicated) = bench.close().await?;
        report.lost += lost;
        report.duplicated += duplicated;
    }
    Ok(())
}

fn enter(report: &mut Report, prefix: &str, unit: &str, rounds: &[Sample]) {
    report.set(&format!("{prefix}_{unit}per_s"), median(rounds.iter().map(Sample::per_s)));
    report.set(&format!("{prefix}_{unit}per_cpu_s"), median(rounds.iter().map(Sample::per_cpu_s)));
    report.errors += rounds.iter().map(|round| round.errors).sum::<u64>();
}
