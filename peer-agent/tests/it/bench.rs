//! A live source and an agent before it.

use std::net::SocketAddr;

use live_source::{Faults, LiveSource, Stats};
use peer_agent::{Agent, Config};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A live origin on this machine; it stops when dropped.
pub(crate) struct Source {
    pub(crate) addr: SocketAddr,
    pub(crate) faults: Faults,
    pub(crate) stats: Stats,
    task: JoinHandle<()>,
}

impl Source {
    pub(crate) async fn start() -> Self {
        Self::with(live_source::Config::default()).await
    }

    pub(crate) async fn with(config: live_source::Config) -> Self {
        let source = LiveSource::new(config).unwrap();
        let (faults, stats) = (source.faults(), source.stats());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            source.run(listener, std::future::pending()).await.unwrap();
        });
        Self {
            addr,
            faults,
            stats,
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An agent for the HLS stream of `source`, without a tracker.
pub(crate) async fn agent(source: &Source) -> Agent {
    Agent::start(config(source)).await.unwrap()
}

pub(crate) fn config(source: &Source) -> Config {
    Config {
        stream: source.url(live_source::HLS_PATH),
        listen: ([127, 0, 0, 1], 0).into(),
        bind_ips: vec![[127, 0, 0, 1].into()],
        ..Config::default()
    }
}

/// Whoever builds an HTTP client needs a TLS provider, TLS or not.
pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}
