//! One connection as everybody who has something for it sees it: a bounded queue before the wire.
//!
//! Frames wait as bytes, one after the other, so that an idle connection holds nothing and all that
//! came in one turn goes out in one write.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{
    clock,
    quota::Backlog,
    socket::{
        Ended, Limits,
        flush::Flusher,
        frames::{write_close, write_header},
        io::Wire,
    },
};

/// Queues that have grown to this are written at once.
const WRITE_NOW_LEN: usize = 16 * 1024;
/// Close code: the endpoint is going away (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;
/// Times the interval of pings: one that is silent for longer is gone.
const SILENT_PINGS_MAX: u32 = 3;
/// For a viewer whose place somebody else asks for to show that it is there, in milliseconds.
const PROBE_MS_MAX: u32 = 5_000;

/// What waits for a connection.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// How many of the others its address is charged with. Only where the network took less than there is.
    counted: u32,
    /// The flusher knows of it.
    dirty: bool,
    /// The network took less than there is: the connection's task writes the rest.
    blocked: bool,
    /// Nothing more is queued.
    closing: bool,
    overflowed: bool,
    broken: bool,
    /// Somebody waits to learn whether the other side is still there.
    probed: bool,
}

/// A connection; all of it but what its own task keeps of incomplete messages.
#[derive(Debug)]
pub(crate) struct Outgoing {
    wire: Mutex<Wire>,
    queue: Mutex<Queue>,
    task: AtomicWaker,
    flusher: Arc<Flusher>,
    bytes_max: u32,
    backlog: Option<Backlog>,
    ping_ms: u32,
    heard_ms: AtomicU32,
    pinged_ms: AtomicU32,
    /// Since when a message is incomplete; 0 if none is.
    incomplete_ms: AtomicU32,
}

impl Outgoing {
    /// With a `backlog` what waits is also part of what may wait for its address.
    pub(crate) fn new(
        wire: Wire,
        flusher: Arc<Flusher>,
        limits: Limits,
        backlog: Option<Backlog>,
    ) -> Arc<Self> {
        let now_ms = clock::now_ms();
        Arc::new(Self {
            wire: Mutex::new(wire),
            queue: Mutex::default(),
            task: AtomicWaker::new(),
            flusher,
            bytes_max: limits.queue_bytes_max,
            backlog,
            ping_ms: limits.ping_ms,
            heard_ms: AtomicU32::new(now_ms),
            pinged_ms: AtomicU32::new(now_ms),
            incomplete_ms: AtomicU32::new(0),
        })
    }

