//! WebTorrent clients over real sockets.

#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod operations;
mod rules;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use harness::{PATIENCE, Tracker, limits, start};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error as WsError, Message, client::IntoClientRequest, protocol::frame::coding::CloseCode,
    },
};
use tracker::{
    Config, LimitsConfig, PrivacyConfig, StunConfig, TokensConfig, WebTorrentConfig,
    tokens::{self, KeyKind},
};

const HASH: &str = "ZHBTleY378bqpgBu7IvG";
const SDP: &str = "v=0\r\no=- 4611 2 IN IP4 127.0.0.1\r\ns=-\r\n";

fn config() -> Config {
    Config {
        // Tests stand for viewers at many addresses.
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        limits: limits(),
        stun: StunConfig {
            listen: None,
            ..StunConfig::default()
        },
        ..Config::default()
    }
}

fn with(webtorrent: WebTorrentConfig) -> Config {
    Config {
        webtorrent,
        ..config()
    }
}

impl Tracker {
    async fn connect(&self) -> Client {
        self.connect_at("/announce", "198.51.100.1").await.unwrap()
    }

    /// A client whose address is `from`.
    async fn connect_from(&self, from: &str) -> Client {
        self.connect_at("/announce", from).await.unwrap()
    }

    async fn connect_at(&self, path: &str, from: &str) -> Result<Client, WsError> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("X-Forwarded-For", from.parse().unwrap());
        let (socket, response) = connect_async(request).await?;
        assert!(!response.headers().contains_key("Sec-WebSocket-Extensions"));
        Ok(Client { socket })
    }

    /// A client that has announced itself under `peer`, and heard the reply.
    async fn announced(&self, peer: &str) -> Client {
        let mut client = self.connect().await;
        client.send(&announce(peer, &[])).await;
        assert_eq!(client.next().await["info_hash"], HASH);
        client
    }
}

/// A peer id of the right length.
fn peer(name: &str) -> String {
    format!("-PM0203-{name:0>12}")
}

fn announce(name: &str, offers: &[&str]) -> Value {
    let offer = |id: &&str| json!({"offer": {"type": "offer", "sdp": SDP}, "offer_id": id});
    json!({
        "numwant": offers.len(), "uploaded": 0, "downloaded": 0, "event": "started",
        "action": "announce", "info_hash": HASH, "peer_id": peer(name),
        "offers": offers.iter().map(offer).collect::<Vec<_>>(),
    })
}

fn answer(name: &str, to: &str, offer: &str) -> Value {
    json!({
        "action": "announce", "info_hash": HASH, "peer_id": peer(name), "to_peer_id": peer(to),
        "answer": {"type": "answer", "sdp": SDP}, "offer_id": offer,
    })
}

fn scrape() -> Value {
    json!({"action": "scrape", "info_hash": HASH})
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    async fn send(&mut self, message: &Value) {
        self.send_text(message.to_string()).await;
    }

    async fn send_text(&mut self, text: String) {
        self.socket.send(Message::Text(text.into())).await.unwrap();
    }

    /// The next message; the code where the connection is closed instead.
    async fn hear(&mut self) -> Result<Value, Option<CloseCode>> {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await;
            match next.expect("an answer") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Binary(_))) => panic!("clients take text frames only"),
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code)),
                Some(Err(_)) | None => return Err(None),
                Some(Ok(_)) => {}
            }
        }
    }

    async fn next(&mut self) -> Value {
        self.hear().await.expect("a message")
    }

    async fn expect_close(&mut self, code: CloseCode) {
        loop {
            match self.hear().await {
                Ok(_) => {}
                Err(heard) => return assert_eq!(heard, Some(code)),
            }
        }
    }

    async fn expect_offer(&mut self, from: &str, offer: &str) {
        let heard = self.next().await;
        let expected = json!({
            "action": "announce", "info_hash": HASH, "peer_id": peer(from), "offer_id": offer,
            "offer": {"type": "offer", "sdp": SDP},
        });
        assert_eq!(heard, expected);
    }

    /// Hears nothing before the reply to a question of its own.
    async fn expect_silence(&mut self) {
        self.send(&scrape()).await;
        let heard = self.next().await;
        assert_eq!(heard["action"], "scrape", "{heard}");
    }
}
