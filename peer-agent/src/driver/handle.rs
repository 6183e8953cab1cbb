//! How the rest of the agent talks to the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::StatusCode;
use swarm_core::id::{Name, RequestId, SegmentId, TrackId};
use swarm_core::peer::Payload;
use swarm_core::timeline::Track;
use tokio::sync::{mpsc, oneshot, watch};

use crate::store::{Media, Store};

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A playlist of these tracks was read.
    Playlist(Vec<Track>),
    /// The player wants a segment.
    Want {
        request: RequestId,
        name: Name,
        /// Media that it takes at a time while the segment arrives, in milliseconds; 0: all at once.
        grain_ms: u32,
        asker: Asker,
    },
    /// It does not any more.
    Abandon(RequestId),
    /// How the player is doing.
    Player {
        buffer_ms: u32,
        lag_ms: u32,
        stalled: bool,
    },
    /// The player has left this track.
    TrackEnded(TrackId),
    /// Keys have come to be trusted.
    KeysKnown,
    /// Whether the person agrees to peers.
    Consent(bool),
    /// Say goodbye and end.
    Shutdown(oneshot::Sender<()>),
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All of the segment.
    Deliver {
        payload: Payload,
        media: Media,
        reported_bps: u64,
    },
    /// Not the swarm's business: get it from the CDN.
    Bypass,
    /// The CDN failed, and said this.
    Fail { status: StatusCode },
}

/// How much of a segment may be played before all of it is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) segment: SegmentId,
    /// Pieces from the first one on, verified and stored.
    pub(crate) pieces: u8,
}

/// What a request hears next.
#[derive(Debug)]
pub(crate) enum Next {
    /// More may be played; the answer follows.
    Released(Released),
    /// The last.
    Answer(Answer),
}

/// The driver's end of a request. It never waits for the player: of what is released only the newest
/// word counts, and the bytes stay in the store.
#[derive(Debug)]
pub(crate) struct Asker {
    answer: oneshot::Sender<Answer>,
    released: watch::Sender<Released>,
}

/// A way to talk to the driver.
#[derive(Clone, Debug)]
pub(crate) struct DriverHandle {
    commands: mpsc::Sender<Command>,
    next_request: Arc<AtomicU32>,
    store: Arc<Store>,
}

/// A request under way. Dropping it abandons it.
#[derive(Debug)]
pub(crate) struct Request {
    id: RequestId,
    answer: oneshot::Receiver<Answer>,
    released: watch::Receiver<Released>,
    commands: mpsc::Sender<Command>,
    answered: bool,
}

impl DriverHandle {
    pub(super) fn new(commands: mpsc::Sender<Command>, store: Arc<Store>) -> Self {
        Self {
            commands,
            next_request: Arc::default(),
            store,
        }
    }

    /// Tells the driver; waits while its queue is full. A driver that has ended hears nothing.
    pub(crate) async fn tell(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    /// Asks for a segment, to be played `grain_ms` at a time while it arrives; 0: all at once. Without
    /// a driver it is bypassed.
    pub(crate) async fn want(&self, name: Name, grain_ms: u32) -> Request {
        let id = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        let (asker, request) = Request::new(id, self.commands.clone());
        self.tell(Command::Want {
            request: id,
            name,
            grain_ms,
            asker,
        })
        .await;
        request
    }

    /// Ends the driver, once it has said goodbye to all.
    pub(crate) async fn shutdown(&self) {
        let (done, gone) = oneshot::channel();
        self.tell(Command::Shutdown(done)).await;
        let _ = gone.await;
    }

    #[cfg(test)]
    pub(super) fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

impl Asker {
    /// More may be played.
    pub(crate) fn release(&self, released: Released) {
        self.released.send_replace(released);
    }

    /// The last word. Who does not wait any more has lost interest.
    pub(crate) fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }
}

impl Request {
    /// Both ends of a request; `commands` hears when it is abandoned.
    pub(crate) fn new(id: RequestId, commands: mpsc::Sender<Command>) -> (Asker, Self) {
        let (send_answer, answer) = oneshot::channel();
        let nothing = Released {
            segment: SegmentId(0),
            pieces: 0,
        };
        let (send_released, released) = watch::channel(nothing);
        let asker = Asker {
            answer: send_answer,
            released: send_released,
        };
        let request = Self {
            id,
            answer,
            released,
            commands,
            answered: false,
        };
        (asker, request)
    }

    /// Waits for the answer, or for more to play. May be cancelled and called again, until it has
    /// answered.
    pub(crate) async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            answer = &mut self.answer => {
                self.answered = true;
                Next::Answer(answer.unwrap_or(Answer::Bypass))
            }
            Ok(()) = self.released.changed() => Next::Released(*self.released.borrow_and_update()),
        }
    }

    /// Waits for the answer. May be cancelled and called again, until it has answered.
    pub(crate) async fn answer(&mut self) -> Answer {
        let answer = (&mut self.answer).await.unwrap_or(Answer::Bypass);
        self.answered = true;
        answer
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.answered {
            // If the queue is full, housekeeping finds that nobody waits any more.
            let _ = self.commands.try_send(Command::Abandon(self.id));
        }
    }
}
