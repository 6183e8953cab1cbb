//! Moves messages between one open channel and the caller.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelMessage};

use super::config::PeerKey;
use super::outbox::Outbox;
use super::transport::{DownReason, RtcEvent};

/// Delivers what the peer sends until the channel ends, and says why it ended.
///
/// While the caller does not take events, nothing is read: the stack's own queue fills, it stops
/// acknowledging, and the peer slows down.
pub(super) async fn receive(
    channel: Arc<dyn DataChannel>,
    peer: PeerKey,
    message_bytes_max: usize,
    events: mpsc::Sender<RtcEvent>,
) -> DownReason {
    while let Some(event) = channel.poll().await {
        match event {
            DataChannelEvent::OnMessage(message) => {
                let Some(event) = message_event(peer, message, message_bytes_max) else {
                    return DownReason::Violation;
                };
                if events.send(event).await.is_err() {
                    return DownReason::Local;
                }
            }
            DataChannelEvent::OnClose | DataChannelEvent::OnClosing => break,
            _ => {}
        }
    }
    DownReason::ClosedByPeer
}

/// The event of a message, unless the peer may not send such.
pub(super) fn message_event(
    peer: PeerKey,
    message: RTCDataChannelMessage,
    message_bytes_max: usize,
) -> Option<RtcEvent> {
    if message.is_string || message.data.len() > message_bytes_max {
        return None;
    }
    Some(RtcEvent::Message {
        peer,
        message: message.data.freeze(),
    })
}

/// Sends what the caller queued until the channel ends.
pub(super) async fn transmit(
    channel: Arc<dyn DataChannel>,
    peer: PeerKey,
    outbox: Arc<Outbox>,
    events: mpsc::Sender<RtcEvent>,
) -> DownReason {
    loop {
        let message = outbox.next().await;
        let bytes = message.len();
        if let Err(error) = channel.send(BytesMut::from(message)).await {
            tracing::debug!(?peer, %error, "sending failed");
            return DownReason::ClosedByPeer;
        }
        if outbox.on_sent(bytes) && events.send(RtcEvent::Drained { peer }).await.is_err() {
            return DownReason::Local;
        }
    }
}
