//! The connection to NATS, and the task that serves the router with it.

mod secured;
#[cfg(test)]
mod tests;
mod trouble;

use std::{
    borrow::Cow,
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber, connection::State};
use bytes::Bytes;
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    Output,
    config::ClusterConfig,
    guests::Post,
    members::NodeId,
    router::{Outgoing, Router},
};
use crate::{Error, metrics::Counters, shard::Command};
use trouble::Trouble;

/// Messages that wait for NATS, here and in the client; more are dropped.
const PUBLISH_MAX: usize = 1024;
/// Messages of NATS that wait for the router; more are dropped by the client.
const RECEIVE_MAX: usize = 16 * 1024;
/// Commands or outputs that are taken in one turn.
const TURN_MAX: usize = 256;
/// Commands that wait for the shard, beside those that a move of viewers makes at once; while there are
/// as many, no more are taken.
const WAITING_MAX: usize = 4 * TURN_MAX;
/// For the last words at the end.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);
/// A silent NATS server is asked for a sign of life this often.
const PING: Duration = Duration::from_secs(2);
/// Longest pause between attempts to reach NATS.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// For the answers of all nodes to a question of the API.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(1_500);
/// Questions of other nodes that wait.
const ASKED_MAX: usize = 32;
/// Longest question, in bytes.
const QUESTION_LEN_MAX: usize = 4096;

/// A connection to NATS, which may not be there yet.
pub(super) struct Link {
    client: Client,
    subject: String,
    all: Subscriber,
    mine: Subscriber,
    publish: mpsc::Sender<(String, Bytes)>,
    counters: Arc<Counters>,
    peers: Arc<Peers>,
    /// Whether NATS is there, and since when it is or is not.
    connected: (bool, Instant),
    lost_after: Duration,
}

/// The APIs of the other nodes.
pub(crate) struct Peers {
    client: Client,
    subject: String,
    me: NodeId,
    others: AtomicUsize,
    standing: AtomicU8,
    trouble: Arc<Trouble>,
}

/// What a node does where one speaks for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Another one speaks, or it is not known yet which.
    Listens,
    /// It speaks for all.
    Speaks,
    /// NATS is away: it cannot know what happens elsewhere.
    Alone,
}

/// A question of another node's API.
pub(crate) struct Asked {
    pub(crate) question: Bytes,
    pub(crate) answer: oneshot::Sender<Vec<u8>>,
}

/// What this process wants to be sent.
pub(super) struct Inlets {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) outputs: mpsc::Receiver<Output>,
    pub(super) posts: mpsc::Receiver<Post>,
}

/// Connects, now or as soon as NATS is there.
pub(super) async fn connect(
    config: &ClusterConfig,
    me: NodeId,
    counters: &Arc<Counters>,
) -> Result<(Link, mpsc::Receiver<Asked>), Error> {
    let servers = config.servers.iter().map(|server| {
        let parsed = server.parse::<ServerAddr>();
        parsed.map_err(|error| wrong("servers", &error))
    });
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    let trouble = Arc::new(Trouble::default());
    let options = options(&servers, counters, &trouble)?;
    let options = secured::secure(options, config, &servers).await?;
    let client = options.connect(servers).await;
    let client = client.map_err(|error| wrong("servers", &error))?;
    let subject = config.subject.clone();
    let all = subscribe(&client, format!("{subject}.all")).await?;
    let mine = subscribe(&client, format!("{subject}.node.{me}")).await?;
    let questions = subscribe(&client, format!("{subject}.api")).await?;
    let (asked, questions_asked) = mpsc::channel(ASKED_MAX);
    tokio::spawn(answer_all(client.clone(), questions, me, asked));
    let (publish, queue) = mpsc::channel(PUBLISH_MAX);
    tokio::spawn(publish_all(client.clone(), queue, Arc::clone(counters)));
    let peers = Arc::new(Peers {
        client: client.clone(),
        subject: subject.clone(),
        me,
        others: AtomicUsize::new(0),
        standing: AtomicU8::new(Standing::Listens as u8),
        trouble,
    });
    let link = Link {
        client,
        subject,
        all,
        mine,
        publish,
        counters: Arc::clone(counters),
        peers,
        connected: (false, Instant::now()),
        lost_after: Duration::from_millis(u64::from(config.lost_after_ms)),
    };
    Ok((link, questions_asked))
}

