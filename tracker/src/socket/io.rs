//! The bytes of a connection, plain or not.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::stream::Stream;

/// Anything else that carries bytes.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Carrier for T {}

/// Where bytes come from and go to.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    /// TLS, or whatever else the server speaks HTTP over.
    Other(Box<dyn Carrier>),
}

impl Wire {
    /// Takes a connection out of its HTTP server. It leaves all that the server kept for it; the
    /// bytes are what was read too far.
    pub(crate) fn of(upgraded: Upgraded) -> (Self, Vec<u8>) {
        let parts = match upgraded.downcast::<TokioIo<Stream>>() {
            Ok(parts) => parts,
            Err(upgraded) => {
                let carrier = Box::new(TokioIo::new(upgraded));
                return (Self::Other(carrier), Vec::new());
            }
        };
        match parts.io.into_inner() {
            Stream::Plain(mut early, tcp) => {
                early.extend_from_slice(&parts.read_buf);
                (Self::Plain(tcp), early)
            }
            Stream::Tls(tls) => (Self::Other(tls), parts.read_buf.to_vec()),
        }
    }

    /// Bytes that were read into `buffer`; 0 at the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let read = match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, &mut buffer),
            Self::Other(carrier) => Pin::new(carrier).poll_read(cx, &mut buffer),
        };
        ready!(read)?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what the network takes at once. What is not plain has to be written by the
    /// connection's own task: [`io::ErrorKind::WouldBlock`].
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            Self::Other(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes; for the connection's own task.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Other(carrier) => Pin::new(carrier).poll_write(cx, bytes),
        }
    }

    /// Sees to it that what was written leaves; for the connection's own task.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Other(carrier) => Pin::new(carrier).poll_flush(cx),
        }
    }

    /// Says that nothing more comes; for the connection's own task.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Other(carrier) => Pin::new(carrier).poll_shutdown(cx),
        }
    }
}
