//! Accepts connections, answers HTTP, upgrades viewers.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use callers::{Doubt, Peer};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use swarm_core::{directory::ConnId, id::StreamId, wire::SUBPROTOCOL};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, accepting,
    admission::{self, Admission},
    api,
    bearers::Bearers,
    cluster::{self, Cluster, Peers},
    config::Config,
    connection::{Caller, Visit},
    dashboard,
    entrance::Entrance,
    farewell::Places,
    handshake::{check_handshake, host_of, offers, switch_protocols, text_of, token_of},
    health,
    listed::Listed,
    lobby::Lobby,
    metrics::Counters,
    names::{self, Names},
    networks::Networks,
    quota::Addresses,
    reload::Reloader,
    seldom::Seldom,
    shard::{self, Command, Shard},
    socket::Sockets,
    stream::Stream,
    stun, webhooks,
    webtorrent::{self, Facade},
};

/// Largest head of a request, in bytes.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// For the directory to show that it works.
const HEALTH_TIME_MAX: Duration = Duration::from_secs(3);
/// How often operators are warned of what each viewer may cause.
const WARN_EVERY: Duration = Duration::from_secs(60);
pub(crate) type Answer = Response<Full<Bytes>>;

/// What all connections share.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) names: Names,
    pub(crate) networks: Networks,
    pub(crate) counters: Arc<Counters>,
    pub(crate) shard: mpsc::Sender<Command>,
    pub(crate) stun_ports: Vec<u16>,
    pub(crate) node: Node,
    /// The other nodes, where there may be any.
    pub(crate) peers: Option<Arc<Peers>>,
    draining: AtomicBool,
    pub(crate) sockets: Sockets,
    pub(crate) webtorrent: Arc<Facade>,
    /// The streams that are served, and what operators call them.
    pub(crate) streams: Listed<StreamId>,
    /// Nothing is asked of who joins.
    pub(crate) open: bool,
    pub(crate) bearers: Arc<Bearers>,
    /// What operators were told a moment ago.
    pub(crate) answers: api::Answers,
    /// What other nodes are to know of the webhooks that were sent.
    told: Mutex<webhooks::Told>,
    pub(crate) entrance: Entrance,
    /// Warnings of proxies that do not fit the settings, and of wrong admin tokens.
    proxies: Seldom,
    pub(crate) strangers: Seldom,
    addresses: Arc<Addresses>,
    /// One for each viewer that there may be.
    connections: Arc<Semaphore>,
    conns: AtomicU64,
    stopping: CancellationToken,
    pub(crate) stopped: CancellationToken,
}

/// This process, as the API names it.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) started: Instant,
}

/// Serves viewers on `listener` until `shutdown`; then tells them to come back and returns once
/// they are gone, or after `limits.drain_ms`. Who may join is the configuration's to say.
///
/// # Errors
/// [`Error`] if the configuration, a database or a socket cannot be used. Nothing that viewers do
/// ends it.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let (mut reloader, counters) = (Reloader::default(), Arc::default());
    let asked = admission::from_config(&config, &mut reloader, &counters)?;
    let gate = Gate {
        open: asked.is_none(),
        admission: asked.unwrap_or_else(|| Arc::new(admission::Open)),
    };
    serve(listener, config, gate, (reloader, counters), shutdown).await
}

/// As [`run`], with an own say on who may join.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    listener: TcpListener,
    config: Config,
    admission: Arc<dyn Admission>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let gate = Gate {
        open: false,
        admission,
    };
    let fresh = (Reloader::default(), Arc::default());
    serve(listener, config, gate, fresh, shutdown).await
}

/// Who may join.
struct Gate {
    /// Everybody.
    open: bool,
    admission: Arc<dyn Admission>,
}

