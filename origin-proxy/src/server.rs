//! Connections of viewers over TCP, and the proxy's life.

use std::{
    net::{IpAddr, UdpSocket},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use callers::{Peer, Proxies};
use http::HeaderValue;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::{Accept, TlsAcceptor};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Error, acme, config::TlsConfig, keyring, proxy::Proxy, quic, rates::Place,
    tls::Certificates, visit::Host,
};

/// Where viewers are awaited.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Without TLS: HTTP/1.1, and HTTP/2 for those who begin with its preface.
    pub plain: Option<TcpListener>,
    /// With TLS: HTTP/2 and HTTP/1.1.
    pub tls: Option<TcpListener>,
    /// HTTP/3. Advertised to viewers of `tls`.
    pub quic: Option<UdpSocket>,
}

/// Serves viewers until `shutdown` is ready, then lets open requests end. Where `config` says so, TLS
/// and HTTP/3 are served besides `listener`.
///
/// # Errors
/// [`Error`], before anything is served, if `config` is wrong, the key or the certificate cannot be
/// used, or a port is taken.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let mut listeners = Listeners {
        plain: Some(listener),
        ..Listeners::default()
    };
    if let Some(address) = config.tls.listen {
        let blame = |error| Error::Environment(format!("cannot listen on {address}: {error}"));
        let tls = TcpListener::bind(address).await.map_err(blame)?;
        if config.tls.http3 {
            let address = tls.local_addr().map_err(blame)?;
            listeners.quic = Some(UdpSocket::bind(address).map_err(blame)?);
        }
        listeners.tls = Some(tls);
    }
    run_on(listeners, config, shutdown).await
}

/// The same on listeners that are open already.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    listeners: Listeners,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let proxy = Proxy::new(config)?;
    let drain = Duration::from_millis(proxy.config.timeouts.drain_ms);
    let stop = CancellationToken::new();
    let connections = Arc::new(Semaphore::new(proxy.config.limits.connections_max));
    // Ends with this function.
    let mut chores = chores(&proxy);
    let mut doors = JoinSet::new();
    let new_door = |tls: Option<TlsAcceptor>, alt_svc| Door {
        proxy: proxy.clone(),
        connections: connections.clone(),
        host: Host::new(proxy.clone(), stop.clone(), alt_svc),
        tls,
        head: Duration::from_millis(proxy.config.timeouts.request_head_ms),
    };
    if let Some(listener) = listeners.plain {
        doors.spawn(serve(listener, new_door(None, None), stop.clone(), drain));
    }
    if listeners.tls.is_some() || listeners.quic.is_some() {
        let certificates = open_certificates(&proxy, &mut chores)?;
        let mut alt_svc = None;
        if let Some(socket) = listeners.quic {
            alt_svc = advertisement(&socket, &proxy.config.tls);
            let endpoint = quic::open(socket, &certificates)?;
            let (proxy, connections) = (proxy.clone(), connections.clone());
            doors.spawn(quic::serve(
                endpoint,
                proxy,
                connections,
                stop.clone(),
                drain,
            ));
        }
        if let Some(listener) = listeners.tls {
            let tls = certificates.server_config(&[b"h2", b"http/1.1"])?;
            let door = new_door(Some(TlsAcceptor::from(Arc::new(tls))), alt_svc);
            doors.spawn(serve(listener, door, stop.clone(), drain));
        }
        let pause = Duration::from_millis(proxy.config.tls.reload_ms);
        chores.spawn(async move { certificates.watch(pause).await });
    }
    shutdown.await;
    proxy.is_leaving.store(true, Ordering::Relaxed);
    // Balancers must see that it is not ready any more before viewers are refused.
    tokio::time::sleep(Duration::from_millis(proxy.config.timeouts.lame_duck_ms)).await;
    proxy.is_draining.store(true, Ordering::Relaxed);
    stop.cancel();
    while doors.join_next().await.is_some() {}
    if let Some(log) = proxy.access.clone() {
        let _ = tokio::task::spawn_blocking(move || log.flush()).await;
    }
    Ok(())
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const METRICS_PAUSE: Duration = Duration::from_secs(2);

