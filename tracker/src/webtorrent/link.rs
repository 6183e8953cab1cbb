//! Where the words for a WebTorrent viewer go: to its connection here, or to the node that holds it.

use std::sync::Arc;

use crate::{
    cluster::{GuestWords, Guests, NodeId},
    outgoing::Outgoing,
};

#[derive(Clone, Debug)]
pub(crate) enum Link {
    /// Its connection is one of this process.
    Here(Arc<Outgoing>),
    /// Another node of the cluster holds it.
    There(Arc<Abroad>),
}

/// A viewer that is connected to another node.
#[derive(Debug)]
pub(crate) struct Abroad {
    pub(super) node: NodeId,
    /// Its connection, as that node names it.
    pub(super) conn: u64,
    pub(super) guests: Arc<Guests>,
}

impl Link {
    /// Queues a text message, given in parts; see [`Outgoing::push_text`].
    pub(super) fn push_text(&self, parts: &[&str]) {
        match self {
            Self::Here(outgoing) => outgoing.push_text(parts),
            Self::There(abroad) => drop(abroad.tell(parts, false)),
        }
    }

    /// Queues a text message that may be lost. Whether it was queued.
    pub(super) fn push_text_droppable(&self, parts: &[&str]) -> bool {
        match self {
            Self::Here(outgoing) => outgoing.push_text_droppable(parts),
            Self::There(abroad) => abroad.tell(parts, true),
        }
    }

    /// Asks whether the other side is still there.
    pub(super) fn probe(&self) {
        match self {
            Self::Here(outgoing) => outgoing.probe(),
            Self::There(abroad) => drop(abroad.say(&GuestWords::Probe)),
        }
    }

    /// Closes the connection once everything queued is sent.
    pub(super) fn close_with(&self, code: u16) {
        match self {
            Self::Here(outgoing) => outgoing.close_with(code),
            Self::There(abroad) => drop(abroad.say(&GuestWords::Close { code })),
        }
    }

    /// Its connection, if it is one of this process.
    pub(super) const fn here(&self) -> Option<&Arc<Outgoing>> {
        match self {
            Self::Here(outgoing) => Some(outgoing),
            Self::There(_) => None,
        }
    }

    /// The other node that holds its connection.
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Here(_) => None,
            Self::There(abroad) => Some(abroad.node),
        }
    }
}

impl Abroad {
    fn tell(&self, parts: &[&str], droppable: bool) -> bool {
        let text = &parts.concat();
        self.say(&GuestWords::Tell { droppable, text })
    }

    fn say(&self, words: &GuestWords<'_>) -> bool {
        self.guests.say(self.node, self.conn, words)
    }
}
