//! Several nodes tell of streams as one would.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::webhooks::{SECRET, next, receiver},
    hellos::now_or_never,
    *,
};
use serde_json::Value;
use tokio::time::sleep;
use tracker::WebhooksConfig;

/// A stream without viewers for so long has ended.
const END_AFTER: Duration = Duration::from_secs(2);

/// What nodes ask each other.
struct Questions {
    nats: async_nats::Client,
    heard: async_nats::Subscriber,
}

impl Questions {
    async fn listen(nats: &Nats) -> Self {
        let nats = async_nats::connect(nats.url()).await.unwrap();
        let heard = nats.subscribe("shoal.api").await.unwrap();
        Self { nats, heard }
    }

    /// Waits until all nodes but the one that speaks have asked what was told by now, and have heard it:
    /// then they ask again.
    async fn until_all_know(&mut self, nodes: &[Node]) {
        self.nats.flush().await.unwrap();
        while now_or_never(self.heard.next()).is_some() {}
        let mut asked = BTreeMap::<u64, u32>::new();
        let heard = timeout(PATIENCE, async {
            while asked.values().filter(|times| **times > 1).count() < nodes.len() - 1 {
                let question = self.heard.next().await.unwrap().payload;
                let (from, question) = question.split_first_chunk().unwrap();
                if question == b"\"Told\"" {
                    *asked.entry(u64::from_be_bytes(*from)).or_default() += 1;
                }
            }
        });
        heard.await.expect("nodes ask each other");
    }
}

fn stream(number: u8) -> StreamId {
    StreamId([number; 16])
}

/// A viewer of a stream.
async fn watch(node: &Node, stream: StreamId, resume: Option<(PeerId, u64)>) -> Roamer {
    let joins = Join {
        stream,
        resume,
        ..join()
    };
    let viewer = Roamer::come(node, joins, &[]).await;
    eventually("a welcome", async || viewer.heard().name.is_some()).await;
    viewer
}

fn telling(nats: &Nats, url: String) -> Config {
    Config {
        webhooks: WebhooksConfig {
            urls: vec![url],
            secret: Some(SECRET.into()),
            end_after_ms: END_AFTER.as_millis() as u32,
            ..WebhooksConfig::default()
        },
        ..node_config(nats)
    }
}

/// What is told and of which stream.
fn what(event: &Value) -> (&str, &str) {
    let of = |key: &str| event[key].as_str().unwrap();
    (of("event"), of("stream"))
}

/// One with a lower number than all others: it speaks for all.
async fn node_that_is_to_speak(config: &Config, others: &[Node]) -> Node {
    let mut ids = Vec::new();
    for node in others {
        ids.push(node.own_id().await);
    }
    loop {
        let node = Node::start(config.clone());
        let id = node.own_id().await;
        if ids.iter().all(|other| id < *other) {
            return node;
        }
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_start_and_end_once_whichever_nodes_come_and_go() {
    let mut nats = Nats::start().await;
    let (url, mut requests) = receiver(&[204]).await;
    let config = telling(&nats, url);
    let mut questions = Questions::listen(&nats).await;
    let mut nodes = start_nodes(&config, 3).await;
    let mut viewers = vec![watch(&nodes[2], stream(3), None).await];
    let mut starts = Vec::new();
    let mut expect_start = async |number: u8| {
        let event = next(&mut requests).await.event();
        let name = stream(number).to_string();
        assert_eq!(what(&event), ("stream.start", name.as_str()));
        starts.push(event);
    };
    expect_start(3).await;
    viewers[0].say(&ViewerMsg::Status(Status {
        track: TrackId(1),
        bytes_p2p: 300,
        ..Status::default()
    }));
    eventually("its bytes are counted", async || {
        nodes[0].api("/api/streams").await["streams"][0]["bytes_p2p"] == 300
    })
    .await;
    // The look that finds another stream has seen this one's sums.
    viewers.push(watch(&nodes[2], stream(4), None).await);
    expect_start(4).await;
    questions.until_all_know(&nodes).await;
    for _ in 0..3 {
        nodes.remove(0).stop().await;
        for (viewer, number) in viewers.iter_mut().zip(3..) {
            if viewer.heard().closed {
                let name = viewer.heard().name;
                *viewer = watch(&nodes[0], stream(number), name).await;
            }
        }
        nodes.push(Node::start(config.clone()));
        all_meet(&nodes, 3).await;
        questions.until_all_know(&nodes).await;
    }
    nodes.push(node_that_is_to_speak(&config, &nodes).await);
    all_meet(&nodes, 4).await;
    viewers.push(watch(&nodes[2], stream(5), None).await);
    expect_start(5).await;
    questions.until_all_know(&nodes).await;
    // Nodes that hear nothing of each other do not take what is watched elsewhere for ended.
    nats.kill();
    for node in &nodes {
        eventually("it is alone", async || {
            node.metric("cluster_nodes").await == 1
        })
        .await;
    }
    // Longer than what ends takes to do so: nothing else shows that it does not.
    sleep(END_AFTER * 2).await;
    viewers.push(watch(&nodes[1], stream(6), None).await);
    expect_start(6).await;
    nats.revive().await;
    all_meet(&nodes, 4).await;
    viewers.push(watch(&nodes[0], stream(7), None).await);
    expect_start(7).await;
    for viewer in &viewers {
        viewer.say(&ViewerMsg::Leave);
    }
    let mut ends = Vec::new();
    for _ in 0..5 {
        ends.push(next(&mut requests).await.event());
    }
    ends.sort_by_key(|end| what(end).1.to_owned());
    for (start, end) in starts.iter().zip(&ends) {
        assert_eq!(what(end), ("stream.end", what(start).1));
        assert_eq!(end["started_at_ms"], start["started_at_ms"]);
    }
    assert_eq!(ends[0]["bytes_p2p"], 300, "whoever counted them");
    assert!(requests.try_recv().is_err());
}
