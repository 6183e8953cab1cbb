//! WebTorrent clients over real sockets.

mod hostile;
mod rules;

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error as WsError, Message, client::IntoClientRequest, protocol::frame::coding::CloseCode,
    },
};
use tracker::{Config, Error, LimitsConfig, StunConfig, WebTorrentConfig};

/// Nothing takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const HASH: &str = "ZHBTleY378bqpgBu7IvG";
const SDP: &str = "v=0\r\no=- 4611 2 IN IP4 127.0.0.1\r\ns=-\r\n";

struct Tracker {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

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

/// Connections that tests leave open are not waited for.
fn limits() -> LimitsConfig {
    LimitsConfig {
        drain_ms: 300,
        ..LimitsConfig::default()
    }
}

fn with(webtorrent: WebTorrentConfig) -> Config {
    Config {
        webtorrent,
        ..config()
    }
}

async fn start(config: Config) -> Tracker {
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
    async fn stop(mut self) {
        drop(self.stop.take());
        let ended = timeout(PATIENCE, self.task).await.expect("stops in time");
        ended.unwrap().unwrap();
    }

    async fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let name = format!("shoal_tracker_{name} ");
        let line = answer.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("the metric is there").parse().unwrap()
    }

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
