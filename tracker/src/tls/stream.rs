//! One TLS connection that holds no buffers while nothing is under way.
//!
//! rustls' buffered connections keep some KiB each, for ever. Here records pass through one pair of
//! buffers for each thread; a connection keeps bytes only of a record that is not complete, of
//! plaintext that was not taken, and of ciphertext that the network did not take.

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Room for one record of the largest size (16 KiB and what TLS 1.2 adds), and the next one's start.
const INPUT_LEN: usize = 20 * 1024;
/// Most plaintext that is encrypted at once: one record.
const WRITE_LEN_MAX: usize = 16 * 1024;

thread_local! {
    static INPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; INPUT_LEN]);
    static OUTPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct TlsStream {
    tcp: TcpStream,
    tls: UnbufferedServerConnection,
    /// The start of a record that has not come completely.
    partial: Vec<u8>,
    /// Plaintext that waits for the reader, from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    /// Ciphertext that waits for the network.
    unsent: Vec<u8>,
    read_closed: bool,
    close_sent: bool,
}

/// How far the records at hand lead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// More must come from the viewer.
    Blocked,
    /// The handshake is done; nothing more to read for now.
    Ready,
    /// The viewer will send nothing more.
    Closed,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

impl TlsStream {
    /// Does the handshake; `early` is what was read of the connection already.
    pub(super) async fn accept(
        tcp: TcpStream,
        early: Vec<u8>,
        config: Arc<ServerConfig>,
    ) -> io::Result<Box<Self>> {
        let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = Box::new(Self {
            tcp,
            tls,
            partial: Vec::new(),
            plain: Vec::new(),
            plain_at: 0,
            unsent: Vec::new(),
            read_closed: false,
            close_sent: false,
        });
        let mut step = stream.take_in(&early)?;
        let mut step_on = |cx: &mut Context<'_>| -> Poll<io::Result<()>> {
            loop {
                ready!(stream.poll_send(cx))?;
                match step {
                    Step::Ready => return Poll::Ready(Ok(())),
                    Step::Closed => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Step::Blocked => step = ready!(stream.poll_fill(cx))?,
                }
            }
        };
        poll_fn(&mut step_on).await?;
        Ok(stream)
    }

    /// Reads once from the network and handles what came.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Step>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            let read = INPUT.with_borrow_mut(|input| {
                let held = self.partial.len();
                if held >= input.len() {
                    return Err(io::Error::other("TLS record over the limit"));
                }
                let len = self.tcp.try_read(&mut input[held..])?;
                if len == 0 {
                    return Ok(Step::Closed);
                }
                input[..held].copy_from_slice(&self.partial);
                self.partial = Vec::new();
                self.digest(&mut input[..held + len])
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(Step::Closed) => {
                    self.read_closed = true;
                    return Poll::Ready(Ok(Step::Closed));
                }
                other => return Poll::Ready(other),
            }
        }
    }

    /// Handles bytes that did not come through [`Self::poll_fill`].
    fn take_in(&mut self, bytes: &[u8]) -> io::Result<Step> {
        let mut bytes = bytes.to_vec();
        self.digest(&mut bytes)
    }

    /// Handles all complete records in `input` and keeps the rest.
    fn digest(&mut self, input: &mut [u8]) -> io::Result<Step> {
        let mut at = 0;
        loop {
            let UnbufferedStatus { discard, state } =
                self.tls.process_tls_records(&mut input[at..]);
            let step = match state {
                Err(error) => {
                    self.queue_alert();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        self.plain.extend_from_slice(record.payload);
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.unsent, |out| data.encode(out))?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Step::Blocked),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Step::Ready),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Step::Closed),
                // Early data is not offered.
                Ok(_) => return Err(io::Error::other("TLS state without use here")),
            };
            at += discard;
            if let Some(step) = step {
                self.partial = input[at..].to_vec();
                return Ok(step);
            }
        }
    }

    /// After an error: the alert that tells the viewer why, if there is one.
    fn queue_alert(&mut self) {
        while let Ok(ConnectionState::EncodeTlsData(mut data)) =
            self.tls.process_tls_records(&mut []).state
        {
            if append(&mut self.unsent, |out| data.encode(out)).is_err() {
                return;
            }
        }
        // Whether it arrives makes no difference.
        let _ = self.tcp.try_write(&self.unsent);
    }

    /// Hands what is encrypted to the network.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match self.tcp.try_write(&self.unsent) {
                Ok(len) if len == self.unsent.len() => self.unsent = Vec::new(),
                Ok(len) => {
                    self.unsent.drain(..len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts by `encrypt` into the thread's buffer and sends; keeps what the network refuses.
    fn encrypt(
        &mut self,
        mut encrypt: impl FnMut(
            &mut WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        OUTPUT.with_borrow_mut(|output| {
            let mut len = 0;
            loop {
                match self
                    .tls
                    .process_tls_records(&mut [])
                    .state
                    .map_err(io::Error::other)?
                {
                    ConnectionState::WriteTraffic(mut traffic) => {
                        len += sized(output, len, |out| encrypt(&mut traffic, out))?;
                        break;
                    }
                    ConnectionState::EncodeTlsData(mut data) => {
                        len += sized(output, len, |out| data.encode(out))?;
                    }
                    ConnectionState::TransmitTlsData(data) => data.done(),
                    ConnectionState::PeerClosed => {}
                    _ => return Err(io::ErrorKind::BrokenPipe.into()),
                }
            }
            let sent = match self.tcp.try_write(&output[..len]) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            self.unsent.extend_from_slice(&output[sent..len]);
            Ok(())
        })
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        while me.plain.is_empty() && !me.read_closed {
            if ready!(me.poll_fill(cx))? == Step::Closed {
                me.read_closed = true;
            }
            // A key update or the like may be waiting; the reader need not wait for it to go out.
            if let Poll::Ready(sent) = me.poll_send(cx) {
                sent?;
            }
        }
        let rest = &me.plain[me.plain_at..];
        let len = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..len]);
        me.plain_at += len;
        if me.plain_at == me.plain.len() {
            (me.plain, me.plain_at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        ready!(me.poll_send(cx))?;
        let len = bytes.len().min(WRITE_LEN_MAX);
        me.encrypt(|traffic, out| traffic.encrypt(&bytes[..len], out))?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if !me.close_sent {
            me.close_sent = true;
            // One that is broken already is closed all the same.
            let _ = me.encrypt(|traffic, out| traffic.queue_close_notify(out));
        }
        ready!(me.poll_send(cx))?;
        Pin::new(&mut me.tcp).poll_shutdown(cx)
    }
}

/// An error that may say how much room was missing.
trait Room {
    fn required(&self) -> Option<usize>;
}

impl Room for EncodeError {
    fn required(&self) -> Option<usize> {
        match self {
            Self::InsufficientSize(size) => Some(size.required_size),
            Self::AlreadyEncoded => None,
        }
    }
}

impl Room for EncryptError {
    fn required(&self) -> Option<usize> {
        match self {
            Self::InsufficientSize(size) => Some(size.required_size),
            Self::EncryptExhausted => None,
        }
    }
}

/// Has `write` write behind the first `len` bytes of `buffer`, which grows as needed.
fn sized<E: Room + fmt::Display>(
    buffer: &mut Vec<u8>,
    len: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> io::Result<usize> {
    let error = match write(&mut buffer[len..]) {
        Ok(written) => return Ok(written),
        Err(error) => error,
    };
    let Some(required) = error.required() else {
        return Err(io::Error::other(error.to_string()));
    };
    buffer.resize(len + required, 0);
    write(&mut buffer[len..]).map_err(|error| io::Error::other(error.to_string()))
}

/// Has `write` append to `buffer`.
fn append<E: Room + fmt::Display>(
    buffer: &mut Vec<u8>,
    write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> io::Result<()> {
    let len = buffer.len();
    let written = sized(buffer, len, write)?;
    buffer.truncate(len + written);
    Ok(())
}
