//! Source, origin-proxy and tracker of the demo.

use std::net::SocketAddr;
use std::sync::{Mutex as StdMutex, PoisonError};

use live_source::{HLS_PATH, Input, LiveSource};
use origin_proxy::StreamConfig;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Args;
use crate::Failure;

type Running<T> = (JoinHandle<T>, CancellationToken);

/// Everything but the viewers.
pub(super) struct Stage {
    proxy_addr: SocketAddr,
    public_key: String,
    tracker_addr: SocketAddr,
    tracker_config: tracker::Config,
    /// None while the tracker is stopped.
    tracker: Mutex<Option<Running<()>>>,
    stop: CancellationToken,
    servers: StdMutex<Vec<JoinHandle<()>>>,
    /// The first failure of source or proxy.
    failures: Mutex<tokio::sync::mpsc::Receiver<Failure>>,
}

impl Stage {
    pub(super) async fn start(args: &Args) -> Result<Self, Failure> {
        let (stop, (failed, failures)) = (CancellationToken::new(), tokio::sync::mpsc::channel(2));
        let input = args.file.clone().map_or(Input::Clip, Input::File);
        let segment_ms = args.segment_s.saturating_mul(1000);
        let source = live_source::Config {
            input,
            segment_ms,
            ..live_source::Config::default()
        };
        let source = LiveSource::new(source)?;
        let (source_listener, source_addr) =
            free_port(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let any_port = SocketAddr::new(args.listen.ip(), 0);
        let (proxy_listener, proxy_addr) = free_port(any_port).await?;
        let (tracker_listener, tracker_addr) = free_port(any_port).await?;
        let (secret, public_key) = origin_proxy::keygen()?;
        let proxy = proxy_config(source_addr, secret);
        let stopped = || stop.clone().cancelled_owned();
        let (source_stop, proxy_stop) = (stopped(), stopped());
        let source_failed = failed.clone();
        let servers = vec![
            tokio::spawn(async move {
                if let Err(error) = source.run(source_listener, source_stop).await {
                    let _ = source_failed.try_send(error.into());
                }
            }),
            tokio::spawn(async move {
                if let Err(error) = origin_proxy::run(proxy_listener, proxy, proxy_stop).await {
                    let _ = failed.try_send(error.into());
                }
            }),
        ];
        let stage = Self {
            proxy_addr,
            public_key,
            tracker_addr,
            tracker_config: tracker_config(tracker_addr)?,
            tracker: Mutex::new(None),
            stop,
            servers: StdMutex::new(servers),
            failures: Mutex::new(failures),
        };
        stage.run_tracker(tracker_listener).await;
        Ok(stage)
    }

    pub(super) fn stream_url(&self) -> String {
        format!("http://{}{HLS_PATH}", reachable(self.proxy_addr))
    }

    pub(super) fn tracker_url(&self) -> String {
        format!("ws://{}/", self.tracker_addr())
    }

    pub(super) fn proxy_port(&self) -> u16 {
        self.proxy_addr.port()
    }

    /// The key that the stream's records are signed with, for viewers.
    pub(super) fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Where programs on this machine reach the tracker.
    pub(super) fn tracker_addr(&self) -> SocketAddr {
        reachable(self.tracker_addr)
    }

    /// The settings of this demo's native viewers.
    pub(super) fn viewer_config(&self) -> peer_agent::Config {
        peer_agent::Config {
            stream: self.stream_url(),
            tracker: self.tracker_url(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            bind_ips: vec![reachable(self.tracker_addr).ip()],
            ..peer_agent::Config::default()
        }
    }

    pub(super) async fn tracker_is_up(&self) -> bool {
        self.tracker
            .lock()
            .await
            .as_ref()
            .is_some_and(|(task, _)| !task.is_finished())
    }

    /// Ends the tracker as a crash would: without goodbyes. Nothing happens if it does not run.
    pub(super) async fn kill_tracker(&self) {
        if let Some((task, _)) = self.tracker.lock().await.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Starts the tracker again, at its address and without any memory.
    pub(super) async fn restart_tracker(&self) -> Result<(), Failure> {
        if self.tracker_is_up().await {
            return Ok(());
        }
        let failed = |error| Failure::listen(self.tracker_addr, &error);
        let listener = TcpListener::bind(self.tracker_addr).await.map_err(failed)?;
        self.run_tracker(listener).await;
        Ok(())
    }

    /// Resolves when the stream cannot go on.
    pub(super) async fn broken(&self) -> Failure {
        match self.failures.lock().await.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn stop(&self) {
        self.stop.cancel();
        if let Some((task, stop)) = self.tracker.lock().await.take() {
            stop.cancel();
            let _ = task.await;
        }
        let servers =
            std::mem::take(&mut *self.servers.lock().unwrap_or_else(PoisonError::into_inner));
        for server in servers {
            let _ = server.await;
        }
    }

    async fn run_tracker(&self, listener: TcpListener) {
        let (stop, config) = (CancellationToken::new(), self.tracker_config.clone());
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = tracker::run(listener, config, stopped).await {
                tracing::error!(%error, "the tracker has stopped");
            }
        });
        *self.tracker.lock().await = Some((task, stop));
    }
}

fn proxy_config(source: SocketAddr, secret: String) -> origin_proxy::Config {
    origin_proxy::Config {
        origin: format!("http://{source}/"),
        signing_key: Some(secret),
        streams: vec![StreamConfig {
            name: "demo".into(),
            prefix: live_source::BASE_PATH.into(),
        }],
        ..origin_proxy::Config::default()
    }
}

fn tracker_config(addr: SocketAddr) -> Result<tracker::Config, Failure> {
    // Viewers prove their names with it to a restarted tracker.
    let (name_key, _) = origin_proxy::keygen()?;
    let mut config = tracker::Config {
        public_api: true,
        fake_networks: true,
        name_key: Some(name_key),
        ..tracker::Config::default()
    };
    config.stun.listen = Some(SocketAddr::new(addr.ip(), 0));
    // A demo's audience is small, and someone is looking at it.
    config.swarm.status_interval_ms = 2_000;
    // Enough for whole groups to be linked, so that tabs opened late find neighbours with room.
    config.swarm.links_target = 14;
    // What fits into the files that a process may open on most systems, 1024.
    config.limits.connections_max = 512;
    config.limits.requests_max = 256;
    Ok(config)
}

async fn free_port(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error| Failure::listen(addr, &error);
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((listener, addr))
}

/// An address to connect to, for one to listen on.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    addr
}
