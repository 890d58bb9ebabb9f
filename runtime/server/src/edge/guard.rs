//! The bytes of one connection, watched in both directions: what comes in is metered, and
//! whether what goes out finds room is noted.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

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

/// A connection that hyper has let go of, for a last word.
#[derive(Debug)]
pub(super) struct Ending<I> {
    io: I,
    /// What it is cut off for, if it is.
    pub(super) flood: Option<Flood>,
    highest_stream: u32,
    can_write: bool,
}

/// Where a guard leaves what it guarded: hyper does not give back what it was given.
pub(super) type Leftover<I> = Arc<Mutex<Option<Ending<I>>>>;

/// Watches one connection.
#[derive(Debug)]
pub(super) struct Guard<I> {
    /// Present until the guard is dropped.
    io: Option<I>,
    /// For HTTP/2.
    meter: Option<FrameMeter>,
    load: Arc<ConnectionLoad>,
    flood: Option<Flood>,
    leftover: Leftover<I>,
}

impl<I> Guard<I> {
    pub(super) fn new(io: I, meter: Option<FrameMeter>, load: Arc<ConnectionLoad>) -> (Self, Leftover<I>) {
        let leftover = Leftover::default();
        (Self { io: Some(io), meter, load, flood: None, leftover: Arc::clone(&leftover) }, leftover)
    }
}

impl<I> Drop for Guard<I> {
    fn drop(&mut self) {
        if let Some(io) = self.io.take() {
            // What is left of it is read without turns.
            self.load.forgive();
            let highest_stream = self.meter.as_ref().map_or(0, FrameMeter::highest_stream);
            let can_write = !self.load.is_blocked();
            *self.leftover.lock() = Some(Ending { io, flood: self.flood, highest_stream, can_write });
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl<I: AsyncRead + Unpin> AsyncRead for Guard<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(flood) = this.flood {
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        let io = this.io.as_mut().ok_or_else(gone)?;
        let before = buf.filled().len();
        ready!(Pin::new(io).poll_read(cx, buf))?;
        if let Some(meter) = &mut this.meter
            && let Err(flood) = meter.read(buf.filled().get(before..).unwrap_or_default())
        {
            this.flood = Some(flood);
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> Guard<I> {
    fn write<T>(
        &mut self,
        write: impl FnOnce(Pin<&mut I>) -> Poll<io::Result<T>>,
        went: impl FnOnce(&T) -> bool,
    ) -> Poll<io::Result<T>> {
        let io = self.io.as_mut().ok_or_else(gone)?;
        let written = write(Pin::new(io));
        match &written {
            Poll::Pending => self.load.wrote(false),
            Poll::Ready(Ok(done)) if went(done) => self.load.wrote(true),
            Poll::Ready(_) => {}
        }
        written
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guard<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(|io| io.poll_write(cx, buf), |count| *count > 0)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(|io| io.poll_write_vectored(cx, bufs), |count| *count > 0)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().write(|io| io.poll_flush(cx), |()| true)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().write(|io| io.poll_shutdown(cx), |()| true)
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
