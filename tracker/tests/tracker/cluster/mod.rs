//! Three nodes, a real NATS server, and what befalls them.

mod hellos;
mod kicks;
mod nats;
mod nodes;
mod owners;
mod splits;
mod swarms;
mod webhooks;

use super::*;
use hellos::Hellos;
use nodes::{
    Nats, Node, Roamer, all_link, all_meet, all_signal, eventually, node_config, start_nodes,
};

/// Two viewers at each node.
async fn two_each(nodes: &[Node]) -> Vec<Roamer> {
    let mut viewers = Vec::new();
    for node in nodes.iter().chain(nodes) {
        viewers.push(Roamer::join(node, None).await);
    }
    viewers
}

/// Waits until all nodes see one group of all these viewers.
async fn one_group(nodes: &[Node], viewers: u64) {
    for node in nodes {
        eventually("one group of all viewers", async || {
            node.groups().await == [viewers]
        })
        .await;
    }
}

fn refs(viewers: &[Roamer]) -> Vec<&Roamer> {
    viewers.iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_of_three_nodes_form_one_group_and_signal() {
    let nats = Nats::start().await;
    let nodes = start_nodes(&node_config(&nats), 3).await;
    let viewers = two_each(&nodes).await;
    one_group(&nodes, 6).await;
    for viewer in &viewers {
        eventually("introductions to all others", async || {
            viewer.heard().known.len() == 5
        })
        .await;
    }
    all_signal(&refs(&viewers), b"hello").await;
    // What one viewer tells is seen from all nodes, once.
    all_link(&refs(&viewers));
    for node in &nodes {
        eventually("all links are seen", async || {
            let stream = node.api(&format!("/api/streams/{STREAM}")).await;
            stream["links_up"] == 15 && stream["viewers"] == 6
        })
        .await;
        let streams = node.api("/api/streams").await;
        assert_eq!(streams["count"], 1);
        let name = viewers[0].name();
        let around = node.api(&format!("/api/viewers/{name}")).await;
        assert_eq!(around["neighbours"].as_array().unwrap().len(), 5);
    }
    let name = viewers[4].name();
    let path = format!("/api/viewers/{name}/kick");
    assert_eq!(nodes[0].post(&path, "").await, 200);
    eventually("the kicked viewer is turned away", async || {
        viewers[4].heard().refused && viewers[4].heard().closed
    })
    .await;
    one_group(&nodes, 5).await;
    assert_eq!(nodes[0].post(&path, "").await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_of_a_killed_node_are_back_in_their_group_within_seconds() {
    let nats = Nats::start().await;
    let mut nodes = start_nodes(&node_config(&nats), 3).await;
    let mut viewers = two_each(&nodes).await;
    one_group(&nodes, 6).await;
    all_link(&refs(&viewers));
    // The node that owns the stream dies, which is the worst.
    let mut owner = 0;
    for (index, node) in nodes.iter().enumerate() {
        if node.metric("streams").await == 1 {
            owner = index;
        }
    }
    let survivor = nodes[(owner + 1) % 3].own_id().await;
    let mut hellos = Hellos::listen(&nats).await;
    nodes.remove(owner).kill();
    for index in [owner, owner + 3] {
        let viewer = &mut viewers[index];
        eventually("the connection breaks", async || viewer.heard().closed).await;
        viewer.move_to(&nodes[index % 2]).await;
    }
    one_group(&nodes, 6).await;
    // Counted in a survivor's heartbeats, its own clock: as many as it takes to miss the dead one, and
    // five seconds.
    let cluster = node_config(&nats).cluster;
    let heartbeats_max = (cluster.lost_after_ms + 5_000) / cluster.heartbeat_ms;
    let heartbeats = hellos
        .drain()
        .await
        .iter()
        .filter(|hello| hello.node == survivor)
        .count();
    assert!(
        (1..=heartbeats_max as usize).contains(&heartbeats),
        "{heartbeats}"
    );
    all_meet(&nodes, 2).await;
    all_signal(&refs(&viewers), b"still here").await;
    assert!(viewers.iter().all(|viewer| !viewer.heard().refused));
    // A new node finds the others, and what it owns moves to it.
    nodes.push(Node::start(node_config(&nats)));
    all_meet(&nodes, 3).await;
    one_group(&nodes, 6).await;
    all_signal(&refs(&viewers), b"and with a new node").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_each_node_goes_on_alone_and_then_they_heal() {
    let mut nats = Nats::start().await;
    let nodes = start_nodes(&node_config(&nats), 3).await;
    let mut viewers = two_each(&nodes).await;
    one_group(&nodes, 6).await;
    nats.kill();
    for node in &nodes {
        // Those of other nodes keep their place for a while, in case they come back here.
        eventually("only the node's own viewers", async || {
            node.connected().await == 2
        })
        .await;
        assert_eq!(node.metric("cluster_connected").await, 0);
        assert_eq!(node.metric("cluster_nodes").await, 1);
    }
    // Who comes now meets those of its node.
    viewers.push(Roamer::join(&nodes[0], None).await);
    all_signal(&[&viewers[0], &viewers[3], &viewers[6]], b"alone").await;
    nats.revive().await;
    all_meet(&nodes, 3).await;
    one_group(&nodes, 7).await;
    all_signal(&refs(&viewers), b"together").await;
    for node in &nodes {
        assert_eq!(node.metric("cluster_connected").await, 1);
    }
    assert!(viewers.iter().all(|viewer| !viewer.heard().closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_without_nats_and_joins_later() {
    let mut nats = Nats::start().await;
    nats.kill();
    let nodes = [0; 2].map(|_| Node::start(node_config(&nats)));
    let viewers = two_each(&nodes).await;
    for node in &nodes {
        assert_eq!(node.groups().await, [2]);
    }
    nats.revive().await;
    one_group(&nodes, 4).await;
    all_signal(&refs(&viewers), b"at last").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_keeps_names_and_groups() {
    let nats = Nats::start().await;
    let mut nodes = start_nodes(&node_config(&nats), 3).await;
    let mut viewers = two_each(&nodes).await;
    one_group(&nodes, 6).await;
    let mut names: Vec<PeerId> = viewers.iter().map(Roamer::name).collect();
    for _ in 0..3 {
        let leaving = nodes.remove(0);
        let id = leaving.id(&[&nodes[0], &nodes[1]]).await;
        // Any node passes the order on.
        let path = format!("/api/nodes/{id}/drain");
        assert_eq!(nodes[0].post(&path, "{\"over_ms\": 200}").await, 200);
        assert_eq!(leaving.tracker.get("/readyz", "").await.0, 503);
        assert_eq!(leaving.tracker.get("/healthz", "").await.0, 200);
        eventually("its viewers are sent away", async || {
            leaving.metric("connections").await == 0
        })
        .await;
        for viewer in &mut viewers {
            if viewer.heard().closed {
                let after_ms = viewer.heard().reconnect_ms.expect("told when");
                assert!((50..=150).contains(&after_ms));
                viewer.move_to(&nodes[1]).await;
            }
        }
        one_group(&nodes, 6).await;
        leaving.stop().await;
        nodes.push(Node::start(node_config(&nats)));
        all_meet(&nodes, 3).await;
        one_group(&nodes, 6).await;
    }
    all_signal(&refs(&viewers), b"all the way").await;
    let mut now: Vec<PeerId> = viewers.iter().map(Roamer::name).collect();
    names.sort_unstable();
    now.sort_unstable();
    assert_eq!(now, names);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_node_names_the_nodes_that_stay() {
    let nats = Nats::start().await;
    let urls = ["wss://one.example/", "wss://two.example/", ""];
    let nodes = urls.map(|url| {
        let mut config = node_config(&nats);
        config.cluster.url = url.into();
        Node::start(config)
    });
    all_meet(&nodes, 3).await;
    let viewers = two_each(&nodes).await;
    one_group(&nodes, 6).await;
    for (node, told) in [
        // The third does not say where it is.
        (2, &["wss://one.example/", "wss://two.example/"][..]),
        // The third does not stay.
        (0, &["wss://two.example/"]),
    ] {
        let drained = nodes[node].post("/api/drain", "{\"over_ms\": 0}").await;
        assert_eq!(drained, 200);
        for viewer in [&viewers[node], &viewers[node + 3]] {
            eventually("it is sent away", async || viewer.heard().closed).await;
            let mut places = viewer.heard().places;
            places.sort_unstable();
            assert_eq!(places, told);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_from_nats_is_counted_and_does_no_harm() {
    let nats = Nats::start().await;
    let nodes = start_nodes(&node_config(&nats), 2).await;
    let viewers = two_each(&nodes).await;
    let client = async_nats::connect(nats.url()).await.unwrap();
    let id = nodes[0].own_id().await;
    let node = format!("shoal.node.{id}");
    let mut sent = 0;
    for subject in ["shoal.all", &node] {
        for bytes in [&b""[..], b"\x01", b"\x04\x01", b"\x01\xff", &[0xff; 5_000]] {
            let published = client.publish(subject.to_owned(), bytes.into());
            published.await.unwrap();
            sent += 1;
        }
    }
    // A question that is none, of a node that does not exist.
    let asked = client.publish_with_reply("shoal.api", "nowhere", "12345678{".into());
    asked.await.unwrap();
    client.flush().await.unwrap();
    eventually("all is counted", async || {
        nodes[0].metric("cluster_bad_messages_total").await == sent + 1
    })
    .await;
    one_group(&nodes, 4).await;
    all_signal(&refs(&viewers), b"unharmed").await;
}
