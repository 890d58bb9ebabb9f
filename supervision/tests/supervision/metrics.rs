//! The two metrics, as a recorder sees them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use canopy_supervision::{
    DynamicSpec, DynamicSupervisor, Intensity, OnCrashLoop, QUARANTINED, RESTARTS_TOTAL, Supervisor,
};
use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

use crate::stage::{Order, Stage, settle};

#[derive(Default, Clone)]
struct Ledger(Arc<Mutex<BTreeMap<String, f64>>>);

struct Line {
    ledger: Ledger,
    name: String,
}

impl Line {
    fn of(ledger: &Ledger, key: &Key) -> Arc<Self> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Self { ledger: ledger.clone(), name: format!("{} {}", key.name(), labels.join(",")) })
    }

    fn change(&self, f: impl FnOnce(f64) -> f64) {
        let mut lines = self.ledger.0.lock();
        let value = lines.entry(self.name.clone()).or_default();
        *value = f(*value);
    }
}

impl CounterFn for Line {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }
    fn absolute(&self, value: u64) {
        self.change(|_| value as f64);
    }
}

impl GaugeFn for Line {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }
    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }
    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl Recorder for Ledger {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Line::of(self, key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Line::of(self, key))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

async fn scene(ledger: Ledger) {
    let read = |metric: &str, supervisor: &str| {
        let lines = ledger.0.lock();
        lines.get(&format!("{metric} supervisor={supervisor}")).copied()
    };
    let stage = Stage::default();
    let root = Supervisor::new(stage.supervisor("root one_for_all\n a\n b"));
    root.start(None).await.expect("starts");
    for _ in 0..2 {
        stage.order("a", Order::Crash);
        settle().await;
    }
    assert_eq!(read(RESTARTS_TOTAL, "root"), Some(2.0), "once for the group");

    let orgs = DynamicSupervisor::new(DynamicSpec {
        intensity: Intensity { restarts_max: 1, period: Duration::from_secs(5) },
        on_crash_loop: OnCrashLoop::Quarantine {
            base: Duration::from_secs(10),
            max: Duration::from_secs(10),
            limit_entries: 10,
        },
        ..DynamicSpec::new("orgs")
    });
    orgs.start(None).await.expect("starts");
    orgs.start_child("x", stage.child("x permanent")).await.expect("starts");
    for _ in 0..2 {
        stage.order("x", Order::Crash);
        settle().await;
    }
    assert_eq!(read(RESTARTS_TOTAL, "orgs"), Some(1.0), "a hold is no restart");
    assert_eq!(read(QUARANTINED, "orgs"), Some(1.0));
    orgs.release("x");
    assert_eq!(read(QUARANTINED, "orgs"), Some(0.0));
}

#[test]
fn restarts_and_quarantined_keys_are_counted() {
    let ledger = Ledger::default();
    metrics::with_local_recorder(&ledger.clone(), || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(scene(ledger));
    });
}
