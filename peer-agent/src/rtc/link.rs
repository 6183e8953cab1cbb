//! The life of one connection, from `connect` to its end, in a task of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use webrtc::data_channel::DataChannelEvent;

use super::config::{PeerKey, PeerKind, Role};
use super::outbox::Outbox;
use super::pump;
use super::session::{Session, SessionError, SessionEvent};
use super::signal::{CANDIDATES_MAX, Candidate, Description, DescriptionKind, Signal};
use super::transport::{DownReason, RtcEvent, Shared, count};

/// How long a description waits for the first candidates, so that one signal carries both.
const DESCRIPTION_HOLD: Duration = Duration::from_millis(30);
/// How long the first message waits once the channel is open here. The stack drops what reaches the
/// other side in the instant before its end of the channel is ready.
const FIRST_SEND_HOLD: Duration = Duration::from_millis(50);
/// How long messages received before the peer closed may take to be delivered.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// What the task of one connection needs.
pub(super) struct LinkTask {
    pub(super) peer: PeerKey,
    pub(super) generation: u64,
    pub(super) role: Role,
    pub(super) kind: PeerKind,
    pub(super) outbox: Arc<Outbox>,
    /// Signals from the peer; its end means that the caller closed the connection.
    pub(super) signals: mpsc::Receiver<Signal>,
    pub(super) shared: Arc<Shared>,
}

/// Why a link, or one attempt at it, ended.
enum End {
    /// The caller closed it.
    ByCaller,
    Down(DownReason),
    /// Both sides offered, and ours is the offer to drop: answer this one, with the candidates
    /// that came with it.
    Yield(Box<Description>, Vec<Candidate>),
}

/// Runs a connection to its end and reports that end.
pub(super) async fn run(mut task: LinkTask) {
    let started = Instant::now();
    let mut offer = None;
    let end = loop {
        match attempt(&mut task, started, offer.take()).await {
            End::Yield(description, candidates) => {
                task.role = Role::Answerer;
                offer = Some((description, candidates));
            }
            end => break end,
        }
    };
    task.outbox.close();
    if let End::Down(reason) = end
        && task.shared.forget(task.peer, task.generation)
    {
        count(&task.shared.counters.downs);
        tracing::debug!(peer = task.peer.0, %reason, "connection down");
        task.emit(RtcEvent::Down {
            peer: task.peer,
            reason,
        })
        .await;
    }
}

/// Opens a session and drives it; `offer` is one that came before it.
async fn attempt(
    task: &mut LinkTask,
    started: Instant,
    offer: Option<(Box<Description>, Vec<Candidate>)>,
) -> End {
    let shared = task.shared.clone();
    let opened = Session::open(&shared.config, task.kind, shared.receive_window_bytes).await;
    let session = match opened {
        Ok(session) => session,
        Err(error) => {
            tracing::warn!(%error, "no connection could be opened on this machine");
            return End::Down(DownReason::Local);
        }
    };
    let deadline = started + shared.config.connect_timeout;
    let mut link = Link {
        task,
        session,
        started,
        deadline,
        up: false,
        local: Local::None,
        local_candidates: 0,
        remote: Remote::default(),
        receiver: JoinSet::new(),
        transmitter: JoinSet::new(),
    };
    let end = match link.start(offer).await {
        Ok(()) => link.drive().await,
        Err(end) => end,
    };
    link.session.close().await;
    end
}

struct Link<'a> {
    task: &'a mut LinkTask,
    session: Session,
    started: Instant,
    deadline: Instant,
    up: bool,
    local: Local,
    local_candidates: usize,
    remote: Remote,
    /// At most one task each; a set ends its tasks when it is dropped.
    receiver: JoinSet<DownReason>,
    transmitter: JoinSet<()>,
}

/// Our description, on its way to the peer.
enum Local {
    None,
    /// Made, waiting for candidates to take along until the given time.
    Held(Box<Description>, Instant),
    Sent {
        ufrag: String,
    },
}

/// What the peer signalled.
#[derive(Default)]
struct Remote {
    described: bool,
    /// Candidates that came before the description.
    early: Vec<Candidate>,
    candidates: usize,
}

