//! A stream that has an owner for each region.

use std::collections::BTreeSet;

use super::*;
use tracker::{ClusterConfig, NetworkConfig};

const COUNTRIES: [&str; 9] = ["DE", "FR", "NL", "PL", "US", "BR", "IN", "JP", "ZA"];

/// Nine countries, and streams that are large with nine viewers.
fn split_config(nats: &Nats) -> Config {
    let networks = COUNTRIES
        .iter()
        .enumerate()
        .map(|(n, country)| NetworkConfig {
            cidrs: vec![format!("10.{n}.0.0/16").parse().unwrap()],
            country: Some((*country).into()),
            ..NetworkConfig::default()
        });
    let base = node_config(nats);
    Config {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        networks: networks.collect(),
        cluster: ClusterConfig {
            split_above: 8,
            ..base.cluster.clone()
        },
        ..base
    }
}

/// Of each country one viewer at each node, and its address.
async fn one_of_each(nodes: &[Node], countries: usize) -> Vec<(Roamer, String)> {
    let mut viewers = Vec::new();
    for n in 0..countries {
        for (host, node) in nodes.iter().enumerate() {
            let address = format!("10.{n}.0.{host}");
            let headers = [("x-forwarded-for", address.as_str())];
            viewers.push((Roamer::join_from(node, None, &headers).await, address));
        }
    }
    viewers
}

/// Waits until several nodes run the stream, and each sees all viewers.
async fn all_see_it_split(nodes: &[Node], countries: usize) {
    eventually("several owners", async || {
        let mut owners = 0;
        for node in nodes {
            owners += usize::from(node.metric("viewers").await > 0);
        }
        owners > 1
    })
    .await;
    for node in nodes {
        eventually("all viewers are seen", async || {
            let stream = node.api(&format!("/api/streams/{STREAM}")).await;
            stream["viewers"] == 3 * countries
                && stream["countries"].as_array().unwrap().len() == countries
        })
        .await;
    }
}

async fn neighbours_signal(viewers: &[(Roamer, String)], text: &[u8]) {
    for of_country in viewers.chunks(3) {
        let of_country: Vec<&Roamer> = of_country.iter().map(|(viewer, _)| viewer).collect();
        all_signal(&of_country, text).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_stream_is_split_by_region_and_seen_whole() {
    let nats = Nats::start().await;
    let nodes = start_nodes(&split_config(&nats), 3).await;
    let viewers = one_of_each(&nodes, 6).await;
    all_see_it_split(&nodes, 6).await;
    neighbours_signal(&viewers, b"neighbours").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_stream_stays_split_while_nodes_come_and_go() {
    let nats = Nats::start().await;
    let config = split_config(&nats);
    let mut nodes = start_nodes(&config, 3).await;
    let mut viewers = one_of_each(&nodes, COUNTRIES.len()).await;
    all_see_it_split(&nodes, COUNTRIES.len()).await;
    let mut hellos = Hellos::listen(&nats).await;
    let mut knowing = BTreeSet::new();
    while knowing.len() < 3 {
        let hello = hellos.next().await;
        if hello.splits == [STREAM] {
            knowing.insert(hello.node);
        }
    }
    for _ in 0..3 {
        let leaving = nodes.remove(0);
        leaving.stop().await;
        for (viewer, address) in &mut viewers {
            if viewer.heard().closed {
                let headers = [("x-forwarded-for", address.as_str())];
                viewer.move_from(&nodes[0], &headers).await;
            }
        }
        nodes.push(Node::start(config.clone()));
        all_meet(&nodes, 3).await;
        all_see_it_split(&nodes, COUNTRIES.len()).await;
        let newcomer = nodes[2].own_id().await;
        // Whoever has once said that it is split says so for good.
        while !knowing.contains(&newcomer) {
            let hello = hellos.next().await;
            if hello.splits == [STREAM] {
                knowing.insert(hello.node);
            } else {
                assert!(!knowing.contains(&hello.node), "joined again");
            }
        }
    }
    for hello in hellos.drain().await {
        assert_eq!(hello.splits, [STREAM], "joined again");
    }
}
