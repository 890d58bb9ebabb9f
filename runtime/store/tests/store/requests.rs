//! First answers: found while in flight, when durable and after a restart;
//! forgotten after their retention and not before.

use canopy_proto::system::v1::RequestRecord;
use canopy_store::{Commit, RequestKey};

use crate::fixture::{commit, open, org};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const NOW_MS: i64 = 20_000 * DAY_MS + DAY_MS / 2;

fn answered(key: RequestKey, time_ms: i64) -> Commit {
    let record = RequestRecord { payload_digest: vec![7; 16].into(), reply: "reply".into(), seq: 0 };
    Commit { time_ms, record: Some((key, record)), ..commit(&[]) }
}

#[tokio::test]
async fn records_are_found_in_flight_durable_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    let key = RequestKey::new("account/x", "Method", "id");
    assert_eq!(writer.request_record(&key, NOW_MS).unwrap(), None);
    let ticket = writer.submit(answered(key, NOW_MS));
    let barrier = writer.barrier();
    assert_eq!(writer.request_record(&key, NOW_MS).unwrap().unwrap().seq, 1, "in flight");
    assert_eq!(barrier.await.unwrap(), 1);
    assert_eq!(ticket.await.unwrap(), 1);
    assert_eq!(writer.barrier().await.unwrap(), 1, "nothing in flight");
    assert_eq!(writer.request_record(&key, NOW_MS).unwrap().unwrap().reply, "reply");
    for other in [
        RequestKey::new("account/y", "Method", "id"),
        RequestKey::new("account/x", "Methodi", "d"),
        RequestKey::new("account/x", "Method", "id2"),
    ] {
        assert_eq!(writer.request_record(&other, NOW_MS).unwrap(), None);
    }
    drop(writer);
    store.close().await.unwrap();
    drop(store);
    let store = open(dir.path());
    let writer = store.writer(&org(1), &[]).await.unwrap();
    assert_eq!(writer.request_record(&key, NOW_MS + DAY_MS).unwrap().unwrap().seq, 1, "the day after");
    assert_eq!(writer.request_record(&key, NOW_MS - DAY_MS).unwrap().unwrap().seq, 1, "the clock was set back");
}

#[tokio::test]
async fn old_records_are_purged_in_bounded_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    let old = |n: u32| RequestKey::new("p", "m", &n.to_string());
    for n in 0..1200 {
        drop(writer.submit(answered(old(n), NOW_MS - 3 * DAY_MS)));
    }
    let recent = RequestKey::new("p", "m", "recent");
    writer.submit(answered(recent, NOW_MS - DAY_MS + 1)).await.unwrap();
    assert_eq!(writer.purge_request_records(NOW_MS - 2 * DAY_MS).unwrap(), 0, "not before their time");
    assert_eq!(writer.purge_request_records(NOW_MS).unwrap(), 1000);
    writer.barrier().await.unwrap();
    assert_eq!(writer.purge_request_records(NOW_MS).unwrap(), 200);
    assert_eq!(writer.purge_request_records(NOW_MS).unwrap(), 0, "under way");
    writer.barrier().await.unwrap();
    assert_eq!(writer.purge_request_records(NOW_MS).unwrap(), 0);
    assert_eq!(writer.request_record(&old(3), NOW_MS - 3 * DAY_MS).unwrap(), None);
    assert!(writer.request_record(&recent, NOW_MS).unwrap().is_some());
    assert_eq!(writer.next_seq(), 1202, "housekeeping takes no seq");
}
