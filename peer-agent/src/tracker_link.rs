//! One WebSocket to the tracker. When to try again is the core's business: a link ends for good.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use swarm_core::limits::TRACKER_FRAME_LEN_MAX;
use swarm_core::wire::SUBPROTOCOL;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use url::Url;

/// Messages that may wait to be sent.
const QUEUE_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// A tracker that is silent for this long is asked for a sign of life; for twice as long: gone.
const SILENCE: Duration = Duration::from_secs(20);

/// What a link reports, with the number that it was given.
#[derive(Debug)]
pub(crate) enum TrackerEvent {
    Up(u32),
    Frame(u32, Bytes),
    Down(u32),
}

/// The driver's end of a link. Dropping it closes the link.
#[derive(Debug)]
pub(crate) struct TrackerLink {
    pub(crate) number: u32,
    frames: mpsc::Sender<Bytes>,
}

#[derive(Debug, Error)]
enum LinkError {
    #[error("tracker or network: {0}")]
    WebSocket(#[from] Box<tungstenite::Error>),
    #[error("tracker did not answer in time")]
    Timeout,
    #[error("tracker does not speak {SUBPROTOCOL}")]
    Subprotocol,
    #[error("tracker sent a text message")]
    Text,
    #[error("tracker closed the connection")]
    Closed,
}

impl TrackerLink {
    /// Begins to connect. Reports `Up` at most once and `Down` at the end, unless it is dropped.
    pub(crate) fn open(url: Url, number: u32, events: mpsc::Sender<TrackerEvent>) -> Self {
        let (frames, queue) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(async move {
            match run(&url, number, queue, &events).await {
                Ok(()) => tracing::debug!("left the tracker"),
                Err(error) => {
                    tracing::debug!(%error, host = url.host_str(), "tracker link ended");
                    let _ = events.send(TrackerEvent::Down(number)).await;
                }
            }
        });
        Self { number, frames }
    }

    /// Queues a message; false if the link is over or does not keep up.
    pub(crate) fn send(&self, frame: Bytes) -> bool {
        self.frames.try_send(frame).is_ok()
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(url: &Url) -> Result<Socket, LinkError> {
    let mut request = url.as_str().into_client_request().map_err(Box::new)?;
    let protocol = HeaderValue::from_static(SUBPROTOCOL);
    request
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    let config = WebSocketConfig::default()
        .max_message_size(Some(TRACKER_FRAME_LEN_MAX))
        .max_frame_size(Some(TRACKER_FRAME_LEN_MAX));
    let connecting = connect_async_with_config(request, Some(config), true);
    let connected = timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| LinkError::Timeout)?;
    let (socket, response) = connected.map_err(Box::new)?;
    let named = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    if named.is_none_or(|named| named != SUBPROTOCOL) {
        return Err(LinkError::Subprotocol);
    }
    Ok(socket)
}

/// Ends well only when the driver has dropped its end.
async fn run(
    url: &Url,
    number: u32,
    mut queue: mpsc::Receiver<Bytes>,
    events: &mpsc::Sender<TrackerEvent>,
) -> Result<(), LinkError> {
    let socket = tokio::select! {
        socket = connect(url) => socket?,
        // Nothing is sent before `Up`, so this is the driver dropping its end.
        _ = queue.recv() => return Ok(()),
    };
    let (mut sink, mut stream) = socket.split();
    if events.send(TrackerEvent::Up(number)).await.is_err() {
        return Ok(());
    }
    let (mut heard, mut asked) = (Instant::now(), false);
    loop {
        let outgoing = tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => Message::Binary(frame),
                None => {
                    let _ = timeout(SEND_TIMEOUT, sink.close()).await;
                    return Ok(());
                }
            },
            message = stream.next() => {
                (heard, asked) = (Instant::now(), false);
                match message.ok_or(LinkError::Closed)?.map_err(Box::new)? {
                    Message::Binary(frame) => {
                        if events.send(TrackerEvent::Frame(number, frame)).await.is_err() {
                            return Ok(());
                        }
                    }
                    Message::Text(_) => return Err(LinkError::Text),
                    Message::Close(_) => return Err(LinkError::Closed),
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                }
                continue;
            }
            () = tokio::time::sleep_until(heard + if asked { 2 * SILENCE } else { SILENCE }) => {
                if asked {
                    return Err(LinkError::Timeout);
                }
                asked = true;
                Message::Ping(Bytes::new())
            }
        };
        let sent = timeout(SEND_TIMEOUT, sink.send(outgoing)).await;
        sent.map_err(|_| LinkError::Timeout)?.map_err(Box::new)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_hdr_async;
    use tungstenite::handshake::server::{ErrorResponse, Request, Response};

    async fn serve(listener: TcpListener, protocol: Option<&'static str>, reply: Message) {
        let (stream, _) = listener.accept().await.unwrap();
        #[allow(clippy::result_large_err)] // The signature is tungstenite's.
        let answer = move |_: &Request, mut response: Response| -> Result<_, ErrorResponse> {
            if let Some(protocol) = protocol {
                let value = HeaderValue::from_static(protocol);
                response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
            }
            Ok(response)
        };
        let Ok(mut socket) = accept_hdr_async(stream, answer).await else {
            return;
        };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() {
                let _ = socket.send(reply.clone()).await;
            }
        }
    }

    async fn start(
        protocol: Option<&'static str>,
        reply: Message,
    ) -> (TrackerLink, mpsc::Receiver<TrackerEvent>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, protocol, reply));
        let (events, received) = mpsc::channel(8);
        (
            TrackerLink::open(Url::parse(&url).unwrap(), 3, events),
            received,
        )
    }

    #[tokio::test]
    async fn frames_go_both_ways() {
        let reply = Message::Binary(Bytes::from_static(b"welcome"));
        let (link, mut events) = start(Some(SUBPROTOCOL), reply).await;
        assert!(matches!(events.recv().await, Some(TrackerEvent::Up(3))));
        assert!(link.send(Bytes::from_static(b"join")));
        match events.recv().await {
            Some(TrackerEvent::Frame(3, frame)) => assert_eq!(frame, "welcome"),
            other => panic!("{other:?}"),
        }
        drop(link);
        assert!(
            events.recv().await.is_none(),
            "a link that was dropped says nothing"
        );
    }

    #[tokio::test]
    async fn a_wrong_protocol_or_message_ends_the_link() {
        let (_link, mut events) = start(None, Message::text("x")).await;
        assert!(matches!(events.recv().await, Some(TrackerEvent::Down(3))));
        for reply in [
            Message::text("x"),
            Message::Binary(vec![0; TRACKER_FRAME_LEN_MAX + 1].into()),
            Message::Close(None),
        ] {
            let (link, mut events) = start(Some(SUBPROTOCOL), reply).await;
            assert!(matches!(events.recv().await, Some(TrackerEvent::Up(3))));
            assert!(link.send(Bytes::from_static(b"join")));
            assert!(matches!(events.recv().await, Some(TrackerEvent::Down(3))));
        }
    }

    #[tokio::test]
    async fn nobody_there_is_a_down() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        drop(listener);
        let (events, mut received) = mpsc::channel(8);
        let _link = TrackerLink::open(Url::parse(&url).unwrap(), 1, events);
        assert!(matches!(received.recv().await, Some(TrackerEvent::Down(1))));
    }
}