async fn serve(
    listener: TcpListener,
    config: Config,
    gate: Gate,
    (mut reloader, counters): (Reloader, Arc<Counters>),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    config.check()?;
    let names = Names::new(config.name_key.as_deref())?;
    let networks = Networks::open(&config, &mut reloader)?;
    let entrance = Entrance::open(&config, &mut reloader)?;
    let webtorrent = Arc::new(Facade::new(&config, &mut reloader)?);
    let streams = config.open_streams(&mut reloader)?;
    let (stopping, stopped) = (CancellationToken::new(), CancellationToken::new());
    let _stop_all = stopped.clone().drop_guard();
    reloader.spawn(
        Duration::from_millis(u64::from(config.reload_ms)),
        Arc::clone(&counters),
        stopped.clone(),
    );
    let stun_ports = start_stun(&config, &counters, &stopped).await?;
    let (seed, id) = draw()?;
    let places = Arc::new(Places::new(&config.drain));
    let (sender, commands) = mpsc::channel(shard::COMMANDS_MAX);
    let shard = Shard::new(
        Arc::new(config.clone()),
        names.clone(),
        Arc::clone(&counters),
        Arc::clone(&places),
        seed,
    );
    let shard = tokio::spawn(shard.serve(commands, stopping.clone()));
    let ping_ms = config.limits.ping_ms.min(config.webtorrent.ping_ms);
    let ends = (&sender, &webtorrent);
    let cluster = start_cluster(&config, places, ends, &counters, &stopping).await?;
    let context = Arc::new(Context {
        addresses: Addresses::new(config.limits.clone()),
        connections: Arc::new(Semaphore::new(config.limits.connections_max as usize)),
        bearers: Bearers::new(&config.limits),
        answers: api::Answers::default(),
        told: Mutex::default(),
        entrance,
        node: Node::new(&config, cluster.as_ref(), id),
        config,
        admission: gate.admission,
        open: gate.open,
        streams,
        proxies: Seldom::new(WARN_EVERY),
        strangers: Seldom::new(WARN_EVERY),
        names,
        networks,
        counters,
        shard: cluster.as_ref().map_or(sender, |c| c.commands.clone()),
        stun_ports,
        peers: cluster.as_ref().map(|c| Arc::clone(&c.peers)),
        draining: AtomicBool::new(false),
        sockets: Sockets::start(ping_ms, &stopped),
        webtorrent,
        conns: AtomicU64::new(1),
        stopping,
        stopped,
    });
    let mut tasks = vec![shard];
    tasks.extend(start_tasks(cluster, &context));
    welcome(listener, &context, tasks, shutdown).await
}

/// Lets viewers in until `shutdown`, or until one of the tasks has ended before.
async fn welcome(
    listener: TcpListener,
    context: &Arc<Context>,
    mut tasks: Vec<JoinHandle<()>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let lobby = Lobby::new(&context.config.limits);
    accepting::warn_of_few_files(&context.config.limits);
    let mut broken = false;
    let until = async { broken = health::until_broken(&mut tasks, shutdown).await };
    accepting::accept(listener, context, &lobby, until).await;
    context.stopping.cancel();
    if broken {
        return Err(Error::Broke);
    }
    wait_until_gone(context, &lobby).await;
    join(tasks).await;
    Ok(())
}

/// Waits until all connections have ended, or `limits.drain_ms`.
async fn wait_until_gone(context: &Context, lobby: &Lobby) {
    let limits = &context.config.limits;
    let gone = async {
        lobby.empty().await;
        context
            .connections
            .acquire_many(limits.connections_max)
            .await
    };
    let drain = Duration::from_millis(u64::from(limits.drain_ms));
    if time::timeout(drain, gone).await.is_err() {
        tracing::info!("connections that did not end in time are cut");
    }
}

/// Waits until the tasks have ended.
async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task broke off");
        }
    }
}

/// A seed, and a name for this process.
fn draw() -> Result<(u64, String), Error> {
    let mut random = [0; 16];
    names::fill(&mut random)?;
    let (seed, id) = random.split_at(8);
    let seed = u64::from_be_bytes(seed.try_into().unwrap_or_default());
    Ok((seed, hex::encode(id)))
}

impl Node {
    /// `id` is for a node that has none of a cluster.
    fn new(config: &Config, cluster: Option<&Cluster>, id: String) -> Self {
        Self {
            id: cluster.map_or(id, |cluster| cluster.peers.node()),
            name: config.cluster.name.clone(),
            started: Instant::now(),
        }
    }
}

async fn start_cluster(
    config: &Config,
    places: Arc<Places>,
    (shard, facade): (&mpsc::Sender<Command>, &Arc<Facade>),
    counters: &Arc<Counters>,
    stopping: &CancellationToken,
) -> Result<Option<Cluster>, Error> {
    if !config.cluster.is_on() {
        return Ok(None);
    }
    let (shard, stop) = (shard.clone(), stopping.clone());
    let started = cluster::start(config, places, shard, facade, counters, stop);
    Ok(Some(started.await?))
}

