//! The tracker over real sockets.

mod abuse;
mod admission;
mod cluster;
mod entrance;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod http_api;
mod mmdb;
mod networks;
mod operations;
mod parsers;
mod privacy;
mod refusals;
mod tls;
mod viewers;
mod webhooks;

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use harness::{PATIENCE, Tracker, limits, start};
use swarm_core::{
    id::{PeerId, StreamId, TrackId},
    wire::{
        SUBPROTOCOL,
        tracker::{
            Introduction, Join, Nat, RefusalCode, Status, TrackerMsg, ViewerFlags, ViewerMsg,
        },
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Bytes, Message, client::IntoClientRequest, handshake::client::Request, http::HeaderValue,
    },
};
use tracker::{Config, LimitsConfig, StunConfig};

const STREAM: StreamId = StreamId([3; 16]);

/// A configuration for tests: loopback, and free ports.
fn config() -> Config {
    Config {
        public_api: true,
        limits: limits(),
        stun: StunConfig {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            ..StunConfig::default()
        },
        ..Config::default()
    }
}

impl Tracker {
    async fn mesh(&self) -> serde_json::Value {
        let (status, _, body) = self.get(&format!("/api/streams/{STREAM}/mesh"), "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn connect(&self) -> Viewer {
        self.connect_with(&[]).await.unwrap()
    }

    async fn connect_with(
        &self,
        headers: &[(&'static str, &str)],
    ) -> Result<Viewer, tokio_tungstenite::tungstenite::Error> {
        let (socket, _) = connect_async(self.request("/shoal", headers)?).await?;
        Ok(Viewer { socket })
    }

    async fn connect_at(
        &self,
        target: &str,
    ) -> Result<Viewer, tokio_tungstenite::tungstenite::Error> {
        let (socket, _) = connect_async(self.request(target, &[])?).await?;
        Ok(Viewer { socket })
    }

    fn request(
        &self,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Request, tokio_tungstenite::tungstenite::Error> {
        let mut request = format!("ws://{}{target}", self.address).into_client_request()?;
        let protocol = HeaderValue::from_static(SUBPROTOCOL);
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        Ok(request)
    }

    /// A viewer that has joined, and its name and secret.
    async fn join(&self) -> (Viewer, PeerId, u64) {
        let mut viewer = self.connect().await;
        let (peer, secret, _) = viewer.join(&join()).await;
        (viewer, peer, secret)
    }

    /// Two viewers that were introduced.
    async fn join_pair(&self) -> ((Viewer, PeerId), (Viewer, PeerId)) {
        let (mut a, a_name, _) = self.join().await;
        let (mut b, b_name, _) = self.join().await;
        assert_eq!(a.introduction().await.peer, b_name);
        assert_eq!(b.introduction().await.peer, a_name);
        ((a, a_name), (b, b_name))
    }
}

struct Viewer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

fn join() -> Join<'static> {
    Join {
        stream: STREAM,
        track: TrackId(1),
        flags: ViewerFlags::NATIVE,
        nat: Nat::Unknown,
        upload_kbps: 5_000,
        resume: None,
        token: b"",
    }
}

impl Viewer {
    async fn send(&mut self, message: &ViewerMsg<'_>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.socket
            .send(Message::Binary(bytes.into()))
            .await
            .unwrap();
    }

    /// The next binary message; `None` when the connection is closed.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match timeout(PATIENCE, self.socket.next())
                .await
                .expect("an answer")
            {
                Some(Ok(Message::Binary(bytes))) => return Some(bytes),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    async fn join(&mut self, join: &Join<'_>) -> (PeerId, u64, Vec<String>) {
        self.send(&ViewerMsg::Join(join.clone())).await;
        let mut bytes = self.next().await.expect("a welcome");
        if let Ok(TrackerMsg::Relays(_)) = TrackerMsg::decode(&bytes) {
            bytes = self.next().await.expect("a welcome behind the relays");
        }
        match TrackerMsg::decode(&bytes).unwrap() {
            TrackerMsg::Welcome(welcome) => {
                let stun = welcome.stun.iter().map(ToString::to_string).collect();
                (welcome.peer, welcome.secret, stun)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn introduction(&mut self) -> Introduction {
        let bytes = self.next().await.expect("an introduction");
        match TrackerMsg::decode(&bytes).unwrap() {
            TrackerMsg::Introduce(introduction) => introduction,
            other => panic!("{other:?}"),
        }
    }

    async fn status(&mut self, status: Status) {
        self.send(&ViewerMsg::Status(status)).await;
    }

    /// Reads until the refusal, then until the connection is closed.
    async fn expect_refusal(&mut self, expected: RefusalCode) {
        loop {
            let bytes = self.next().await.expect("a refusal before the end");
            if let TrackerMsg::Refused { code, text } = TrackerMsg::decode(&bytes).unwrap() {
                assert_eq!(code, expected, "{text}");
                assert!(!text.is_empty());
                break;
            }
        }
        assert_eq!(self.next().await, None, "closed after a refusal");
    }
}
