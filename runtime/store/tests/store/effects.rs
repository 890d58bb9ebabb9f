//! Effects wait, durably and in order, until they are completed.

use canopy_domain::Effect;
use canopy_store::Commit;

use crate::fixture::{commit, open, org};

fn with_effects(texts: &[&str], wake_at_ms: Option<i64>) -> Commit {
    let effect = |text: &&str| Effect {
        target: org(2),
        method: "canopy.test.v1.TestEffects/Take",
        request: bytes::Bytes::copy_from_slice(text.as_bytes()),
        outlives_subjects: false,
    };
    Commit { effects: texts.iter().map(effect).collect(), wake_at_ms, ..commit(&[]) }
}

#[tokio::test]
async fn effects_and_wishes_survive_and_are_completed_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    assert_eq!(writer.wake_at_ms(), None);
    writer.submit(with_effects(&["a", "b"], Some(500))).await.unwrap();
    writer.submit(with_effects(&[], None)).await.unwrap();
    writer.submit(with_effects(&["c"], None)).await.unwrap();
    assert_eq!(writer.wake_at_ms(), Some(500), "silence keeps the last wish");

    let listed = |writer: &canopy_store::Writer, limit| {
        let effects = writer.pending_effects(limit).unwrap();
        effects
            .into_iter()
            .map(|e| (e.seq, e.n, String::from_utf8(e.effect.request.to_vec()).unwrap()))
            .collect::<Vec<_>>()
    };
    let expect = |list: &[(u64, u32, &str)]| list.iter().map(|(s, n, t)| (*s, *n, t.to_string())).collect::<Vec<_>>();
    assert_eq!(listed(&writer, 10), expect(&[(1, 0, "a"), (1, 1, "b"), (3, 0, "c")]));
    assert_eq!(listed(&writer, 2), expect(&[(1, 0, "a"), (1, 1, "b")]));
    assert_eq!(writer.pending_effects(1).unwrap()[0].effect.target, org(2).to_string());

    let ticket = writer.complete_effects(&[(1, 1)]);
    assert_eq!(listed(&writer, 10), expect(&[(1, 0, "a"), (3, 0, "c")]), "not given again while under way");
    assert_eq!(ticket.await.unwrap(), 3, "takes no seq");
    writer.submit(with_effects(&[], Some(900))).await.unwrap();
    drop(writer);
    store.close().await.unwrap();
    drop(store);

    let store = open(dir.path());
    let mut writer = store.writer(&org(1), &[]).await.unwrap();
    assert_eq!((writer.wake_at_ms(), writer.next_seq()), (Some(900), 5));
    assert_eq!(listed(&writer, 10), expect(&[(1, 0, "a"), (3, 0, "c")]));
    writer.complete_effects(&[(1, 0), (3, 0), (77, 0)]).await.unwrap();
    assert_eq!(listed(&writer, 10), []);
    assert_eq!(writer.complete_effects(&[]).await.unwrap(), 4);
}
