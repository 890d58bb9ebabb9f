//! The bound of a mailbox, and what becomes of what is in it.

use std::time::Duration;

use canopy_supervision::{CallError, LATE_REPLY_WAIT_MAX, Mailbox, Permit, Permitted, SendError};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::stage::settle;

enum Ask {
    /// Answers.
    Echo(u64, oneshot::Sender<u64>),
    /// Keeps the permit until told.
    Hold(oneshot::Receiver<()>, oneshot::Sender<u64>),
    /// Never returns, with the reply in hand.
    Hang(oneshot::Sender<u64>),
    Crash,
    /// Hands the reply to a task that answers in a second, and stops.
    Delegate(oneshot::Sender<u64>),
}

struct Echo;

impl Actor for Echo {
    type Msg = Permitted<Ask>;
    type State = Option<Permit>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(None)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        held: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (ask, permit) = message.into_parts();
        match ask {
            Ask::Echo(number, reply) => {
                drop(permit);
                let _ = reply.send(number);
            }
            Ask::Hold(until, reply) => {
                *held = Some(permit);
                let _ = until.await;
                *held = None;
                let _ = reply.send(0);
            }
            Ask::Hang(_reply) => {
                drop(permit);
                std::future::pending::<()>().await;
            }
            Ask::Crash => panic!("told to"),
            Ask::Delegate(reply) => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let _ = reply.send(7);
                });
                myself.stop(None);
            }
        }
        Ok(())
    }
}

async fn mailbox(messages_max: usize) -> Mailbox<Ask> {
    let (actor, _) = Actor::spawn(None, Echo, ()).await.expect("starts");
    Mailbox::new("org/1", actor, messages_max)
}

fn echo() -> (Ask, oneshot::Receiver<u64>) {
    let (reply, replied) = oneshot::channel();
    (Ask::Echo(1, reply), replied)
}

