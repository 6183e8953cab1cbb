//! Where the words for a viewer go: to its connection here, or to the node that holds it.

use std::sync::Arc;

use crate::{cluster::Visitor, outgoing::Outgoing};

#[derive(Clone, Debug)]
pub(crate) enum Sink {
    /// Its connection is one of this process.
    Here(Arc<Outgoing>),
    /// Another node of the cluster holds it.
    There(Visitor),
}

impl Sink {
    /// Queues a frame; see [`Outgoing::push`].
    pub(crate) fn push(&self, frame: &[u8]) {
        match self {
            Self::Here(outgoing) => outgoing.push(frame),
            Self::There(visitor) => {
                visitor.tell(frame, false);
            }
        }
    }

    /// Queues a frame that may be lost. Whether it was queued.
    pub(crate) fn push_droppable(&self, frame: &[u8]) -> bool {
        match self {
            Self::Here(outgoing) => outgoing.push_droppable(frame),
            Self::There(visitor) => visitor.tell(frame, true),
        }
    }

    /// Closes the connection once everything queued is sent.
    pub(crate) fn close(&self) {
        match self {
            Self::Here(outgoing) => outgoing.close(),
            Self::There(visitor) => visitor.close(),
        }
    }

    /// Whether the connection is one of this process.
    pub(crate) const fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }
}
