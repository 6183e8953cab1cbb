//! WebTorrent viewers of one swarm, connected to different nodes.

use serde_json::{Value, json};
use tracker::WebTorrentConfig;

use super::*;

const HASH: &str = "ZHBTleY378bqpgBu7IvG";
/// The same as the API writes it.
const HASH_HEX: &str = "5a4842546c655933373862717067427537497647";

/// A question that is lost with the node that it was for is asked again after this time.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// A WebTorrent client at one node.
struct Client {
    name: &'static str,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    async fn connect(node: &Node, name: &'static str, from: &str) -> Self {
        let url = format!("ws://{}/announce", node.tracker.address);
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("X-Forwarded-For", from.parse().unwrap());
        let (socket, _) = connect_async(request).await.unwrap();
        Self { name, socket }
    }

    /// Connects, announces itself without offers, and hears the reply.
    async fn enter(node: &Node, name: &'static str, from: &str) -> Self {
        let mut client = Self::connect(node, name, from).await;
        client.announce(&[]).await;
        assert!(client.next().await["interval"].is_u64());
        client
    }

    /// Waits for the end of its connection, and comes back at another node, as soon as that knows that
    /// the old connection is gone.
    async fn move_to(&mut self, node: &Node, from: &str) {
        let ended = timeout(PATIENCE, async {
            while let Some(Ok(_)) = self.socket.next().await {}
        });
        ended.await.expect("it is closed");
        let name = self.name;
        eventually("it is taken in", async || {
            *self = Self::connect(node, name, from).await;
            self.announce(&[]).await;
            self.next().await["interval"].is_u64()
        })
        .await;
    }

    async fn send(&mut self, message: Value) {
        let text = message.to_string();
        self.socket.send(Message::Text(text.into())).await.unwrap();
    }

    async fn announce(&mut self, offers: &[&str]) {
        let sdp = format!("of {}", self.name);
        self.announce_with(offers, &sdp).await;
    }

    async fn announce_with(&mut self, offers: &[&str], sdp: &str) {
        let offer = |id: &&str| json!({"offer": {"type": "offer", "sdp": sdp}, "offer_id": id});
        let offers: Vec<_> = offers.iter().map(offer).collect();
        let peer_id = peer(self.name);
        let message = json!({
            "action": "announce", "info_hash": HASH, "peer_id": peer_id, "numwant": offers.len(),
            "offers": offers,
        });
        self.send(message).await;
    }

    async fn answer(&mut self, to: &str, offer: &str) {
        let message = json!({
            "action": "announce", "info_hash": HASH, "peer_id": peer(self.name),
            "to_peer_id": peer(to), "offer_id": offer,
            "answer": {"type": "answer", "sdp": format!("of {}", self.name)},
        });
        self.send(message).await;
    }

    /// What it hears beside counts: the answer to a question that it gave up may come later.
    async fn next(&mut self) -> Value {
        loop {
            let heard = self.hear().await;
            if heard["action"] != "scrape" {
                return heard;
            }
        }
    }

    async fn hear(&mut self) -> Value {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await;
            match next.expect("a message in time") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{}: {other:?}", self.name),
            }
        }
    }

    /// Hears the offer of another viewer, whichever it is, and answers it. Whose it was.
    async fn take_offer(&mut self) -> (String, String) {
        let heard = self.next().await;
        assert_eq!(heard["offer"]["type"], "offer", "{heard}");
        let offer = heard["offer_id"].as_str().unwrap().to_owned();
        let from = heard["peer_id"].as_str().unwrap();
        let from = from.trim_start_matches("-PM0203-").trim_start_matches('0');
        self.answer(from, &offer).await;
        (from.to_owned(), offer)
    }

    /// How many viewers are in the swarm; nothing where the node to ask has just died.
    async fn count(&mut self) -> Option<u64> {
        self.send(json!({"action": "scrape", "info_hash": HASH}))
            .await;
        let heard = timeout(ANSWER_TIME_MAX, self.hear()).await.ok()?;
        assert_eq!(heard["action"], "scrape", "{heard}");
        heard["files"][HASH]["incomplete"].as_u64()
    }
}

/// Nodes that believe their clients' headers: tests stand for viewers at many addresses.
pub(super) fn trusting(nats: &Nats) -> Config {
    Config {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..node_config(nats)
    }
}

fn peer(name: &str) -> String {
    format!("-PM0203-{name:0>12}")
}