/// What runs beside the connections; the task to wait for at the end.
fn start_tasks(cluster: Option<Cluster>, context: &Arc<Context>) -> Option<JoinHandle<()>> {
    if context.config.webhooks.is_on() {
        spawn_until(&context.stopped, webhooks::serve(Arc::clone(context)));
    }
    let (facade, until) = (Arc::clone(context), context.stopping.clone());
    // Ends too where the server is dropped: what holds the context keeps connections open.
    spawn_until(&context.stopped, async move {
        facade.webtorrent.serve(until).await;
    });
    let cluster = cluster?;
    let serve = api::serve_peers(Arc::clone(context), cluster.asked);
    spawn_until(&context.stopped, serve);
    Some(cluster.task)
}

fn spawn_until(stopped: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stopped = stopped.clone();
    tokio::spawn(async move { stopped.run_until_cancelled(task).await });
}

impl Context {
    /// Sends all viewers away over this time and lets no new ones in; `None` ends it. `None` is
    /// also the answer where the tracker stops anyway.
    pub(crate) async fn drain(&self, over: Option<Duration>) -> Option<()> {
        self.draining.store(over.is_some(), Ordering::Relaxed);
        Counters::set(&self.counters.draining, u64::from(over.is_some()));
        tracing::info!(?over, draining = over.is_some(), "drain");
        self.webtorrent.drain(over);
        self.shard.send(Command::Drain(over)).await.ok()
    }

    /// Whose connection it is. Where the settings do not fit the proxies, all viewers seem to be one, so
    /// operators are told.
    fn address_of(&self, peer: Peer, request: &Request<Incoming>) -> IpAddr {
        let proxies = &self.entrance.proxies;
        let (address, doubt) = proxies.viewer_of(peer, request.headers());
        if let Some(doubt) = doubt {
            let (counter, what) = match doubt {
                Doubt::Unnamed => (
                    &self.counters.address_unnamed,
                    "a trusted proxy does not say whose connections it passes on: is address_header (or \
                     proxy_protocol) what it writes?",
                ),
                Doubt::Ignored => (
                    &self.counters.address_header_ignored,
                    "who is no trusted proxy says whose connections it passes on: is an address missing in \
                     trusted_proxies?",
                ),
            };
            Counters::add(counter);
            if let Some(times) = self.proxies.times(Instant::now()) {
                tracing::warn!(times, "{what}");
            }
        }
        address
    }

    /// What other nodes are to know of the webhooks that were sent.
    pub(crate) fn told(&self) -> MutexGuard<'_, webhooks::Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Listens on the port that was asked for and on the one after it (before it, if it is the last one).
async fn start_stun(
    config: &Config,
    counters: &Arc<Counters>,
    stopped: &CancellationToken,
) -> Result<Vec<u16>, Error> {
    let Some(first) = config.stun.listen else {
        return Ok(Vec::new());
    };
    let second = match first.port() {
        0 => 0,
        port => port.checked_add(1).unwrap_or(port - 1),
    };
    let mut ports = Vec::new();
    for address in [first, SocketAddr::new(first.ip(), second)] {
        let failed = |source| Error::Environment {
            what: "listening for STUN",
            source,
        };
        let socket = UdpSocket::bind(address).await.map_err(failed)?;
        ports.push(socket.local_addr().map_err(failed)?.port());
        let serve = stun::serve(socket, config.stun.answers_per_s, Arc::clone(counters));
        let stopped = stopped.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(serve).await });
    }
    Ok(ports)
}

