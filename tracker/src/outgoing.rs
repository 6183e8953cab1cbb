//! The bounded queue between the shard and one connection.
//!
//! Frames wait as bytes, one after the other, so that an idle connection holds nothing and all that
//! came in one turn goes out in one write.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What waits for a connection.
#[derive(Debug, Default)]
struct Queue {
    /// Each frame behind its length as two bytes.
    bytes: Vec<u8>,
    closing: bool,
    overflowed: bool,
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    queue: Mutex<Queue>,
    news: Notify,
    bytes_max: usize,
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Close the connection after it.
    pub(crate) close: bool,
    /// The reader was too slow: what was queued is lost.
    pub(crate) overflowed: bool,
}

impl Outgoing {
    pub(crate) fn new(bytes_max: u32) -> Self {
        Self {
            queue: Mutex::default(),
            news: Notify::new(),
            bytes_max: bytes_max as usize,
        }
    }

    /// Queues a frame. Where it does not fit the connection is closed: the viewer comes back and
    /// starts anew, which is better than a viewer that has missed something.
    pub(crate) fn push(&self, frame: &[u8]) {
        let mut queue = self.lock();
        if queue.closing {
            return;
        }
        if queue.bytes.len() + frame.len() + 2 > self.bytes_max {
            queue.bytes = Vec::new();
            queue.overflowed = true;
            queue.closing = true;
        } else {
            queue.append(frame);
        }
        drop(queue);
        self.news.notify_one();
    }

    /// Queues a frame that may be lost: not if the queue is half full. Whether it was queued.
    pub(crate) fn push_droppable(&self, frame: &[u8]) -> bool {
        let mut queue = self.lock();
        let fits = queue.bytes.len() + frame.len() + 2 <= self.bytes_max / 2;
        if queue.closing || !fits {
            return false;
        }
        queue.append(frame);
        drop(queue);
        self.news.notify_one();
        true
    }

    /// Closes the connection once everything queued is sent.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.news.notify_one();
    }

    /// Waits until there is something to do.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub(crate) async fn take(&self) -> Batch {
        loop {
            {
                let mut queue = self.lock();
                if queue.closing || !queue.bytes.is_empty() {
                    return Batch {
                        bytes: std::mem::take(&mut queue.bytes),
                        close: queue.closing,
                        overflowed: queue.overflowed,
                    };
                }
            }
            self.news.notified().await;
        }
    }

    /// Waits until the queue has overflowed.
    pub(crate) async fn overflowed(&self) {
        while !self.lock().overflowed {
            self.news.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn append(&mut self, frame: &[u8]) {
        let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(&frame[..usize::from(len)]);
    }
}

impl Batch {
    /// The frames, in order.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<2>()?;
            let (frame, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            rest = tail;
            Some(frame)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_in_order_and_in_one_batch() {
        let queue = Outgoing::new(1000);
        queue.push(b"one");
        assert!(queue.push_droppable(b"two"));
        queue.close();
        queue.push(b"late");
        let batch = queue.take().await;
        assert!(batch.frames().eq([b"one".as_slice(), b"two"]));
        assert!(batch.close && !batch.overflowed);
    }

    #[tokio::test]
    async fn what_may_be_lost_is_lost_first_and_then_the_connection_ends() {
        let queue = Outgoing::new(100);
        queue.push(&[1; 45]);
        assert!(!queue.push_droppable(&[2; 10]));
        queue.push(&[3; 45]);
        queue.push(&[4; 45]);
        let batch = queue.take().await;
        assert!(batch.close && batch.overflowed);
        assert_eq!(batch.frames().count(), 0);
    }
}
