//! Two or more transports in one process, over loopback, with signals carried by hand.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);

struct Node {
    transport: Transport,
    events: mpsc::Receiver<RtcEvent>,
}

impl Node {
    fn new(config: RtcConfig) -> Self {
        let (sender, events) = mpsc::channel(16);
        Self {
            transport: Transport::new(config, sender),
            events,
        }
    }

    async fn event(&mut self) -> RtcEvent {
        timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .expect("transport")
    }

    async fn down(&mut self) -> (PeerKey, DownReason) {
        loop {
            if let RtcEvent::Down { peer, reason } = self.event().await {
                return (peer, reason);
            }
        }
    }

    async fn description(&mut self) -> Description {
        loop {
            if let RtcEvent::Signal {
                signal: Signal::Description(description),
                ..
            } = self.event().await
            {
                return description;
            }
        }
    }
}

fn nodes(config: &RtcConfig) -> (Node, Node) {
    (Node::new(config.clone()), Node::new(config.clone()))
}

/// Carries signals both ways until both ends are up, and returns the slower set-up time.
/// `a` knows the other end as `B`, and `b` as `A`.
async fn until_up(a: &mut Node, b: &mut Node) -> Duration {
    let (mut setup_a, mut setup_b) = (None, None);
    loop {
        let (event, at_a) = tokio::select! {
            event = a.event() => (event, true),
            event = b.event() => (event, false),
        };
        match event {
            RtcEvent::Signal { signal, .. } if at_a => b.transport.handle_signal(A, signal),
            RtcEvent::Signal { signal, .. } => a.transport.handle_signal(B, signal),
            RtcEvent::Up { setup, .. } if at_a => setup_a = Some(setup),
            RtcEvent::Up { setup, .. } => setup_b = Some(setup),
            other => panic!("not expected while connecting: {other:?}"),
        }
        if let (Some(setup_a), Some(setup_b)) = (setup_a, setup_b) {
            return setup_a.max(setup_b);
        }
    }
}

async fn connected(config: &RtcConfig, kind: PeerKind) -> (Node, Node) {
    let (mut a, mut b) = nodes(config);
    a.transport.connect(B, Role::Offerer, kind).unwrap();
    b.transport.connect(A, Role::Answerer, kind).unwrap();
    let setup = until_up(&mut a, &mut b).await;
    eprintln!("set up in {setup:?} ({kind:?})");
    (a, b)
}

/// Message number `at` of a stream: its number, then filler.
fn numbered(at: u64, bytes: usize) -> Bytes {
    let mut message = vec![at as u8; bytes];
    message[..8].copy_from_slice(&at.to_be_bytes());
    message.into()
}

