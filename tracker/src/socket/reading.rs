//! The receiving half of a connection.

use std::{
    cell::RefCell,
    future::poll_fn,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::upgrade::Upgraded;
use tokio::time;

use super::{
    Ended, Sockets,
    frames::{Decoder, Frame},
    io::Wire,
};
use crate::{outgoing::Outgoing, quota::Backlog};

/// Bytes that are read at once; one buffer for each thread.
const READ_LEN: usize = 64 * 1024;
/// What a viewer that was told to go may still send, so that it reads why: time, and bytes.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Close code of the answer to a close frame (RFC 6455 section 7.4.1).
const CLOSED_NORMALLY: u16 = 1000;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_LEN].into());
}

/// What has come.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// A ping, a pong or a part of a message, which is seen to: so many bytes.
    Other(usize),
}

impl Incoming<'_> {
    /// Its content's length, in bytes.
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Other(len) => *len,
        }
    }
}

/// What a connection may take, and how patient it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// A silent connection is pinged after this time, in milliseconds.
    pub(crate) ping_ms: u32,
    /// Largest message, in bytes.
    pub(crate) message_len_max: u32,
    /// What may wait for it, in bytes.
    pub(crate) queue_bytes_max: u32,
}

/// A WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    outgoing: Arc<Outgoing>,
    decoder: Decoder,
    message_len_max: u32,
    /// Read while the handshake was; goes before everything else.
    early: Box<[u8]>,
    heard: Heard,
}

/// What the other side's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Frames,
    /// It has broken the rules: what follows means nothing.
    Noise,
    /// It has closed: nothing follows.
    Close,
}

impl Socket {
    /// `number` says which of the tracker's writers serves it.
    pub(crate) fn new(
        upgraded: Upgraded,
        limits: Limits,
        sockets: &Sockets,
        number: u64,
        backlog: Backlog,
    ) -> Self {
        let (wire, early) = Wire::of(upgraded);
        let outgoing = Outgoing::new(wire, sockets.flushers.of(number), limits, Some(backlog));
        sockets.watch.add(&outgoing);
        Self {
            outgoing,
            decoder: Decoder::default(),
            message_len_max: limits.message_len_max,
            early: early.into(),
            heard: Heard::Frames,
        }
    }

    pub(crate) const fn outgoing(&self) -> &Arc<Outgoing> {
        &self.outgoing
    }

    /// Waits until something has come and gives it to `on`, all that came at once.
    ///
    /// # Errors
    /// Why the connection is to end; [`Ended::Enough`] where `on` broke.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    // Not an `async fn`: those keep their arguments twice.
    pub(crate) fn read<'a>(
        &'a mut self,
        mut on: impl FnMut(Incoming<'_>) -> ControlFlow<()> + 'a,
    ) -> impl Future<Output = Result<(), Ended>> + 'a {
        poll_fn(move |cx| self.poll_read(cx, &mut on))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        on: &mut dyn FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<(), Ended>> {
        if let Poll::Ready(ended) = self.outgoing.poll_end(cx) {
            return Poll::Ready(Err(ended));
        }
        if !self.early.is_empty() {
            let mut early = std::mem::take(&mut self.early);
            return Poll::Ready(self.take(&mut early, on));
        }
        BUFFER.with_borrow_mut(|buffer| match self.outgoing.poll_read(cx, buffer) {
            Poll::Ready(Ok(len)) if len > 0 => Poll::Ready(self.take(&mut buffer[..len], on)),
            Poll::Ready(_) => Poll::Ready(Err(Ended::Gone)),
            Poll::Pending => Poll::Pending,
        })
    }

