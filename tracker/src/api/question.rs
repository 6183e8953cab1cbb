//! Questions, and how the answers of several nodes become one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use swarm_core::id::{PeerId, StreamId};
use tokio::sync::{mpsc, oneshot};

use super::{
    groups::{Groups, GroupsSurvey},
    mesh::{Mesh, MeshSurvey, Neighbourhood},
    stream::{Detail, DetailSurvey},
    summary::{CENSUS_MAX, Node, STREAMS_MAX, Stream, Streams},
    survey::{self, Progress},
    swarms::SwarmList,
};
use crate::{
    cluster::Asked,
    kicked::{KICKED_FOR, Outcast},
    metrics::Counters,
    server::Context,
    shard::{Command, Sight},
    webhooks::Told,
    webtorrent::{Id20, SwarmDetail},
};

/// The shard looks at its directory for one part in so many of its time, at each question.
const LOOKING_SHARE: u32 = 50;
/// Longest time that an answer holds, and what is not worth to be kept.
const HELD_MAX: Duration = Duration::from_secs(1);
const HELD_MIN: Duration = Duration::from_millis(50);
/// Answers that are kept at the same time.
const ANSWERS_MAX: usize = 64;
/// Longest time to send viewers away in.
const DRAIN_MAX: Duration = Duration::from_secs(3600);

/// What can be asked of a node. Streams and viewers are named by their hexadecimal form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Question {
    Nodes,
    Streams,
    /// All streams, far more than a page would show.
    Census,
    /// What the broadcaster's services were told of which streams.
    Told,
    Stream(String),
    Groups(String),
    Mesh {
        stream: String,
        group: Option<u32>,
        /// Only of this node.
        node: Option<String>,
    },
    Viewer(String),
    Kick(String),
    /// Who was kicked by another node is not to come back by this one.
    Bar(Outcast),
    /// The same of a WebTorrent viewer, in one swarm.
    BarFrom {
        swarm: String,
        viewer: String,
    },
    /// Lets a viewer in again that was kicked.
    Lift(String),
    /// WebTorrent viewers: their swarms, one of them, and the end of one viewer's stay there.
    Swarms,
    Swarm(String),
    KickFrom {
        swarm: String,
        viewer: String,
    },
    LiftFrom {
        swarm: String,
        viewer: String,
    },
    /// Sends the viewers of a node away over this many milliseconds; without it, ends doing so.
    Drain {
        node: String,
        over_ms: Option<u64>,
    },
}

/// An answer. What is not found here is empty: another node may have it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Nodes(Vec<Node>),
    Streams(Streams),
    Told(Told),
    Stream(Option<Box<Detail>>),
    Groups(Option<Groups>),
    Mesh(Option<Box<Mesh>>),
    Viewer(Option<Box<Neighbourhood>>),
    Swarms(SwarmList),
    Swarm(Option<Box<SwarmDetail>>),
    /// Who was sent away.
    Kicked(Option<Outcast>),
    /// Whether there was something to do.
    Done(bool),
}

/// What this node answers; `None` if it stops.
async fn answer_here(context: &Arc<Context>, question: &Question) -> Option<Reply> {
    let node = &context.node.id;
    match question {
        Question::Kick(_)
        | Question::Bar(_)
        | Question::Lift(_)
        | Question::KickFrom { .. }
        | Question::BarFrom { .. }
        | Question::LiftFrom { .. } => send_away(context, question).await,
        Question::Swarms => Some(Reply::Swarms(SwarmList::new(context.webtorrent.lines()))),
        Question::Swarm(hex) => {
            let found = id20_of(hex).and_then(|hash| context.webtorrent.detail(hash, node));
            Some(Reply::Swarm(found.map(Box::new)))
        }
        Question::Drain { node: of, over_ms } => {
            if of != node {
                return Some(Reply::Done(false));
            }
            let over = over_ms.map(|ms| Duration::from_millis(ms).min(DRAIN_MAX));
            context.drain(over).await?;
            Some(Reply::Done(true))
        }
        Question::Mesh { node: Some(of), .. } if of != node => Some(Reply::Mesh(None)),
        Question::Told => Some(Reply::Told(context.told().clone())),
        Question::Nodes => {
            let mut about = Node::of(context);
            let seen = look(context, move |sight| {
                about.viewers = sight.directory.viewers_len();
                about.groups = sight.directory.groups_len();
                about.streams = sight.directory.streams().count();
                about
            });
            Some(Reply::Nodes(vec![seen.await?]))
        }
        _ => look_again(context, question).await,
    }
}

