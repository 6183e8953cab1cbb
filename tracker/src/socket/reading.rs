//! The receiving half of a connection.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::upgrade::Upgraded;
use tokio::time::{self, Instant, Sleep};

use super::{
    Ended,
    flush::Flusher,
    frames::{Decoder, Frame},
    io::{self, Reader},
};
use crate::outgoing::Outgoing;

/// Bytes that are read at once; one buffer for each thread.
const READ_LEN: usize = 64 * 1024;
/// For a viewer whose place somebody else asks for to show that it is there.
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);
/// What a viewer that was told to go may still send, so that it reads why: time, and bytes.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Times the interval of pings: one that is silent for longer is gone.
const SILENT_PINGS_MAX: u32 = 3;

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

/// How patient a connection is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// A silent connection is pinged after this time, in milliseconds.
    pub(crate) ping_ms: u32,
    /// Largest message, in bytes.
    pub(crate) message_len_max: u32,
}

/// A WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    reader: Reader,
    outgoing: Arc<Outgoing>,
    decoder: Decoder,
    timing: Timing,
    timer: Pin<Box<Sleep>>,
    heard_at: Instant,
    probe_until: Option<Instant>,
    /// Read while the handshake was; goes before everything else.
    early: Vec<u8>,
    /// A message was incomplete when the timer fired last.
    was_waiting: bool,
}

impl Socket {
    pub(crate) fn new(
        upgraded: Upgraded,
        timing: Timing,
        flusher: Arc<Flusher>,
        queue_bytes_max: u32,
    ) -> Self {
        let (reader, writer, early) = io::split(upgraded);
        let ping = Duration::from_millis(u64::from(timing.ping_ms));
        Self {
            reader,
            outgoing: Outgoing::new(writer, flusher, queue_bytes_max),
            decoder: Decoder::default(),
            timing,
            timer: Box::pin(time::sleep(ping)),
            heard_at: Instant::now(),
            probe_until: None,
            early,
            was_waiting: false,
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
    pub(crate) async fn read(
        &mut self,
        mut on: impl FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<(), Ended> {
        poll_fn(|cx| self.poll_read(cx, &mut on)).await
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        on: &mut dyn FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<(), Ended>> {
        if let Poll::Ready(ended) = self.outgoing.poll_end(cx) {
            return Poll::Ready(Err(ended));
        }
        if self.outgoing.take_probe() && self.probe_until.is_none() {
            self.probe_until = Some(Instant::now() + PROBE_TIME_MAX);
            self.timer.as_mut().reset(Instant::now() + PROBE_TIME_MAX);
            self.outgoing.push_ping();
        }
        if !self.early.is_empty() {
            let mut early = std::mem::take(&mut self.early);
            return Poll::Ready(self.take(&mut early, on));
        }
        let read = BUFFER.with_borrow_mut(|buffer| match self.reader.poll_read(cx, buffer) {
            Poll::Ready(Ok(len)) if len > 0 => Poll::Ready(self.take(&mut buffer[..len], on)),
            Poll::Ready(_) => Poll::Ready(Err(Ended::Gone)),
            Poll::Pending => Poll::Pending,
        });
        if read.is_ready() {
            return read;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if let Err(ended) = self.on_timer() {
                return Poll::Ready(Err(ended));
            }
        }
        Poll::Pending
    }

    fn take(
        &mut self,
        bytes: &mut [u8],
        on: &mut dyn FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<(), Ended> {
        self.heard_at = Instant::now();
        self.probe_until = None;
        let outgoing = &self.outgoing;
        let mut closed = false;
        let len_max = self.timing.message_len_max as usize;
        let fed = self.decoder.feed(bytes, len_max, &mut |frame| match frame {
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
        });
        match fed.map_err(Ended::Broke)? {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) if closed => Err(Ended::Gone),
            ControlFlow::Break(()) => Err(Ended::Enough),
        }
    }

    /// Pings a silent connection, ends one that is silent for too long, or that has left a message
    /// incomplete for a whole interval.
    fn on_timer(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let ping = Duration::from_millis(u64::from(self.timing.ping_ms));
        let silent = now.duration_since(self.heard_at);
        if silent >= ping * SILENT_PINGS_MAX || self.probe_until.is_some_and(|until| until <= now) {
            return Err(Ended::Gone);
        }
        if self.decoder.is_waiting() && self.was_waiting {
            return Err(Ended::Slow);
        }
        self.was_waiting = self.decoder.is_waiting();
        if silent >= ping {
            self.outgoing.push_ping();
            self.timer.as_mut().reset(now + ping);
        } else {
            self.timer.as_mut().reset(self.heard_at + ping);
        }
        Ok(())
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
                let reader = &mut self.reader;
                let read = BUFFER.with_borrow_mut(|buffer| reader.poll_read(cx, buffer));
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
