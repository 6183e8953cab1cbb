//! What is sent to viewers: bytes of the cache without a copy, or bytes as they come.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Frame, SizeHint};

use crate::{
    access::Meter,
    error::Failure,
    signs::Exchange,
    streams::{PIECE_LEN_MAX, Stream as Http2Stream},
};

type Incoming = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// A body of an answer.
pub(crate) struct Body {
    source: Source,
    /// Told of every byte, and of the end by being dropped.
    meter: Option<Meter>,
    /// Tells by being dropped that the connection has all of it.
    exchange: Option<Exchange>,
    /// Told of every piece.
    stream: Option<Http2Stream>,
    /// What did not fit into the last piece.
    rest: Bytes,
}

enum Source {
    Empty,
    Full(Bytes),
    /// None of them empty.
    Chunks(VecDeque<Bytes>),
    Stream(Incoming),
}

impl Body {
    pub(crate) const fn empty() -> Self {
        Self::of(Source::Empty)
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self::of(Source::Empty);
        }
        Self::of(Source::Full(bytes))
    }

    pub(crate) fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let chunks = chunks.into_iter().filter(|chunk| !chunk.is_empty());
        Self::of(Source::Chunks(chunks.collect()))
    }

    pub(crate) fn stream(
        stream: impl Stream<Item = Result<Bytes, Failure>> + Send + 'static,
    ) -> Self {
        Self::of(Source::Stream(Box::pin(stream)))
    }

    const fn of(source: Source) -> Self {
        Self {
            source,
            meter: None,
            exchange: None,
            stream: None,
            rest: Bytes::new(),
        }
    }

    /// Has `meter` told of what is sent from here on.
    pub(crate) fn measured(&mut self, meter: Meter) {
        self.meter = Some(meter);
    }

    /// Has `exchange` end with this.
    pub(crate) fn end_with(&mut self, exchange: Exchange) {
        self.exchange = Some(exchange);
    }

    /// Has `stream` told of every piece, from here to the end.
    pub(crate) fn sent_by(&mut self, stream: Http2Stream) {
        self.stream = Some(stream);
    }

    /// The length of what is sent, if it is at hand as a whole.
    pub(crate) fn len_at_hand(&self) -> Option<usize> {
        match &self.source {
            Source::Empty => Some(0),
            Source::Full(bytes) => Some(bytes.len()),
            Source::Chunks(_) | Source::Stream(_) => None,
        }
    }

    /// Takes what is at hand as a whole, to be sent.
    pub(crate) fn take(&mut self) -> Bytes {
        let Source::Full(bytes) = std::mem::replace(&mut self.source, Source::Empty) else {
            return Bytes::new();
        };
        if let Some(meter) = &mut self.meter {
            meter.on_bytes(bytes.len());
        }
        bytes
    }

    /// At most as much of `bytes` as one piece may have, if anybody is told of pieces.
    fn cut(&mut self, mut bytes: Bytes) -> Bytes {
        if self.stream.is_none() || bytes.len() <= PIECE_LEN_MAX {
            return bytes;
        }
        self.rest = bytes.split_off(PIECE_LEN_MAX);
        bytes
    }

    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                Poll::Ready(Some(Ok(bytes)))
            }
            Source::Chunks(chunks) => Poll::Ready(chunks.pop_front().map(Ok)),
            Source::Stream(stream) => stream.as_mut().poll_next(context),
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(stream) = &mut self.stream {
            stream.on_taken();
        }
        let next = match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => std::task::ready!(self.next(context)),
            rest => Some(Ok(rest)),
        };
        let next = next.map(|chunk| chunk.map(|bytes| self.cut(bytes)));
        if let (Some(stream), Some(Ok(_))) = (&mut self.stream, &next) {
            stream.on_piece();
        }
        if let Some(meter) = &mut self.meter {
            match &next {
                Some(Ok(bytes)) => meter.on_bytes(bytes.len()),
                Some(Err(failure)) => meter.on_failure(failure),
                None => {}
            }
        }
        Poll::Ready(next.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        if !self.rest.is_empty() {
            return false;
        }
        match &self.source {
            Source::Empty => true,
            Source::Chunks(chunks) => chunks.is_empty(),
            Source::Full(_) | Source::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let len = match &self.source {
            Source::Empty => 0,
            Source::Full(bytes) => bytes.len(),
            Source::Chunks(chunks) => chunks.iter().map(Bytes::len).sum(),
            Source::Stream(_) => return SizeHint::default(),
        };
        SizeHint::with_exact((len + self.rest.len()) as u64)
    }
}
