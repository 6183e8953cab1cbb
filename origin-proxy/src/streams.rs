//! Whether the viewer behind a connection of HTTP/2 takes what it is sent, and asks for anything.
//!
//! hyper waits for a viewer who grants its streams no window for ever, and keeps answers, with all that they
//! hold, meanwhile. It says nothing of it, but it asks a body for the next piece only when it has room for the
//! last one: so bodies can tell.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Most that is handed to the protocol at once, in bytes: who takes so much has taken something.
pub(crate) const PIECE_LEN_MAX: usize = 64 * 1024;

/// Pieces are counted by the round in which they were handed over. None is older than the last look.
const ROUNDS: usize = 4;

/// The streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: AtomicUsize,
    /// How often one was opened or closed.
    events: AtomicUsize,
    round: AtomicUsize,
    /// Streams that wait for room for a piece, by its round.
    waiting: [AtomicUsize; ROUNDS],
}

impl Streams {
    /// Notes a request until the [`Stream`] is dropped, with the body of its answer.
    pub(crate) fn on_request(self: &Arc<Self>) -> Stream {
        self.open.fetch_add(1, Relaxed);
        self.events.fetch_add(1, Relaxed);
        Stream {
            streams: self.clone(),
            waiting: None,
        }
    }

    /// Begins the next round. Returns whether a stream has waited for two whole rounds, and less than three.
    pub(crate) fn on_round(&self) -> bool {
        let round = self.round.fetch_add(1, Relaxed).wrapping_add(1);
        self.waiting[round.wrapping_add(1) % ROUNDS].load(Relaxed) > 0
    }

    /// Whether no stream was open since `events` was noted here; notes how many there were until now.
    pub(crate) fn is_idle_since(&self, events: &mut usize) -> bool {
        let before = std::mem::replace(events, self.events.load(Relaxed));
        *events == before && self.open.load(Relaxed) == 0
    }
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    streams: Arc<Streams>,
    /// Where it is counted among those that wait.
    waiting: Option<usize>,
}

impl Stream {
    /// The protocol has a piece.
    pub(crate) fn on_piece(&mut self) {
        self.on_taken();
        let round = self.streams.round.load(Relaxed) % ROUNDS;
        self.streams.waiting[round].fetch_add(1, Relaxed);
        self.waiting = Some(round);
    }

    /// There was room for the last piece, if any.
    pub(crate) fn on_taken(&mut self) {
        if let Some(round) = self.waiting.take() {
            self.streams.waiting[round].fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.on_taken();
        self.streams.open.fetch_sub(1, Relaxed);
        self.streams.events.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_takes_nothing_for_two_rounds_is_found() {
        let streams = Arc::new(Streams::default());
        let mut stream = streams.on_request();
        for _ in 0..10 {
            assert!(!streams.on_round(), "nothing was handed over");
        }
        stream.on_piece();
        assert!(!streams.on_round());
        assert!(!streams.on_round(), "the first round was not a whole one");
        assert!(streams.on_round());
        // One that takes something now and then is not.
        for _ in 0..10 {
            stream.on_piece();
            assert!(!streams.on_round() && !streams.on_round());
        }
        drop(stream);
        assert!((0..10).all(|_| !streams.on_round()));
    }

    #[test]
    fn a_connection_is_idle_without_any_stream_in_between() {
        let (streams, mut events) = (Arc::new(Streams::default()), 0);
        assert!(streams.is_idle_since(&mut events));
        let stream = streams.on_request();
        assert!(!streams.is_idle_since(&mut events));
        assert!(!streams.is_idle_since(&mut events), "it is open");
        drop(stream);
        assert!(!streams.is_idle_since(&mut events), "it was open just now");
        assert!(streams.is_idle_since(&mut events));
        drop(streams.on_request());
        assert!(!streams.is_idle_since(&mut events));
    }
}
