//! Viewers that are sent away do not come back by another node.

use super::{
    super::admission::{claims, issuer, with_tokens},
    swarms::trusting,
    *,
};
use tracker::tokens::Claims;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kicked_viewer_does_not_come_back_by_another_node() {
    let nats = Nats::start().await;
    let (folder, mint) = issuer();
    let config = Config {
        tokens: with_tokens(&folder).tokens,
        ..trusting(&nats)
    };
    let mut nodes = start_nodes(&config, 3).await;
    let token_of = |sub: &str| {
        mint(Claims {
            sub: Some(sub.into()),
            ..claims()
        })
    };
    let (anna, bert) = (token_of("anna"), token_of("bert"));
    // One address has them all.
    let home = [("x-forwarded-for", "198.51.100.1")];
    let come = async |node: &Node, token: &str| {
        let token = token.as_bytes();
        Roamer::come(node, Join { token, ..join() }, &home).await
    };
    let mut cleo = None;
    // At the node that runs the stream, and at another one.
    for (at, name) in [(0, "anna"), (1, "cleo"), (2, "dora")] {
        let token = token_of(name);
        let viewer = come(&nodes[at], &token).await;
        eventually("a welcome", async || viewer.heard().name.is_some()).await;
        if name == "cleo" {
            cleo = Some(viewer.name());
        }
        let path = format!("/api/viewers/{}/kick", viewer.name());
        assert_eq!(nodes[(at + 1) % 3].post(&path, "").await, 200);
        eventually("it is turned away", async || viewer.heard().closed).await;
        for node in &nodes {
            let again = come(node, &token).await;
            eventually("it is refused", async || again.heard().closed).await;
            assert!(again.heard().refused && again.heard().name.is_none());
        }
    }
    // Who shares nothing but the address comes in, at each node.
    for node in &nodes {
        let viewer = come(node, &bert).await;
        eventually("a welcome", async || viewer.heard().name.is_some()).await;
    }
    // One of them was sent away by mistake: any node lets her in again, and so do all.
    let lifted = format!("/api/viewers/{}/kick", cleo.expect("she was there"));
    assert_eq!(nodes[2].delete(&lifted).await, 200);
    for node in &nodes {
        let again = come(node, &token_of("cleo")).await;
        eventually("a welcome", async || again.heard().name.is_some()).await;
        assert_eq!(node.delete(&lifted).await, 404);
    }
    // Those that stay know it, whichever of them runs the stream then.
    nodes.remove(0).kill();
    all_meet(&nodes, 2).await;
    for node in &nodes {
        let again = come(node, &anna).await;
        eventually("it is refused", async || again.heard().closed).await;
        assert!(again.heard().refused && again.heard().name.is_none());
    }
    // So do those that come later, and those that hear of it from these alone.
    replace(&mut nodes, &config).await;
    for node in &nodes {
        comes_in_vain(async || come(node, &anna).await).await;
        for token in [&bert, &token_of("cleo")] {
            let viewer = come(node, token).await;
            eventually("a welcome", async || viewer.heard().name.is_some()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_were_apart_tell_each_other_whom_they_have_sent_away() {
    let mut nats = Nats::start().await;
    let nodes = start_nodes(&trusting(&nats), 2).await;
    nats.kill();
    for node in &nodes {
        eventually("it is alone", async || node.nodes().await == 1).await;
    }
    let homes = ["198.51.100.1", "198.51.100.2"].map(|home| [("x-forwarded-for", home)]);
    for (node, home) in nodes.iter().zip(&homes) {
        let viewer = Roamer::join_from(node, None, home).await;
        let path = format!("/api/viewers/{}/kick", viewer.name());
        assert_eq!(node.post(&path, "").await, 200);
        eventually("it is turned away", async || viewer.heard().closed).await;
    }
    nats.revive().await;
    all_meet(&nodes, 2).await;
    for node in &nodes {
        for home in &homes {
            comes_in_vain(async || Roamer::come(node, join(), home).await).await;
        }
    }
    Roamer::join_from(&nodes[0], None, &[("x-forwarded-for", "198.51.100.3")]).await;
}

/// Puts new nodes in the place of two, one after the other.
async fn replace(nodes: &mut Vec<Node>, config: &Config) {
    for _ in 0..2 {
        nodes.push(Node::start(config.clone()));
        all_meet(nodes, 3).await;
        nodes.remove(0).stop().await;
        all_meet(nodes, 2).await;
    }
}

/// A viewer tries until it is refused: what the node is told of it may be on its way.
async fn comes_in_vain(come: impl AsyncFn() -> Roamer) {
    eventually("it is refused", async || {
        let again = come().await;
        eventually("an answer", async || {
            again.heard().closed || again.heard().name.is_some()
        })
        .await;
        again.heard().refused && again.heard().name.is_none()
    })
    .await;
}