/// Serves the router until `stop`, or until the shard has ended. A busy shard makes wait what is for it
/// and nothing else: the other nodes hear this one, and its shard is heard, however many viewers move.
pub(super) async fn serve(
    mut link: Link,
    mut router: Router,
    shard: mpsc::Sender<Command>,
    mut inlets: Inlets,
    stop: CancellationToken,
) {
    let (mut said, mut told, mut posted) = (Vec::new(), Vec::new(), Vec::new());
    let mut waiting = VecDeque::new();
    loop {
        let takes_more = waiting.len() < WAITING_MAX;
        tokio::select! {
            () = stop.cancelled() => break,
            () = time::sleep_until(router.wakeup_at()) => router.handle_tick(),
            // There is room, which is used below; or the shard has ended.
            room = shard.reserve(), if !waiting.is_empty() => if room.is_err() {
                break;
            },
            Some(message) = link.all.next() => {
                Counters::add(&link.counters.cluster_messages_in);
                router.handle_broadcast(&message.payload);
            }
            Some(message) = link.mine.next(), if takes_more => {
                Counters::add(&link.counters.cluster_messages_in);
                router.handle_message(&message.payload);
            }
            count = inlets.commands.recv_many(&mut said, TURN_MAX), if takes_more => {
                if count == 0 {
                    break;
                }
                said.drain(..).for_each(|command| router.handle_command(command));
            }
            _ = inlets.outputs.recv_many(&mut told, TURN_MAX) => {
                told.drain(..).for_each(|output| router.handle_output(output));
            }
            _ = inlets.posts.recv_many(&mut posted, TURN_MAX) => {
                posted.drain(..).for_each(|post| router.handle_post(&post));
            }
        }
        link.update_peers(&router);
        link.send(router.take_messages());
        waiting.extend(router.take_commands());
        while !waiting.is_empty()
            && let Ok(room) = shard.try_reserve()
        {
            if let Some(command) = waiting.pop_front() {
                room.send(command);
            }
        }
    }
    router.handle_stop();
    link.send(router.take_messages());
    // The publisher ends when it has sent everything.
    let Link {
        client, publish, ..
    } = link;
    let _ = time::timeout(FLUSH_TIME_MAX, async {
        let _ = publish.reserve_many(PUBLISH_MAX).await;
        client.flush().await
    })
    .await;
}

impl Link {
    pub(super) fn peers(&self) -> Arc<Peers> {
        Arc::clone(&self.peers)
    }

    fn update_peers(&mut self, router: &Router) {
        let connected = self.client.connection_state() == State::Connected;
        if connected != self.connected.0 {
            self.connected = (connected, Instant::now());
        }
        let lasts = self.connected.1.elapsed() > self.lost_after;
        let standing = match connected {
            true if lasts && router.is_settled() && router.is_first() => Standing::Speaks,
            false if lasts => Standing::Alone,
            _ => Standing::Listens,
        };
        let peers = &self.peers;
        peers.others.store(router.others_len(), Ordering::Relaxed);
        peers.standing.store(standing as u8, Ordering::Relaxed);
    }

    fn send(&self, messages: Vec<Outgoing>) {
        for message in messages {
            let (subject, bytes) = match message {
                Outgoing::ToAll(bytes) => (format!("{}.all", self.subject), bytes),
                Outgoing::To(node, bytes) => (format!("{}.node.{node}", self.subject), bytes),
            };
            if self.publish.try_send((subject, bytes.into())).is_err() {
                Counters::add(&self.counters.cluster_dropped);
            }
        }
    }
}

impl Peers {
    /// This node's number, as the API names it.
    pub(crate) fn node(&self) -> String {
        self.me.to_string()
    }

    /// Whether this node speaks for all.
    pub(crate) fn standing(&self) -> Standing {
        let all = [Standing::Listens, Standing::Speaks, Standing::Alone];
        let known = self.standing.load(Ordering::Relaxed);
        let now = all.into_iter().find(|standing| *standing as u8 == known);
        now.unwrap_or(Standing::Listens)
    }

    /// Why NATS is not there, as far as that is known.
    pub(crate) fn trouble(&self) -> String {
        self.trouble.why()
    }

    /// How many other nodes live.
    pub(crate) fn others_len(&self) -> usize {
        self.others.load(Ordering::Relaxed)
    }

    /// What the other nodes answer, as far as they do so in time.
    pub(crate) async fn ask(&self, question: Vec<u8>) -> Vec<Bytes> {
        let others = self.others_len();
        if others == 0 || self.client.connection_state() != State::Connected {
            return Vec::new();
        }
        let inbox = self.client.new_inbox();
        let Ok(answers) = self.client.subscribe(inbox.clone()).await else {
            return Vec::new();
        };
        let subject = format!("{}.api", self.subject);
        let mut bytes = self.me.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(&question);
        let asked = self.client.publish_with_reply(subject, inbox, bytes.into());
        if asked.await.is_err() {
            return Vec::new();
        }
        let in_time = answers.take_until(time::sleep(ANSWER_TIME_MAX));
        let answers = pin!(in_time.take(others));
        answers.map(|answer| answer.payload).collect().await
    }
}