    /// For the connection's task: bytes that were read into `buffer`; 0 at the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.wire().poll_read(cx, buffer)
    }

    /// Notes that the other side was heard: whether it has completed a message, and whether it has left
    /// one incomplete.
    pub(crate) fn on_heard(&self, complete: bool, incomplete: bool) {
        let now_ms = clock::now_ms();
        self.heard_ms.store(now_ms, Ordering::Relaxed);
        if !incomplete {
            self.incomplete_ms.store(0, Ordering::Relaxed);
        } else if complete || self.incomplete_ms.load(Ordering::Relaxed) == 0 {
            self.incomplete_ms.store(now_ms.max(1), Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(crate) fn incomplete_since_ms(&self) -> u32 {
        self.incomplete_ms.load(Ordering::Relaxed)
    }

    /// Pings a silent connection, ends one that is silent for too long, or that has left a message
    /// incomplete for a whole interval.
    pub(crate) fn look_after(self: &Arc<Self>, now_ms: u32) {
        let since_ms =
            |then_ms: &AtomicU32| clock::since_ms(then_ms.load(Ordering::Relaxed), now_ms);
        let silent_ms = since_ms(&self.heard_ms);
        if silent_ms >= self.ping_ms.saturating_mul(SILENT_PINGS_MAX) {
            return self.cut();
        }
        let incomplete = self.incomplete_ms.load(Ordering::Relaxed) != 0;
        if incomplete && since_ms(&self.incomplete_ms) >= self.ping_ms {
            self.lock().overflowed = true;
            return self.task.wake();
        }
        if silent_ms >= self.ping_ms && since_ms(&self.pinged_ms) >= self.ping_ms {
            self.pinged_ms.store(now_ms, Ordering::Relaxed);
            self.push_ping();
        }
    }

    /// Queues a binary message. Where it does not fit the connection is closed: the viewer comes
    /// back and starts anew, which is better than a viewer that has missed something.
    pub(crate) fn push(self: &Arc<Self>, message: &[u8]) {
        self.append(OpCode::Data(Data::Binary), &[message], false);
    }

    /// Queues a binary message that may be lost: not if the queue is half full. Whether it was
    /// queued.
    pub(crate) fn push_droppable(self: &Arc<Self>, message: &[u8]) -> bool {
        self.append(OpCode::Data(Data::Binary), &[message], true)
    }

    /// Queues a text message, given in parts; otherwise as [`Outgoing::push`].
    pub(crate) fn push_text(self: &Arc<Self>, parts: &[&str]) {
        self.append(OpCode::Data(Data::Text), parts, false);
    }

    /// Queues a text message, given in parts; otherwise as [`Outgoing::push_droppable`].
    pub(crate) fn push_text_droppable(self: &Arc<Self>, parts: &[&str]) -> bool {
        self.append(OpCode::Data(Data::Text), parts, true)
    }

    pub(crate) fn push_ping(self: &Arc<Self>) {
        self.append::<[u8; 0]>(OpCode::Control(Control::Ping), &[], false);
    }

    /// Answers a ping; those that come faster than they can be answered are not.
    pub(crate) fn push_pong(self: &Arc<Self>, payload: &[u8]) {
        self.append(OpCode::Control(Control::Pong), &[payload], true);
    }

    /// Closes the connection once everything queued is sent.
    pub(crate) fn close(self: &Arc<Self>) {
        self.close_with(GOING_AWAY);
    }

    /// As [`Outgoing::close`], with a code for the close frame.
    pub(crate) fn close_with(self: &Arc<Self>, code: u16) {
        let mut queue = self.lock();
        if !queue.closing {
            write_close(code, &mut queue.bytes);
            queue.closing = true;
        }
        drop(queue);
        self.flush();
        self.task.wake();
    }

    /// Ends the connection as if the other side were gone.
    pub(crate) fn cut(&self) {
        self.lock().broken = true;
        self.task.wake();
    }

    /// Asks whether the other side is still there: if not, the connection ends soon.
    pub(crate) fn probe(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().probed, true) {
            return;
        }
        self.push_ping();
        let probed = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(u64::from(PROBE_MS_MAX))).await;
            let Some(probed) = probed.upgrade() else {
                return;
            };
            probed.lock().probed = false;
            let heard_ms = probed.heard_ms.load(Ordering::Relaxed);
            if clock::since_ms(heard_ms, clock::now_ms()) >= PROBE_MS_MAX {
                probed.cut();
            }
        });
    }

    /// Writes what is queued, as far as the network takes it now.
    pub(crate) fn flush(&self) {
        let mut queue = self.lock();
        queue.dirty = false;
        while !queue.blocked && !queue.broken && queue.written < queue.bytes.len() {
            let written = self.wire().try_write(&queue.bytes[queue.written..]);
            match written {
                Ok(written) => queue.on_written(written),
                Err(error) => {
                    queue.blocked = error.kind() == io::ErrorKind::WouldBlock;
                    queue.broken = !queue.blocked;
                    self.task.wake();
                }
            }
        }
        self.count(&mut queue, 0, false);
    }

    /// For the connection's task: writes what the network did not take before. Pending unless the
    /// connection is to end.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.task.register(cx.waker());
        let mut queue = self.lock();
        if queue.overflowed {
            return Poll::Ready(Ended::Slow);
        }
        if queue.blocked && !queue.broken {
            match self.poll_drain(&mut queue, cx) {
                Poll::Ready(Ok(())) => queue.blocked = false,
                Poll::Ready(Err(_)) => queue.broken = true,
                Poll::Pending => {}
            }
            self.count(&mut queue, 0, false);
            if queue.blocked && !queue.broken {
                return Poll::Pending;
            }
        }
        if queue.broken {
            return Poll::Ready(Ended::Gone);
        }
        if queue.closing && queue.written == queue.bytes.len() {
            return Poll::Ready(Ended::Said);
        }
        Poll::Pending
    }

    /// For the connection's task, once everything is said: ends the sending half.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<()> {
        // One that is broken already is closed all the same.
        self.wire().poll_shutdown(cx).map(|_| ())
    }

    fn poll_drain(&self, queue: &mut Queue, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while queue.written < queue.bytes.len() {
            let written = ready!(self.wire().poll_write(cx, &queue.bytes[queue.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.on_written(written);
        }
        self.wire().poll_flush(cx)
    }

    /// Whether it was queued.
    fn append<T: AsRef<[u8]>>(
        self: &Arc<Self>,
        opcode: OpCode,
        parts: &[T],
        droppable: bool,
    ) -> bool {
        let len = parts.iter().map(|part| part.as_ref().len()).sum();
        let mut queue = self.lock();
        if queue.closing {
            return false;
        }
        let waiting = queue.bytes.len() - queue.written + len;
        if droppable && waiting > self.bytes_max as usize / 2 {
            return false;
        }
        let has_room = self.count(&mut queue, len, droppable);
        if droppable && !has_room {
            self.count(&mut queue, 0, false);
            return false;
        }
        if waiting > self.bytes_max as usize || !has_room {
            *queue = Queue {
                closing: true,
                overflowed: true,
                counted: queue.counted,
                ..Queue::default()
            };
            self.count(&mut queue, 0, false);
            drop(queue);
            self.task.wake();
            return false;
        }
        write_header(opcode, len, &mut queue.bytes);
        for part in parts {
            queue.bytes.extend_from_slice(part.as_ref());
        }
        let announce = !queue.dirty && !queue.blocked;
        let now = announce && queue.bytes.len() > WRITE_NOW_LEN;
        queue.dirty |= announce && !now;
        drop(queue);
        if now {
            self.flush();
        } else if announce {
            self.flusher.add(Arc::clone(self));
        }
        true
    }

    /// Charges the address with what waits, and `more` that is to wait. Whether it has room for it.
    fn count(&self, queue: &mut Queue, more: usize, droppable: bool) -> bool {
        let waiting = match queue.blocked && !queue.broken {
            true => queue.bytes.len() - queue.written + more,
            false => 0,
        };
        let backlog = self.backlog.as_ref();
        backlog.is_none_or(|backlog| backlog.count(&mut queue.counted, waiting, droppable))
    }

    /// Taken after the queue's lock, never before it.
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(backlog) = &self.backlog {
            let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
            backlog.count(&mut queue.counted, 0, false);
        }
    }
}

impl Queue {
    fn on_written(&mut self, len: usize) {
        self.written += len;
        if self.written >= self.bytes.len() {
            self.bytes = Vec::new();
            self.written = 0;
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{config::LimitsConfig, quota::Addresses};

    const PING_MS: u32 = 1_000;

    /// A connection, and the other end of it.
    async fn pair(queue_bytes_max: u32) -> (Arc<Outgoing>, Arc<Flusher>, TcpStream) {
        pair_of(queue_bytes_max, None).await
    }

    /// The same of an address.
    async fn pair_of(
        queue_bytes_max: u32,
        backlog: Option<Backlog>,
    ) -> (Arc<Outgoing>, Arc<Flusher>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (here, _) = listener.accept().await.unwrap();
        let flusher = Arc::new(Flusher::default());
        let limits = Limits {
            ping_ms: PING_MS,
            queue_bytes_max,
            ..Limits::default()
        };
        let outgoing = Outgoing::new(Wire::Plain(here), Arc::clone(&flusher), limits, backlog);
        (outgoing, flusher, there)
    }

    #[tokio::test]
    async fn frames_come_out_in_order_and_then_the_close() {
        let (outgoing, flusher, mut there) = pair(1000).await;
        outgoing.push(b"one");
        assert!(outgoing.push_text_droppable(&["t", "wo"]));
        let serving = tokio::spawn(async move { flusher.serve().await });
        let mut bytes = [0; 10];
        there.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"\x82\x03one\x81\x03two");
        outgoing.close();
        outgoing.push(b"late");
        assert_eq!(poll_fn(|cx| outgoing.poll_end(cx)).await, Ended::Said);
        let mut bytes = [0; 4];
        there.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [0x88, 2, 3, 0xe9]);
        assert_eq!(outgoing.lock().bytes.capacity(), 0, "nothing is kept");
        serving.abort();
    }

    #[tokio::test]
    async fn what_may_be_lost_is_lost_first_and_then_the_connection_ends() {
        let (outgoing, _flusher, _there) = pair(100).await;
        outgoing.push(&[1; 45]);
        assert!(!outgoing.push_droppable(&[2; 10]));
        outgoing.push(&[3; 45]);
        outgoing.push(&[4; 45]);
        assert!(outgoing.lock().closing, "a third frame is too much");
        assert_eq!(poll_fn(|cx| outgoing.poll_end(cx)).await, Ended::Slow);
    }

    #[tokio::test]
    async fn slow_readers_of_one_address_share_what_may_wait_for_it() {
        const MOST: usize = 1 << 20;
        static MESSAGE: [u8; 64 * 1024] = [7; 64 * 1024];
        let addresses = Addresses::new(LimitsConfig {
            queue_bytes_per_address_max: MOST as u32,
            ..LimitsConfig::default()
        });
        let held = [1, 1, 1, 2].map(|n| addresses.hold([192, 0, 2, n].into()).unwrap());
        let mut all = Vec::new();
        for held in &held {
            all.push(pair_of(u32::MAX, Some(held.backlog())).await);
        }
        // Until the network takes no more, and then until nothing more may wait.
        let fill = |at: usize| while all[at].0.push_droppable(&MESSAGE) {};
        let waiting = |at: usize| {
            let queue = all[at].0.lock();
            queue.bytes.len() - queue.written
        };
        [0, 1, 3].into_iter().for_each(fill);
        assert!(waiting(0) > MOST / 4 && waiting(0) <= MOST / 2);
        assert!(waiting(1) <= 2 * MESSAGE.len(), "half is full already");
        assert!(waiting(3) > MOST / 4, "others are not concerned");
        // What may not be lost has all of the room; where that is full the connection ends.
        while !all[1].0.lock().overflowed {
            assert!(waiting(0) + waiting(1) <= MOST);
            all[1].0.push(&MESSAGE);
        }
        assert!(!all[0].0.lock().closing && !all[3].0.lock().closing);
        drop(all.swap_remove(0));
        // The last one is the first now.
        while all[2].0.push_droppable(&MESSAGE) {}
        let queue = all[2].0.lock();
        assert!(queue.bytes.len() - queue.written > MOST / 4, "room again");
    }

    #[tokio::test]
    async fn the_task_writes_what_the_network_did_not_take() {
        let (outgoing, _flusher, mut there) = pair(u32::MAX).await;
        let message = vec![7; 8 << 20];
        outgoing.push(&message);
        assert!(outgoing.lock().blocked, "more than any socket buffer");
        outgoing.close();
        let task = tokio::spawn(async move { poll_fn(|cx| outgoing.poll_end(cx)).await });
        let mut bytes = vec![0; 10 + message.len() + 4];
        there.read_exact(&mut bytes).await.unwrap();
        assert!(bytes[10..10 + message.len()] == message);
        assert_eq!(task.await.unwrap(), Ended::Said);
    }

    #[tokio::test]
    async fn the_silent_are_pinged_once_an_interval_and_then_given_up() {
        let (outgoing, _flusher, _there) = pair(1000).await;
        let heard_ms = outgoing.heard_ms.load(Ordering::Relaxed);
        let mut pings = Vec::new();
        for tenth in 1..30 {
            outgoing.look_after(heard_ms + tenth * PING_MS / 10);
            pings.push(outgoing.lock().bytes.len() / 2);
        }
        assert_eq!([pings[8], pings[9], pings[18], pings[19]], [0, 1, 1, 2]);
        assert!(!outgoing.lock().broken);
        outgoing.look_after(heard_ms + 3 * PING_MS);
        assert_eq!(poll_fn(|cx| outgoing.poll_end(cx)).await, Ended::Gone);
    }

    #[tokio::test]
    async fn who_leaves_a_message_incomplete_for_an_interval_is_too_slow() {
        let (outgoing, _flusher, _there) = pair(1000).await;
        outgoing.on_heard(false, true);
        let began_ms = outgoing.incomplete_ms.load(Ordering::Relaxed);
        outgoing.look_after(began_ms + PING_MS - 1);
        assert!(!outgoing.lock().overflowed);
        outgoing.on_heard(true, false);
        outgoing.look_after(began_ms + PING_MS);
        assert!(!outgoing.lock().overflowed, "it came");
        outgoing.on_heard(true, true);
        outgoing.look_after(outgoing.incomplete_ms.load(Ordering::Relaxed) + PING_MS);
        assert_eq!(poll_fn(|cx| outgoing.poll_end(cx)).await, Ended::Slow);
    }
}
