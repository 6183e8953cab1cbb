//! One peer connection of the WebRTC stack, with one channel: the only file that drives the stack.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::rtc::ice::mdns::MulticastDnsMode;
use ::rtc::ice::url::{ProtoType, Url};
use ::rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, RTCDataChannelInit};
use webrtc::error::Error as StackError;
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCIceCandidateInit, RTCIceGatheringState, RTCIceServer, RTCIceTransportPolicy,
    RTCPeerConnectionIceEvent, RTCPeerConnectionState, RTCSessionDescription, SettingEngine,
    SettingEngineBuilder, StatsSelector,
};

use super::config::{PeerKind, RtcConfig};
use super::gate::Gate;
use super::relays::Relays;
use super::runtime::{BrowserManners, LinkRuntime};
use super::sdp::{MESSAGE_BYTES_MAX, SdpError, from_sdp, to_sdp};
use super::signal::{Candidate, Description, DescriptionKind};

/// How long to prefer a better kind of path over one found through our STUN server.
const REFLEXIVE_WAIT: Duration = Duration::from_millis(50);
/// How long to prefer any direct path over a relayed one.
const RELAY_WAIT: Duration = Duration::from_millis(500);
/// Time between keep-alives of an idle connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// What the stack reports, apart from the channel's own events.
#[derive(Debug)]
pub(super) enum SessionEvent {
    /// We can be reached here.
    Candidate(Candidate),
    /// No more candidates.
    Gathered,
    /// The path is dead or the handshake failed.
    Lost,
    /// The peer ended the connection.
    Closed,
}

/// Why a session could not take a step.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("WebRTC stack: {0}")]
    Stack(#[from] StackError),
    #[error("WebRTC stack made an unusable description: {0}")]
    OwnSdp(#[from] SdpError),
}

/// An open peer connection. Call [`Session::close`]; dropping it leaves its task running.
pub(super) struct Session {
    connection: Box<dyn PeerConnection>,
    pub(super) channel: Arc<dyn DataChannel>,
    pub(super) events: mpsc::UnboundedReceiver<SessionEvent>,
    /// Whether the sockets are read.
    pub(super) gate: Arc<Gate>,
    relays: Arc<Relays>,
    settled: Arc<AtomicBool>,
}

impl Session {
    /// Binds sockets and creates the channel; nothing is sent yet. A machine without multicast (one without a
    /// default route, say) resolves no names, and browsers are reached in all other ways.
    pub(super) async fn open(
        config: &RtcConfig,
        kind: PeerKind,
        receive_window_bytes: u32,
    ) -> Result<Self, StackError> {
        let is_browser = kind == PeerKind::Browser;
        if config.mdns && is_browser && !config.is_loopback_only() {
            let mdns = MulticastDnsMode::QueryOnly;
            match Self::open_with(config, kind, receive_window_bytes, mdns).await {
                Ok(session) => return Ok(session),
                Err(error) => tracing::debug!(%error, "no multicast here"),
            }
        }
        let mdns = MulticastDnsMode::Disabled;
        Self::open_with(config, kind, receive_window_bytes, mdns).await
    }

    async fn open_with(
        config: &RtcConfig,
        kind: PeerKind,
        receive_window_bytes: u32,
        mdns: MulticastDnsMode,
    ) -> Result<Self, StackError> {
        let browser = (kind == PeerKind::Browser).then_some(BrowserManners {
            burst_datagrams: config.browser_burst_datagrams,
            send_bps_max: config.browser_send_bps_max,
        });
        let runtime = LinkRuntime::new(config, browser);
        let (settled, gate) = (runtime.settled.clone(), runtime.gate.clone());
        let relays = runtime.relays.clone();
        // Unbounded is safe: the stack reports each local candidate and each change of state once.
        let (reports, events) = mpsc::unbounded_channel();
        let policy = if config.relay_only {
            RTCIceTransportPolicy::Relay
        } else {
            RTCIceTransportPolicy::All
        };
        let builder = PeerConnectionBuilder::new()
            .with_configuration(
                RTCConfigurationBuilder::default()
                    .with_ice_servers(ice_servers(config))
                    .with_ice_transport_policy(policy)
                    .build(),
            )
            .with_setting_engine(settings(config, mdns, receive_window_bytes))
            .with_handler(Arc::new(Reporter {
                reports,
                relays: relays.clone(),
                relay_only: config.relay_only,
            }))
            .with_runtime(Arc::new(runtime))
            .with_udp_addrs(
                config
                    .bind_ips
                    .iter()
                    .map(|&ip| SocketAddr::new(ip, 0))
                    .collect(),
            )
            .with_data_channel_send_buffer_limit(config.in_flight_bytes_max);
        // The stack's set-up future is large.
        let connection = Box::pin(builder.build()).await?;
        let negotiated = RTCDataChannelInit {
            ordered: true,
            negotiated: Some(0),
            ..RTCDataChannelInit::default()
        };
        let channel = connection
            .create_data_channel(super::CHANNEL_LABEL, Some(negotiated))
            .await?;
        Ok(Self {
            connection: Box::new(connection),
            channel,
            events,
            gate,
            relays,
            settled,
        })
    }

    /// Makes our offer and starts looking for our addresses.
    pub(super) async fn offer(&self) -> Result<Description, SessionError> {
        let offer = self.connection.create_offer(None).await?;
        let description = own_description(&offer)?;
        self.connection.set_local_description(offer).await?;
        Ok(description)
    }

    /// Makes our answer to the offer taken before and starts looking for our addresses.
    pub(super) async fn answer(&self) -> Result<Description, SessionError> {
        let answer = self.connection.create_answer(None).await?;
        let description = own_description(&answer)?;
        self.connection.set_local_description(answer).await?;
        Ok(description)
    }

    /// Takes the peer's offer or answer.
    pub(super) async fn set_remote(&self, description: &Description) -> Result<(), StackError> {
        for candidate in &description.candidates {
            self.relays.on_remote(candidate);
        }
        let sdp = to_sdp(description);
        let remote = match description.kind {
            DescriptionKind::Offer => RTCSessionDescription::offer(sdp)?,
            DescriptionKind::Answer => RTCSessionDescription::answer(sdp)?,
        };
        self.connection.set_remote_description(remote).await
    }

    /// Tries one more address of the peer.
    pub(super) async fn add_candidate(&self, candidate: &Candidate) -> Result<(), StackError> {
        self.relays.on_remote(candidate);
        let init = RTCIceCandidateInit {
            candidate: candidate.as_str().to_owned(),
            sdp_mid: Some("0".to_owned()),
            sdp_mline_index: Some(0),
            ..RTCIceCandidateInit::default()
        };
        self.connection.add_ice_candidate(init).await
    }

    /// Round trip time of the path in use, from the connectivity checks.
    pub(super) async fn rtt(&self) -> Option<Duration> {
        let report = self
            .connection
            .get_stats(Instant::now(), StatsSelector::None)
            .await;
        let rtt_s = report
            .candidate_pairs()
            .map(|pair| pair.current_round_trip_time)
            .filter(|rtt_s| *rtt_s > 0.0)
            .min_by(f64::total_cmp)?;
        Duration::try_from_secs_f64(rtt_s).ok()
    }

    /// Stops the extra wake-ups that shorten the set-up.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Tells the peer and frees the sockets.
    pub(super) async fn close(self) {
        self.settle();
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "closing a connection failed");
        }
    }
}