fn options(
    servers: &[ServerAddr],
    counters: &Arc<Counters>,
    trouble: &Arc<Trouble>,
) -> Result<ConnectOptions, Error> {
    let counters = Arc::clone(counters);
    let (seen, known) = (Arc::clone(trouble), Arc::clone(trouble));
    let options = match identity_in(servers)? {
        None => ConnectOptions::new(),
        Some((user, Some(password))) => ConnectOptions::with_user_and_password(user, password),
        Some((token, None)) => ConnectOptions::with_token(token),
    };
    Ok(options
        .name("shoal tracker")
        .retry_on_initial_connect()
        .ping_interval(PING)
        .subscription_capacity(RECEIVE_MAX)
        .client_capacity(PUBLISH_MAX)
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(100 * attempts as u64).min(RETRY_MAX)
        })
        // Called before each attempt; which server is next is the client's business.
        .reconnect_to_server_callback(move |servers, _| {
            seen.on_attempt(&servers);
            std::future::ready(None)
        })
        .event_callback(move |event| {
            on_event(&event, &counters, &known);
            std::future::ready(())
        }))
}

/// The user and password, or the token alone, that stand in the servers' addresses. The client itself
/// does not look there.
fn identity_in(servers: &[ServerAddr]) -> Result<Option<(String, Option<String>)>, Error> {
    let named = servers.iter().filter(|server| server.username().is_some());
    let mut all: Vec<_> = named.map(|s| (s.username(), s.password())).collect();
    all.dedup();
    let [(user, password)] = all[..] else {
        let why = "all of them take the same user and password";
        let one = all.is_empty().then_some(None);
        return one.ok_or_else(|| wrong("servers", &why));
    };
    let unescaped = |text: &str| {
        unescape(text).ok_or_else(|| wrong("servers", &"a % in a user or password is to be %25"))
    };
    let user = unescaped(user.unwrap_or_default())?;
    Ok(Some((user, password.map(unescaped).transpose()?)))
}

/// A part of an address without its escapes (RFC 3986, section 2.1); `None` if they are malformed.
fn unescape(text: &str) -> Option<String> {
    // The decoder takes them for text.
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().first_chunk::<2>();
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let is_right = text.split('%').skip(1).all(is_escape);
    let unescaped = percent_decode_str(text).decode_utf8().ok();
    unescaped.filter(|_| is_right).map(Cow::into_owned)
}

fn on_event(event: &Event, counters: &Counters, trouble: &Trouble) {
    match event {
        Event::Connected => {
            trouble.on_connected();
            Counters::set(&counters.cluster_connected, 1);
            tracing::info!("NATS is there: nodes find each other");
        }
        Event::Disconnected | Event::Closed => {
            Counters::set(&counters.cluster_connected, 0);
            tracing::warn!(
                "NATS is lost: until it is back, viewers of this node meet each other only"
            );
        }
        Event::SlowConsumer(_) => {
            Counters::add(&counters.cluster_dropped);
            tracing::warn!("messages of other nodes are dropped: too many wait");
        }
        // An attempt has failed: `trouble` says which and why.
        Event::ClientError(error) => tracing::debug!(%error, "NATS"),
        other => tracing::warn!(event = %other, "NATS"),
    }
}

async fn subscribe(client: &Client, subject: String) -> Result<Subscriber, Error> {
    let subscribed = client.subscribe(subject).await;
    subscribed.map_err(|error| wrong("subject", &error))
}

/// What waits while NATS is away is of no use to anybody later, and is dropped.
async fn publish_all(
    client: Client,
    mut queue: mpsc::Receiver<(String, Bytes)>,
    counters: Arc<Counters>,
) {
    while let Some((subject, bytes)) = queue.recv().await {
        let connected = client.connection_state() == State::Connected;
        if connected && client.publish(subject, bytes).await.is_ok() {
            Counters::add(&counters.cluster_messages_out);
        } else {
            Counters::add(&counters.cluster_dropped);
        }
    }
}

/// Passes questions of other nodes' APIs on, one at a time.
async fn answer_all(
    client: Client,
    mut questions: Subscriber,
    me: NodeId,
    asked: mpsc::Sender<Asked>,
) {
    while let Some(message) = questions.next().await {
        let Some((from, question)) = message.payload.split_first_chunk::<8>() else {
            continue;
        };
        let mine = u64::from_be_bytes(*from) == me.0;
        let Some(reply) = message.reply.filter(|_| !mine) else {
            continue;
        };
        if question.len() > QUESTION_LEN_MAX {
            continue;
        }
        let question = message.payload.slice_ref(question);
        let (answer, answered) = oneshot::channel();
        if asked.send(Asked { question, answer }).await.is_err() {
            return;
        }
        if let Ok(answer) = answered.await {
            // A question without an answer is one that times out.
            let _ = client.publish(reply, answer.into()).await;
        }
    }
}

fn wrong(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Config(format!("cluster.{what}: {error}"))
}
