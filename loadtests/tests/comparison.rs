//! Interleaved rounds and their medians.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]

use canopy_load::client::{Sample, interleave, median};
use parking_lot::Mutex;

fn sample(operations: u64) -> Sample {
    Sample { operations, wall_s: 2.0, cpu_s: 0.5, ..Sample::default() }
}

#[test]
fn medians() {
    for (values, expected) in [(&[3.0][..], 3.0), (&[9.0, 1.0, 5.0], 5.0), (&[4.0, 1.0, 3.0, 2.0], 2.0)] {
        assert_eq!(median(values.iter().copied()), expected, "{values:?}");
    }
    assert!(median([]).is_nan());
}

#[test]
fn rates() {
    assert_eq!(sample(100).per_s(), 50.0);
    assert_eq!(sample(100).per_cpu_s(), 200.0);
}

#[tokio::test]
async fn rounds_alternate_which_side_goes_first() {
    let order = Mutex::new(String::new());
    let side = async |name: char, operations: u64, seconds: f64| {
        assert_eq!(seconds, 0.5);
        order.lock().push(name);
        Ok(sample(operations))
    };
    let comparison =
        interleave(3, 0.5, async |seconds| side('a', 60, seconds).await, async |seconds| side('b', 100, seconds).await)
            .await
            .unwrap();
    assert_eq!(*order.lock(), "abbaab");
    assert_eq!(comparison.ratio(Sample::per_s), 0.6);
    assert_eq!((comparison.a.len(), comparison.b.len()), (3, 3));
}

#[tokio::test]
async fn a_ratio_is_taken_round_by_round() {
    // The machine slowed down threefold in the second round: both sides did, the ratio did not.
    let (mut ours, mut base) = ([50, 10, 30].into_iter(), [100, 20, 50].into_iter());
    let comparison =
        interleave(3, 1.0, async |_| Ok(sample(ours.next().unwrap())), async |_| Ok(sample(base.next().unwrap())))
            .await
            .unwrap();
    assert_eq!(comparison.ratio(Sample::per_s), 0.5);
    assert_eq!(comparison.errors(), 0);
}