#[tokio::test(start_paused = true)]
async fn full_hands_the_message_back_and_permits_return() {
    let mailbox = mailbox(3).await;
    // Nothing is handled while this test does not yield.
    for expected in 1..=3 {
        mailbox.try_send(echo().0).expect("there is room");
        assert_eq!(mailbox.depth(), expected);
    }
    let (ask, mut replied) = echo();
    let error = mailbox.clone().try_send(ask).expect_err("full");
    assert_eq!(error.to_string(), "mailbox org/1 holds 3 messages, its limit: retry later");
    assert!(matches!(error, SendError::Full { messages_max: 3, .. }));
    assert!(replied.try_recv().is_err());
    let Ask::Echo(number, reply) = error.into_message() else { panic!("another message came back") };
    reply.send(number).expect("its reply channel is open");
    assert_eq!(mailbox.depth(), 3);
    settle().await;
    assert_eq!(mailbox.depth(), 0);
    mailbox.try_send(echo().0).expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_nothing_admits_nothing() {
    assert!(mailbox(0).await.try_send(echo().0).is_err());
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "mailbox org/1: the actor takes another type of message")]
async fn a_mistyped_handle_is_found_when_it_is_made() {
    let cell = mailbox(1).await.cell();
    let _: Mailbox<u64> = Mailbox::new("org/1", ActorRef::from(cell), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kept_permit_counts_until_it_is_dropped() {
    let mailbox = mailbox(1).await;
    let (go, until) = oneshot::channel();
    let (reply, replied) = oneshot::channel();
    mailbox.try_send(Ask::Hold(until, reply)).expect("there is room");
    settle().await;
    assert_eq!(mailbox.depth(), 1);
    assert!(mailbox.try_send(echo().0).is_err());
    go.send(()).expect("it waits");
    replied.await.expect("it answers");
    assert_eq!(mailbox.depth(), 0);
}

/// However the actor ends, every accepted message is answered or its reply
/// channel is closed, and every permit returns.
#[tokio::test(start_paused = true)]
async fn nothing_disappears_with_its_reply_channel_open() {
    type End = fn(&Mailbox<Ask>);
    let ends: [(&str, End); 4] = [
        ("crash", |mailbox| {
            mailbox.try_send(Ask::Crash).map_err(|_| ()).expect("room");
        }),
        ("kill", |mailbox| mailbox.cell().kill()),
        ("stop", |mailbox| mailbox.cell().stop(None)),
        ("stop with a reason", |mailbox| {
            mailbox.cell().stop(Some("weary".into()));
        }),
    ];
    for (name, end) in ends {
        let mailbox = mailbox(64).await;
        let mut replies = Vec::new();
        for round in 0..20 {
            if round == 10 {
                end(&mailbox);
            }
            let (ask, replied) = echo();
            mailbox.try_send(ask).expect("room");
            replies.push(replied);
        }
        settle().await;
        for replied in &mut replies {
            assert_ne!(replied.try_recv(), Err(oneshot::error::TryRecvError::Empty), "{name}");
        }
        assert_eq!(mailbox.depth(), 0, "{name}");
        let (ask, mut replied) = echo();
        let error = mailbox.try_send(ask).expect_err("closed");
        assert!(matches!(error, SendError::Closed { .. }), "{name}: {error}");
        assert!(replied.try_recv() == Err(oneshot::error::TryRecvError::Empty), "it came back unharmed");
        drop(error);
        assert!(replied.await.is_err());
    }
}

/// Senders on other threads, and an actor that dies under them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_senders_never_exceed_the_bound_nor_lose_a_reply() {
    for _ in 0..50 {
        let mailbox = mailbox(8).await;
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mailbox = mailbox.clone();
            senders.spawn(async move {
                let mut replies = Vec::new();
                for _ in 0..50 {
                    let (ask, replied) = echo();
                    if mailbox.try_send(ask).is_ok() {
                        replies.push(replied);
                    }
                    tokio::task::yield_now().await;
                }
                replies
            });
        }
        let crasher = mailbox.clone();
        senders.spawn(async move {
            tokio::task::yield_now().await;
            let _ = crasher.try_send(Ask::Crash);
            crasher.cell().kill();
            Vec::new()
        });
        let replies: Vec<_> = senders.join_all().await.into_iter().flatten().collect();
        let cell = mailbox.cell();
        cell.wait(None).await.expect("no time-out");
        // With the last handle goes what the channel's gap may have kept; see the
        // module's documentation, and `calls` for callers that cannot wait for it.
        drop((mailbox, cell));
        for replied in replies {
            // Answered or closed: this ends.
            let _ = replied.await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls() {
    let mailbox = mailbox(4).await;
    assert_eq!(mailbox.call(|reply| Ask::Echo(5, reply)).await, Ok(5));
    let hanging = mailbox.call(Ask::Hang);
    let queued = mailbox.call(|reply| Ask::Echo(6, reply));
    let killer = mailbox.clone();
    let kill = async move {
        settle().await;
        killer.cell().kill();
    };
    let (hanging, queued, ()) = tokio::join!(hanging, queued, kill);
    assert_eq!([hanging, queued], [Err(CallError::Aborted); 2]);
    assert_eq!(mailbox.call(Ask::Hang).await, Err(CallError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_reply_may_come_after_the_actor_has_ended() {
    assert!(LATE_REPLY_WAIT_MAX > Duration::from_secs(1));
    assert_eq!(mailbox(1).await.call(Ask::Delegate).await, Ok(7));
}

/// A reply channel that somebody keeps after the actor's end holds a caller no
/// longer than the limit.
#[tokio::test(start_paused = true)]
async fn a_call_ends_even_if_its_reply_channel_stays_open() {
    let mailbox = mailbox(1).await;
    let cell = mailbox.cell();
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let begun = tokio::time::Instant::now();
    let answer = mailbox
        .call(|reply: oneshot::Sender<u64>| {
            keep.send(reply).expect("kept");
            cell.stop(None);
            Ask::Crash
        })
        .await;
    assert_eq!(answer, Err(CallError::Aborted));
    assert_eq!(begun.elapsed(), LATE_REPLY_WAIT_MAX);
    assert!(kept.try_recv().is_ok());
}