/// Who is sent away, and who may come back.
async fn send_away(context: &Arc<Context>, question: &Question) -> Option<Reply> {
    match question {
        Question::Kick(peer) => {
            let Some(peer) = peer_of(peer) else {
                return Some(Reply::Kicked(None));
            };
            let kicked = ask(context, |answer| Command::Kick(peer, answer)).await?;
            if kicked.is_some() {
                tracing::info!(viewer = %peer, "kicked");
            }
            Some(Reply::Kicked(kicked.as_ref().map(Outcast::from)))
        }
        Question::Bar(who) => {
            let who = who.identity();
            if let Some(who) = who {
                let bar = Command::Bar(who, KICKED_FOR);
                context.shard.send(bar).await.ok()?;
            }
            Some(Reply::Done(who.is_some()))
        }
        Question::Lift(peer) => {
            let Some(peer) = peer_of(peer) else {
                return Some(Reply::Done(false));
            };
            let lifted = ask(context, |answer| Command::Lift(peer, answer)).await?;
            Some(Reply::Done(lifted))
        }
        Question::KickFrom { swarm, viewer } => {
            let named = id20_of(swarm).zip(id20_of(viewer));
            let kicked = named.is_some_and(|(hash, id)| context.webtorrent.kick(hash, id));
            if kicked {
                tracing::info!(swarm, viewer, "kicked");
            }
            Some(Reply::Done(kicked))
        }
        Question::BarFrom { swarm, viewer } => {
            let named = id20_of(swarm).zip(id20_of(viewer));
            if let Some((hash, id)) = named {
                context.webtorrent.bar((hash.0, id.0), u32::MAX);
            }
            Some(Reply::Done(named.is_some()))
        }
        Question::LiftFrom { swarm, viewer } => {
            let named = id20_of(swarm).zip(id20_of(viewer));
            let lifted = named.is_some_and(|(hash, id)| context.webtorrent.lift(hash, id));
            Some(Reply::Done(lifted))
        }
        _ => None,
    }
}

/// What the shard sees, or has seen a moment ago.
async fn look_again(context: &Arc<Context>, question: &Question) -> Option<Reply> {
    let answers = &context.answers;
    if let Some(reply) = answers.get(question, Instant::now()) {
        return Some(reply);
    }
    let turn = match question.is_large() {
        true => Some(answers.turn.lock().await),
        false => None,
    };
    // Whoever had the turn before may have asked the same.
    if turn.is_some()
        && let Some(reply) = answers.get(question, Instant::now())
    {
        return Some(reply);
    }
    let (reply, took) = survey::answer(context, question).await?;
    answers.keep(question, &reply, took, Instant::now());
    Some(reply)
}

/// Answers that are given again for a moment. Looking closely at a large stream takes long, and each page
/// that shows it asks every two seconds: so an answer holds for as long as makes looking a small part of the
/// shard's time, and one question of the kind at a time is asked.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    kept: Mutex<HashMap<Question, (Instant, Reply)>>,
    /// Had while a large question is asked.
    turn: tokio::sync::Mutex<()>,
}

impl Answers {
    fn get(&self, question: &Question, now: Instant) -> Option<Reply> {
        let kept = self.lock();
        let (until, reply) = kept.get(question)?;
        (*until > now).then(|| reply.clone())
    }

