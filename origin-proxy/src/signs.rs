//! Whether a connection of HTTP/1.1 is at rest, told from outside of its protocol.
//!
//! Between two requests hyper keeps buffers that a viewer who asks every few seconds does not need. It does
//! not say when it waits for nothing but the next request; its socket and its service can tell.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What has been seen of a connection. Written and read by its task alone.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    /// There was nothing to read when the socket was asked last.
    is_read_out: AtomicBool,
    /// All that the protocol has to write is on its way.
    is_flushed: AtomicBool,
    is_shut: AtomicBool,
    /// Bytes have come that may be no part of the last request's head.
    has_more: AtomicBool,
    is_answering: AtomicBool,
    requests: AtomicU32,
    /// Bytes that the socket has taken.
    written: AtomicUsize,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// An answer, or that the viewer takes it.
    Answer,
    /// The rest of a request, after so many.
    Request(u32),
    /// The next request, after so many.
    Nothing(u32),
}

impl Signs {
    /// To be asked when the protocol has been polled, and is not over.
    pub(crate) fn wait(&self) -> Wait {
        let requests = self.requests.load(Relaxed);
        if self.is_answering.load(Relaxed) || self.is_shut.load(Relaxed) {
            Wait::Answer
        } else if self.has_more.load(Relaxed) {
            Wait::Request(requests)
        } else if self.is_read_out.load(Relaxed) && self.is_flushed.load(Relaxed) {
            Wait::Nothing(requests)
        } else {
            Wait::Answer
        }
    }

    /// How many bytes the socket has taken since `before` was noted here; notes how many there were until now.
    pub(crate) fn written_since(&self, before: &mut usize) -> usize {
        let now = self.written.load(Relaxed);
        now.wrapping_sub(std::mem::replace(before, now))
    }

    fn on_write(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(len)) = polled {
            self.written.fetch_add(*len, Relaxed);
        }
    }

    /// Notes a request until the [`Exchange`] is dropped. With a body, its end is not seen: the connection
    /// counts as one that reads on.
    pub(crate) fn on_request(self: &Arc<Self>, has_body: bool) -> Exchange {
        self.is_answering.store(true, Relaxed);
        self.has_more.store(has_body, Relaxed);
        let requests = self.requests.load(Relaxed).wrapping_add(1);
        self.requests.store(requests, Relaxed);
        Exchange(self.clone())
    }
}

/// A request that is being answered; to be dropped with its answer's body.
#[derive(Debug)]
pub(crate) struct Exchange(Arc<Signs>);

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.is_answering.store(false, Relaxed);
    }
}

/// A socket whose first bytes have been read already.
#[derive(Debug)]
pub(crate) struct Heard<S> {
    pub(crate) socket: S,
    before: Bytes,
    signs: Arc<Signs>,
}

impl<S> Heard<S> {
    /// `before` are the bytes that came before those that `socket` has yet.
    pub(crate) fn new(socket: S, before: Bytes, signs: Arc<Signs>) -> Self {
        signs.has_more.store(!before.is_empty(), Relaxed);
        Self {
            socket,
            before,
            signs,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let len = self.before.len().min(buffer.remaining());
            buffer.put_slice(&self.before[..len]);
            self.before.advance(len);
            if self.before.is_empty() {
                // Else it would hold what was read while the connection lasts.
                self.before = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        self.signs.is_read_out.store(polled.is_pending(), Relaxed);
        ready!(polled)?;
        if buffer.filled().len() > before {
            self.signs.has_more.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.signs.is_flushed.store(false, Relaxed);
        let polled = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.signs.on_write(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.signs.is_flushed.store(false, Relaxed);
        let polled = Pin::new(&mut self.socket).poll_write_vectored(context, parts);
        self.signs.on_write(&polled);
        polled
    }

    /// hyper asks for this whenever it has nothing more to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(context))?;
        self.signs.is_flushed.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.signs.is_shut.store(true, Relaxed);
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_is_at_rest_only_between_requests() {
        let (mut viewer, socket) = tokio::io::duplex(64);
        let signs = Arc::new(Signs::default());
        let mut heard = Heard::new(socket, Bytes::from_static(b"GET "), signs.clone());
        assert_eq!(signs.wait(), Wait::Request(0));
        let mut read = [0; 16];
        assert_eq!(heard.read(&mut read).await.unwrap(), 4);
        assert_eq!(signs.wait(), Wait::Request(0));
        let exchange = signs.on_request(false);
        assert_eq!(signs.wait(), Wait::Answer);
        heard.write_all(&[1; 64]).await.unwrap();
        let mut written = 0;
        assert_eq!(signs.written_since(&mut written), 64);
        assert_eq!(signs.written_since(&mut written), 0);
        drop(exchange);
        assert_eq!(signs.wait(), Wait::Answer);
        heard.flush().await.unwrap();
        assert_eq!(signs.wait(), Wait::Answer, "it has not tried to read on");
        assert!(heard.read(&mut read).now_or_never().is_none());
        assert_eq!(signs.wait(), Wait::Nothing(1));
        viewer.write_all(b"POST").await.unwrap();
        assert_eq!(heard.read(&mut read).await.unwrap(), 4);
        assert_eq!(signs.wait(), Wait::Request(1));
        drop(signs.on_request(true));
        assert_eq!(signs.wait(), Wait::Request(2), "its body may follow");
    }
}
