//! Trackers with settings of a test's own, beside the stack's.

use std::net::Ipv4Addr;

use crate::part::{Part, listen};

const ADMIN_TOKEN: &str = "for tests";

/// A running tracker.
#[derive(Debug)]
pub struct OwnTracker {
    part: Part,
}

impl OwnTracker {
    /// Starts a tracker on a free port, with an API for all and STUN on loopback.
    pub async fn start(config: tracker::Config) -> Self {
        let config = tracker::Config {
            public_api: true,
            admin_token: Some(ADMIN_TOKEN.into()),
            stun: tracker::StunConfig {
                listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
                ..tracker::StunConfig::default()
            },
            ..config
        };
        let part = Part::start(listen().await, |listener, stopped| async move {
            let stopped = async { _ = stopped.await };
            tracker::run(listener, config, stopped)
                .await
                .expect("the tracker runs");
        });
        Self { part }
    }

    /// Its WebSocket.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.part.addr)
    }

    /// Sends its viewers away over this time.
    pub async fn drain(&self, over_ms: u64) {
        let url = format!("http://{}/api/drain", self.part.addr);
        let client = reqwest::Client::new();
        let request = client
            .post(url)
            .body(format!("{{\"over_ms\": {over_ms}}}"))
            .bearer_auth(ADMIN_TOKEN);
        let answer = request.send().await.expect("the tracker answers");
        assert_eq!(answer.status(), 200);
    }

    /// How many viewers are connected to it.
    pub async fn viewers(&self) -> u64 {
        let url = format!("http://{}/api/nodes", self.part.addr);
        let answer = reqwest::get(&url).await.expect("the tracker answers");
        let text = answer.text().await.expect("the answer is whole");
        let nodes: serde_json::Value = serde_json::from_str(&text).expect("the answer is JSON");
        nodes[0]["connections"].as_u64().expect("a count")
    }

    /// Stops it as an operator does.
    pub async fn stop(self) {
        self.part.stop().await;
    }
}
