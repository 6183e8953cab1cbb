//! What is sent to viewers: bytes of the cache without a copy, or bytes as they come.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Frame, SizeHint};

use crate::{access::Meter, error::Failure, signs::Exchange};

type Incoming = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// A body of an answer.
pub(crate) struct Body {
    source: Source,
    /// Told of every byte, and of the end by being dropped.
    meter: Option<Meter>,
    /// Tells by being dropped that the connection has all of it.
    exchange: Option<Exchange>,
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
        let next = std::task::ready!(self.next(context));
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
        match &self.source {
            Source::Empty => true,
            Source::Chunks(chunks) => chunks.is_empty(),
            Source::Full(_) | Source::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Chunks(chunks) => {
                SizeHint::with_exact(chunks.iter().map(|chunk| chunk.len() as u64).sum())
            }
            Source::Stream(_) => SizeHint::default(),
        }
    }
}
