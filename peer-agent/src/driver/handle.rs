//! How the rest of the agent talks to the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::StatusCode;
use swarm_core::id::{Name, RequestId, TrackId};
use swarm_core::timeline::Track;
use tokio::sync::{mpsc, oneshot};

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
        answer: oneshot::Sender<Answer>,
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
    Deliver { media: Media, reported_bps: u64 },
    /// Not the swarm's business: get it from the CDN.
    Bypass,
    /// The CDN failed, and said this.
    Fail { status: StatusCode },
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

    /// Asks for a segment. Without a driver it is bypassed.
    pub(crate) async fn want(&self, name: Name) -> Request {
        let id = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        let (sender, answer) = oneshot::channel();
        self.tell(Command::Want {
            request: id,
            name,
            answer: sender,
        })
        .await;
        Request {
            id,
            answer,
            commands: self.commands.clone(),
            answered: false,
        }
    }

    /// Ends the driver, once it has said goodbye to all.
    pub(crate) async fn shutdown(&self) {
        let (done, gone) = oneshot::channel();
        self.tell(Command::Shutdown(done)).await;
        let _ = gone.await;
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

impl Request {
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