/// Speaks HTTP until the connection ends, or becomes a viewer's.
pub(crate) async fn serve_http(stream: Stream, peer: Peer, context: Arc<Context>) {
    let limits = &context.config.limits;
    let head_time = Duration::from_millis(u64::from(limits.request_head_ms));
    let time_max = Duration::from_millis(u64::from(limits.request_ms));
    let shared = Arc::clone(&context);
    let service = service_fn(move |request| {
        let context = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, peer, context).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(HEAD_LEN_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = context.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match context.stopped.run_until_cancelled(connection).await {
                Some(served) => served,
                None => return,
            }
        }
        // Whatever it asks, and however slowly it reads what it is told.
        () = time::sleep(time_max) => {
            connection.as_mut().graceful_shutdown();
            match time::timeout(head_time, connection).await {
                Ok(served) => served,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, peer = %peer.address, "HTTP connection broke");
    }
}

async fn answer(request: Request<Incoming>, peer: Peer, context: Arc<Context>) -> Answer {
    let path = request.uri().path();
    match path {
        "/healthz" if health::answers(&context.shard, HEALTH_TIME_MAX).await => {
            text(StatusCode::OK, "ok\n")
        }
        "/healthz" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the directory does not answer\n",
        ),
        "/readyz" if context.stopping.is_cancelled() || context.shard.is_closed() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        }
        "/readyz" if context.is_draining() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/readyz" => text(StatusCode::OK, "ready\n"),
        "/metrics" => api::answer_metrics(&request, &context).await,
        _ if path == dashboard::PATH || path.starts_with("/dashboard/") => {
            dashboard::answer(request.method(), path)
        }
        _ if path.starts_with("/api/") => api::answer(request, &context).await,
        // At a path of both who offers our subprotocol is ours.
        _ if context.webtorrent.is_at(path)
            && !(is_ours(path, &context) && offers(request.headers(), SUBPROTOCOL)) =>
        {
            upgrade(request, peer, context, None)
        }
        _ if is_ours(path, &context) => upgrade(request, peer, context, Some(SUBPROTOCOL)),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn is_ours(path: &str, context: &Context) -> bool {
    context.config.paths.iter().any(|own| own == path)
}

/// Takes a viewer's WebSocket handshake (RFC 6455). Without a subprotocol it is a WebTorrent
/// client's.
fn upgrade(
    mut request: Request<Incoming>,
    peer: Peer,
    context: Arc<Context>,
    subprotocol: Option<&'static str>,
) -> Answer {
    let refusals = &context.counters.refusals;
    let refuse = |reason, status, why| {
        Counters::add(&context.counters.connections_refused);
        Counters::add(reason);
        text(status, why)
    };
    if context.is_draining() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return refuse(&refusals.draining, status, "draining\n");
    }
    let key = match check_handshake(&request, &context.config, subprotocol) {
        Ok(key) => key,
        Err((StatusCode::FORBIDDEN, why)) => {
            return refuse(&refusals.origin, StatusCode::FORBIDDEN, why);
        }
        Err((status, why)) => return refuse(&refusals.handshake, status, why),
    };
    let address = context.address_of(peer, &request);
    let Some(held) = context.addresses.hold(address) else {
        let (status, why) = (
            StatusCode::TOO_MANY_REQUESTS,
            "too many connections of this address\n",
        );
        return refuse(&refusals.address, status, why);
    };
    let Ok(permit) = Arc::clone(&context.connections).try_acquire_owned() else {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return refuse(&refusals.full, status, "too many viewers are connected\n");
    };
    let conn = context.conns.fetch_add(1, Ordering::Relaxed);
    let origin = text_of(request.headers(), &header::ORIGIN).map(Into::into);
    let token = token_of(request.uri()).map(Into::into);
    let upgraded = hyper::upgrade::on(&mut request);
    if subprotocol.is_some() {
        let caller = Box::new(Caller {
            address,
            host: host_of(request.headers()),
            origin,
            token,
        });
        let visit = Visit {
            conn: ConnId(conn),
            held,
            _permit: permit,
            context,
        };
        spawn_visit(upgraded, |upgraded| visit.serve(caller, upgraded));
    } else {
        let visit = webtorrent::Visit {
            conn,
            address,
            origin,
            token,
            held,
            _permit: permit,
            context,
        };
        spawn_visit(upgraded, |upgraded| visit.serve(upgraded));
    }
    switch_protocols(&key, subprotocol)
}

/// Lets a visit begin once the handshake is answered, in a task that holds nothing else.
fn spawn_visit<F: Future<Output = ()> + Send + 'static>(
    upgraded: OnUpgrade,
    serve: impl FnOnce(Upgraded) -> F + Send + 'static,
) {
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            tokio::spawn(serve(upgraded));
        }
    });
}

pub(crate) fn text(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
