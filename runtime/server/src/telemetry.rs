//! Logs and metrics.

use std::io::IsTerminal;
use std::time::Duration;

use canopy_config::{LogConfig, LogFormat};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// The library of passkeys logs what anybody sends as an error. A level that the configuration gives
/// for it counts.
const QUIET: &str = "webauthn_rs_core=off,webauthn_rs=off";

/// Starts logging to standard error. A second call changes nothing.
pub fn start_logging(config: &LogConfig) {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    // A process has one logger: tests that start several servers keep the first.
    let _ = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Upper bounds of the buckets of all `…_seconds` histograms: from what a cached read takes to
/// what a client gives up after.
const SECONDS_BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];
/// How often recorded values are folded into the histograms. Between two foldings they are kept
/// one by one: at 30,000 calls a second 7,500 of them, which stay in a core's cache.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Starts counting; `None` where this process counts already. Needs a runtime, which it leaves a
/// task.
pub fn start_metrics() -> Option<PrometheusHandle> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS);
    let handle = builder.ok()?.install_recorder().ok()?;
    let folded = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            let folded = folded.clone();
            // Not where calls are answered: they would wait for it.
            let done = tokio::task::spawn_blocking(move || folded.run_upkeep()).await;
            if done.is_err() {
                return;
            }
        }
    });
    Some(handle)
}
