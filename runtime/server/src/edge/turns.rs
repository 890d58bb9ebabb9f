//! The socket of a connection, read in turns while nearly all of its calls are refused.
//!
//! The runtime's poller is told of every segment that arrives, and wakes a thread for it, whether
//! or not anybody wants to read. So a socket that is read in turns is taken out of the poller.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::load::ConnectionLoad;

/// How often a connection is read whose calls are nearly all refused: what comes meanwhile is
/// refused together, which costs a fraction, and others get their turn before it.
const REFUSED_TURN: Duration = Duration::from_millis(100);
/// Bytes that are read in one turn, if as many have come: else large requests
/// that are refused would keep small ones waiting behind them for long.
const TURN_BYTES_MAX: usize = 256 << 10;

/// A socket, in the poller or out of it.
#[derive(Debug)]
enum Socket {
    /// In the poller.
    Watched(TcpStream),
    /// Out of it; it does not block either.
    Apart(std::net::TcpStream),
    /// The system let it neither in nor out.
    Lost,
}

/// Reads one socket, in turns if its connection deserves no better.
#[derive(Debug)]
pub(super) struct Turns {
    socket: Socket,
    load: Arc<ConnectionLoad>,
    /// Until its next turn.
    turn: Option<Pin<Box<Sleep>>>,
    /// What has been read in this one.
    turn_bytes: usize,
    /// Whether the poller is to say when there is room to write.
    blocked: bool,
}

