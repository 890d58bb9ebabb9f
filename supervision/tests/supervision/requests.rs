//! OTP's requests to a running supervisor.

use canopy_supervision::{
    ChildCounts, ChildKind, ChildSpec, Restart, Shutdown, StartError, Strategy, Supervisor, SupervisorSpec,
};
use ractor::Actor;

use crate::stage::{Order, Stage, check, settle};

#[tokio::test(start_paused = true)]
async fn add_terminate_restart_delete() {
    check(
        "s one_for_one\n a",
        "add b\n add b\n delete b\n terminate b\n terminate b\n restart b\n restart b\n terminate b\n delete b\n delete b\n shutdown",
        "> start
         started a
         > add b
         started b
         > add b
         | b is already started
         > delete b
         | child b is running: terminate it first
         > terminate b
         stopped b
         > terminate b
         > restart b
         started b
         > restart b
         | child b is running: terminate it first
         > terminate b
         stopped b
         > delete b
         > delete b
         | no child b: list them with which_children
         > shutdown
         stopped a, supervisor ended: shutdown",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn terminating_takes_back_a_restart_that_is_due() {
    check(
        "s one_for_one 9/5000 backoff=100\n a",
        "crash a\n restart a\n terminate a\n advance 500\n restart a",
        "> start
         started a
         > crash a
         crashed a
         > restart a
         | child a is being restarted: ask again shortly
         > terminate a
         > advance 500
         > restart a
         started a",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_panics_or_does_not_link_is_a_failed_start() {
    struct Idle;
    impl Actor for Idle {
        type Msg = ();
        type State = ();
        type Arguments = ();
        async fn pre_start(&self, _: ractor::ActorRef<()>, (): ()) -> Result<(), ractor::ActorProcessingErr> {
            Ok(())
        }
    }
    let panicking = ChildSpec::worker("p", |_| async { panic!("no such vault") });
    let unlinked = ChildSpec::worker("u", |_| async {
        let (actor, _) = Actor::spawn(None, Idle, ()).await?;
        Ok(actor.get_cell())
    });
    for (child, expected) in [
        (panicking, "child p did not start: start failed: no such vault"),
        (
            unlinked,
            "child u did not start: the started actor is not linked to its supervisor: spawn it with spawn_linked",
        ),
    ] {
        let spec = SupervisorSpec::new("s", Strategy::OneForOne).child(child);
        let error: StartError = Supervisor::new(spec).start(None).await.expect_err("fails");
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn children_are_counted_and_their_specs_shown() {
    let stage = Stage::default();
    let inner = Supervisor::new(stage.supervisor("inner one_for_one\n x"));
    let supervisor = Supervisor::new(stage.supervisor("s one_for_one\n a\n b transient").child(inner.child_spec()));
    assert_eq!(supervisor.count_children(), ChildCounts::default());
    supervisor.start(None).await.expect("starts");
    assert_eq!(supervisor.count_children(), ChildCounts { specs: 3, active: 3, supervisors: 1, workers: 2 });
    stage.order("b", Order::Stop(None));
    settle().await;
    supervisor.terminate_child("inner").await.expect("known");
    assert_eq!(supervisor.count_children(), ChildCounts { specs: 3, active: 1, supervisors: 1, workers: 2 });
    let spec = supervisor.get_childspec("inner").expect("known");
    assert_eq!(
        (spec.kind, spec.shutdown, spec.restart),
        (ChildKind::Supervisor, Shutdown::Infinity, Restart::Permanent)
    );
    assert_eq!(supervisor.get_childspec("b").expect("known").restart, Restart::Transient);
    assert!(supervisor.get_childspec("z").is_none());
}