    /// `took` is how long the shard was busy with it.
    fn keep(&self, question: &Question, reply: &Reply, took: Duration, now: Instant) {
        let holds = (took * LOOKING_SHARE).min(HELD_MAX);
        if holds < HELD_MIN {
            return;
        }
        let mut kept = self.lock();
        kept.retain(|_, (until, _)| *until > now);
        if kept.len() < ANSWERS_MAX {
            kept.insert(question.clone(), (now + holds, reply.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Question, (Instant, Reply)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    /// Whether all viewers of a stream are looked at for it.
    const fn is_large(&self) -> bool {
        matches!(
            self,
            Self::Stream(_) | Self::Groups(_) | Self::Mesh { group: None, .. }
        )
    }
}

/// What the shard can answer by looking: at once, or what is to be gone on with.
pub(super) fn see(sight: &Sight<'_>, question: &Question, node: &str) -> Progress {
    let stream = |hex: &str| StreamId::from_hex(hex);
    let reply = match question {
        Question::Streams => Reply::Streams(Streams::read(sight.directory, STREAMS_MAX)),
        Question::Census => Reply::Streams(Streams::read(sight.directory, CENSUS_MAX)),
        Question::Stream(hex) => {
            let survey = stream(hex).and_then(|id| DetailSurvey::begin(sight, id));
            return survey.map_or(Progress::Done(Reply::Stream(None)), Progress::begun);
        }
        Question::Groups(hex) => {
            let survey = stream(hex).and_then(|id| GroupsSurvey::begin(sight, id, node));
            return survey.map_or(Progress::Done(Reply::Groups(None)), Progress::begun);
        }
        Question::Mesh {
            stream: hex, group, ..
        } => {
            let survey = stream(hex).and_then(|id| MeshSurvey::begin(sight, id, *group));
            return survey.map_or(Progress::Done(Reply::Mesh(None)), Progress::begun);
        }
        Question::Viewer(peer) => {
            let found = peer_of(peer).and_then(|peer| Neighbourhood::read(sight, peer));
            Reply::Viewer(found.map(Box::new))
        }
        // Not the directory's business.
        Question::Nodes
        | Question::Told
        | Question::Kick(_)
        | Question::Bar(_)
        | Question::Lift(_)
        | Question::Drain { .. }
        | Question::Swarms
        | Question::Swarm(_)
        | Question::KickFrom { .. }
        | Question::BarFrom { .. }
        | Question::LiftFrom { .. } => Reply::Done(false),
    };
    Progress::Done(reply)
}

impl Reply {
    /// Adds what another node answers; an answer to another question is left out.
    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Nodes(all), Self::Nodes(more)) => all.extend(more),
            (Self::Streams(all), Self::Streams(more)) => all.merge(more),
            (Self::Told(all), Self::Told(more)) => all.merge(more),
            (Self::Stream(all), Self::Stream(more)) => {
                join(all, more, |all, more| all.merge(*more));
            }
            (Self::Groups(all), Self::Groups(more)) => join(all, more, Groups::merge),
            (Self::Mesh(all), Self::Mesh(more)) => join(all, more, |all, more| all.merge(*more)),
            (Self::Viewer(all), Self::Viewer(more)) => join(all, more, |_, _| {}),
            (Self::Swarms(all), Self::Swarms(more)) => all.merge(more),
            (Self::Swarm(all), Self::Swarm(more)) => {
                join(all, more, |all, more| all.merge(*more));
            }
            (Self::Kicked(all), Self::Kicked(more)) => join(all, more, |_, _| {}),
            (Self::Done(all), Self::Done(more)) => *all |= more,
            _ => {}
        }
    }
}

fn join<T>(all: &mut Option<T>, more: Option<T>, merge: impl FnOnce(&mut T, T)) {
    match (all.as_mut(), more) {
        (Some(all), Some(more)) => merge(all, more),
        (None, Some(more)) => *all = Some(more),
        (_, None) => {}
    }
}

/// What this node and all others answer, as one.
pub(super) async fn ask_all(context: &Arc<Context>, question: &Question) -> Option<Reply> {
    Some(ask_counting(context, question).await?.0)
}

/// As [`ask_all`]; and how many other nodes there are, and have answered.
async fn ask_counting(
    context: &Arc<Context>,
    question: &Question,
) -> Option<(Reply, usize, usize)> {
    let others_len = context.peers.as_ref().map_or(0, |peers| peers.others_len());
    let mut answered = 0;
    let others = async {
        match (&context.peers, serde_json::to_vec(question)) {
            (Some(peers), Ok(question)) => peers.ask(question).await,
            _ => Vec::new(),
        }
    };
    let (here, others) = tokio::join!(answer_here(context, question), others);
    let mut reply = here?;
    for other in others {
        if let Ok(other) = serde_json::from_slice(&other) {
            reply.merge(other);
            answered += 1;
        }
    }
    Some((reply, others_len, answered))
}

/// The streams of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) streams: Vec<Stream>,
    /// There are more than are listed.
    pub(crate) cut: bool,
    /// All nodes have answered.
    pub(crate) whole: bool,
}

