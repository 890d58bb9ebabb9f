//! Where the streams of an HTTP/2 connection run: in tasks of their own, or at once when they are
//! most likely refused, which takes microseconds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Context;

use futures::task::noop_waker_ref;
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;

use super::load::ConnectionLoad;

/// Runs one connection's streams.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    load: Arc<ConnectionLoad>,
    tasks: TokioExecutor,
}

impl Streams {
    pub(super) fn new(load: Arc<ConnectionLoad>) -> Self {
        Self { load, tasks: TokioExecutor::new() }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        if !self.load.is_refused() {
            self.tasks.execute(stream);
            return;
        }
        let mut stream = Box::pin(stream);
        let at_once = || stream.as_mut().poll(&mut Context::from_waker(noop_waker_ref()));
        // What panics is no more than its own stream's end, as it is for a task.
        match catch_unwind(AssertUnwindSafe(at_once)) {
            Ok(ended) if ended.is_pending() => self.tasks.execute(stream),
            Ok(_) => {}
            Err(_) => tracing::error!("a stream panicked; it was reset"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::Poll;

    use tokio::sync::Notify;

    use super::*;

    fn streams(refused: bool) -> Streams {
        let load = ConnectionLoad::new(Arc::default(), 7);
        for _ in 0..1_000 {
            load.called(refused);
        }
        Streams::new(Arc::new(load))
    }

    #[tokio::test]
    async fn only_where_calls_are_refused_are_streams_run_at_once() {
        for refused in [true, false] {
            let (ended, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
            let (end, tell) = (Arc::clone(&ended), Arc::clone(&told));
            streams(refused).execute(async move {
                end.store(true, Ordering::Release);
                tell.notify_one();
            });
            // The test's runtime has one thread, which is here.
            assert_eq!(ended.load(Ordering::Acquire), refused);
            told.notified().await;
        }
    }

    #[tokio::test]
    async fn a_stream_that_waits_goes_on_in_a_task() {
        let (polls, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (count, tell) = (Arc::clone(&polls), Arc::clone(&told));
        streams(true).execute(async move {
            poll_fn(|context| {
                if count.fetch_add(1, Ordering::AcqRel) == 2 {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            tell.notify_one();
        });
        assert_eq!(polls.load(Ordering::Acquire), 1, "at once");
        told.notified().await;
        assert_eq!(polls.load(Ordering::Acquire), 3);
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_alone() {
        let streams = streams(true);
        streams.execute(async { panic!("for the test") });
        let told = Arc::new(Notify::new());
        let tell = Arc::clone(&told);
        streams.execute(async move { tell.notify_one() });
        told.notified().await;
    }
}
