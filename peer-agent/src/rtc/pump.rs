//! Moves messages between one open channel and the caller.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelMessage};

use super::config::PeerKey;
use super::gate::Gate;
use super::outbox::Outbox;
use super::transport::{DownReason, RtcEvent};

/// What bounds a peer's messages on their way to the caller.
#[derive(Debug, Clone)]
pub(super) struct ReceiveLimits {
    pub(super) message_bytes_max: usize,
    pub(super) queue_bytes_max: usize,
    pub(super) gate: Arc<Gate>,
}

/// Delivers what the peer sends until the channel ends, and says why it ended.
///
/// While the caller does not take events, messages wait here; when they are too many, the sockets
/// are no longer read until half of them are gone.
pub(super) async fn receive(
    channel: Arc<dyn DataChannel>,
    peer: PeerKey,
    limits: ReceiveLimits,
    events: mpsc::Sender<RtcEvent>,
) -> DownReason {
    let mut waiting: VecDeque<Bytes> = VecDeque::new();
    let mut waiting_bytes = 0;
    let mut ended = None;
    loop {
        tokio::select! {
            biased;
            permit = events.reserve(), if !waiting.is_empty() => {
                let Ok(permit) = permit else { return DownReason::Local };
                if let Some(message) = waiting.pop_front() {
                    waiting_bytes -= message.len();
                    permit.send(RtcEvent::Message { peer, message });
                }
                if waiting_bytes <= limits.queue_bytes_max / 2 {
                    limits.gate.open();
                }
            }
            event = channel.poll(), if ended.is_none() => match event {
                Some(DataChannelEvent::OnMessage(message)) => {
                    let Some(message) = accepted(message, limits.message_bytes_max) else {
                        return DownReason::Violation;
                    };
                    waiting_bytes += message.len();
                    waiting.push_back(message);
                    if waiting_bytes > limits.queue_bytes_max {
                        limits.gate.shut();
                    }
                }
                Some(DataChannelEvent::OnClose | DataChannelEvent::OnClosing) | None => {
                    ended = Some(DownReason::ClosedByPeer);
                }
                Some(_) => {}
            },
            else => return ended.unwrap_or(DownReason::ClosedByPeer),
        }
    }
}

/// The bytes of a message, unless the peer may not send such.
pub(super) fn accepted(message: RTCDataChannelMessage, message_bytes_max: usize) -> Option<Bytes> {
    let fits = !message.is_string && message.data.len() <= message_bytes_max;
    fits.then(|| message.data.freeze())
}

/// Sends what the caller queued until the channel ends, which [`receive`] then reports.
pub(super) async fn transmit(
    channel: Arc<dyn DataChannel>,
    peer: PeerKey,
    outbox: Arc<Outbox>,
    events: mpsc::Sender<RtcEvent>,
) {
    loop {
        let message = outbox.next().await;
        let bytes = message.len();
        if let Err(error) = channel.send(BytesMut::from(message)).await {
            tracing::debug!(peer = peer.0, %error, "sending failed");
            let _ = channel.close().await;
            return;
        }
        if outbox.on_sent(bytes) && events.send(RtcEvent::Drained { peer }).await.is_err() {
            return;
        }
    }
}
