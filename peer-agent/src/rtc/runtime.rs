//! The sockets and timers given to the WebRTC stack.
//!
//! Four of its habits need help from outside. It leaves the receive buffer at the system's small
//! default, so that its own bursts overflow it. It acknowledges once per burst of up to 64
//! datagrams, which starves browsers. It sends a whole window in one burst, which overflows a
//! browser's receive buffer, or a relay's, and then costs a second each time. And while connecting it
//! sometimes sleeps although it has something to send.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::config::RtcConfig;
use super::gate::Gate;
use super::pacer::Pacer;
use super::relays::Relays;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime,
    TokioRuntime, Transmit,
};

/// Most datagrams in one segmented send to a browser or a relay.
const PACED_GSO_SEGMENTS_MAX: usize = 16;

/// Longest sleep of a connection that is still being set up.
const SETUP_SLEEP_MAX: Duration = Duration::from_millis(10);

/// Smallest receive window advertised, in bytes.
const RECEIVE_WINDOW_BYTES_MIN: u32 = 128 * 1024;

/// How a browser's peer treats its sockets.
#[derive(Debug, Clone, Copy)]
pub(super) struct BrowserManners {
    /// How many datagrams are read before the stack may answer.
    pub(super) burst_datagrams: usize,
    /// How fast datagrams leave.
    pub(super) send_bps_max: u64,
}

/// Tokio, with the socket settings and timers that one connection needs.
#[derive(Debug)]
pub(super) struct LinkRuntime {
    socket_receive_bytes: usize,
    relay_send_bps_max: u64,
    browser: Option<BrowserManners>,
    /// Those that the connection may use.
    pub(super) relays: Arc<Relays>,
    /// Set once the connection is up, or given up.
    pub(super) settled: Arc<AtomicBool>,
    /// Whether the sockets are read.
    pub(super) gate: Arc<Gate>,
}

impl LinkRuntime {
    /// For a browser at the other end, or a native peer.
    pub(super) fn new(config: &RtcConfig, browser: Option<BrowserManners>) -> Self {
        Self {
            socket_receive_bytes: config.socket_receive_bytes,
            relay_send_bps_max: config.relay_send_bps_max,
            browser,
            relays: Arc::default(),
            settled: Arc::default(),
            gate: Arc::default(),
        }
    }
}

/// The receive window to advertise, given what the system grants as a socket's receive buffer.
///
/// A sender may have a whole window under way in one burst, and the buffer must hold it. What the
/// kernel reports includes its own overhead, hence the fraction.
pub(super) fn receive_window_bytes(socket_receive_bytes: usize, window_bytes_max: u32) -> u32 {
    let granted = UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
        let socket = socket2::SockRef::from(&socket);
        socket.set_recv_buffer_size(socket_receive_bytes)?;
        socket.recv_buffer_size()
    });
    let fitting = granted.map_or(0, |bytes| u32::try_from(bytes / 8 * 5).unwrap_or(u32::MAX));
    fitting.min(window_bytes_max).max(RECEIVE_WINDOW_BYTES_MIN)
}

impl Runtime for LinkRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn(future)
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // A smaller buffer than asked for still works, so a refusal is no error.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(self.socket_receive_bytes);
        let gate = self.gate.clone();
        let Some(manners) = self.browser else {
            let inner = TokioRuntime.wrap_udp_socket(socket)?;
            return Ok(Arc::new(NativeSocket {
                inner,
                gate,
                relays: self.relays.clone(),
                pacing: Pacing::new(self.relay_send_bps_max),
            }));
        };
        let same_socket = socket.try_clone()?;
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        // After wrapping, which switches it on.
        switch_off_receive_offload(&same_socket)?;
        Ok(Arc::new(BrowserSocket {
            inner,
            gate,
            burst_datagrams: manners.burst_datagrams.max(1),
            in_burst: AtomicUsize::new(0),
            pacing: Pacing::new(manners.send_bps_max),
        }))
    }

    fn wrap_tcp_listener(
        &self,
        listener: std::net::TcpListener,
    ) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        remote_addr: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        TokioRuntime.connect_tcp(remote_addr)
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        TokioRuntime.resolve_host(host)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        if self.settled.load(Ordering::Relaxed) {
            TokioRuntime.sleep(duration)
        } else {
            TokioRuntime.sleep(duration.min(SETUP_SLEEP_MAX))
        }
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        TokioRuntime.yield_now()
    }
}