/// Counts the streams of all nodes; `None` if the tracker stops.
pub(crate) async fn census(context: &Arc<Context>) -> Option<Census> {
    match ask_counting(context, &Question::Census).await? {
        (Reply::Streams(all), others, answered) => Some(Census {
            cut: all.is_cut(),
            streams: all.streams,
            whole: answered >= others,
        }),
        _ => None,
    }
}

/// What was told of which streams, by whichever node, and whether another one has answered at all;
/// `None` if the tracker stops.
pub(crate) async fn told(context: &Arc<Context>) -> Option<(Told, bool)> {
    match ask_counting(context, &Question::Told).await? {
        (Reply::Told(told), _, answered) => Some((told, answered > 0)),
        _ => None,
    }
}

/// Whether a stream has viewers, at whichever node, and whether all nodes have answered; `None` if the tracker
/// stops.
pub(crate) async fn is_watched(context: &Arc<Context>, stream: &str) -> Option<(bool, bool)> {
    let question = Question::Stream(stream.to_owned());
    let (reply, others, answered) = ask_counting(context, &question).await?;
    let has_viewers = matches!(reply, Reply::Stream(Some(detail)) if detail.has_viewers());
    Some((has_viewers, answered >= others))
}

/// Answers what other nodes ask, until they can ask no more.
pub(crate) async fn serve_peers(context: Arc<Context>, mut asked: mpsc::Receiver<Asked>) {
    while let Some(Asked { question, answer }) = asked.recv().await {
        let Ok(question) = serde_json::from_slice::<Question>(&question) else {
            Counters::add(&context.counters.cluster_bad_messages);
            continue;
        };
        let Some(reply) = answer_here(&context, &question).await else {
            return;
        };
        if let Ok(bytes) = serde_json::to_vec(&reply) {
            // Whoever asked may have given up.
            let _ = answer.send(bytes);
        }
    }
}

/// Asks the shard to look at its directory; `None` if it has stopped.
pub(super) async fn look<T: Send + 'static>(
    context: &Context,
    read: impl FnOnce(&Sight<'_>) -> T + Send + 'static,
) -> Option<T> {
    ask(context, |answer| {
        Command::Look(Box::new(move |sight| {
            // Whoever asked may be gone by now; then nobody misses the answer.
            let _ = answer.send(read(sight));
        }))
    })
    .await
}

async fn ask<T>(
    context: &Context,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    context.shard.send(command(sender)).await.ok()?;
    answer.await.ok()
}

fn id20_of(text: &str) -> Option<Id20> {
    let mut id = [0; 20];
    hex::decode_to_slice(text, &mut id).ok().map(|()| Id20(id))
}

fn peer_of(hex: &str) -> Option<PeerId> {
    let whole = hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    whole.then(|| u64::from_str_radix(hex, 16).ok().map(PeerId))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_to_find_out_is_said_again_for_a_while_and_nothing_else() {
        let now = Instant::now();
        let answers = Answers::default();
        let large = Question::Groups("large".into());
        let ms = Duration::from_millis;
        answers.keep(&Question::Streams, &Reply::Done(true), ms(0), now);
        answers.keep(&large, &Reply::Done(true), ms(10), now);
        assert!(answers.get(&Question::Streams, now).is_none());
        assert!(answers.get(&large, now + ms(499)).is_some());
        assert!(answers.get(&large, now + ms(500)).is_none());
        answers.keep(&large, &Reply::Done(true), ms(5_000), now);
        assert!(answers.get(&large, now + HELD_MAX).is_none());
        for number in 0..2 * ANSWERS_MAX {
            let question = Question::Stream(number.to_string());
            answers.keep(&question, &Reply::Done(true), ms(10), now);
        }
        assert_eq!(answers.lock().len(), ANSWERS_MAX);
    }
}
