//! A client of HTTP/2 that sends whatever it is told to (RFC 9113).

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

pub(crate) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const INITIAL_WINDOW_SIZE: u8 = 4;
/// `:status: 200` in an answer's head (RFC 7541 appendix A).
const OK: u8 = 0x88;

const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Raw2(TcpStream);

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was answered with 200.
    Ok,
    /// It was answered with something else.
    Otherwise,
    /// Its stream or the connection was given up.
    Cut,
}

impl Raw2 {
    /// Connects, and lets the other side send so many bytes on each stream.
    pub(crate) async fn connect(address: SocketAddr, window: u32) -> Self {
        let mut raw = Self(TcpStream::connect(address).await.unwrap());
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        raw.0.write_all(preface).await.unwrap();
        let window = [&[0, INITIAL_WINDOW_SIZE][..], &window.to_be_bytes()].concat();
        raw.send(SETTINGS, 0, 0, &window).await;
        raw
    }

    /// The other side may well have hung up.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        let _ = self.0.write_all(&[&head, payload].concat()).await;
    }

    /// Sends a head as it is; `flags` besides the end of it.
    pub(crate) async fn ask(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literals that nobody is to remember (RFC 7541 section 6.2.2).
            block.push(0);
            for text in [name, value] {
                let len = u8::try_from(text.len()).unwrap();
                assert!(len < 127, "one byte of length");
                block.push(len);
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.send(HEADERS, flags | END_HEADERS, stream, &block)
            .await;
    }

    pub(crate) async fn get(&mut self, stream: u32, path: &str) {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", path),
        ];
        self.ask(stream, END_STREAM, &fields).await;
    }

    /// The next frame, as its kind, stream and payload; none when the connection is over.
    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; len as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some((head[3], head[4], stream, payload))
        };
        let (kind, flags, stream, payload) = tokio::time::timeout(LONG, read).await.unwrap()?;
        if kind == PING && flags & ACK == 0 {
            self.send(PING, ACK, 0, &payload).await;
        }
        Some((kind, stream, payload))
    }

    /// Waits for the head of the answer to `stream`.
    pub(crate) async fn answer(&mut self, stream: u32) -> End {
        while let Some((kind, on, payload)) = self.next().await {
            match kind {
                HEADERS if on == stream && payload.first() == Some(&OK) => return End::Ok,
                HEADERS if on == stream => return End::Otherwise,
                RST_STREAM if on == stream => return End::Cut,
                GOAWAY if payload[4..8] != [0; 4] => return End::Cut,
                _ => {}
            }
        }
        End::Cut
    }

    /// Waits until the other side hangs up.
    pub(crate) async fn end(mut self) {
        while self.next().await.is_some() {}
    }
}
