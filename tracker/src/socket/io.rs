//! The two ends of a connection, plain or not.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::stream::Stream;

/// Anything else that carries bytes.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Carrier for T {}

type Wrapped = Box<dyn Carrier>;

/// Where bytes come from.
#[derive(Debug)]
pub(crate) enum Reader {
    Plain(OwnedReadHalf),
    /// TLS, or whatever else the server speaks HTTP over.
    Other(ReadHalf<Wrapped>),
}

/// Where bytes go to.
#[derive(Debug)]
pub(crate) enum Writer {
    Plain(OwnedWriteHalf),
    Other(Mutex<WriteHalf<Wrapped>>),
}

/// Takes a connection out of its HTTP server. A plain one leaves all that the server kept for it;
/// the bytes are what was read too far.
pub(crate) fn split(upgraded: Upgraded) -> (Reader, Writer, Vec<u8>) {
    let parts = match upgraded.downcast::<TokioIo<Stream>>() {
        Ok(parts) => parts,
        Err(upgraded) => return wrap(Box::new(TokioIo::new(upgraded)), Vec::new()),
    };
    match parts.io.into_inner() {
        Stream::Plain(mut early, tcp) => {
            early.extend_from_slice(&parts.read_buf);
            let (read, write) = tcp.into_split();
            (Reader::Plain(read), Writer::Plain(write), early)
        }
        Stream::Tls(tls) => wrap(tls, parts.read_buf.to_vec()),
    }
}

fn wrap(carrier: Wrapped, early: Vec<u8>) -> (Reader, Writer, Vec<u8>) {
    let (read, write) = tokio::io::split(carrier);
    (Reader::Other(read), Writer::Other(Mutex::new(write)), early)
}

impl Reader {
    /// Bytes that were read into `buffer`; 0 at the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let read = match self {
            Self::Plain(half) => Pin::new(half).poll_read(cx, &mut buffer),
            Self::Other(half) => Pin::new(half).poll_read(cx, &mut buffer),
        };
        ready!(read)?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl Writer {
    /// Writes what the network takes at once. What is not plain has to be written by the
    /// connection's own task: [`io::ErrorKind::WouldBlock`].
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.try_write(bytes),
            Self::Other(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes; for the connection's own task.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(half) => loop {
                ready!(half.as_ref().poll_write_ready(cx))?;
                match half.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => return Poll::Ready(written),
                }
            },
            Self::Other(half) => {
                let mut half = half.lock().unwrap_or_else(PoisonError::into_inner);
                Pin::new(&mut *half).poll_write(cx, bytes)
            }
        }
    }

    /// Sees to it that what was written leaves; for the connection's own task.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Other(half) => {
                let mut half = half.lock().unwrap_or_else(PoisonError::into_inner);
                Pin::new(&mut *half).poll_flush(cx)
            }
        }
    }
}
