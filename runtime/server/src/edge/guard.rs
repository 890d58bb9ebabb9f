//! The bytes of one connection, watched in both directions: what comes in is metered, what goes
//! out is gathered for as long as the connection is polled, and whether it finds room is noted.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::frames::{Flood, FrameMeter};
use super::load::ConnectionLoad;

/// How long a client that is sent away may take to read why.
const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// What is read from it meanwhile and thrown away, in bytes: a socket that is closed with bytes
/// unread resets, and the client would not see why.
const FAREWELL_BYTES_MAX: u64 = 8 << 20;
/// `ENHANCE_YOUR_CALM` (RFC 9113 §7).
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// Type of GOAWAY frames.
const GOAWAY: u8 = 0x7;
/// What is written in one poll of a connection and goes to the socket together, in bytes: as much
/// as a large frame has, which is not copied.
const GATHERED_BYTES_MAX: usize = 16 << 10;

/// A connection that hyper has let go of, for a last word.
#[derive(Debug)]
pub(super) struct Ending<I> {
    io: I,
    /// What it is cut off for, if it is.
    pub(super) flood: Option<Flood>,
    highest_stream: u32,
    /// What hyper wrote and the socket has not taken.
    rest: BytesMut,
    can_write: bool,
}

/// One connection under watch.
#[derive(Debug)]
struct Watched<I> {
    io: I,
    /// For HTTP/2.
    meter: Option<FrameMeter>,
    load: Arc<ConnectionLoad>,
    flood: Option<Flood>,
    /// What hyper wrote and the socket has not taken.
    gathered: BytesMut,
    /// What is written is to be flushed.
    unflushed: bool,
    /// What is too large to be gathered found no room.
    waiting: bool,
    /// What became of writing, for hyper's next write.
    failed: Option<io::Error>,
}

/// What hyper has of a connection.
#[derive(Debug)]
pub(super) struct Guard<I>(Arc<Mutex<Option<Watched<I>>>>);

/// What remains of a connection when hyper is done with it: it does not give back what it was given.
#[derive(Debug)]
pub(super) struct Wire<I>(Arc<Mutex<Option<Watched<I>>>>);

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl<I> Guard<I> {
    pub(super) fn new(io: I, meter: Option<FrameMeter>, load: Arc<ConnectionLoad>) -> (Self, Wire<I>) {
        let watched = Watched {
            io,
            meter,
            load,
            flood: None,
            gathered: BytesMut::new(),
            unflushed: false,
            waiting: false,
            failed: None,
        };
        let watched = Arc::new(Mutex::new(Some(watched)));
        (Self(Arc::clone(&watched)), Wire(watched))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Watched<I>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.0.lock().as_mut().map_or_else(|| Poll::Ready(Err(gone())), act)
    }
}

impl<I: AsyncRead + Unpin> Watched<I> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(flood) = self.flood {
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if let Some(meter) = &mut self.meter
            && let Err(flood) = meter.read(buf.filled().get(before..).unwrap_or_default())
        {
            self.flood = Some(flood);
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> Watched<I> {
    /// Notes whether something found room.
    fn note<T>(&self, written: Poll<io::Result<T>>, went: impl FnOnce(&T) -> bool) -> Poll<io::Result<T>> {
        match &written {
            Poll::Pending => self.load.wrote(false),
            Poll::Ready(Ok(done)) if went(done) => self.load.wrote(true),
            Poll::Ready(_) => {}
        }
        written
    }

    /// Has the socket take what was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.gathered);
            let count = ready!(self.note(written, |count| *count > 0))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(count);
        }
        // Most connections are idle most of the time, and then hold nothing.
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(self.poll_drain(cx))?;
            let flushed = Pin::new(&mut self.io).poll_flush(cx);
            let waiting = self.waiting;
            ready!(self.note(flushed, |()| !waiting))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(failed) = self.failed.take() {
            return Poll::Ready(Err(failed));
        }
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        self.unflushed = true;
        if self.gathered.len() + bytes > GATHERED_BYTES_MAX {
            ready!(self.poll_drain(cx))?;
        }
        if bytes > GATHERED_BYTES_MAX {
            let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
            self.waiting = written.is_pending();
            return self.note(written, |count| *count > 0);
        }
        bufs.iter().for_each(|buf| self.gathered.extend_from_slice(buf));
        Poll::Ready(Ok(bytes))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guard<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|watched| watched.poll_read(cx, buf))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guard<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|watched| watched.poll_write(cx, &[IoSlice::new(buf)]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|watched| watched.poll_write(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing yet: [`Wire::poll`] flushes, once for all that is written in a poll.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|watched| Poll::Ready(watched.failed.take().map_or(Ok(()), Err)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|watched| {
            ready!(watched.poll_flush(cx))?;
            let shut = Pin::new(&mut watched.io).poll_shutdown(cx);
            watched.note(shut, |()| true)
        })
    }
}

impl<I: AsyncWrite + Unpin> Wire<I> {
    /// Polls the connection, and flushes what it wrote: h2 flushes each refusal before it looks at
    /// the next call, and each answer of some size before its trailers.
    pub(super) fn poll<C: Future>(&self, connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let polled = connection.poll(cx);
        if let Some(watched) = self.0.lock().as_mut()
            && let Poll::Ready(Err(error)) = watched.poll_flush(cx)
        {
            watched.failed = Some(error);
            watched.unflushed = false;
            // It hears of it when it is polled again.
            cx.waker().wake_by_ref();
        }
        polled
    }

