//! The owner of the directory: one task, one bounded channel.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use swarm_core::{
    directory::{Action, ConnId, Directory, Input, Joined, Network, Outbox, Spent},
    id::{PeerId, StreamId},
    time::Instant,
    wire::tracker::{LinkOutcome, RefusalCode, Status, TrackerMsg, Welcome},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    farewell::{Farewell, Goodbye, Places},
    kicked::{BearerMark, Identity, KICKED_FOR, Kicked},
    metrics::Counters,
    names::Names,
    sink::Sink,
};

/// Commands that wait for the shard; connections wait when it is full.
pub(crate) const COMMANDS_MAX: usize = 4096;
/// Commands handled in one turn.
const TURN_MAX: usize = 256;
/// Names of ISPs, and of sites, that are remembered for the API.
const ISPS_MAX: usize = 100_000;
/// Viewers that have lost their connections from which on those that are not expected any more are looked
/// for.
const LOST_MIN: usize = 1_024;
/// Longest name that is remembered, in bytes.
const ISP_LEN_MAX: usize = 100;

/// What is asked of the shard.
pub(crate) enum Command {
    Join(Box<Join>),
    Status(ConnId, Box<Status>),
    Link {
        conn: ConnId,
        peer: PeerId,
        outcome: LinkOutcome,
        rtt_ms: u16,
    },
    Signal {
        from: ConnId,
        to: PeerId,
        payload: Bytes,
    },
    Left(ConnId),
    Lost(ConnId),
    /// These viewers were given to another node: nothing is said to them any more.
    Release(Vec<ConnId>),
    /// Sends all viewers away, spread over this time; `None` ends it.
    Drain(Option<Duration>),
    /// Ends a viewer's stay. Who it is, if it was there.
    Kick(PeerId, oneshot::Sender<Option<Identity>>),
    /// A viewer that was kicked elsewhere: it is not let in here either, for as long.
    Bar(Identity, Duration),
    /// Lets a viewer in again that was kicked. Whether it was.
    Lift(PeerId, oneshot::Sender<bool>),
    /// What addresses have used of what they may learn, at another node.
    Spent(Vec<Spent>),
    /// Looks at the directory, for metrics and the API.
    Look(Box<dyn FnOnce(&Sight<'_>) + Send>),
}

/// What there is to see of a shard.
pub(crate) struct Sight<'a> {
    pub(crate) directory: &'a Directory,
    /// Names of ISPs by their autonomous system.
    pub(crate) isps: &'a BTreeMap<u32, String>,
    /// The operator's names of sites.
    pub(crate) sites: &'a BTreeMap<u32, String>,
}

impl Sight<'_> {
    /// What the operator calls the viewer's site; empty if nothing.
    pub(crate) fn site_of(&self, network: &Network) -> String {
        let site = network.site.and_then(|site| self.sites.get(&site));
        site.cloned().unwrap_or_default()
    }
}

/// A viewer that was admitted.
pub(crate) struct Join {
    pub(crate) joined: Joined,
    pub(crate) isp: Option<String>,
    /// The number of its site, and what the operator calls it.
    pub(crate) site: Option<(u32, String)>,
    /// Its token, if it has one.
    pub(crate) bearer: Option<BearerMark>,
    /// What it is told of STUN servers.
    pub(crate) stun: Vec<String>,
    /// Those with whom it could not link, where another node ran its stream until now.
    pub(crate) apart: Vec<PeerId>,
    pub(crate) outgoing: Sink,
}

struct Conn {
    peer: PeerId,
    bearer: Option<BearerMark>,
    outgoing: Sink,
}

/// The tokens of viewers that have lost their connections and may come back.
#[derive(Default)]
struct Lost {
    bearers: HashMap<PeerId, BearerMark>,
    /// Those who are not expected any more are forgotten when there are as many.
    forget_at: usize,
}

impl Lost {
    fn add(&mut self, peer: PeerId, bearer: Option<BearerMark>, directory: &Directory) {
        let Some(bearer) = bearer else {
            return;
        };
        if self.bearers.len() >= self.forget_at {
            let is_away = |peer: PeerId| directory.viewer(peer).is_some_and(|v| !v.connected());
            self.bearers.retain(|peer, _| is_away(*peer));
            self.forget_at = LOST_MIN + 2 * self.bearers.len();
        }
        self.bearers.insert(peer, bearer);
    }

