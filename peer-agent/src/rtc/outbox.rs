//! The bounded queue between `send` and one peer's connection.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;

/// What became of a message given to `send`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// It will be sent, in order.
    Queued,
    /// The peer's queue is full: try again after its `Drained` event.
    Full,
    /// The message is larger than peers accept. A mistake of the caller; it can never be sent.
    TooLarge,
    /// There is no such connection, or it is not up.
    NotConnected,
}

/// Messages waiting for one peer, bounded in bytes.
#[derive(Debug)]
pub(super) struct Outbox {
    bytes_max: usize,
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// Above the low-water mark since the last drain.
    was_high: bool,
}

impl Outbox {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
            filled: Notify::new(),
        }
    }

    /// Accepts messages from now on.
    pub(super) fn open(&self) {
        self.lock().open = true;
    }

    /// Refuses messages from now on and forgets those that wait.
    pub(super) fn close(&self) {
        *self.lock() = State::default();
    }

    pub(super) fn push(&self, message: Bytes) -> SendOutcome {
        let mut state = self.lock();
        if !state.open {
            return SendOutcome::NotConnected;
        }
        // An empty queue takes any message, so that a small limit cannot block one for ever.
        if state.bytes > 0 && state.bytes + message.len() > self.bytes_max {
            state.was_high = true;
            return SendOutcome::Full;
        }
        state.bytes += message.len();
        state.was_high |= state.bytes > self.low_water();
        state.queue.push_back(message);
        drop(state);
        self.filled.notify_one();
        SendOutcome::Queued
    }

    /// The next message to send. It counts as waiting until [`Outbox::on_sent`].
    pub(super) async fn next(&self) -> Bytes {
        loop {
            if let Some(message) = self.lock().queue.pop_front() {
                return message;
            }
            self.filled.notified().await;
        }
    }

    /// Records that `bytes` left the queue; true when it fell to the low-water mark just now.
    pub(super) fn on_sent(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        let drained = state.was_high && state.bytes <= self.low_water();
        if drained {
            state.was_high = false;
        }
        drained
    }

    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn low_water(&self) -> usize {
        self.bytes_max / 4
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bounded_and_drained_once() {
        let outbox = Outbox::new(1000);
        let message = || Bytes::from(vec![0; 400]);
        assert_eq!(outbox.push(message()), SendOutcome::NotConnected);
        outbox.open();
        assert_eq!(outbox.push(message()), SendOutcome::Queued);
        assert_eq!(outbox.push(message()), SendOutcome::Queued);
        assert_eq!(outbox.push(message()), SendOutcome::Full);
        assert_eq!(outbox.bytes(), 800);
        let first = outbox.next().await;
        assert_eq!(outbox.bytes(), 800, "a message in hand still counts");
        assert!(!outbox.on_sent(first.len()));
        let second = outbox.next().await;
        assert!(outbox.on_sent(second.len()));
        assert!(!outbox.on_sent(0));
        assert_eq!(outbox.push(Bytes::from(vec![0; 5000])), SendOutcome::Queued);
        outbox.close();
        assert_eq!(outbox.bytes(), 0);
        assert_eq!(outbox.push(message()), SendOutcome::NotConnected);
    }

    #[tokio::test]
    async fn refusal_below_the_mark_still_drains() {
        let outbox = Outbox::new(1000);
        outbox.open();
        assert_eq!(outbox.push(Bytes::from(vec![0; 100])), SendOutcome::Queued);
        assert_eq!(outbox.push(Bytes::from(vec![0; 950])), SendOutcome::Full);
        let first = outbox.next().await;
        assert!(outbox.on_sent(first.len()));
    }
}