fn lost() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Repeats what a signal interrupted.
fn uninterrupted<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl Turns {
    pub(super) fn new(socket: TcpStream, load: Arc<ConnectionLoad>) -> Self {
        Self { socket: Socket::Watched(socket), load, turn: None, turn_bytes: 0, blocked: false }
    }

    fn set_apart(&mut self) -> io::Result<()> {
        self.socket = match std::mem::replace(&mut self.socket, Socket::Lost) {
            Socket::Watched(socket) => Socket::Apart(socket.into_std()?),
            other => other,
        };
        Ok(())
    }

    fn watch(&mut self) -> io::Result<()> {
        self.socket = match std::mem::replace(&mut self.socket, Socket::Lost) {
            Socket::Apart(socket) => Socket::Watched(TcpStream::from_std(socket)?),
            other => other,
        };
        Ok(())
    }

    fn wait_for_turn(&mut self) {
        self.turn = Some(Box::pin(sleep_until(self.load.next_turn(REFUSED_TURN))));
    }

    /// Reads without the poller; false when there is nothing.
    fn read_apart(&self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        let Socket::Apart(socket) = &self.socket else { return Ok(false) };
        let mut socket = socket;
        match uninterrupted(|| socket.read(buf.initialize_unfilled())) {
            Ok(count) => {
                buf.advance(count);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        mut apart: impl FnMut(&std::net::TcpStream) -> io::Result<usize>,
        watched: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Socket::Apart(socket) = &self.socket {
            match uninterrupted(|| apart(socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.watch()?,
                done => return Poll::Ready(done),
            }
        }
        let Socket::Watched(socket) = &mut self.socket else { return Poll::Ready(Err(lost())) };
        let written = watched(Pin::new(socket), cx);
        self.blocked = written.is_pending();
        written
    }
}

impl AsyncRead for Turns {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            if let Some(turn) = &mut this.turn {
                ready!(turn.as_mut().poll(cx));
                (this.turn, this.turn_bytes) = (None, 0);
                this.load.begin_turn();
            }
            if this.read_apart(buf)? {
                break;
            }
            if this.turn_bytes > 0 {
                // What had come is read; what comes from now on has the next turn.
                this.wait_for_turn();
                continue;
            }
            // Who sends nothing is waited for, and not asked again and again.
            this.watch()?;
            let Socket::Watched(socket) = &mut this.socket else { return Poll::Ready(Err(lost())) };
            ready!(Pin::new(socket).poll_read(cx, buf))?;
            break;
        }
        if !this.load.is_refused() {
            this.turn_bytes = 0;
            this.watch()?;
            return Poll::Ready(Ok(()));
        }
        this.turn_bytes += buf.filled().len() - before;
        if this.blocked || this.turn_bytes >= TURN_BYTES_MAX {
            this.wait_for_turn();
        }
        if !this.blocked {
            this.set_apart()?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Turns {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |mut socket| socket.write(buf), |socket, cx| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(
            cx,
            |mut socket| socket.write_vectored(bufs),
            |socket, cx| socket.poll_write_vectored(cx, bufs),
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Watched(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Apart(socket) => Poll::Ready(socket.shutdown(Shutdown::Write)),
            Socket::Lost => Poll::Ready(Err(lost())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// More than sockets hold.
    const MANY_BYTES: usize = 16 << 20;

    struct Pair {
        client: TcpStream,
        server: Turns,
        load: Arc<ConnectionLoad>,
    }

    impl Pair {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (client, accepted) =
                tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
            let load = Arc::new(ConnectionLoad::new(Arc::default(), 7));
            Self { client: client.unwrap(), server: Turns::new(accepted.unwrap().0, Arc::clone(&load)), load }
        }

        fn refuse(&self, refused: bool) {
            for _ in 0..1_000 {
                self.load.called(refused);
            }
        }

        /// One byte from the client to the server.
        async fn send(&mut self, byte: u8) {
            self.client.write_all(&[byte]).await.unwrap();
            assert_eq!(self.server.read_u8().await.unwrap(), byte);
        }

        fn is_apart(&self) -> bool {
            matches!(self.server.socket, Socket::Apart(_))
        }
    }

    #[tokio::test]
    async fn the_poller_is_left_while_calls_are_refused_and_entered_again_afterwards() {
        let mut pair = Pair::new().await;
        for byte in 0..3 {
            pair.send(byte).await;
            assert!(!pair.is_apart());
        }
        pair.refuse(true);
        for byte in 0..3 {
            pair.send(byte).await;
            assert!(pair.is_apart());
        }
        pair.refuse(false);
        for byte in 0..3 {
            pair.send(byte).await;
            assert!(!pair.is_apart());
        }
    }

    #[tokio::test]
    async fn who_sends_nothing_is_waited_for_in_the_poller() {
        let mut pair = Pair::new().await;
        pair.refuse(true);
        pair.send(1).await;
        assert!(pair.is_apart());
        let Pair { mut client, mut server, .. } = pair;
        let reading = tokio::spawn(async move {
            let first = server.read_u8().await;
            (first, server)
        });
        // The client hears nothing of it; that a byte sent at any later time is read is what counts.
        tokio::task::yield_now().await;
        client.write_all(&[2]).await.unwrap();
        let (second, mut server) = reading.await.unwrap();
        assert_eq!(second.unwrap(), 2);
        drop(client);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "the end is seen");
    }

    #[tokio::test]
    async fn a_turn_takes_what_has_come_up_to_its_bound() {
        const PIECE: usize = 1024;
        let pair = Pair::new().await;
        pair.refuse(true);
        let Pair { mut client, mut server, .. } = pair;
        let writing = tokio::spawn(async move {
            client.write_all(&vec![7; MANY_BYTES]).await.unwrap();
            client
        });
        let mut most = 0;
        let mut turn_bytes = 0;
        for _ in 0..MANY_BYTES / PIECE / 8 {
            let turn = server.turn.is_some();
            let read = server.read(&mut [0; PIECE]).await.unwrap();
            turn_bytes = if turn { read } else { turn_bytes + read };
            most = most.max(turn_bytes);
        }
        assert!((TURN_BYTES_MAX..TURN_BYTES_MAX + PIECE).contains(&most), "{most} bytes in a turn");
        drop(server);
        writing.abort();
    }

    #[tokio::test]
    async fn nothing_is_lost_or_reordered_in_either_direction() {
        let bytes: Vec<u8> = (0..MANY_BYTES).map(|n| u8::try_from(n / 251 % 256).unwrap()).collect();
        let mut pair = Pair::new().await;
        pair.refuse(true);
        pair.send(0).await;
        let load = Arc::clone(&pair.load);
        let Pair { client, server, .. } = pair;
        let (mut from_server, mut to_server) = client.into_split();
        let (mut from_client, mut to_client) = tokio::io::split(server);
        let (sent, answered) = (bytes.clone(), bytes.clone());
        let sending = tokio::spawn(async move {
            to_server.write_all(&sent).await.unwrap();
            to_server
        });
        let answering = tokio::spawn(async move { to_client.write_all(&answered).await.unwrap() });
        let hearing = tokio::spawn(async move {
            let mut heard = vec![0; MANY_BYTES];
            from_server.read_exact(&mut heard).await.unwrap();
            heard
        });
        let (mut read, mut reads) = (Vec::with_capacity(MANY_BYTES), 0_u32);
        while read.len() < MANY_BYTES {
            assert!(from_client.read_buf(&mut read).await.unwrap() > 0);
            reads += 1;
            // Now and then: bytes by the million would wait for many turns.
            for _ in 0..100 {
                load.called(reads.is_multiple_of(10));
            }
        }
        assert!(read == bytes, "what the server read");
        assert!(hearing.await.unwrap() == bytes, "what the client read");
        answering.await.unwrap();
        drop(sending.await.unwrap());
    }
}
