//! What the next owner of a stream knows of its viewers.

use std::collections::BTreeSet;

use swarm_core::wire::tracker::LinkOutcome;
use tracker::SwarmConfig;

use super::{swarms::trusting, *};

/// Introductions that one viewer may have, and those of its address: as many as three viewers'.
const EACH: u16 = 5;
const ADDRESS: usize = 3 * EACH as usize;
/// What is learned by joining as often is more than what one address may.
const VISITS: usize = ADDRESS + 5;
/// And so often, something.
const SOME: usize = 4;

fn sparing(nats: &Nats) -> Config {
    let config = trusting(nats);
    Config {
        swarm: SwarmConfig {
            introductions_burst: EACH,
            introductions_per_hour: 0,
            ..config.swarm
        },
        ..config
    }
}

/// New addresses, one after the other.
struct Homes(u8);

impl Homes {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("198.51.100.{}", self.0)
    }
}

/// A viewer of a stream, at an address.
async fn watch_from(node: &Node, stream: StreamId, home: &str) -> Roamer {
    let joins = Join { stream, ..join() };
    let viewer = Roamer::come(node, joins, &[("x-forwarded-for", home)]).await;
    eventually("a welcome", async || viewer.heard().name.is_some()).await;
    viewer
}

async fn leave(viewer: &Roamer) {
    viewer.say(&ViewerMsg::Leave);
    eventually("it has left", async || viewer.heard().closed).await;
}

/// Whom the owner has introduced it to by now, all of which it has heard of.
async fn introduced(node: &Node, viewer: &Roamer) -> BTreeSet<PeerId> {
    let path = format!("/api/viewers/{}", viewer.name());
    let mut known = BTreeSet::new();
    eventually("it hears of all neighbours", async || {
        let around = node.api(&path).await;
        let neighbours = around["neighbours"].as_array().unwrap().iter();
        let names = neighbours.map(|other| other["viewer"]["id"].as_str().unwrap());
        known = names
            .map(|name| PeerId(u64::from_str_radix(name, 16).unwrap()))
            .collect();
        let heard = viewer.heard().known;
        known.iter().all(|peer| heard.contains(peer))
    })
    .await;
    known
}

/// Joins a stream under new names, each time while somebody new comes. How many introductions that has
/// brought.
async fn collect(
    (node, stream): (&Node, StreamId),
    home: &str,
    visits: usize,
    homes: &mut Homes,
) -> usize {
    let mut learned = 0;
    for _ in 0..visits {
        let nosy = watch_from(node, stream, home).await;
        let _other = watch_from(node, stream, &homes.next()).await;
        learned += introduced(node, &nosy).await.len();
        leave(&nosy).await;
    }
    learned
}

async fn owner_of(nodes: &[Node]) -> Option<usize> {
    for (index, node) in nodes.iter().enumerate() {
        if node.metric("streams").await == 1 {
            return Some(index);
        }
    }
    None
}

/// Waits until all nodes have heard what each of them knows by now.
async fn all_told(hellos: &mut Hellos, nodes: &[Node]) {
    let mut heard = std::collections::BTreeMap::<String, u32>::new();
    hellos.drain().await;
    // What is found at one heartbeat is told at the next one; and nodes greet new ones between them.
    while heard.values().filter(|times| **times > 4).count() < nodes.len() {
        *heard.entry(hellos.next().await.node).or_default() += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_does_not_learn_more_because_a_stream_has_a_new_owner() {
    let nats = Nats::start().await;
    let config = sparing(&nats);
    let mut nodes = start_nodes(&config, 3).await;
    let mut hellos = Hellos::listen(&nats).await;
    let mut homes = Homes(0);
    let (home, honest) = (homes.next(), homes.next());
    let _stays = watch_from(&nodes[0], STREAM, &homes.next()).await;
    let owner = owner_of(&nodes).await.expect("somebody runs the stream");
    let at = (&nodes[(owner + 1) % 3], STREAM);
    assert_eq!(collect(at, &home, VISITS, &mut homes).await, ADDRESS);
    all_told(&mut hellos, &nodes).await;
    nodes.remove(owner).kill();
    all_meet(&nodes, 2).await;
    for node in &nodes {
        let learned = collect((node, STREAM), &home, SOME, &mut homes).await;
        assert_eq!(learned, 0, "it has had what it may have");
    }
    assert!(collect((&nodes[0], STREAM), &honest, SOME, &mut homes).await > 0);
    // A node that was not there is told.
    nodes.push(Node::start(config));
    all_meet(&nodes, 3).await;
    all_told(&mut hellos, &nodes).await;
    let mut streams = (100..=255).map(|number| StreamId([number; 16]));
    let own = loop {
        let stream = streams.next().expect("it runs one of so many");
        let before = nodes[2].metric("streams").await;
        let viewer = watch_from(&nodes[2], stream, &homes.next()).await;
        if nodes[2].metric("streams").await > before {
            break stream;
        }
        leave(&viewer).await;
    };
    let learned = collect((&nodes[2], own), &home, SOME, &mut homes).await;
    assert_eq!(learned, 0, "nor by a new node");
    let honest = homes.next();
    assert!(collect((&nodes[2], own), &honest, SOME, &mut homes).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_failed_is_not_introduced_again_by_the_next_owner() {
    let nats = Nats::start().await;
    let mut nodes = start_nodes(&node_config(&nats), 3).await;
    let first = Roamer::join(&nodes[0], None).await;
    let owner = owner_of(&nodes).await.expect("somebody runs the stream");
    let others = [(owner + 1) % 3, (owner + 2) % 3];
    leave(&first).await;
    let [a, b, c] = [others[0], others[1], others[0]].map(|node| &nodes[node]);
    let [a, b, c] = [
        Roamer::join(a, None).await,
        Roamer::join(b, None).await,
        Roamer::join(c, None).await,
    ];
    all_signal(&[&a, &b, &c], b"known to each other").await;
    a.say(&ViewerMsg::Link {
        peer: b.name(),
        outcome: LinkOutcome::Failed,
        rtt_ms: 0,
    });
    let survivor = &nodes[others[0]];
    eventually("they are a pair no more", async || {
        introduced(survivor, &b).await == BTreeSet::from([c.name()])
    })
    .await;
    let welcomes = [&a, &b, &c].map(|viewer| viewer.heard().welcomes);
    nodes.remove(owner).kill();
    all_meet(&nodes, 2).await;
    for (viewer, before) in [&a, &b, &c].into_iter().zip(welcomes) {
        eventually("the next owner welcomes it", async || {
            viewer.heard().welcomes > before
        })
        .await;
    }
    // A fourth one is introduced to all; whoever was to be is introduced by then.
    let late = Roamer::join(&nodes[0], None).await;
    let all = BTreeSet::from([a.name(), b.name(), c.name()]);
    assert_eq!(introduced(&nodes[0], &late).await, all);
    let of_both = BTreeSet::from([c.name(), late.name()]);
    assert_eq!(introduced(&nodes[0], &a).await, of_both);
    assert_eq!(introduced(&nodes[0], &b).await, of_both);
}
