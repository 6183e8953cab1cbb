//! Connections of HTTP/2 whose small writes are put together.
//!
//! HTTP/2 asks for one write to the socket for each answer, even if several answers of one connection are
//! ready. A system call costs more than copying a small answer: so small writes are gathered while the
//! connection is polled, and sent together when it has nothing more to do. Large writes are not copied.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes up to this length are gathered, in bytes.
const SMALL_MAX: usize = 8 * 1024;
/// No more is gathered, in bytes.
const GATHERED_MAX: usize = 64 * 1024;

/// One half of a connection: what a protocol reads from and writes to.
pub(crate) struct Gather<S>(Arc<Mutex<Inner<S>>>);

/// The other half: polls the protocol, then sends what it has left to be sent.
pub(crate) struct Gathering<C, S> {
    connection: C,
    inner: Arc<Mutex<Inner<S>>>,
}

struct Inner<S> {
    socket: S,
    gathered: Vec<u8>,
    /// Bytes of `gathered` that are sent.
    sent: usize,
}

impl<S> Gather<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            socket,
            gathered: Vec::new(),
            sent: 0,
        })))
    }

    /// Has `connect` make a protocol's connection of this half.
    pub(crate) fn drive<C>(self, connect: impl FnOnce(Self) -> C) -> Gathering<C, S> {
        let inner = self.0.clone();
        let connection = connect(self);
        Gathering { connection, inner }
    }

    /// The lock is free: both halves are polled by one task.
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Future + Unpin, S: AsyncWrite + Unpin> Future for Gathering<C, S> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let polled = Pin::new(&mut self.connection).poll(context);
        if polled.is_pending() {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            // Errors are found again, by the protocol, when it reads or writes next.
            let _ = inner.poll_send(context);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Sends all that is gathered, and what the socket itself has kept.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let left = &self.gathered[self.sent..];
            let len = ready!(Pin::new(&mut self.socket).poll_write(context, left))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += len;
        }
        self.gathered.clear();
        self.sent = 0;
        // TLS may have kept some of it.
        Pin::new(&mut self.socket).poll_flush(context)
    }

    /// Takes `parts` in, if they are few bytes and there is room. Returns their length.
    fn gather(&mut self, parts: &[IoSlice<'_>]) -> Option<usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let fits = len <= SMALL_MAX && self.gathered.len() + len <= GATHERED_MAX;
        if !fits {
            return None;
        }
        for part in parts {
            self.gathered.extend_from_slice(part);
        }
        Some(len)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        if let Some(len) = inner.gather(parts) {
            return Poll::Ready(Ok(len));
        }
        ready!(inner.poll_send(context))?;
        match inner.gather(parts) {
            Some(len) => Poll::Ready(Ok(len)),
            None => Pin::new(&mut inner.socket).poll_write_vectored(context, parts),
        }
    }

    /// What is gathered is sent when the protocol has nothing more to do.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        ready!(inner.poll_send(context))?;
        Pin::new(&mut inner.socket).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cmp::min,
        future::{pending, poll_fn},
        task::Waker,
    };

    use proptest::prelude::*;

    use super::*;

    /// Takes a few bytes at a time, and remembers each write.
    #[derive(Default)]
    struct Socket {
        writes: Vec<Vec<u8>>,
        /// How many bytes it takes at each write; none is "not now".
        takes: Vec<usize>,
        /// Bytes that it was told to flush.
        flushed: usize,
    }

    impl AsyncRead for Socket {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let len = min(self.takes.pop().unwrap_or(usize::MAX), bytes.len());
            if len == 0 {
                return Poll::Pending;
            }
            self.writes.push(bytes[..len].to_vec());
            Poll::Ready(Ok(len))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushed = self.writes.iter().map(Vec::len).sum();
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Writes `writes` as far as they are taken, and waits.
    fn converse(socket: Socket, writes: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
        let writes = writes.to_vec();
        let mut taken = 0;
        let mut context = Context::from_waker(Waker::noop());
        let mut connection = Gather::new(socket).drive(|mut half| {
            Box::pin(async move {
                for bytes in &writes {
                    let mut at = 0;
                    while at < bytes.len() {
                        let write = |context: &mut Context<'_>| {
                            Pin::new(&mut half).poll_write(context, &bytes[at..])
                        };
                        at += poll_fn(write).await.unwrap();
                    }
                    poll_fn(|context| Pin::new(&mut half).poll_flush(context))
                        .await
                        .unwrap();
                }
                pending::<()>().await;
            })
        });
        for _ in 0..1000 {
            assert!(Pin::new(&mut connection).poll(&mut context).is_pending());
            let inner = connection.inner.lock().unwrap();
            taken = inner.gathered.len() - inner.sent;
        }
        let mut inner = connection.inner.lock().unwrap();
        let written: usize = inner.socket.writes.iter().map(Vec::len).sum();
        assert_eq!(inner.socket.flushed, written);
        (std::mem::take(&mut inner.socket.writes), taken)
    }

    #[test]
    fn small_writes_become_one_and_large_ones_stay() {
        let small = [vec![1; 100], vec![2; 4096], vec![3; 4096]];
        let (writes, left) = converse(Socket::default(), &small);
        assert_eq!((writes, left), (vec![small.concat()], 0));
        let mixed = [vec![1; 100], vec![2; SMALL_MAX + 1], vec![3; 100]];
        let (writes, left) = converse(Socket::default(), &mixed);
        assert_eq!((writes, left), (mixed.to_vec(), 0));
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_moved(
            lens in prop::collection::vec(1_usize..20_000, 1..30),
            takes in prop::collection::vec(0_usize..30_000, 0..60),
        ) {
            let writes: Vec<Vec<u8>> = lens
                .iter()
                .enumerate()
                .map(|(index, len)| (0..*len).map(|at| (at * 7 + index) as u8).collect())
                .collect();
            let socket = Socket { takes, ..Socket::default() };
            let (written, left) = converse(socket, &writes);
            prop_assert_eq!(left, 0);
            prop_assert_eq!(written.concat(), writes.concat());
        }
    }
}
