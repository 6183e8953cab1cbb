//! Writes what was queued in a turn once the turn is over.
//!
//! What many viewers send to one in the same turn of the event loop (five answers to one
//! announcement, say) leaves in one system call; system calls are most of a tracker's work.

use std::{
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
};

use tokio::{sync::Notify, task::yield_now};
use tokio_util::sync::CancellationToken;

use crate::outgoing::Outgoing;

/// Connections written before others get their turn.
const TURN_MAX: usize = 128;

/// One flusher for each core.
#[derive(Debug)]
pub(crate) struct Flushers(Vec<Arc<Flusher>>);

impl Flushers {
    /// Starts them; they end with `stopped`.
    pub(crate) fn start(stopped: &CancellationToken) -> Self {
        let count = available_parallelism().map_or(1, NonZero::get);
        let flushers: Vec<_> = (0..count).map(|_| Arc::new(Flusher::default())).collect();
        for flusher in &flushers {
            let (flusher, stopped) = (Arc::clone(flusher), stopped.clone());
            tokio::spawn(async move { stopped.run_until_cancelled(flusher.serve()).await });
        }
        Self(flushers)
    }

    /// The one for the connection with this number.
    pub(crate) fn of(&self, number: u64) -> Arc<Flusher> {
        Arc::clone(&self.0[(number % self.0.len() as u64) as usize])
    }
}

/// Connections with something to write.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    dirty: Mutex<Vec<Arc<Outgoing>>>,
    news: Notify,
}

impl Flusher {
    /// Remembers a connection; its queue is written soon.
    pub(crate) fn add(&self, outgoing: Arc<Outgoing>) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.push(outgoing);
        let first = dirty.len() == 1;
        drop(dirty);
        if first {
            self.news.notify_one();
        }
    }

    /// Writes for ever; one task of each flusher's.
    pub(crate) async fn serve(&self) {
        let mut turn = Vec::new();
        loop {
            self.news.notified().await;
            // Behind everything that is ready now: it may have more to say to the same viewers.
            yield_now().await;
            {
                let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut *dirty, &mut turn);
            }
            for (index, outgoing) in turn.drain(..).enumerate() {
                outgoing.flush();
                if index % TURN_MAX == TURN_MAX - 1 {
                    yield_now().await;
                }
            }
        }
    }
}
