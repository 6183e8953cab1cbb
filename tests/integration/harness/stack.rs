//! The servers.

use std::net::{Ipv4Addr, SocketAddr};

use live_source::LiveSource;
use peer_agent::Config as AgentConfig;
use tokio::{net::TcpListener, sync::oneshot};

use crate::part::{Part, listen, listen_again};

/// The tracker's admin token.
const ADMIN_TOKEN: &str = "for tests";

/// What a stack is to be like.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Length of segments in milliseconds.
    pub segment_ms: u64,
    /// Filler in each video segment, in bytes: raises the bitrate.
    pub padding_bytes: usize,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            segment_ms: 2000,
            padding_bytes: 150_000,
        }
    }
}

/// Source, proxy and tracker, running.
#[derive(Debug)]
pub struct Stack {
    /// The source's fault switches.
    pub faults: live_source::Faults,
    /// The source's counters: what the origin was asked for.
    pub origin_stats: live_source::Stats,
    source: Part,
    proxy: Option<Part>,
    tracker: Option<Part>,
    proxy_addr: SocketAddr,
    tracker_addr: SocketAddr,
    secret: String,
    key: String,
}

impl Stack {
    /// Starts all three.
    pub async fn start(options: StackOptions) -> Self {
        let config = live_source::Config {
            segment_ms: options.segment_ms,
            padding_bytes: options.padding_bytes,
            ..live_source::Config::default()
        };
        let live = LiveSource::new(config).expect("the clip can be published");
        let (faults, origin_stats) = (live.faults(), live.stats());
        let source = Part::start(listen().await, |listener, stopped| async move {
            let stopped = async { _ = stopped.await };
            live.run(listener, stopped)
                .await
                .expect("the clip never fails");
        });
        let (secret, key) = origin_proxy::keygen().expect("the system has randomness");
        let proxy = start_proxy(listen().await, source.addr, &secret);
        let tracker = start_tracker(listen().await);
        Self {
            faults,
            origin_stats,
            proxy_addr: proxy.addr,
            tracker_addr: tracker.addr,
            source,
            proxy: Some(proxy),
            tracker: Some(tracker),
            secret,
            key,
        }
    }

    /// Where the HLS stream is, as viewers see it.
    pub fn hls_url(&self) -> String {
        format!("http://{}{}", self.proxy_addr, live_source::HLS_PATH)
    }

    /// Where the DASH stream is.
    pub fn dash_url(&self) -> String {
        format!("http://{}{}", self.proxy_addr, live_source::DASH_PATH)
    }

    /// The same object at the origin: no proxy between, no records.
    pub fn at_origin(&self, url: &str) -> String {
        let path = url.find("/live/").map_or("/", |start| &url[start..]);
        format!("http://{}{path}", self.source.addr)
    }

    /// The tracker's WebSocket.
    pub fn tracker_url(&self) -> String {
        format!("ws://{}/", self.tracker_addr)
    }

    /// The public key that records are signed with, in base64url.
    pub fn public_key(&self) -> &str {
        &self.key
    }

    /// What the tracker says at `path` of its API.
    pub async fn tracker_api(&self, path: &str) -> serde_json::Value {
        let url = format!("http://{}{path}", self.tracker_addr);
        let response = reqwest::get(&url).await.expect("the tracker answers");
        let text = response.text().await.expect("the answer is whole");
        serde_json::from_str(&text).expect("the answer is JSON")
    }

    /// Tells the tracker to send its viewers away over this time, or to end doing so.
    pub async fn drain_tracker(&self, over_ms: Option<u64>) {
        let url = format!("http://{}/api/drain", self.tracker_addr);
        let client = reqwest::Client::new();
        let request = match over_ms {
            Some(ms) => client.post(url).body(format!("{{\"over_ms\": {ms}}}")),
            None => client.delete(url),
        };
        let answer = request.bearer_auth(ADMIN_TOKEN).send().await;
        let answer = answer.expect("the tracker answers");
        assert_eq!(answer.status(), 200);
    }

    /// A viewer's settings: loopback only, and the stream's own key.
    pub fn agent_config(&self) -> AgentConfig {
        AgentConfig {
            stream: self.hls_url(),
            tracker: self.tracker_url(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            trust_cdn: true,
            bind_ips: vec![Ipv4Addr::LOCALHOST.into()],
            upload_bps_max: 20_000_000,
            ..AgentConfig::default()
        }
    }

    /// The tracker breaks down: all its connections are cut.
    pub fn kill_tracker(&mut self) {
        self.tracker.take().expect("it runs").kill();
    }

    /// The tracker comes back where it was, with nothing in its memory.
    pub async fn restart_tracker(&mut self) {
        if let Some(tracker) = self.tracker.take() {
            tracker.stop().await;
        }
        self.tracker = Some(start_tracker(listen_again(self.tracker_addr).await));
    }

    /// The proxy is stopped and comes back with an empty cache.
    pub async fn restart_proxy(&mut self) {
        self.proxy.take().expect("it runs").stop().await;
        let listener = listen_again(self.proxy_addr).await;
        self.proxy = Some(start_proxy(listener, self.source.addr, &self.secret));
    }

    /// Stops everything.
    pub async fn stop(self) {
        for part in [self.tracker, self.proxy, Some(self.source)]
            .into_iter()
            .flatten()
        {
            part.stop().await;
        }
    }
}

fn start_proxy(listener: TcpListener, origin: SocketAddr, secret: &str) -> Part {
    let config = origin_proxy::Config {
        origin: format!("http://{origin}"),
        signing_key: Some(secret.to_owned()),
        streams: vec![origin_proxy::StreamConfig {
            name: "main".into(),
            prefix: live_source::BASE_PATH.into(),
        }],
        ..origin_proxy::Config::default()
    };
    Part::start(
        listener,
        |listener, stopped: oneshot::Receiver<()>| async move {
            let stopped = async { _ = stopped.await };
            origin_proxy::run(listener, config, stopped)
                .await
                .expect("the proxy runs");
        },
    )
}

fn start_tracker(listener: TcpListener) -> Part {
    let config = tracker::Config {
        public_api: true,
        admin_token: Some(ADMIN_TOKEN.into()),
        fake_networks: true,
        stun: tracker::StunConfig {
            listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
            ..tracker::StunConfig::default()
        },
        ..tracker::Config::default()
    };
    Part::start(
        listener,
        |listener, stopped: oneshot::Receiver<()>| async move {
            let stopped = async { _ = stopped.await };
            tracker::run(listener, config, stopped)
                .await
                .expect("the tracker runs");
        },
    )
}