    fn take(
        &mut self,
        bytes: &mut [u8],
        on: &mut dyn FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<(), Ended> {
        let outgoing = &self.outgoing;
        let (mut complete, mut closed) = (false, false);
        let len_max = self.message_len_max as usize;
        let fed = self.decoder.feed(bytes, len_max, &mut |frame| {
            // Pings among its parts do not make a message come sooner.
            complete |= matches!(frame, Frame::Text(_) | Frame::Binary(_));
            match frame {
                Frame::Text(text) => on(Incoming::Text(text)),
                Frame::Binary(bytes) => on(Incoming::Binary(bytes)),
                Frame::Part(bytes) => on(Incoming::Other(bytes.len())),
                Frame::Pong => on(Incoming::Other(0)),
                Frame::Ping(payload) => {
                    outgoing.push_pong(payload);
                    on(Incoming::Other(payload.len()))
                }
                Frame::Close => {
                    outgoing.close_with(CLOSED_NORMALLY);
                    closed = true;
                    ControlFlow::Break(())
                }
            }
        });
        outgoing.on_heard(complete, self.decoder.is_waiting());
        match fed {
            Ok(ControlFlow::Continue(())) => Ok(()),
            Ok(ControlFlow::Break(())) if closed => {
                self.heard = Heard::Close;
                Err(Ended::Said)
            }
            Ok(ControlFlow::Break(())) => Err(Ended::Enough),
            Err(violation) => {
                self.heard = Heard::Noise;
                Err(Ended::Broke(violation))
            }
        }
    }

    /// Says what is queued, and closes: at once where the other side has closed too, since of the two it
    /// is the server that ends the connection (RFC 6455 section 7.1.1). Until then it reads on for a
    /// moment: a socket that is closed with unread bytes takes back what was sent.
    pub(crate) async fn finish(&mut self, code: u16) {
        // Whether the viewer takes it in time is its own business.
        let _ = time::timeout(LINGER_TIME_MAX, self.close(code)).await;
    }

    async fn close(&mut self, code: u16) {
        self.outgoing.close_with(code);
        let mut early = std::mem::take(&mut self.early);
        self.listen_for_close(&mut early);
        let mut left = LINGER_BYTES_MAX;
        poll_fn(|cx| self.poll_close(cx, &mut left)).await;
    }

    /// `left` is how many bytes more are read.
    fn poll_close(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let ended = self.outgoing.poll_end(cx);
        if matches!(ended, Poll::Ready(Ended::Gone | Ended::Slow)) {
            return Poll::Ready(());
        }
        while self.heard != Heard::Close {
            let len = BUFFER.with_borrow_mut(|buffer| {
                let len = ready!(self.outgoing.poll_read(cx, buffer)).unwrap_or(0);
                self.listen_for_close(&mut buffer[..len]);
                Poll::Ready(len)
            });
            match ready!(len) {
                0 => return Poll::Ready(()),
                len if len >= *left => return Poll::Ready(()),
                len => *left -= len,
            }
        }
        ready!(ended);
        self.outgoing.poll_shutdown(cx)
    }

    /// Takes what comes behind the end of the conversation, of which only a close counts.
    fn listen_for_close(&mut self, bytes: &mut [u8]) {
        if self.heard != Heard::Frames {
            return;
        }
        let len_max = self.message_len_max as usize;
        let fed = self.decoder.feed(bytes, len_max, &mut |frame| match frame {
            Frame::Close => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        match fed {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => self.heard = Heard::Close,
            Err(_) => self.heard = Heard::Noise,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        pin,
    };

    use super::*;
    use crate::socket::flush::Flusher;

    /// Frames of a viewer, masked with zeros: a message, a close, and what breaks the rules.
    const MESSAGE: &[u8] = b"\x82\x82\0\0\0\0hi";
    const CLOSE: &[u8] = b"\x88\x82\0\0\0\0\x03\xe8";
    const NOISE: &[u8] = b"\xf2\x80\0\0\0\0";
    /// The tracker's, with code 1000.
    const CLOSED: [u8; 4] = [0x88, 2, 3, 0xe8];
    /// Nothing takes longer unless it hangs.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A connection, and the viewer's end of it.
    async fn connect() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (here, _) = listener.accept().await.unwrap();
        let limits = Limits {
            ping_ms: 1_000,
            message_len_max: 1_000,
            queue_bytes_max: 1_000,
        };
        let socket = Socket {
            outgoing: Outgoing::new(
                Wire::Plain(here),
                Arc::new(Flusher::default()),
                limits,
                None,
            ),
            decoder: Decoder::default(),
            message_len_max: limits.message_len_max,
            early: Box::default(),
            heard: Heard::Frames,
        };
        (socket, there.unwrap())
    }

    /// Reads a message and has enough.
    async fn read_one(socket: &mut Socket) -> Result<(), Ended> {
        let read = socket.read(|_| ControlFlow::Break(()));
        time::timeout(PATIENCE, read).await.expect("a message")
    }

    #[tokio::test]
    async fn pings_between_its_parts_give_a_message_no_more_time() {
        /// The beginning of a message, a part of it and a ping, all empty; the message's end.
        const BEGIN: &[u8] = b"\x02\x80\0\0\0\0";
        const MORE: &[u8] = b"\x00\x80\0\0\0\0\x89\x80\0\0\0\0";
        const END: &[u8] = b"\x80\x80\0\0\0\0";
        let (mut socket, mut there) = connect().await;
        let mut counts = Vec::new();
        let mut since_ms = Vec::new();
        for bytes in [BEGIN, MORE, MORE, END] {
            // Where the clock stands still nothing would be seen.
            time::sleep(Duration::from_millis(3)).await;
            there.write_all(bytes).await.unwrap();
            let mut count = 0;
            let read = socket.read(|_| {
                count += 1;
                ControlFlow::Continue(())
            });
            time::timeout(PATIENCE, read).await.unwrap().unwrap();
            counts.push(count);
            since_ms.push(socket.outgoing.incomplete_since_ms());
        }
        assert_eq!(counts, [1, 2, 2, 1], "every frame is told");
        assert_ne!(since_ms[0], 0);
        assert_eq!(since_ms, [since_ms[0], since_ms[0], since_ms[0], 0]);
    }

    #[tokio::test]
    async fn who_has_closed_is_not_waited_for() {
        for bytes in [CLOSE.to_vec(), [MESSAGE, CLOSE].concat()] {
            let (mut socket, mut there) = connect().await;
            there.write_all(&bytes).await.unwrap();
            read_one(&mut socket).await.unwrap_err();
            let closed = time::timeout(PATIENCE, socket.close(1000)).await;
            closed.expect("it does not wait for the viewer");
            drop(socket);
            let mut heard = Vec::new();
            there.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, CLOSED);
        }
    }

    #[tokio::test]
    async fn who_is_told_to_go_may_speak_on_until_it_closes() {
        let (mut socket, mut there) = connect().await;
        {
            let close = socket.close(1000);
            pin!(close);
            assert!(poll!(&mut close).is_pending());
            let mut heard = [0; CLOSED.len()];
            there.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, CLOSED);
            there.write_all(MESSAGE).await.unwrap();
            there.write_all(&CLOSE[..3]).await.unwrap();
            assert!(poll!(&mut close).is_pending());
            there.write_all(&CLOSE[3..]).await.unwrap();
            time::timeout(PATIENCE, close).await.expect("it has closed");
        }
        drop(socket);
        assert_eq!(there.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_follows_a_broken_rule_is_no_close() {
        let (mut socket, mut there) = connect().await;
        there.write_all(NOISE).await.unwrap();
        let ended = read_one(&mut socket).await.unwrap_err();
        assert!(matches!(ended, Ended::Broke(_)));
        there.write_all(CLOSE).await.unwrap();
        let close = socket.close(1002);
        pin!(close);
        assert!(poll!(&mut close).is_pending());
        there.shutdown().await.unwrap();
        time::timeout(PATIENCE, close).await.expect("it is gone");
    }
}