    fn bearer(&self, peer: PeerId) -> Option<BearerMark> {
        self.bearers.get(&peer).copied()
    }
}

pub(crate) struct Shard {
    config: Arc<Config>,
    names: Names,
    counters: Arc<Counters>,
    directory: Directory,
    started: time::Instant,
    outbox: Outbox,
    conns: HashMap<ConnId, Conn>,
    lost: Lost,
    isps: BTreeMap<u32, String>,
    sites: BTreeMap<u32, String>,
    goodbye: Goodbye,
    farewell: Option<Farewell>,
    kicked: Kicked,
    frame: Vec<u8>,
}

impl Shard {
    pub(crate) fn new(
        config: Arc<Config>,
        names: Names,
        counters: Arc<Counters>,
        places: Arc<Places>,
        seed: u64,
    ) -> Self {
        let policy = Arc::new(config.policy());
        Self {
            goodbye: Goodbye::new(&config.limits, places, !seed),
            config,
            names,
            counters,
            directory: Directory::new(policy, seed, Instant::ORIGIN),
            started: time::Instant::now(),
            outbox: Outbox::new(),
            conns: HashMap::new(),
            lost: Lost::default(),
            isps: BTreeMap::new(),
            sites: BTreeMap::new(),
            farewell: None,
            kicked: Kicked::default(),
            frame: Vec::new(),
        }
    }