/// Sends `messages` to `peer` as fast as the transport takes them, and expects as many back.
async fn exchange(node: &mut Node, peer: PeerKey, messages: u64, bytes: usize, limit: usize) {
    let (mut sent, mut received, mut refused) = (0, 0, 0);
    while sent < messages || received < messages {
        while sent < messages {
            match node.transport.send(peer, numbered(sent, bytes)) {
                SendOutcome::Queued => sent += 1,
                SendOutcome::Full => {
                    refused += 1;
                    break;
                }
                outcome => panic!("{outcome:?}"),
            }
        }
        assert!(node.transport.buffered_bytes(peer) <= limit);
        if sent == messages && received == messages {
            break;
        }
        match node.event().await {
            RtcEvent::Message { message, .. } => {
                assert_eq!(message, numbered(received, bytes));
                received += 1;
            }
            RtcEvent::Drained { .. } | RtcEvent::Signal { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0, "the sender must have felt backpressure");
    while node.transport.buffered_bytes(peer) > 0 {
        tokio::task::yield_now().await;
    }
}

async fn exchange_20_mb(kind: PeerKind) {
    let config = RtcConfig::loopback();
    let (mut a, mut b) = connected(&config, kind).await;
    let started = Instant::now();
    let limit = config.send_queue_bytes_max;
    tokio::join!(
        exchange(&mut a, B, 320, 64 * 1024, limit),
        exchange(&mut b, A, 320, 64 * 1024, limit)
    );
    let mbps = 2.0 * 320.0 * 65536.0 * 8.0 / 1e6 / started.elapsed().as_secs_f64();
    eprintln!("{mbps:.0} Mbit/s in both directions together ({kind:?})");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchange_20_mb_native() {
    exchange_20_mb(PeerKind::Native).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchange_20_mb_with_short_bursts() {
    exchange_20_mb(PeerKind::Browser).await;
}

#[tokio::test]
async fn largest_message_passes_and_larger_is_refused() {
    let (a, mut b) = connected(&RtcConfig::loopback(), PeerKind::Native).await;
    let largest = Bytes::from(vec![7; MESSAGE_BYTES_MAX]);
    assert_eq!(
        a.transport.send(B, vec![0; MESSAGE_BYTES_MAX + 1].into()),
        SendOutcome::TooLarge
    );
    assert_eq!(a.transport.send(B, largest.clone()), SendOutcome::Queued);
    loop {
        match b.event().await {
            RtcEvent::Message { message, .. } => break assert_eq!(message, largest),
            RtcEvent::Signal { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn message_beyond_own_limit_ends_the_connection() {
    let mut a = Node::new(RtcConfig::loopback());
    let mut b = Node::new(RtcConfig {
        message_bytes_max: 1000,
        ..RtcConfig::loopback()
    });
    a.transport
        .connect(B, Role::Offerer, PeerKind::Native)
        .unwrap();
    b.transport
        .connect(A, Role::Answerer, PeerKind::Native)
        .unwrap();
    until_up(&mut a, &mut b).await;
    assert_eq!(
        a.transport.send(B, vec![0; 1001].into()),
        SendOutcome::Queued
    );
    assert_eq!(b.down().await, (A, DownReason::Violation));
    assert_eq!(a.down().await, (B, DownReason::ClosedByPeer));
}

#[tokio::test]
async fn candidates_may_come_before_the_description() {
    let (mut a, mut b) = nodes(&RtcConfig::loopback());
    a.transport
        .connect(B, Role::Offerer, PeerKind::Native)
        .unwrap();
    b.transport
        .connect(A, Role::Answerer, PeerKind::Native)
        .unwrap();
    let mut offer = a.description().await;
    assert!(
        !offer.candidates.is_empty(),
        "the first candidates ride in the description"
    );
    b.transport.handle_signal(A, Signal::EndOfCandidates);
    for candidate in std::mem::take(&mut offer.candidates) {
        b.transport.handle_signal(A, Signal::Candidate(candidate));
    }
    b.transport.handle_signal(A, Signal::Description(offer));
    // The answer's candidates trickle after it.
    let mut answer = b.description().await;
    let candidates = std::mem::take(&mut answer.candidates);
    a.transport.handle_signal(B, Signal::Description(answer));
    for candidate in candidates {
        a.transport.handle_signal(B, Signal::Candidate(candidate));
    }
    until_up(&mut a, &mut b).await;
    assert_eq!(b.transport.stats().signals_invalid, 0);
}

#[tokio::test]
async fn both_offering_still_connects() {
    let (mut a, mut b) = nodes(&RtcConfig::loopback());
    a.transport
        .connect(B, Role::Offerer, PeerKind::Native)
        .unwrap();
    b.transport
        .connect(A, Role::Offerer, PeerKind::Native)
        .unwrap();
    until_up(&mut a, &mut b).await;
    let glares = a.transport.stats().glares + b.transport.stats().glares;
    assert!((1..=2).contains(&glares), "{glares}");
}

#[tokio::test]
async fn close_is_noticed_and_the_key_can_be_used_again() {
    let (mut a, mut b) = connected(&RtcConfig::loopback(), PeerKind::Native).await;
    for round in 0..3 {
        assert_eq!(
            a.transport.connect(B, Role::Offerer, PeerKind::Native),
            Err(ConnectError::Exists)
        );
        a.transport.close(B);
        let started = Instant::now();
        assert_eq!(b.down().await, (A, DownReason::ClosedByPeer));
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(
            a.transport.send(B, Bytes::from_static(b"late")),
            SendOutcome::NotConnected
        );
        let (role_a, role_b) = match round {
            0 => (Role::Answerer, Role::Offerer),
            _ => (Role::Offerer, Role::Answerer),
        };
        a.transport.connect(B, role_a, PeerKind::Native).unwrap();
        b.transport.connect(A, role_b, PeerKind::Native).unwrap();
        until_up(&mut a, &mut b).await;
        assert_eq!(
            a.transport.send(B, Bytes::from_static(b"again")),
            SendOutcome::Queued
        );
    }
    assert_eq!(b.transport.stats().downs, 3);
    assert_eq!(a.transport.stats().downs, 0);
}

/// Messages that the hub sends to each leaf.
const FANNED_OUT: u64 = 32;

impl Node {
    /// As a leaf under `key`: gets all messages of the hub, in order; signals go both ways meanwhile.
    async fn take_in(
        &mut self,
        key: PeerKey,
        mut signals: mpsc::Receiver<Signal>,
        to_hub: mpsc::Sender<(PeerKey, Signal)>,
    ) {
        let mut received = 0;
        while received < FANNED_OUT {
            tokio::select! {
                Some(signal) = signals.recv() => self.transport.handle_signal(A, signal),
                event = self.event() => match event {
                    RtcEvent::Signal { signal, .. } => to_hub.send((key, signal)).await.unwrap(),
                    RtcEvent::Message { message, .. } => {
                        assert_eq!(message, numbered(received, 16 * 1024));
                        received += 1;
                    }
                    RtcEvent::Up { .. } => {}
                    other => panic!("{other:?}"),
                },
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fan_out_to_15() {
    const PEERS: u64 = 15;
    let config = RtcConfig {
        connections_max: 15,
        ..RtcConfig::loopback()
    };
    let mut hub = Node::new(config.clone());
    let mut leaves: Vec<Node> = Vec::new();
    for at in 0..PEERS {
        let leaf = Node::new(config.clone());
        hub.transport
            .connect(PeerKey(at), Role::Offerer, PeerKind::Native)
            .unwrap();
        leaf.transport
            .connect(A, Role::Answerer, PeerKind::Native)
            .unwrap();
        leaves.push(leaf);
    }
    assert_eq!(
        hub.transport
            .connect(PeerKey(99), Role::Offerer, PeerKind::Native),
        Err(ConnectError::AtCapacity(15))
    );
    // One router carries signals; each leaf hands back what it got for the hub.
    let (to_hub, mut from_leaves) = mpsc::channel::<(PeerKey, Signal)>(64);
    let mut to_leaves = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (at, mut leaf) in leaves.into_iter().enumerate() {
        let (to_leaf, signals) = mpsc::channel::<Signal>(64);
        to_leaves.push(to_leaf);
        let to_hub = to_hub.clone();
        tasks.spawn(async move {
            leaf.take_in(PeerKey(at as u64), signals, to_hub).await;
            leaf
        });
    }
    let mut done = Vec::new();
    while done.len() < PEERS as usize {
        tokio::select! {
            Some((peer, signal)) = from_leaves.recv() => hub.transport.handle_signal(peer, signal),
            event = hub.event() => match event {
                RtcEvent::Signal { peer, signal } => {
                    to_leaves[peer.0 as usize].send(signal).await.unwrap();
                }
                RtcEvent::Up { peer, setup, .. } => {
                    eprintln!("{peer:?} up after {setup:?}");
                    for at in 0..FANNED_OUT {
                        let outcome = hub.transport.send(peer, numbered(at, 16 * 1024));
                        assert_eq!(outcome, SendOutcome::Queued);
                    }
                }
                RtcEvent::Drained { .. } => {}
                other => panic!("{other:?}"),
            },
            Some(leaf) = tasks.join_next() => done.push(leaf.unwrap()),
        }
    }
    assert_eq!(hub.transport.stats().ups, PEERS);
}

#[tokio::test]
async fn slow_consumer_loses_nothing() {
    let (mut a, mut b) = connected(&RtcConfig::loopback(), PeerKind::Native).await;
    let mut sent = 0;
    // Fill every queue between the two while nobody reads at `b`.
    let mut idle_since = Instant::now();
    while idle_since.elapsed() < Duration::from_millis(300) && sent < 2000 {
        match a.transport.send(B, numbered(sent, 64 * 1024)) {
            SendOutcome::Queued => {
                sent += 1;
                idle_since = Instant::now();
            }
            // Its `Drained`, or nothing more for a while.
            _ => drop(timeout(Duration::from_millis(300), a.events.recv()).await),
        }
    }
    assert!(
        sent < 300,
        "the sender must be held back, not after {sent} messages"
    );
    eprintln!("{sent} messages of 64 KiB fit before the sender was held back");
    let mut received = 0;
    while received < sent {
        if let RtcEvent::Message { message, .. } = b.event().await {
            assert_eq!(message, numbered(received, 64 * 1024));
            received += 1;
        }
    }
}

#[tokio::test]
async fn silent_peer_times_out() {
    let config = RtcConfig {
        connect_timeout: Duration::from_millis(300),
        ..RtcConfig::loopback()
    };
    let (mut a, mut b) = nodes(&config);
    a.transport
        .connect(B, Role::Offerer, PeerKind::Native)
        .unwrap();
    b.transport
        .connect(A, Role::Answerer, PeerKind::Native)
        .unwrap();
    assert_eq!(
        a.transport.send(B, Bytes::from_static(b"early")),
        SendOutcome::NotConnected
    );
    assert_eq!(a.down().await, (B, DownReason::ConnectTimeout));
    assert_eq!(b.down().await, (A, DownReason::ConnectTimeout));
    assert_eq!(a.transport.stats().connections, 0);
}

#[tokio::test]
async fn vanished_peer_is_lost() {
    let config = RtcConfig {
        idle_timeout: Duration::from_secs(2),
        ..RtcConfig::loopback()
    };
    let mut a = Node::new(config.clone());
    a.transport
        .connect(B, Role::Offerer, PeerKind::Native)
        .unwrap();
    // The other end lives in a runtime of its own, so that it can stop without a goodbye.
    let elsewhere = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let entered = elsewhere.enter();
    let mut b = Node::new(config);
    drop(entered);
    b.transport
        .connect(A, Role::Answerer, PeerKind::Native)
        .unwrap();
    until_up(&mut a, &mut b).await;
    elsewhere.shutdown_background();
    let started = Instant::now();
    assert_eq!(a.down().await, (B, DownReason::Lost));
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn hostile_signals_are_counted() {
    let (mut a, mut b) = nodes(&RtcConfig::loopback());
    a.transport.handle_signal(B, Signal::EndOfCandidates);
    assert_eq!(a.transport.stats().signals_unknown_peer, 1);

    a.transport
        .connect(B, Role::Offerer, PeerKind::Native)
        .unwrap();
    b.transport
        .connect(A, Role::Answerer, PeerKind::Native)
        .unwrap();
    let offer = a.description().await;
    let broken = Description {
        ufrag: "a\r\nb".into(),
        ..offer.clone()
    };
    b.transport.handle_signal(A, Signal::Description(broken));
    assert_eq!(b.transport.stats().signals_invalid, 1);
    let answer_first = Description {
        kind: DescriptionKind::Answer,
        setup: Setup::Active,
        ..offer.clone()
    };
    b.transport
        .handle_signal(A, Signal::Description(answer_first));
    b.transport
        .handle_signal(A, Signal::Description(offer.clone()));
    b.transport.handle_signal(A, Signal::Description(offer));
    let candidate = Candidate::parse("candidate:1 1 udp 1 192.0.2.1 9 typ host").unwrap();
    for _ in 0..=CANDIDATES_MAX {
        b.transport
            .handle_signal(A, Signal::Candidate(candidate.clone()));
    }
    until_up(&mut a, &mut b).await;
    let stats = b.transport.stats();
    assert_eq!(stats.signals_unexpected, 2);
    assert!(stats.signals_invalid >= 2, "{stats:?}");
}

#[tokio::test]
async fn wrong_fingerprint_never_comes_up() {
    let config = RtcConfig {
        connect_timeout: Duration::from_secs(2),
        ..RtcConfig::loopback()
    };
    // The other end has more patience, and does not close first.
    let mut a = Node::new(RtcConfig::loopback());
    let mut b = Node::new(config);
    a.transport
        .connect(B, Role::Offerer, PeerKind::Native)
        .unwrap();
    b.transport
        .connect(A, Role::Answerer, PeerKind::Native)
        .unwrap();
    let mut offer = a.description().await;
    offer.fingerprint_sha256[0] ^= 1;
    b.transport.handle_signal(A, Signal::Description(offer));
    let answer = b.description().await;
    a.transport.handle_signal(B, Signal::Description(answer));
    let (_, reason) = b.down().await;
    assert!(
        matches!(reason, DownReason::Lost | DownReason::ConnectTimeout),
        "{reason:?}"
    );
    assert_eq!(b.transport.stats().ups, 0);
}
