//! A NATS server, nodes that can be killed, and viewers that move between them.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use swarm_core::wire::tracker::LinkOutcome;
use tokio::{runtime::Runtime, sync::mpsc, time::sleep};
use tracker::{ClusterConfig, SwarmConfig};

use super::*;

pub(super) const TOKEN: &str = "an operator's token";
/// Between two looks at something that is awaited.
const LOOK: Duration = Duration::from_millis(50);

/// A NATS server of Debian's.
pub(super) struct Nats {
    port: u16,
    /// What else it is told.
    options: Vec<String>,
    process: Option<Child>,
}

impl Nats {
    pub(super) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(super) async fn start_with(options: &[&str]) -> Self {
        let mut nats = Self {
            port: free_port(),
            options: options.iter().map(ToString::to_string).collect(),
            process: None,
        };
        nats.revive().await;
        nats
    }

    /// Starts it, and waits until it listens.
    pub(super) async fn revive(&mut self) {
        let process = Command::new(program())
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string()])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts; `cargo xtask setup` installs it");
        self.process = Some(process);
        eventually("NATS listens", async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
                .await
                .is_ok()
        })
        .await;
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(super) fn url(&self) -> String {
        self.url_of("")
    }

    /// With who asks, as in `user:password@`.
    pub(super) fn url_of(&self, who: &str) -> String {
        format!("nats://{who}127.0.0.1:{}", self.port)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody has at the moment.
pub(super) fn free_port() -> u16 {
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    free.local_addr().unwrap().port()
}

/// Debian installs it where only root's PATH looks.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut found = folders.map(|folder| folder.join("nats-server"));
    found
        .find(|program| program.is_file())
        .expect("nats-server is installed; `cargo xtask setup` does it")
}

/// One node, with threads of its own so that it can die at any moment.
pub(super) struct Node {
    pub(super) tracker: Tracker,
    runtime: Option<Runtime>,
}

impl Node {
    pub(super) fn start(config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.spawn(async move { sender.send(start(config).await) });
        let tracker = receiver.recv_timeout(PATIENCE).unwrap();
        Self {
            tracker,
            runtime: Some(runtime),
        }
    }

    /// Ends it without a word: all its sockets are closed at once.
    pub(super) fn kill(self) {
        drop(self);
    }

    pub(super) async fn stop(mut self) {
        drop(self.tracker.stop.take());
        let task = &mut self.tracker.task;
        let ended = timeout(PATIENCE, task).await.expect("stops in time");
        ended.unwrap().unwrap();
    }