    /// Takes the connection from hyper.
    pub(super) fn end(self) -> Option<Ending<I>> {
        let Watched { io, meter, load, flood, gathered: rest, .. } = self.0.lock().take()?;
        // What is left of it is read without turns.
        load.forgive();
        let highest_stream = meter.as_ref().map_or(0, FrameMeter::highest_stream);
        Some(Ending { io, flood, highest_stream, rest, can_write: !load.is_blocked() })
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Ending<I> {
    /// Gives the client the time to read why, as far as it listens.
    pub(super) async fn farewell(mut self) {
        if !self.can_write {
            // It may be in the middle of a frame, and does not read anyway.
            return;
        }
        let goaway = self.flood.map(|flood| goaway(flood, self.highest_stream));
        let said = async {
            self.io.write_all(&self.rest).await?;
            if let Some(goaway) = goaway {
                self.io.write_all(&goaway).await?;
                self.io.shutdown().await?;
            }
            let mut rest = (&mut self.io).take(FAREWELL_BYTES_MAX);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        // Whether it was heard changes nothing: the connection is closed by dropping it.
        let _ = tokio::time::timeout(FAREWELL_TIME, said).await;
    }
}

/// A frame that says that the connection is over, and for what (RFC 9113 §6.8).
fn goaway(flood: Flood, highest_stream: u32) -> Vec<u8> {
    let reason = flood.name().as_bytes();
    let mut frame = Vec::with_capacity(17 + reason.len());
    let length = u32::try_from(8 + reason.len()).unwrap_or_default();
    frame.extend(length.to_be_bytes().iter().skip(1));
    frame.extend([GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend(highest_stream.to_be_bytes());
    frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend(reason);
    frame
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use futures::FutureExt as _;
    use futures::task::noop_waker_ref;

    use super::*;

    /// A socket that takes so many bytes in each write, and then none until there is room again.
    #[derive(Debug, Default)]
    struct Socket {
        room: VecDeque<usize>,
        writes: Vec<Vec<u8>>,
        flushes: usize,
        broken: bool,
    }

    impl AsyncRead for Socket {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let Some(room) = self.room.pop_front() else { return Poll::Pending };
            let count = buf.len().min(room);
            self.writes.push(buf[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    struct Pair {
        guard: Guard<Socket>,
        wire: Wire<Socket>,
        load: Arc<ConnectionLoad>,
    }

    impl Pair {
        fn new(room: &[usize]) -> Self {
            let load = Arc::new(ConnectionLoad::new(Arc::default(), 7));
            let socket = Socket { room: room.iter().copied().collect(), ..Socket::default() };
            let (guard, wire) = Guard::new(socket, None, Arc::clone(&load));
            Self { guard, wire, load }
        }

        /// One poll of a connection that writes and flushes each text, until one has no room; how
        /// many had.
        fn poll(&mut self, texts: &[&[u8]]) -> usize {
            let Self { guard, wire, .. } = self;
            let mut went = 0;
            let connection = poll_fn(|cx| {
                for text in texts {
                    ready!(Pin::new(&mut *guard).poll_write(cx, text)).unwrap();
                    ready!(Pin::new(&mut *guard).poll_flush(cx)).unwrap();
                    went += 1;
                }
                Poll::<()>::Pending
            });
            let polled = wire.poll(std::pin::pin!(connection), &mut Context::from_waker(noop_waker_ref()));
            assert!(polled.is_pending());
            went
        }

        fn socket<T>(&self, look: impl FnOnce(&mut Socket) -> T) -> T {
            look(&mut self.wire.0.lock().as_mut().unwrap().io)
        }

        fn writes(&self) -> Vec<Vec<u8>> {
            self.socket(|socket| socket.writes.clone())
        }
    }

    const LARGE: &[u8] = &[7; GATHERED_BYTES_MAX + 1];

    #[test]
    fn what_is_written_in_a_poll_goes_together() {
        let mut pair = Pair::new(&[100, 100]);
        assert_eq!(pair.poll(&[b"one", b"two", b"three"]), 3);
        assert_eq!(pair.writes(), [b"onetwothree".to_vec()]);
        assert_eq!(pair.poll(&[]), 0);
        assert_eq!(pair.poll(&[b"four"]), 1);
        assert_eq!(pair.writes(), [b"onetwothree".to_vec(), b"four".to_vec()]);
        assert_eq!(pair.socket(|socket| socket.flushes), 2, "only what was written is flushed");
    }

    #[test]
    fn what_finds_no_room_waits_in_order_and_is_bounded() {
        let mut pair = Pair::new(&[2]);
        assert_eq!(pair.poll(&[b"abc", b"d"]), 2);
        assert_eq!(pair.writes(), [b"ab".to_vec()]);
        assert!(pair.load.is_blocked());
        assert_eq!(pair.poll(&[&[1; GATHERED_BYTES_MAX - 2], b"late"]), 1, "what is gathered has a bound");
        pair.socket(|socket| socket.room.extend([1, usize::MAX, usize::MAX]));
        assert_eq!(pair.poll(&[LARGE]), 1);
        assert!(!pair.load.is_blocked());
        let expected = [b"abcd".to_vec(), vec![1; GATHERED_BYTES_MAX - 2], LARGE.to_vec()].concat();
        assert!(pair.writes().concat() == expected);
    }

    #[test]
    fn a_slow_reader_of_much_makes_nothing_grow() {
        let mut pair = Pair::new(&[]);
        assert_eq!(pair.poll(&[&[0; GATHERED_BYTES_MAX]]), 1);
        for round in 1..=255_u8 {
            pair.socket(|socket| socket.room.push_back(1_000));
            assert_eq!(pair.poll(&[]), 0);
            assert_eq!(pair.poll(&[&[round; 1_000]]), 1);
        }
        let memory_bytes = pair.wire.0.lock().as_ref().unwrap().gathered.capacity();
        assert!(memory_bytes <= 4 * GATHERED_BYTES_MAX, "{memory_bytes}");
        pair.socket(|socket| socket.room.push_back(usize::MAX));
        assert_eq!(pair.poll(&[]), 0);
        let expected: Vec<u8> = (1..=255).flat_map(|round| [round; 1_000]).collect();
        assert!(pair.writes().concat() == [vec![0; GATHERED_BYTES_MAX], expected].concat());
    }

    #[test]
    fn what_is_too_large_to_be_gathered_is_known_to_wait() {
        let mut pair = Pair::new(&[10]);
        assert_eq!(pair.poll(&[b"small", LARGE]), 1);
        assert!(pair.load.is_blocked(), "whatever else was flushed");
        assert_eq!(pair.writes(), [b"small".to_vec()]);
        pair.socket(|socket| socket.room.push_back(usize::MAX));
        assert_eq!(pair.poll(&[LARGE]), 1);
        assert!(!pair.load.is_blocked());
    }

    #[test]
    fn a_failure_is_told_at_the_next_write() {
        let mut pair = Pair::new(&[]);
        pair.socket(|socket| socket.broken = true);
        assert_eq!(pair.poll(&[b"gathered"]), 1);
        let written = pair.guard.write(b"next").now_or_never().expect("at once");
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn shutting_down_and_a_farewell_lose_nothing() {
        let mut pair = Pair::new(&[100]);
        assert!(pair.guard.write(b"last").now_or_never().is_some_and(|written| written.is_ok()));
        assert!(pair.guard.shutdown().now_or_never().is_some_and(|shut| shut.is_ok()));
        assert_eq!(pair.writes(), [b"last".to_vec()]);

        let mut pair = Pair::new(&[1]);
        assert_eq!(pair.poll(&[b"word"]), 1);
        let ending = pair.wire.end().unwrap();
        assert_eq!((&ending.rest[..], ending.can_write), (&b"ord"[..], false));
        assert!(pair.guard.write(b"next").now_or_never().is_some_and(|written| written.is_err()), "it is gone");
    }
}
