//! The ledger finds what a delivery stream lost, doubled, reordered or held back.

use canopy_load::ledger::{GAPS_MAX, Ledger, STAMP_BYTES, Stamp, Tally, Track};
use canopy_load::selftest::{Fault, simulated};

const LATE_AFTER_NS: u64 = 1_000;

/// Delivers `numbers` of one sender that sent `sent`; returns (lost, duplicated, reordered).
fn tally(numbers: &[u64], sent: u64) -> (u64, u64, u64) {
    let mut ledger = Ledger::new(LATE_AFTER_NS);
    for &number in numbers {
        ledger.observe(&Stamp { sender: 0, number, sent_ns: 0 }, 1);
    }
    let Tally { received, lost, duplicated, reordered, late } = ledger.tally(&[sent]);
    assert_eq!((received, late), (numbers.len() as u64, 0));
    (lost, duplicated, reordered)
}

#[test]
fn one_sender() {
    for (numbers, sent, expected) in [
        (&[0, 1, 2, 3][..], 4, (0, 0, 0)),
        (&[], 0, (0, 0, 0)),
        (&[], 3, (3, 0, 0)),
        (&[0, 1], 4, (2, 0, 0)),
        (&[0, 2, 3], 4, (1, 0, 0)),
        (&[1, 2, 3], 4, (1, 0, 0)),
        (&[3], 4, (3, 0, 0)),
        (&[0, 0, 1], 2, (0, 1, 0)),
        (&[0, 1, 0, 1], 2, (0, 2, 0)),
        (&[1, 0], 2, (0, 0, 1)),
        (&[2, 1, 0], 3, (0, 0, 2)),
        // Filling a gap from its middle leaves two.
        (&[5, 2], 6, (4, 0, 1)),
        (&[5, 2, 0, 1, 3, 4], 6, (0, 0, 5)),
        // Filled, then filled again.
        (&[2, 1, 1, 0], 3, (0, 1, 2)),
        // More than were sent.
        (&[0, 1, 2], 2, (0, 1, 0)),
        (&[0, 7], 2, (1, 1, 0)),
    ] {
        assert_eq!(tally(numbers, sent), expected, "{numbers:?} of {sent}");
    }
}

#[test]
fn senders_are_told_apart() {
    let mut ledger = Ledger::new(LATE_AFTER_NS);
    for (sender, number) in [(0, 0), (3, 0), (0, 1), (3, 2), (3, 1)] {
        ledger.observe(&Stamp { sender, number, sent_ns: 0 }, 0);
    }
    let tally = ledger.tally(&[2, 1, 0, 3]);
    assert_eq!(tally, Tally { received: 5, lost: 1, reordered: 1, ..Tally::default() });
}

#[test]
fn late_is_later_than_the_limit() {
    let mut ledger = Ledger::new(LATE_AFTER_NS);
    for (number, latency_ns) in [(0, 0), (1, LATE_AFTER_NS), (2, LATE_AFTER_NS + 1)] {
        let observed = ledger.observe(&Stamp { sender: 0, number, sent_ns: 5 }, 5 + latency_ns);
        assert_eq!(observed, latency_ns);
    }
    assert_eq!(ledger.tally(&[3]).late, 1);
}

#[test]
fn planted_faults_are_reported_and_nothing_else() {
    for fault in Fault::ALL {
        assert_eq!(simulated(fault), fault.expected(), "{fault:?}");
    }
}

#[test]
fn memory_is_bounded_and_the_losses_still_add_up() {
    let mut track = Track::default();
    let sent = 100_000;
    for number in (1..sent).step_by(2) {
        track.observe(number);
    }
    assert!(track.gaps() <= GAPS_MAX, "{} gaps", track.gaps());
    assert_eq!(track.lost(sent), sent / 2);
}

#[test]
fn a_stamp_survives_any_envelope() {
    let stamps = [
        Stamp { sender: 0, number: 0, sent_ns: 0 },
        Stamp { sender: u16::MAX, number: (1 << 40) - 1, sent_ns: (1 << 48) - 1 },
        Stamp { sender: 7, number: 1_000_000, sent_ns: 123_456_789 },
    ];
    for stamp in stamps {
        let text = stamp.text(STAMP_BYTES + 10);
        assert_eq!(text.len(), STAMP_BYTES + 10);
        assert_eq!(stamp.text(0).len(), STAMP_BYTES);
        // A stray mark, half a stamp, other bytes, and two stamps in one message.
        let message = format!("\u{1}~~cl~00{text}\n~cl~{text}");
        let mut found = Vec::new();
        Stamp::scan(message.as_bytes(), |stamp| found.push(stamp));
        assert_eq!(found, [stamp, stamp]);
    }
}

#[test]
fn what_is_no_stamp_is_passed_over() {
    for message in ["", "~", "~cl~", "hello", "~cl~000g00000000000000000000000000000000"] {
        Stamp::scan(message.as_bytes(), |stamp| panic!("{stamp:?} in {message}"));
    }
}