    /// Serves commands until `stop`; then tells all viewers to come back later.
    pub(crate) async fn serve(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) {
        let mut turn = Vec::with_capacity(TURN_MAX);
        let mut tick_at = self.wakeup_at();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                count = commands.recv_many(&mut turn, TURN_MAX) => {
                    if count == 0 {
                        break;
                    }
                    for command in turn.drain(..) {
                        self.handle(command);
                    }
                    // Not later than it was to be: each command puts off by a moment what is due,
                    // and where many come there is no such moment without one.
                    tick_at = tick_at.min(self.wakeup_at());
                }
                () = sleep_until(tick_at) => {}
            }
            self.send_some_away();
            if tick_at <= time::Instant::now() {
                self.tell(Input::Tick, &[]);
                tick_at = self.wakeup_at();
            }
        }
        self.send_all_away();
    }

    fn wakeup_at(&self) -> time::Instant {
        let idle = Duration::from_secs(3600);
        let wakeup_at = self.directory.next_wakeup().map_or_else(
            || time::Instant::now() + idle,
            |wakeup| self.started + Duration::from_micros(wakeup.at.as_micros()),
        );
        let farewell_at = self.farewell.as_ref().and_then(Farewell::wakeup_at);
        farewell_at.map_or(wakeup_at, |at| at.min(wakeup_at))
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Join(join) => self.handle_join(*join),
            Command::Status(conn, status) => {
                let status = &status;
                self.tell(Input::Status { conn, status }, &[]);
            }
            Command::Link {
                conn,
                peer,
                outcome,
                rtt_ms,
            } => {
                let input = Input::Link {
                    conn,
                    peer,
                    outcome,
                    rtt_ms,
                };
                self.tell(input, &[]);
            }
            Command::Signal { from, to, payload } => self.handle_signal(from, to, &payload),
            Command::Left(conn) => {
                self.tell(Input::Left(conn), &[]);
                self.conns.remove(&conn);
            }
            Command::Lost(conn) => {
                self.tell(Input::Lost(conn), &[]);
                if let Some(conn) = self.conns.remove(&conn) {
                    self.lost.add(conn.peer, conn.bearer, &self.directory);
                }
            }
            Command::Release(conns) => {
                for conn in &conns {
                    self.conns.remove(conn);
                }
                for conn in conns {
                    self.tell(Input::Left(conn), &[]);
                }
            }
            Command::Drain(over) => {
                let conns = || self.conns.keys().copied().collect();
                let now = time::Instant::now();
                self.farewell = over.map(|over| Farewell::new(conns(), now, over));
            }
            // Whoever asked may be gone by now; then nobody misses the answer.
            Command::Kick(peer, answer) => drop(answer.send(self.kick(peer))),
            Command::Bar(who, left) => self.kicked.add(&who, left, time::Instant::now()),
            Command::Lift(peer, answer) => {
                let lifted = self.kicked.lift(peer, time::Instant::now());
                let _ = answer.send(lifted);
            }
            Command::Spent(spent) => self.tell(Input::Spent(&spent), &[]),
            Command::Look(look) => look(&Sight {
                directory: &self.directory,
                isps: &self.isps,
                sites: &self.sites,
            }),
        }
    }

    fn handle_join(&mut self, join: Join) {
        let Join {
            joined,
            isp,
            site,
            bearer,
            stun,
            apart,
            outgoing,
        } = join;
        // It came in before the drain, and is not among those that are sent away one by one.
        if self.farewell.is_some() {
            return self.goodbye.say(&outgoing);
        }
        if let Some(isp) = isp
            && self.isps.len() < ISPS_MAX
            && isp.len() <= ISP_LEN_MAX
        {
            self.isps.insert(joined.network.asn, isp);
        }
        if let Some((site, label)) = site
            && (self.sites.len() < ISPS_MAX || self.sites.contains_key(&site))
            && label.len() <= ISP_LEN_MAX
        {
            self.sites.insert(site, label);
        }
        let (peer, conn) = (joined.peer, joined.conn);
        let came = Conn {
            peer,
            bearer,
            outgoing,
        };
        self.conns.insert(conn, came);
        let who = Identity {
            peer,
            bearer,
            address: joined.network.address,
            stream: joined.stream,
        };
        if self.kicked.contains(&who, time::Instant::now()) {
            let code = RefusalCode::NotServed;
            return self.carry_out(&Action::Refuse { conn, code }, &[]);
        }
        let (joined, apart) = (&joined, &apart);
        self.tell(Input::Moved { joined, apart }, &stun);
    }

    fn handle_signal(&mut self, from: ConnId, to: PeerId, payload: &[u8]) {
        let sender = self.conns.get(&from).map(|conn| conn.peer);
        let receiver = self.directory.may_signal(from, to);
        let (Some(from), Some(receiver)) = (sender, receiver.and_then(|c| self.conns.get(&c)))
        else {
            Counters::add(&self.counters.signals_refused);
            return;
        };
        self.frame.clear();
        TrackerMsg::Signal { from, payload }.encode(&mut self.frame);
        if receiver.outgoing.push_droppable(&self.frame) {
            Counters::add(&self.counters.signals);
        } else {
            Counters::add(&self.counters.signals_dropped);
        }
    }

    /// Gives the directory an input and carries out what it wants.
    fn tell(&mut self, input: Input<'_>, stun: &[String]) {
        let now = Instant::from_micros(self.started.elapsed().as_micros() as u64 + 1);
        let mut outbox = std::mem::take(&mut self.outbox);
        self.directory.handle(now, input, &mut outbox);
        for action in outbox.actions() {
            self.carry_out(action, stun);
        }
        outbox.clear();
        self.outbox = outbox;
    }

    fn carry_out(&mut self, action: &Action, stun: &[String]) {
        match *action {
            Action::Welcome { conn, peer } => {
                let welcome = Welcome {
                    peer,
                    secret: self.names.secret_of(peer),
                    status_interval_ms: self.config.swarm.status_interval_ms,
                    links_target: self.config.swarm.links_target,
                    stun: stun.iter().map(String::as_str).collect(),
                };
                self.send(conn, &TrackerMsg::Welcome(welcome));
            }
            Action::Introduce { conn, introduction } => {
                self.send(conn, &TrackerMsg::Introduce(introduction));
            }
            Action::Gone { conn, peer } => self.send(conn, &TrackerMsg::Gone { peer }),
            Action::Shun { conn, peer } => self.send(conn, &TrackerMsg::Shun { peer }),
            Action::Refuse { conn, code } => {
                let text = refusal_text(code);
                Counters::add(&self.counters.refused);
                Counters::add(self.counters.refusals.of(code));
                self.send(conn, &TrackerMsg::Refused { code, text });
                self.close(conn);
            }
            Action::Close { conn } => self.close(conn),
        }
    }

    fn send(&mut self, conn: ConnId, message: &TrackerMsg<'_>) {
        if let Some(conn) = self.conns.get(&conn) {
            self.frame.clear();
            message.encode(&mut self.frame);
            conn.outgoing.push(&self.frame);
        }
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.remove(&conn) {
            conn.outgoing.close();
        }
    }

    /// Ends the stay of a viewer that is here, or that has lost its connection and may come back.
    fn kick(&mut self, peer: PeerId) -> Option<Identity> {
        let conn = self.conns.iter().find(|(_, conn)| conn.peer == peer);
        let conn = conn.map(|(number, conn)| (*number, conn.bearer));
        let viewer = self.directory.viewer(peer);
        if conn.is_none() && viewer.is_none() {
            return None;
        }
        let who = Identity {
            peer,
            bearer: conn.map_or_else(|| self.lost.bearer(peer), |(_, bearer)| bearer),
            address: viewer.map_or(0, |viewer| viewer.network().address),
            stream: viewer.map_or(StreamId([0; 16]), |viewer| viewer.stream()),
        };
        self.kicked.add(&who, KICKED_FOR, time::Instant::now());
        if let Some((conn, _)) = conn {
            let code = RefusalCode::NotServed;
            self.carry_out(&Action::Refuse { conn, code }, &[]);
            self.tell(Input::Left(conn), &[]);
        } else {
            self.tell(Input::Forget(peer), &[]);
        }
        Some(who)
    }

    fn send_some_away(&mut self) {
        let due = self.farewell.as_mut().map(|f| f.due(time::Instant::now()));
        for conn in due.unwrap_or_default() {
            if let Some(conn) = self.conns.get(&conn) {
                self.goodbye.say(&conn.outgoing);
            }
        }
    }

    fn send_all_away(&mut self) {
        // Those of other nodes stay there, and get another owner.
        for (_, conn) in self.conns.drain().filter(|(_, c)| c.outgoing.is_here()) {
            self.goodbye.say(&conn.outgoing);
        }
    }
}