impl Link<'_> {
    async fn start(
        &mut self,
        offer: Option<(Box<Description>, Vec<Candidate>)>,
    ) -> Result<(), End> {
        if let Some((description, candidates)) = offer {
            self.remote.early = candidates;
            return self.on_description(description).await;
        }
        if self.task.role == Role::Offerer {
            let offer = self.session.offer().await;
            self.hold(offer)?;
        }
        Ok(())
    }

    async fn drive(&mut self) -> End {
        loop {
            let hold_until = match &self.local {
                Local::Held(_, until) => Some(*until),
                _ => None,
            };
            let step = tokio::select! {
                signal = self.task.signals.recv() => match signal {
                    Some(signal) => self.on_signal(signal).await,
                    None => Err(End::ByCaller),
                },
                Some(event) = self.session.events.recv() => self.on_session_event(event).await,
                event = self.session.channel.poll(), if !self.up => {
                    self.on_channel_event(event).await
                }
                Some(ended) = self.receiver.join_next(), if self.up => {
                    Err(End::Down(ended.unwrap_or(DownReason::Local)))
                }
                () = sleep_until(hold_until.unwrap_or(self.deadline)), if hold_until.is_some() => {
                    self.flush_description().await;
                    Ok(())
                }
                () = sleep_until(self.deadline), if !self.up => {
                    Err(End::Down(DownReason::ConnectTimeout))
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn on_signal(&mut self, signal: Signal) -> Result<(), End> {
        match signal {
            Signal::Description(description) => self.on_description(Box::new(description)).await,
            Signal::Candidate(candidate) => {
                self.on_candidate(candidate).await;
                Ok(())
            }
            Signal::EndOfCandidates => Ok(()),
        }
    }

    async fn on_description(&mut self, description: Box<Description>) -> Result<(), End> {
        let wanted = match self.task.role {
            Role::Offerer => DescriptionKind::Answer,
            Role::Answerer => DescriptionKind::Offer,
        };
        if self.remote.described {
            self.count(|counters| &counters.signals_unexpected);
            return Ok(());
        }
        if description.kind != wanted {
            return self.on_glare(description);
        }
        if let Err(error) = self.session.set_remote(&description).await {
            tracing::debug!(peer = self.task.peer.0, %error, "description refused");
            self.count(|counters| &counters.signals_invalid);
            return Err(End::Down(DownReason::BadDescription));
        }
        self.remote.described = true;
        for candidate in std::mem::take(&mut self.remote.early) {
            self.add_candidate(&candidate).await;
        }
        if description.kind == DescriptionKind::Offer {
            let answer = self.session.answer().await;
            self.hold(answer)?;
        }
        Ok(())
    }

    /// Both sides offered: the offer with the lower ufrag yields, which both see alike.
    fn on_glare(&mut self, description: Box<Description>) -> Result<(), End> {
        let own_ufrag = match &self.local {
            Local::Held(own, _) => &own.ufrag,
            Local::Sent { ufrag } => ufrag,
            Local::None => {
                self.count(|counters| &counters.signals_unexpected);
                return Ok(());
            }
        };
        let yields = own_ufrag.as_bytes() < description.ufrag.as_bytes();
        self.count(|counters| &counters.glares);
        if yields {
            return Err(End::Yield(
                description,
                std::mem::take(&mut self.remote.early),
            ));
        }
        Ok(())
    }

    async fn on_candidate(&mut self, candidate: Candidate) {
        self.remote.candidates += 1;
        if self.remote.candidates > CANDIDATES_MAX {
            self.count(|counters| &counters.signals_invalid);
        } else if self.remote.described {
            self.add_candidate(&candidate).await;
        } else {
            self.remote.early.push(candidate);
        }
    }

    async fn add_candidate(&mut self, candidate: &Candidate) {
        if let Err(error) = self.session.add_candidate(candidate).await {
            tracing::debug!(peer = self.task.peer.0, %error, "candidate refused");
            self.count(|counters| &counters.signals_invalid);
        }
    }

    async fn on_session_event(&mut self, event: SessionEvent) -> Result<(), End> {
        match event {
            SessionEvent::Candidate(candidate) => self.on_local_candidate(candidate).await,
            SessionEvent::Gathered => {
                self.flush_description().await;
                self.signal(Signal::EndOfCandidates).await;
            }
            SessionEvent::Lost => return Err(End::Down(DownReason::Lost)),
            SessionEvent::Closed => {
                let ended = timeout(CLOSE_GRACE, self.receiver.join_next()).await;
                let reason = match ended {
                    Ok(Some(Ok(reason))) => reason,
                    _ => DownReason::ClosedByPeer,
                };
                return Err(End::Down(reason));
            }
        }
        Ok(())
    }

    async fn on_local_candidate(&mut self, candidate: Candidate) {
        self.local_candidates += 1;
        if self.local_candidates > CANDIDATES_MAX {
            return;
        }
        match &mut self.local {
            Local::Held(description, _) => description.candidates.push(candidate),
            _ => self.signal(Signal::Candidate(candidate)).await,
        }
    }

    async fn on_channel_event(&mut self, event: Option<DataChannelEvent>) -> Result<(), End> {
        match event {
            Some(DataChannelEvent::OnOpen) => self.on_up().await,
            Some(DataChannelEvent::OnMessage(message)) => {
                self.on_up().await;
                let bytes_max = self.task.shared.config.message_bytes_max;
                let message =
                    pump::accepted(message, bytes_max).ok_or(End::Down(DownReason::Violation))?;
                let event = RtcEvent::Message {
                    peer: self.task.peer,
                    message,
                };
                self.task.emit(event).await;
            }
            Some(DataChannelEvent::OnClose | DataChannelEvent::OnClosing) | None => {
                return Err(End::Down(DownReason::ClosedByPeer));
            }
            Some(_) => {}
        }
        Ok(())
    }

    async fn on_up(&mut self) {
        self.up = true;
        self.session.settle();
        self.count(|counters| &counters.ups);
        let peer = self.task.peer;
        self.task.outbox.open();
        let setup = self.started.elapsed();
        let rtt = self.session.rtt().await;
        self.task.emit(RtcEvent::Up { peer, rtt, setup }).await;
        let (channel, events) = (&self.session.channel, &self.task.shared.events);
        let config = &self.task.shared.config;
        let limits = pump::ReceiveLimits {
            message_bytes_max: config.message_bytes_max,
            queue_bytes_max: config.receive_queue_bytes_max,
            gate: self.session.gate.clone(),
        };
        self.receiver
            .spawn(pump::receive(channel.clone(), peer, limits, events.clone()));
        let (channel, events) = (channel.clone(), events.clone());
        let outbox = self.task.outbox.clone();
        self.transmitter.spawn(async move {
            sleep(FIRST_SEND_HOLD).await;
            pump::transmit(channel, peer, outbox, events).await
        });
    }

    /// Keeps our description for a moment, so that it can take the first candidates along.
    fn hold(&mut self, description: Result<Description, SessionError>) -> Result<(), End> {
        match description {
            Ok(description) => {
                let until = Instant::now() + DESCRIPTION_HOLD;
                self.local = Local::Held(Box::new(description), until);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "no description of our own");
                Err(End::Down(DownReason::Local))
            }
        }
    }

    async fn flush_description(&mut self) {
        if let Local::Held(description, _) = &self.local {
            let sent = Local::Sent {
                ufrag: description.ufrag.clone(),
            };
            if let Local::Held(description, _) = std::mem::replace(&mut self.local, sent) {
                self.signal(Signal::Description(*description)).await;
            }
        }
    }

    async fn signal(&self, signal: Signal) {
        self.task
            .emit(RtcEvent::Signal {
                peer: self.task.peer,
                signal,
            })
            .await;
    }

    fn count(&self, counter: impl FnOnce(&super::transport::Counters) -> &AtomicU64) {
        count(counter(&self.task.shared.counters));
    }
}

impl LinkTask {
    /// Reports to the caller; if it is gone, so is whom to tell.
    async fn emit(&self, event: RtcEvent) {
        let _ = self.shared.events.send(event).await;
    }
}