/// The servers that the stack can use; one that it cannot read would break every connection.
fn ice_servers(config: &RtcConfig) -> Vec<RTCIceServer> {
    let usable = |text: &&String| {
        Url::parse_url(text)
            .is_ok_and(|url| url.proto == ProtoType::Udp && !url.is_secure() && url.port != 0)
    };
    let servers = config.ice_servers.iter().map(|server| RTCIceServer {
        urls: server.urls.iter().filter(usable).cloned().collect(),
        username: server.username.clone(),
        credential: server.credential.clone(),
    });
    servers.filter(|server| !server.urls.is_empty()).collect()
}

fn settings(
    config: &RtcConfig,
    mdns: MulticastDnsMode,
    receive_window_bytes: u32,
) -> SettingEngine {
    let checks = config.connect_timeout.as_millis() / config.ice_check_interval.as_millis().max(1);
    SettingEngineBuilder::new()
        .with_multicast_dns_mode(mdns)
        .with_include_loopback_candidate(config.is_loopback_only())
        .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(MESSAGE_BYTES_MAX as u32))
        .with_sctp_max_receive_buffer_size(receive_window_bytes)
        // Signals may be slow: keep trying every path for as long as we wait at all.
        .with_ice_connection_attempts(
            Some(config.ice_check_interval),
            Some(u16::try_from(checks).unwrap_or(u16::MAX)),
        )
        .with_ice_timeouts(
            Some(config.idle_timeout / 3),
            Some(config.idle_timeout - config.idle_timeout / 3),
            Some(KEEP_ALIVE_INTERVAL.min(config.idle_timeout / 4)),
        )
        .with_host_acceptance_min_wait(Some(Duration::ZERO))
        .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_srflx_acceptance_min_wait(Some(REFLEXIVE_WAIT))
        .with_relay_acceptance_min_wait(Some(RELAY_WAIT))
        .build()
}

/// Our description without candidates, which are reported one by one.
fn own_description(description: &RTCSessionDescription) -> Result<Description, SdpError> {
    let mut description = from_sdp(&description.sdp)?;
    description.candidates.clear();
    Ok(description)
}

/// Forwards the stack's callbacks. It must not wait, as it runs on the connection's own task.
struct Reporter {
    reports: mpsc::UnboundedSender<SessionEvent>,
    relays: Arc<Relays>,
    relay_only: bool,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Reporter {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        let line = event.candidate.to_json().ok().map(|init| init.candidate);
        let candidate = line.and_then(|line| Candidate::parse(&line).ok());
        let fits = |c: &Candidate| is_reachable(c) && (c.is_relay() || !self.relay_only);
        if let Some(candidate) = candidate.filter(fits) {
            self.relays.on_own(&candidate);
            let _ = self.reports.send(SessionEvent::Candidate(candidate));
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.reports.send(SessionEvent::Gathered);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let event = match state {
            RTCPeerConnectionState::Failed => SessionEvent::Lost,
            RTCPeerConnectionState::Closed => SessionEvent::Closed,
            _ => return,
        };
        let _ = self.reports.send(event);
    }
}

/// Whether anybody could send there: a socket without an interface reports `0.0.0.0`.
fn is_reachable(candidate: &Candidate) -> bool {
    candidate
        .address()
        .parse()
        .is_ok_and(|ip: IpAddr| !ip.is_unspecified())
}