/// What a person reads of a refusal.
pub(crate) const fn refusal_text(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::BadMessage => "the viewer sent a message that is malformed or out of order",
        RefusalCode::BadToken => "the token is missing, expired or for another stream",
        RefusalCode::Quota => "a quota of the viewer or its address is used up",
        RefusalCode::NotServed => "peers are switched off for this viewer or stream",
        RefusalCode::Unavailable => "the tracker is full or shutting down",
    }
}

#[cfg(test)]
mod tests {
    use swarm_core::{
        id::TrackId,
        wire::tracker::{Nat, ViewerFlags},
    };
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{
        outgoing::Outgoing,
        socket::{Limits, flush::Flusher, io::Wire},
    };

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn sink() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (wire, flusher) = (Wire::Plain(tcp.unwrap()), Arc::new(Flusher::default()));
        let limits = Limits {
            queue_bytes_max: 1000,
            ..Limits::default()
        };
        Sink::Here(Outgoing::new(wire, flusher, limits, None))
    }

    #[tokio::test]
    async fn what_is_due_is_done_however_much_comes_in() {
        let mut config = Config::default();
        config.swarm.status_interval_ms = 50;
        config.swarm.silence_ms_max = 100;
        let names = Names::new(None).unwrap();
        let places = Arc::new(Places::new(&config.drain));
        let shard = Shard::new(Arc::new(config), names, Arc::default(), places, 1);
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(shard.serve(commands, stop.clone()));
        let joined = Joined {
            conn: ConnId(1),
            peer: PeerId(1),
            resumed: false,
            stream: StreamId([1; 16]),
            track: TrackId(1),
            flags: ViewerFlags::default(),
            nat: Nat::Open,
            upload_kbps: 0,
            network: Network::default(),
        };
        let join = Join {
            joined,
            isp: None,
            site: None,
            bearer: None,
            stun: Vec::new(),
            apart: Vec::new(),
            outgoing: sink().await,
        };
        assert!(sender.send(Command::Join(Box::new(join))).await.is_ok());
        // It is silent, and others are not.
        let others = async {
            loop {
                for _ in 0..COMMANDS_MAX {
                    assert!(sender.send(Command::Left(ConnId(2))).await.is_ok());
                }
                let (tell, told) = oneshot::channel();
                let look = move |sight: &Sight<'_>| {
                    let _ = tell.send(sight.directory.viewers_len());
                };
                assert!(sender.send(Command::Look(Box::new(look))).await.is_ok());
                if told.await.unwrap() == 0 {
                    return;
                }
            }
        };
        time::timeout(PATIENCE, others)
            .await
            .expect("it is given up");
        stop.cancel();
        serving.await.unwrap();
    }
}
