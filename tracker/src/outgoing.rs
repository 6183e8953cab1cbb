//! The bounded queue of one connection, which everybody who has something for it writes to.
//!
//! Frames wait as bytes, one after the other, so that an idle connection holds nothing and all that
//! came in one turn goes out in one write.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::socket::{
    Ended,
    flush::Flusher,
    frames::{write_close, write_header},
    io::Writer,
};

/// Queues that have grown to this are written at once.
const WRITE_NOW_LEN: usize = 16 * 1024;
/// Close code: the endpoint is going away (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;

/// What waits for a connection.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// The flusher knows of it.
    dirty: bool,
    /// The network took less than there is: the connection's task writes the rest.
    blocked: bool,
    /// Nothing more is queued.
    closing: bool,
    overflowed: bool,
    broken: bool,
    /// Somebody wants to know whether the other side is still there.
    probed: bool,
}

/// The sending half of a connection.
#[derive(Debug)]
pub(crate) struct Outgoing {
    writer: Writer,
    queue: Mutex<Queue>,
    task: AtomicWaker,
    flusher: Arc<Flusher>,
    bytes_max: u32,
}

impl Outgoing {
    pub(crate) fn new(writer: Writer, flusher: Arc<Flusher>, bytes_max: u32) -> Arc<Self> {
        Arc::new(Self {
            writer,
            queue: Mutex::default(),
            task: AtomicWaker::new(),
            flusher,
            bytes_max,
        })
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

    /// Asks whether the other side is still there: if not, the connection ends soon.
    pub(crate) fn probe(&self) {
        self.lock().probed = true;
        self.task.wake();
    }

    /// Whether somebody has asked, since the last time.
    pub(crate) fn take_probe(&self) -> bool {
        std::mem::take(&mut self.lock().probed)
    }

    /// Writes what is queued, as far as the network takes it now.
    pub(crate) fn flush(&self) {
        let mut queue = self.lock();
        queue.dirty = false;
        while !queue.blocked && !queue.broken && queue.written < queue.bytes.len() {
            match self.writer.try_write(&queue.bytes[queue.written..]) {
                Ok(written) => queue.on_written(written),
                Err(error) => {
                    queue.blocked = error.kind() == io::ErrorKind::WouldBlock;
                    queue.broken = !queue.blocked;
                    self.task.wake();
                }
            }
        }
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
                Poll::Pending => return Poll::Pending,
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

    fn poll_drain(&self, queue: &mut Queue, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while queue.written < queue.bytes.len() {
            let written = ready!(self.writer.poll_write(cx, &queue.bytes[queue.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.on_written(written);
        }
        self.writer.poll_flush(cx)
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
        if waiting > self.bytes_max as usize {
            *queue = Queue {
                closing: true,
                overflowed: true,
                ..Queue::default()
            };
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

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A connection's sending half, and the other end of it.
    async fn pair(bytes_max: u32) -> (Arc<Outgoing>, Arc<Flusher>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (here, _) = listener.accept().await.unwrap();
        let (read, write) = here.into_split();
        // The reading half lives as long as the test.
        std::mem::forget(read);
        let flusher = Arc::new(Flusher::default());
        let outgoing = Outgoing::new(Writer::Plain(write), Arc::clone(&flusher), bytes_max);
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
}
