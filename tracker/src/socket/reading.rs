//! The receiving half of a connection.

use std::{
    cell::RefCell,
    future::poll_fn,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::upgrade::Upgraded;
use tokio::time;

use super::{
    Ended, Sockets,
    frames::{Decoder, Frame},
    io::Wire,
};
use crate::outgoing::Outgoing;

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
    /// A ping or pong, which is seen to.
    Control,
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
}

impl Socket {
    /// `number` says which of the tracker's writers serves it.
    pub(crate) fn new(upgraded: Upgraded, limits: Limits, sockets: &Sockets, number: u64) -> Self {
        let (wire, early) = Wire::of(upgraded);
        let outgoing = Outgoing::new(wire, sockets.flushers.of(number), limits);
        sockets.watch.add(&outgoing);
        Self {
            outgoing,
            decoder: Decoder::default(),
            message_len_max: limits.message_len_max,
            early: early.into(),
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
            complete = true;
            match frame {
                Frame::Text(text) => on(Incoming::Text(text)),
                Frame::Binary(bytes) => on(Incoming::Binary(bytes)),
                Frame::Pong => on(Incoming::Control),
                Frame::Ping(payload) => {
                    outgoing.push_pong(payload);
                    on(Incoming::Control)
                }
                Frame::Close => {
                    outgoing.close_with(CLOSED_NORMALLY);
                    closed = true;
                    ControlFlow::Break(())
                }
            }
        });
        outgoing.on_heard(complete, self.decoder.is_waiting());
        match fed.map_err(Ended::Broke)? {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) if closed => Err(Ended::Gone),
            ControlFlow::Break(()) => Err(Ended::Enough),
        }
    }

    /// Says what is queued, closes, and reads on for a moment: a socket that is closed with unread
    /// bytes takes back what was sent.
    pub(crate) async fn finish(&mut self, code: u16) {
        self.outgoing.close_with(code);
        let mut left = LINGER_BYTES_MAX;
        let linger = poll_fn(|cx| {
            let ended = self.outgoing.poll_end(cx);
            if matches!(ended, Poll::Ready(Ended::Gone | Ended::Slow)) {
                return Poll::Ready(());
            }
            loop {
                let read = BUFFER.with_borrow_mut(|buffer| self.outgoing.poll_read(cx, buffer));
                match read {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(len)) if len > 0 && len < left => left -= len,
                    Poll::Ready(_) => return Poll::Ready(()),
                }
            }
        });
        // Whether the viewer takes it in time is its own business.
        let _ = time::timeout(LINGER_TIME_MAX, linger).await;
    }
}