    pub(super) async fn api(&self, path: &str) -> Value {
        let (status, _, body) = self.tracker.get(path, &bearer()).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The number under which the API knows it: the one that all others do not have.
    pub(super) async fn id(&self, others: &[&Self]) -> String {
        let mut known = Vec::new();
        for other in others {
            known.push(other.own_id().await);
        }
        let own = self.own_id().await;
        assert!(!known.contains(&own));
        own
    }

    /// It comes first in its own list.
    pub(super) async fn own_id(&self) -> String {
        let nodes = self.api("/api/nodes").await;
        nodes[0]["node"].as_str().unwrap().to_owned()
    }

    pub(super) async fn nodes(&self) -> usize {
        self.api("/api/nodes").await.as_array().unwrap().len()
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> u16 {
        self.tracker.exchange("POST", path, &bearer(), body).await.0
    }

    pub(super) async fn delete(&self, path: &str) -> u16 {
        self.tracker.exchange("DELETE", path, &bearer(), "").await.0
    }

    pub(super) async fn metric(&self, name: &str) -> u64 {
        let (_, _, body) = self.tracker.get("/metrics", &bearer()).await;
        let name = format!("shoal_tracker_{name} ");
        let line = body.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("the metric is there").parse().unwrap()
    }

    /// The sizes of the stream's groups, over all nodes; nothing while viewers are missing of whom
    /// it is not known whether they come back.
    pub(super) async fn groups(&self) -> Vec<u64> {
        let mesh = self.find(&format!("/api/streams/{STREAM}/mesh")).await;
        let groups = self.find(&format!("/api/streams/{STREAM}/groups")).await;
        let (Some(mesh), Some(groups)) = (mesh, groups) else {
            return Vec::new();
        };
        let mut viewers = mesh["viewers"].as_array().unwrap().iter();
        if viewers.any(|viewer| viewer["connected"] == false) {
            return Vec::new();
        }
        let groups = groups["groups"].as_array().unwrap();
        let sizes = groups
            .iter()
            .map(|group| group["viewers"].as_u64().unwrap());
        sizes.collect()
    }

    /// How many viewers are connected, of those that the node sees.
    pub(super) async fn connected(&self) -> usize {
        let mesh = self.find(&format!("/api/streams/{STREAM}/mesh")).await;
        let mesh = mesh.unwrap_or_default();
        let viewers = mesh["viewers"].as_array().into_iter().flatten();
        viewers.filter(|viewer| viewer["connected"] == true).count()
    }

    async fn find(&self, path: &str) -> Option<Value> {
        let (status, _, body) = self.tracker.get(path, &bearer()).await;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

pub(super) fn node_config(nats: &Nats) -> Config {
    Config {
        admin_token: Some(TOKEN.into()),
        public_api: false,
        name_key: Some("a long secret of the operator".into()),
        limits: LimitsConfig {
            reconnect_after_ms: 50,
            reconnect_jitter_ms: 100,
            drain_ms: 300,
            ..LimitsConfig::default()
        },
        swarm: SwarmConfig {
            silence_ms_max: 60_000,
            ..SwarmConfig::default()
        },
        cluster: ClusterConfig {
            servers: vec![nats.url()],
            heartbeat_ms: 200,
            lost_after_ms: 1_000,
            ..ClusterConfig::default()
        },
        ..config()
    }
}

/// Nodes that have found each other.
pub(super) async fn start_nodes(config: &Config, count: usize) -> Vec<Node> {
    let nodes: Vec<Node> = (0..count).map(|_| Node::start(config.clone())).collect();
    all_meet(&nodes, count).await;
    nodes
}

pub(super) async fn all_meet(nodes: &[Node], count: usize) {
    for node in nodes {
        eventually("all nodes know each other", async || {
            node.nodes().await == count
        })
        .await;
    }
}

/// Waits for what must come true, and says what has not.
pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            sleep(LOOK).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

/// What a viewer has heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) name: Option<(PeerId, u64)>,
    pub(super) welcomes: usize,
    pub(super) known: Vec<PeerId>,
    pub(super) signals: Vec<(PeerId, Vec<u8>)>,
    pub(super) reconnect_ms: Option<u32>,
    pub(super) places: Vec<String>,
    pub(super) refused: bool,
    pub(super) closed: bool,
}

/// A viewer that plays on whatever becomes of trackers, and tells a new one of its links.
pub(super) struct Roamer {
    pub(super) heard: Arc<Mutex<Heard>>,
    say: mpsc::UnboundedSender<Vec<u8>>,
}

impl Roamer {
    pub(super) async fn join(node: &Node, resume: Option<(PeerId, u64)>) -> Self {
        Self::join_from(node, resume, &[]).await
    }

    pub(super) async fn join_from(
        node: &Node,
        resume: Option<(PeerId, u64)>,
        headers: &[(&'static str, &str)],
    ) -> Self {
        let roamer = Self::come(node, Join { resume, ..join() }, headers).await;
        eventually("a welcome", async || roamer.heard().name.is_some()).await;
        roamer
    }

    /// Says that it wants to join, whatever comes of it.
    pub(super) async fn come(
        node: &Node,
        join: Join<'_>,
        headers: &[(&'static str, &str)],
    ) -> Self {
        let mut viewer = node.tracker.connect_with(headers).await.unwrap();
        viewer.send(&ViewerMsg::Join(join)).await;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (say, words) = mpsc::unbounded_channel();
        tokio::spawn(live(viewer, Arc::clone(&heard), words));
        Self { heard, say }
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    pub(super) fn name(&self) -> PeerId {
        self.heard().name.unwrap().0
    }

    pub(super) fn say(&self, message: &ViewerMsg<'_>) {
        let mut frame = Vec::new();
        message.encode(&mut frame);
        // Where the connection is gone, nobody hears it.
        let _ = self.say.send(frame);
    }

    /// Joins another node under its name.
    pub(super) async fn move_to(&mut self, node: &Node) {
        self.move_from(node, &[]).await;
    }

    /// The same, with these headers.
    pub(super) async fn move_from(&mut self, node: &Node, headers: &[(&'static str, &str)]) {
        let resume = self.heard().name;
        let again = Self::join_from(node, resume, headers).await;
        assert_eq!(again.heard().name, resume, "the name is kept");
        *self = again;
    }
}

/// Both ways, until the connection ends.
async fn live(
    mut viewer: Viewer,
    heard: Arc<Mutex<Heard>>,
    mut words: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    loop {
        tokio::select! {
            word = words.recv() => {
                let Some(frame) = word else { return };
                if viewer.socket.send(Message::Binary(frame.into())).await.is_err() {
                    break;
                }
            }
            message = viewer.socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    heard.lock().unwrap().hear(TrackerMsg::decode(&bytes).unwrap());
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            }
        }
    }
    heard.lock().unwrap().closed = true;
}

impl Heard {
    fn hear(&mut self, message: TrackerMsg<'_>) {
        match message {
            TrackerMsg::Welcome(welcome) => {
                self.welcomes += 1;
                self.name = Some((welcome.peer, welcome.secret));
            }
            TrackerMsg::Introduce(introduction) => {
                if !self.known.contains(&introduction.peer) {
                    self.known.push(introduction.peer);
                }
            }
            TrackerMsg::Signal { from, payload } => self.signals.push((from, payload.to_vec())),
            TrackerMsg::Gone { peer } | TrackerMsg::Shun { peer } => {
                self.known.retain(|known| *known != peer);
            }
            TrackerMsg::Reconnect { after_ms, places } => {
                self.reconnect_ms = Some(after_ms);
                self.places = places.iter().map(ToString::to_string).collect();
            }
            TrackerMsg::Relays(_) => {}
            TrackerMsg::Refused { .. } => self.refused = true,
        }
    }
}

/// Every viewer says something to every other, and hears it.
pub(super) async fn all_signal(viewers: &[&Roamer], text: &[u8]) {
    for viewer in viewers {
        for other in viewers.iter().filter(|o| o.name() != viewer.name()) {
            let (to, payload) = (other.name(), text);
            viewer.say(&ViewerMsg::Signal { to, payload });
        }
    }
    for viewer in viewers {
        eventually("all signals are heard", async || {
            let heard = viewer.heard();
            viewers
                .iter()
                .filter(|o| o.name() != viewer.name())
                .all(|other| {
                    let expected = (other.name(), text.to_vec());
                    heard.signals.contains(&expected)
                })
        })
        .await;
    }
}

/// Every viewer tells that its links to all others are up.
pub(super) fn all_link(viewers: &[&Roamer]) {
    for viewer in viewers {
        for other in viewers.iter().filter(|o| o.name() != viewer.name()) {
            viewer.say(&ViewerMsg::Link {
                peer: other.name(),
                outcome: LinkOutcome::Up,
                rtt_ms: 5,
            });
        }
    }
}
