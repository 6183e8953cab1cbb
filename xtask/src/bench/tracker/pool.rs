//! Many WebSocket connections to one server, from one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::servers::{NAME, Server};

/// Handshakes under way at the same time: fewer than a listener's queue.
const HANDSHAKES_MAX: usize = 100;
/// For all handshakes of [`Pool::open`].
const OPEN_TIME_MAX: Duration = Duration::from_secs(120);
const READ_LEN: usize = 256 * 1024;
const OPCODE_TEXT: u8 = 1;
const OPCODE_CLOSE: u8 = 8;
const OPCODE_PING: u8 = 9;
const OPCODE_PONG: u8 = 10;

/// What a server said on a connection.
pub(crate) type Heard<'a> = (usize, &'a [u8]);

/// Messages to send, by connection.
pub(crate) type Outbox = Vec<(usize, Vec<u8>)>;

pub(crate) struct Pool {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    head: String,
    /// Messages are text, not binary.
    text: bool,
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Box<[u8]>,
}

struct Connection {
    stream: Wire,
    open: bool,
    partial: Vec<u8>,
    unsent: Vec<u8>,
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Pool {
    /// `headers` go into the handshake, each with its line end.
    pub(crate) fn new(server: &Server, path: &str, headers: &str, text: bool) -> Result<Self> {
        let address = server.address;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Origin: http://localhost\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        Ok(Self {
            address,
            tls: server.tls.clone(),
            head,
            text,
            poll: Poll::new()?,
            connections: Vec::new(),
            buffer: vec![0; READ_LEN].into(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Opens connections until there are `count`.
    pub(crate) fn open(&mut self, count: usize) -> Result<()> {
        let until = Instant::now() + OPEN_TIME_MAX;
        let mut open = self.connections.iter().filter(|c| c.open).count();
        while open < count {
            ensure!(
                Instant::now() < until,
                "{open} of {count} connections within {OPEN_TIME_MAX:?}"
            );
            while self.len() < count && self.len() - open < HANDSHAKES_MAX {
                self.connect()?;
            }
            self.turn(Duration::from_millis(100), &mut |_, _| {})?;
            open = self.connections.iter().filter(|c| c.open).count();
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        let mut stream = TcpStream::connect(self.address).context("connect")?;
        let _ = stream.set_nodelay(true);
        let token = Token(self.connections.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, token, interest)?;
        let stream = match &self.tls {
            None => Wire::Plain(stream),
            Some(config) => {
                let tls = ClientConnection::new(Arc::clone(config), NAME.try_into()?)?;
                Wire::Tls(Box::new(StreamOwned::new(tls, stream)))
            }
        };
        self.connections.push(Connection {
            stream,
            open: false,
            partial: Vec::new(),
            unsent: self.head.clone().into_bytes(),
        });
        Ok(())
    }

    /// Waits for what the server says, and sends what `on` answers.
    pub(crate) fn turn(
        &mut self,
        wait: Duration,
        on: &mut dyn FnMut(Heard<'_>, &mut Outbox),
    ) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let mut outbox = Vec::new();
        for event in &events {
            let Token(number) = event.token();
            if event.is_writable() {
                self.connections[number].flush()?;
            }
            if event.is_readable() {
                self.read(number, on, &mut outbox)?;
                // What waited for a handshake.
                self.connections[number].flush()?;
            }
        }
        for (number, message) in outbox {
            self.send(number, &message)?;
        }
        Ok(())
    }

    /// Sends a message on a connection.
    pub(crate) fn send(&mut self, number: usize, message: &[u8]) -> Result<()> {
        let first = if self.text { 0x81 } else { 0x82 };
        self.connections[number].send(first, message)
    }

    fn read(
        &mut self,
        number: usize,
        on: &mut dyn FnMut(Heard<'_>, &mut Outbox),
        outbox: &mut Outbox,
    ) -> Result<()> {
        let connection = &mut self.connections[number];
        loop {
            let len = match connection.stream.read(&mut self.buffer) {
                Ok(0) => bail!("the server closed connection {number}"),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).with_context(|| format!("connection {number}")),
            };
            let bytes = &self.buffer[..len];
            if connection.partial.is_empty() {
                let used = connection.take(bytes, number, on, outbox)?;
                connection.partial = bytes[used..].to_vec();
            } else {
                let mut all = std::mem::take(&mut connection.partial);
                all.extend_from_slice(bytes);
                let used = connection.take(&all, number, on, outbox)?;
                connection.partial = all.split_off(used);
            }
        }
    }
}

impl Connection {
    /// Bytes that were whole.
    fn take(
        &mut self,
        bytes: &[u8],
        number: usize,
        on: &mut dyn FnMut(Heard<'_>, &mut Outbox),
        outbox: &mut Outbox,
    ) -> Result<usize> {
        let mut used = 0;
        if !self.open {
            let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
                return Ok(0);
            };
            ensure!(
                bytes.starts_with(b"HTTP/1.1 101"),
                "the server refuses connections"
            );
            self.open = true;
            used = end + 4;
        }
        while let Some((opcode, payload, len)) = frame(&bytes[used..]) {
            match opcode {
                OPCODE_PING => self.send(0x80 | OPCODE_PONG, payload)?,
                OPCODE_PONG => {}
                OPCODE_CLOSE => bail!("the server closes connection {number}: {payload:?}"),
                _ => on((number, payload), outbox),
            }
            used += len;
        }
        Ok(used)
    }

    fn send(&mut self, first: u8, message: &[u8]) -> Result<()> {
        let mut frame = Vec::with_capacity(message.len() + 14);
        frame.push(first);
        match message.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len @ 126..0x1_0000 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        // A mask of zeros is legal and saves this side's time; servers unmask all the same.
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(message);
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(&frame);
            return Ok(());
        }
        self.unsent = frame;
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(error) if is_for_later(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        match self.stream.flush() {
            Err(error) if !is_for_later(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected
    )
}

/// Opcode and payload of a server's frame, and its length in all.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let [first, second, rest @ ..] = bytes else {
        return None;
    };
    let (len, begin) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
        len => (u64::from(len), 2),
    };
    let end = begin + usize::try_from(len).ok()?;
    let payload = bytes.get(begin..end)?;
    // Nobody here fragments.
    let opcode = if first & 0x0f == 0 {
        OPCODE_TEXT
    } else {
        first & 0x0f
    };
    Some((opcode, payload, end))
}