/// The kernel must hand over single datagrams, or one read could hold a whole burst.
#[cfg(target_os = "linux")]
fn switch_off_receive_offload(socket: &UdpSocket) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    match setsockopt(socket, sockopt::UdpGroSegment, &false) {
        // A kernel without the option does not coalesce either.
        Err(nix::errno::Errno::ENOPROTOOPT) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn switch_off_receive_offload(_socket: &UdpSocket) -> io::Result<()> {
    Ok(())
}

/// A socket that is not read while its gate is shut, and that sends no faster than a relay reads what
/// takes a way through one.
struct NativeSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    gate: Arc<Gate>,
    relays: Arc<Relays>,
    pacing: Pacing,
}

impl fmt::Debug for NativeSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for NativeSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_gso_segments(&self) -> usize {
        let most = self.inner.max_gso_segments();
        if self.relays.is_any() {
            most.min(PACED_GSO_SEGMENTS_MAX)
        } else {
            most
        }
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        if self.relays.takes(transmit) {
            self.pacing.poll_send(&*self.inner, cx, transmit)
        } else {
            self.inner.poll_send(cx, transmit)
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.gate.poll_open(cx.waker()));
        self.inner.poll_recv(cx, bufs, meta)
    }
}

/// A socket that claims to be empty after every few datagrams, so that the stack answers between,
/// and that sends no faster than a browser reads.
struct BrowserSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    gate: Arc<Gate>,
    burst_datagrams: usize,
    in_burst: AtomicUsize,
    pacing: Pacing,
}

/// Holds datagrams back until they may leave.
struct Pacing(Mutex<Paced>);

struct Paced {
    pacer: Pacer,
    /// The timer that wakes the sender, while it has to wait.
    wait: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Pacing {
    fn new(send_bps_max: u64) -> Self {
        Self(Mutex::new(Paced {
            pacer: Pacer::new(send_bps_max, Instant::now()),
            wait: None,
        }))
    }

    fn poll_send(
        &self,
        socket: &dyn AsyncUdpSocket,
        cx: &mut Context<'_>,
        transmit: &Transmit<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut paced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(until) = paced.pacer.plan_wait(Instant::now()) {
            let wait = paced
                .wait
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
            std::task::ready!(wait.as_mut().poll(cx));
            paced.wait = None;
        }
        let sent = socket.poll_send(cx, transmit);
        if let Poll::Ready(Ok(bytes)) = sent {
            paced.pacer.on_sent(Instant::now(), bytes);
        }
        sent
    }
}

impl fmt::Debug for BrowserSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for BrowserSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments().min(PACED_GSO_SEGMENTS_MAX)
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        self.pacing.poll_send(&*self.inner, cx, transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.gate.poll_open(cx.waker()));
        if self.in_burst.load(Ordering::Relaxed) >= self.burst_datagrams {
            self.in_burst.store(0, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // One message per read, whatever the caller offers: each may hold one datagram only.
        let received = self.inner.poll_recv(cx, &mut bufs[..1], &mut meta[..1]);
        match received {
            Poll::Ready(_) => self.in_burst.fetch_add(1, Ordering::Relaxed),
            Poll::Pending => self.in_burst.swap(0, Ordering::Relaxed),
        };
        received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_end_after_a_burst() {
        let runtime = LinkRuntime::new(
            &RtcConfig::loopback(),
            Some(BrowserManners {
                burst_datagrams: 2,
                send_bps_max: 100_000_000,
            }),
        );
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap();
        let receiver = runtime.wrap_udp_socket(receiver).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for at in 0..5 {
            sender.send_to(&[at], address).unwrap();
        }
        assert_eq!(receiver.max_gro_segments(), 1);
        let mut buf = [0; 16];
        assert_eq!(receiver.recv_from(&mut buf).await.unwrap().0, 1);
        let read = || {
            let mut buf = [0; 16];
            let mut meta = [RecvMeta::default()];
            let mut cx = Context::from_waker(std::task::Waker::noop());
            receiver
                .poll_recv(&mut cx, &mut [IoSliceMut::new(&mut buf)], &mut meta)
                .is_ready()
        };
        let reads: Vec<bool> = (0..6).map(|_| read()).collect();
        assert_eq!(reads, [true, false, true, true, false, true]);
    }

    #[test]
    fn window_fits_the_granted_buffer() {
        let window = receive_window_bytes(64 * 1024, 1 << 20);
        assert_eq!(window, RECEIVE_WINDOW_BYTES_MIN);
        assert!(receive_window_bytes(4 << 20, 1 << 20) > window);
    }
}