/// What happens now and then.
fn chores(proxy: &Arc<Proxy>) -> JoinSet<()> {
    let mut chores = JoinSet::new();
    let upkeep = proxy.clone();
    chores.spawn(async move {
        loop {
            tokio::time::sleep(METRICS_PAUSE).await;
            upkeep.metrics.tidy();
        }
    });
    if let Some(keys) = proxy.keys.clone() {
        let pause = Duration::from_millis(proxy.config.records.key_reload_ms);
        chores.spawn(keyring::watch(proxy.clone(), keys, pause));
    }
    let Some(path) = proxy.config.upstream.health_path.clone() else {
        return chores;
    };
    for base in proxy.sites.iter().flat_map(|site| &site.bases) {
        let (proxy, base, path) = (proxy.clone(), base.clone(), path.clone());
        // Each by itself: one that hangs must not hold up news of the others.
        chores.spawn(async move {
            loop {
                proxy.upstream.check(&base, &path).await;
                let pause = proxy.config.upstream.health_interval_ms;
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        });
    }
    chores
}

fn advertisement(socket: &UdpSocket, config: &TlsConfig) -> Option<HeaderValue> {
    let port = match config.http3_advertised_port {
        0 => socket.local_addr().ok()?.port(),
        port => port,
    };
    let seconds = config.http3_advertised_s;
    HeaderValue::try_from(format!("h3=\":{port}\"; ma={seconds}")).ok()
}

/// The certificates that the settings name, or those that are obtained from here on.
fn open_certificates(
    proxy: &Arc<Proxy>,
    chores: &mut JoinSet<()>,
) -> Result<Arc<Certificates>, Error> {
    let config = &proxy.config;
    if config.acme.names.is_empty() {
        return Certificates::open(&config.tls, &proxy.metrics);
    }
    let file = acme::open(&config.acme)?;
    let files = TlsConfig {
        certificate_file: Some(file.clone()),
        key_file: Some(file.clone()),
        ..config.tls.clone()
    };
    let certificates = Certificates::open(&files, &proxy.metrics)?;
    let (challenges, metrics) = (proxy.challenges.clone(), proxy.metrics.clone());
    chores.spawn(acme::keep(config.acme.clone(), file, challenges, metrics));
    Ok(certificates)
}

/// One listener and what is behind it.
struct Door {
    proxy: Arc<Proxy>,
    connections: Arc<Semaphore>,
    host: Arc<Host>,
    tls: Option<TlsAcceptor>,
    /// For what comes before HTTP.
    head: Duration,
}

impl Door {
    /// Serves the viewer behind `socket` as one of those that are `open`, if its address may have one more.
    fn receive(
        &self,
        socket: TcpStream,
        peer: Peer,
        permit: Option<OwnedSemaphorePermit>,
        open: &TaskTracker,
    ) {
        let Some(place) = self.proxy.place_of(peer) else {
            self.proxy.metrics.refused.increment(1);
            return;
        };
        self.proxy.metrics.connections.increment(1.0);
        let guest = Guest {
            proxy: self.proxy.clone(),
            _permit: permit,
            _place: place,
        };
        let host = self.host.clone();
        match &self.tls {
            None => open.spawn(host.serve(socket, peer, guest)),
            Some(tls) => {
                let hands = tls.accept(socket);
                open.spawn(shake_hands(host, hands, peer, self.head, guest))
            }
        };
    }
}

/// Serves the viewer that the proxy at `address` names at the beginning of its connection.
async fn announced(
    door: Arc<Door>,
    mut socket: TcpStream,
    address: IpAddr,
    permit: Option<OwnedSemaphorePermit>,
    open: TaskTracker,
) {
    let announcement = Proxies::read_announcement(&mut socket, address);
    // In a place of its own, which is free afterwards.
    let read = Box::pin(tokio::time::timeout(door.head, announcement)).await;
    let read = read.unwrap_or_else(|late| Err(late.into()));
    match read {
        Ok(peer) => door.receive(socket, peer, permit, &open),
        Err(error) => door.proxy.on_no_announcement(address, &error),
    }
}

async fn serve(listener: TcpListener, door: Door, stop: CancellationToken, drain: Duration) {
    let open = TaskTracker::new();
    let door = Arc::new(door);
    loop {
        let accept = async {
            let permit = door.connections.clone().acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accept => accepted,
            () = stop.cancelled() => break,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, most likely: some will close.
                tracing::warn!(%error, "environment refuses a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        prepare(&socket, &door.proxy.config);
        if door.proxy.entrance.proxies.announces(address.ip()) {
            let announced = announced(door.clone(), socket, address.ip(), permit, open.clone());
            let stop = stop.clone();
            open.spawn(async move { stop.run_until_cancelled(announced).await });
        } else {
            door.receive(socket, Peer::at(address.ip()), permit, &open);
        }
    }
    drop(listener);
    open.close();
    let _ = tokio::time::timeout(drain, open.wait()).await;
}

/// Sets what is to hold for a viewer's connection.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
fn prepare(socket: &TcpStream, config: &Config) {
    // Small answers, playlists above all, must not wait for acknowledgements.
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(socket);
        // Whoever takes nothing must not keep a place for ever (RFC 5482, tcp(7)).
        let send_ms = config.timeouts.send_ms;
        let _ = socket.set_tcp_user_timeout(Some(Duration::from_millis(send_ms)));
        // What the kernel has sent it frees, and takes again while the processor's caches still have it: copying
        // answers into memory that has not been used for long takes the better part of what they cost. What is on its
        // way may grow as far viewers need it (tcp(7), TCP_NOTSENT_LOWAT).
        if config.limits.unsent_bytes_max > 0 {
            let _ = socket.set_tcp_notsent_lowat(config.limits.unsent_bytes_max);
        }
    }
}

/// A viewer's place among all.
struct Guest {
    proxy: Arc<Proxy>,
    _permit: Option<OwnedSemaphorePermit>,
    _place: Place,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.proxy.metrics.connections.decrement(1.0);
    }
}

/// `patience` is for the handshake.
async fn shake_hands(
    host: Arc<Host>,
    hands: Accept<TcpStream>,
    peer: Peer,
    patience: Duration,
    guest: Guest,
) {
    // In a place of its own, which is free afterwards.
    match Box::pin(tokio::time::timeout(patience, hands)).await {
        Ok(Ok(socket)) => host.serve(socket, peer, guest).await,
        Ok(Err(error)) => tracing::debug!(%error, "client failed at the TLS handshake"),
        Err(_) => tracing::debug!("client did not finish the TLS handshake"),
    }
}
