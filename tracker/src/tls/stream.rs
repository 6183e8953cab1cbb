//! One TLS connection that holds no buffers while nothing is under way.
//!
//! rustls' buffered connections keep some KiB each, for ever. Here records pass through one pair of
//! buffers for each thread; a connection keeps bytes only of a record that is not complete, of
//! plaintext that was not taken, and of ciphertext that the network did not take. Once the handshake
//! is done, it keeps of TLS 1.3 the keys alone (`records`).

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
    ProtocolVersion, ServerConfig,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::records::{Alert, Opened, PLAIN_LEN_MAX, Records};

/// Room for one record of the largest size (16 KiB and what TLS 1.2 adds), and the next one's start.
const INPUT_LEN: usize = 20 * 1024;

thread_local! {
    static INPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; INPUT_LEN]);
    static OUTPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct TlsStream {
    tcp: TcpStream,
    tls: Tls,
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

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large one, and in a box already"
)]
enum Tls {
    /// The handshake, and all of TLS 1.2.
    Whole(Box<UnbufferedServerConnection>),
    /// What comes after the handshake of TLS 1.3.
    Records(Records),
    /// It broke.
    Broken,
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
        let tls = Tls::Whole(Box::new(tls));
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
        stream.slim()?;
        Ok(stream)
    }

    /// Lets go of what only the handshake needed.
    fn slim(&mut self) -> io::Result<()> {
        self.tls = match std::mem::replace(&mut self.tls, Tls::Broken) {
            Tls::Whole(tls) if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) => {
                let handed_over = tls.dangerous_into_kernel_connection();
                let (secrets, kernel) = handed_over.map_err(io::Error::other)?;
                Tls::Records(Records::new(secrets, kernel))
            }
            other => other,
        };
        Ok(())
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
                    // Nobody has said that this is the end: somebody may have cut it here.
                    return Err(io::ErrorKind::UnexpectedEof.into());
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
        if !matches!(self.tls, Tls::Records(_)) {
            return self.digest_whole(input);
        }
        let mut at = 0;
        while let Tls::Records(records) = &mut self.tls {
            match records.open(&mut input[at..], &mut self.plain) {
                Ok(Opened::Taken(len)) => at += len,
                Ok(Opened::Partial) => break,
                Ok(Opened::Closed) => return Ok(Step::Closed),
                Err(alert) => return Err(self.fail(alert)),
            }
        }
        self.partial = input[at..].to_vec();
        Ok(Step::Ready)
    }

    fn digest_whole(&mut self, input: &mut [u8]) -> io::Result<Step> {
        let mut at = 0;
        loop {
            let Tls::Whole(tls) = &mut self.tls else {
                return Err(io::ErrorKind::BrokenPipe.into());
            };
            let UnbufferedStatus { discard, state } = tls.process_tls_records(&mut input[at..]);
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

    /// Tells the viewer why its connection ends; it says and hears nothing behind that.
    fn fail(&mut self, alert: Alert) -> io::Error {
        if let Tls::Records(mut records) = std::mem::replace(&mut self.tls, Tls::Broken)
            && records.seal_alert(alert, &mut self.unsent).is_ok()
        {
            self.send_last();
        }
        io::Error::new(io::ErrorKind::InvalidData, alert)
    }

    /// After an error: the alert that tells the viewer why, if there is one.
    fn queue_alert(&mut self) {
        let Tls::Whole(tls) = &mut self.tls else {
            return;
        };
        while let Ok(ConnectionState::EncodeTlsData(mut data)) =
            tls.process_tls_records(&mut []).state
        {
            if append(&mut self.unsent, |out| data.encode(out)).is_err() {
                return;
            }
        }
        self.send_last();
    }

    /// Hands over what is left to say. Whether it arrives makes no difference.
    fn send_last(&mut self) {
        let _ = self.tcp.try_write(&std::mem::take(&mut self.unsent));
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

    /// Encrypts into the thread's buffer and sends; keeps what the network refuses.
    fn encrypt(&mut self, what: Sent<'_>) -> io::Result<()> {
        OUTPUT.with_borrow_mut(|output| {
            let len = match &mut self.tls {
                Tls::Records(records) => {
                    output.clear();
                    let sealed = match what {
                        Sent::Data(data) => records.seal(data, output),
                        Sent::Close => records.seal_close(output),
                    };
                    sealed.map_err(io::Error::other)?;
                    output.len()
                }
                Tls::Whole(tls) => encrypt_whole(tls, &what, output)?,
                Tls::Broken => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            // Not before what waits already.
            let sent = match self
                .unsent
                .is_empty()
                .then(|| self.tcp.try_write(&output[..len]))
            {
                Some(Ok(sent)) => sent,
                Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Some(Err(_)) | None => 0,
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
            // Something may be waiting; the reader need not wait for it to go out.
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
        let len = bytes.len().min(PLAIN_LEN_MAX);
        me.encrypt(Sent::Data(&bytes[..len]))?;
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
            let _ = me.encrypt(Sent::Close);
        }
        ready!(me.poll_send(cx))?;
        Pin::new(&mut me.tcp).poll_shutdown(cx)
    }
}

/// What is to be encrypted.
enum Sent<'a> {
    Data(&'a [u8]),
    /// Nothing more comes.
    Close,
}

/// As rustls does it. How long `output` is then; what lies behind that is old.
fn encrypt_whole(
    tls: &mut UnbufferedServerConnection,
    what: &Sent<'_>,
    output: &mut Vec<u8>,
) -> io::Result<usize> {
    let write = |traffic: &mut WriteTraffic<'_, ServerConnectionData>, out: &mut [u8]| match what {
        Sent::Data(data) => traffic.encrypt(data, out),
        Sent::Close => traffic.queue_close_notify(out),
    };
    let mut len = 0;
    loop {
        let state = tls.process_tls_records(&mut []).state;
        match state.map_err(io::Error::other)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                return Ok(len + sized(output, len, |out| write(&mut traffic, out))?);
            }
            ConnectionState::EncodeTlsData(mut data) => {
                len += sized(output, len, |out| data.encode(out))?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            _ => return Err(io::ErrorKind::BrokenPipe.into()),
        }
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
    buffer.resize(buffer.len().max(len), 0);
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

#[cfg(test)]
mod tests;