fn hex_of(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

async fn all_count(clients: &mut [Client], expected: u64) {
    for client in clients {
        eventually("everybody is counted", async || {
            client.count().await == Some(expected)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webtorrent_viewers_of_three_nodes_meet() {
    let nats = Nats::start().await;
    let nodes = start_nodes(&trusting(&nats), 3).await;
    let mut clients = Vec::new();
    for (node, (name, from)) in nodes.iter().zip([
        ("anna", "198.51.100.1"),
        ("bert", "198.51.100.2"),
        ("cleo", "198.51.100.3"),
    ]) {
        clients.push(Client::enter(node, name, from).await);
    }
    all_count(&mut clients, 3).await;
    clients[2].announce(&["one", "two", "three"]).await;
    assert_eq!(clients[2].next().await["incomplete"], 3);
    let mut offers = Vec::new();
    for client in &mut clients[..2] {
        let (from, offer) = client.take_offer().await;
        assert_eq!(from, "cleo");
        offers.push(offer);
    }
    offers.sort_unstable();
    assert_eq!(offers, ["one", "two"], "one each, and nobody for the third");
    let mut answered = Vec::new();
    for _ in 0..2 {
        let heard = clients[2].next().await;
        assert_eq!(heard["answer"]["type"], "answer", "{heard}");
        answered.push(heard["offer_id"].as_str().unwrap().to_owned());
    }
    answered.sort_unstable();
    assert_eq!(answered, offers);
    // All nodes show the same swarm, with the nodes that its viewers are connected to.
    for node in &nodes {
        let swarm = node.api(&format!("/api/swarms/{HASH_HEX}")).await;
        assert_eq!((&swarm["viewers"], &swarm["pairs"]), (&json!(3), &json!(2)));
        let mut at: Vec<&str> = swarm["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|viewer| viewer["node"].as_str().unwrap())
            .collect();
        at.sort_unstable();
        at.dedup();
        assert_eq!(at.len(), 3, "{swarm}");
    }
    // An id is its connection's, whichever node somebody else tries it at.
    let mut thief = Client::connect(&nodes[1], "anna", "203.0.113.9").await;
    thief.announce(&[]).await;
    let refused = thief.next().await;
    assert!(refused["failure reason"].is_string(), "{refused}");
    assert_eq!(clients[0].count().await, Some(3));
    // Whoever closes its page is gone everywhere.
    let gone = clients.remove(2);
    drop(gone);
    all_count(&mut clients, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webtorrent_viewers_meet_again_when_the_node_of_their_swarm_dies() {
    let nats = Nats::start().await;
    let mut nodes = start_nodes(&trusting(&nats), 3).await;
    let names = [
        ("anna", "198.51.100.1"),
        ("bert", "198.51.100.2"),
        ("cleo", "198.51.100.3"),
    ];
    let mut clients = Vec::new();
    for (node, (name, from)) in nodes.iter().zip(names) {
        clients.push(Client::enter(node, name, from).await);
    }
    all_count(&mut clients, 3).await;
    let mut owner = 0;
    for (index, node) in nodes.iter().enumerate() {
        if node.metric("webtorrent_viewers").await == 3 {
            owner = index;
        }
    }
    nodes.remove(owner).kill();
    let lost = clients.remove(owner);
    // The others were entered at the new owner by their nodes: they say nothing themselves.
    all_count(&mut clients, 2).await;
    let (name, from) = names[owner];
    drop(lost);
    let mut back = Client::enter(&nodes[0], name, from).await;
    back.announce(&["one", "two"]).await;
    assert_eq!(back.next().await["incomplete"], 3);
    for client in &mut clients {
        assert_eq!(client.take_offer().await.0, name);
    }
    for _ in 0..2 {
        assert_eq!(back.next().await["answer"]["type"], "answer");
    }
    // A new node takes over what it owns; nobody is lost or counted twice.
    clients.push(back);
    for _ in 0..3 {
        nodes.push(Node::start(trusting(&nats)));
        all_meet(&nodes, nodes.len()).await;
        all_count(&mut clients, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_keeps_webtorrent_viewers_in_their_swarm() {
    let nats = Nats::start().await;
    let mut nodes = start_nodes(&trusting(&nats), 3).await;
    let from = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
    let (mut clients, mut at) = (Vec::new(), Vec::new());
    for ((node, name), from) in nodes.iter().zip(["anna", "bert", "cleo"]).zip(from) {
        clients.push(Client::enter(node, name, from).await);
        at.push(node.own_id().await);
    }
    all_count(&mut clients, 3).await;
    for _ in 0..3 {
        let leaving = nodes.remove(0);
        let left = leaving.own_id().await;
        assert_eq!(leaving.post("/api/drain", "{\"over_ms\": 0}").await, 200);
        for index in 0..3 {
            if at[index] == left {
                clients[index].move_to(&nodes[0], from[index]).await;
                at[index] = nodes[0].own_id().await;
            }
        }
        all_count(&mut clients, 3).await;
        leaving.stop().await;
        nodes.push(Node::start(trusting(&nats)));
        all_meet(&nodes, 3).await;
        all_count(&mut clients, 3).await;
    }
    clients[0].announce(&["one", "two"]).await;
    assert_eq!(clients[0].next().await["incomplete"], 3);
    for client in &mut clients[1..] {
        assert_eq!(client.take_offer().await.0, "anna");
    }
    for _ in 0..2 {
        assert_eq!(clients[0].next().await["answer"]["type"], "answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webtorrent_viewers_are_apart_without_nats_and_meet_when_it_is_back() {
    let mut nats = Nats::start().await;
    let nodes = start_nodes(&trusting(&nats), 2).await;
    let mut clients = vec![
        Client::enter(&nodes[0], "anna", "198.51.100.1").await,
        Client::enter(&nodes[1], "bert", "198.51.100.2").await,
    ];
    all_count(&mut clients, 2).await;
    nats.kill();
    all_count(&mut clients, 1).await;
    nats.revive().await;
    all_meet(&nodes, 2).await;
    all_count(&mut clients, 2).await;
    clients[0].announce(&["one"]).await;
    assert_eq!(clients[0].next().await["incomplete"], 2);
    assert_eq!(clients[1].take_offer().await.0, "anna");
    assert_eq!(clients[0].next().await["answer"]["type"], "answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kicked_webtorrent_viewer_is_refused_whichever_node_runs_its_swarm_then() {
    let nats = Nats::start().await;
    let mut nodes = start_nodes(&trusting(&nats), 2).await;
    let path = |name| {
        format!(
            "/api/swarms/{HASH_HEX}/viewers/{}/kick",
            hex_of(&peer(name))
        )
    };
    let anna = Client::enter(&nodes[0], "anna", "198.51.100.1").await;
    assert_eq!(nodes[1].post(&path("anna"), "").await, 200);
    assert_eq!(nodes[1].post(&path("anna"), "").await, 404);
    drop(anna);
    // Either of the two runs the swarm when the other is gone; at last one that came later does.
    nodes.push(Node::start(trusting(&nats)));
    all_meet(&nodes, 3).await;
    for left in [2, 1] {
        nodes.remove(0).stop().await;
        all_meet(&nodes, left).await;
        for node in &nodes {
            let mut again = Client::connect(node, "anna", "198.51.100.1").await;
            again.announce(&[]).await;
            let heard = again.next().await;
            assert!(heard["failure reason"].is_string(), "{heard}");
        }
    }
    assert_eq!(nodes[0].delete(&path("anna")).await, 200);
    Client::enter(&nodes[0], "anna", "198.51.100.1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_is_too_long_for_the_way_between_nodes_is_dropped_whole() {
    let nats = Nats::start().await;
    let webtorrent = WebTorrentConfig {
        message_bytes_max: 300_000,
        ..WebTorrentConfig::default()
    };
    let config = Config {
        webtorrent,
        ..trusting(&nats)
    };
    let nodes = start_nodes(&config, 2).await;
    let mut clients = vec![
        Client::enter(&nodes[0], "anna", "198.51.100.1").await,
        Client::enter(&nodes[1], "bert", "198.51.100.2").await,
    ];
    all_count(&mut clients, 2).await;
    let owner = usize::from(nodes[1].metric("webtorrent_viewers").await == 2);
    let mut there = clients.remove(1 - owner);
    let mut here = clients.remove(0);
    here.announce_with(&["giant"], &"é".repeat(40_000)).await;
    assert_eq!(here.next().await["incomplete"], 2);
    // What comes behind it comes first.
    assert_eq!(there.count().await, Some(2));
    let dropped = nodes[owner].metric("webtorrent_offers_dropped_total").await;
    assert_eq!(dropped, 1);
}
