//! Stops reading a connection's sockets while its messages are not taken.

use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Open or shut; sockets wait at it, the receiver of messages moves it.
///
/// The WebRTC stack bounds what it keeps for a slow receiver in messages, not in bytes, and counts
/// hundreds. Not reading is what bounds the bytes: the system's buffer fills, and the peer's
/// congestion control slows it down.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    shut: bool,
    waiting: Vec<Waker>,
}

/// More wakers than a connection has sockets are repeats of the same few.
const WAITING_MAX: usize = 64;

impl Gate {
    /// Makes sockets wait from now on.
    pub(super) fn shut(&self) {
        self.lock().shut = true;
    }

    /// Lets sockets go on.
    pub(super) fn open(&self) {
        let waiting = {
            let mut state = self.lock();
            state.shut = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready when open; otherwise `waker` is called when it opens.
    pub(super) fn poll_open(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.lock();
        if !state.shut {
            return Poll::Ready(());
        }
        let known = state.waiting.iter().any(|waiting| waiting.will_wake(waker));
        if !known && state.waiting.len() < WAITING_MAX {
            state.waiting.push(waker.clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
