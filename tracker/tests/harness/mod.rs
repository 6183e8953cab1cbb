//! A tracker that runs for one test, whichever protocol the test speaks.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tracker::{Config, Error, LimitsConfig};

/// Nothing takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Tracker {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<Result<(), Error>>,
}

/// Connections that tests leave open are not waited for.
pub(crate) fn limits() -> LimitsConfig {
    LimitsConfig {
        drain_ms: 300,
        ..LimitsConfig::default()
    }
}

pub(crate) async fn start(config: Config) -> Tracker {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let task = tokio::spawn(tracker::run(listener, config, shutdown));
    Tracker {
        address,
        stop: Some(stop),
        task,
    }
}

impl Tracker {
    /// Tells it to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let ended = timeout(PATIENCE, self.task).await.expect("stops in time");
        ended.unwrap().unwrap();
    }

    /// Status, head and body of a plain GET.
    pub(crate) async fn get(&self, path: &str, headers: &str) -> (u16, String, String) {
        self.exchange("GET", path, headers, "").await
    }

    pub(crate) async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, _, body) = self.get("/metrics", "").await;
        let name = format!("shoal_tracker_{name} ");
        let line = body.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("the metric is there").parse().unwrap()
    }
}
