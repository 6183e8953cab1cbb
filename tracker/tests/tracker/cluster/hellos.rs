//! What nodes say to all, and what they ask each other, as NATS brings it.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use super::*;

/// One word of a node that it lives.
pub(super) struct Hello {
    /// As the API writes it.
    pub(super) node: String,
    /// Streams that are split, as it knows.
    pub(super) splits: Vec<StreamId>,
}

/// Hears all hellos.
pub(super) struct Hellos {
    client: async_nats::Client,
    heard: async_nats::Subscriber,
}

impl Hellos {
    pub(super) async fn listen(nats: &Nats) -> Self {
        let client = async_nats::connect(nats.url()).await.unwrap();
        let heard = client.subscribe("shoal.all").await.unwrap();
        // The server knows of it.
        client.flush().await.unwrap();
        Self { client, heard }
    }

    /// Those that have come by now.
    pub(super) async fn drain(&mut self) -> Vec<Hello> {
        self.client.flush().await.unwrap();
        let mut all = Vec::new();
        while let Some(message) = now_or_never(self.heard.next()) {
            all.extend(Hello::read(&message.unwrap().payload));
        }
        all
    }

    pub(super) async fn next(&mut self) -> Hello {
        loop {
            let message = timeout(PATIENCE, self.heard.next()).await;
            let message = message.expect("a hello in time").unwrap();
            if let Some(hello) = Hello::read(&message.payload) {
                return hello;
            }
        }
    }
}

impl Hello {
    /// `docs/protocol/cluster.md`, "Encoding"; nothing if it is something else.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&[4, 0x01], rest) = bytes.split_first_chunk::<2>()? else {
            return None;
        };
        let (node, rest) = rest.split_first_chunk()?;
        // Whether it drains, and how many viewers it has.
        let mut rest = rest.get(5..)?;
        for _ in ["name", "address"] {
            let (len, text) = rest.split_first_chunk()?;
            rest = text.get(usize::from(u16::from_be_bytes(*len))..)?;
        }
        let (&count, streams) = rest.split_first()?;
        let streams = streams.chunks_exact(16).take(usize::from(count));
        Some(Self {
            node: format!("{:016x}", u64::from_be_bytes(*node)),
            splits: streams
                .map(|stream| StreamId(stream.try_into().unwrap()))
                .collect(),
        })
    }
}

/// What there is already.
pub(super) fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
