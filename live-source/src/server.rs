use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::looped::LoopedClip;
use crate::object::{Kind, Lookup};
use crate::packager::Packager;
use crate::respond::{self, Body, Delivery, plain};
use crate::{BASE_PATH, Config, Error, Fault, Faults, Input, Stats, admin};

/// How long answers under way may take once shutdown is asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// How long a client may take over its request headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a held request looks whether its segment is there.
const HOLD_STEP: Duration = Duration::from_millis(40);
/// Pause after a failed accept, usually for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Publishes `config` on `listener` until `shutdown` resolves.
///
/// # Errors
/// As [`LiveSource::new`] and [`LiveSource::run`].
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    LiveSource::new(config)?.run(listener, shutdown).await
}

/// A source that is set up and not yet serving: take its handles, then [`run`](Self::run) it.
pub struct LiveSource {
    site: Arc<Site>,
}

/// What every connection shares.
struct Site {
    config: Config,
    origin: Origin,
    faults: Faults,
    stats: Stats,
}

enum Origin {
    Clip(Box<LoopedClip>),
    Packaged(Box<Packager>),
}

impl LiveSource {
    /// Checks the configuration and starts the clip's clock.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Input`], or [`Error::Io`] when no temporary folder can be made.
    pub fn new(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let origin = match config.input {
            Input::Clip => Origin::Clip(Box::new(LoopedClip::new(&config)?)),
            Input::File(_) | Input::Ffmpeg(_) => {
                Origin::Packaged(Box::new(Packager::new(&config)?))
            }
        };
        let faults = Faults::new(config.faults.clone());
        Ok(Self {
            site: Arc::new(Site {
                config,
                origin,
                faults,
                stats: Stats::default(),
            }),
        })
    }

    /// The fault switches; they work before and while the source runs.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.site.faults.clone()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.site.stats.clone()
    }

    /// Serves HTTP/1.1 and clear-text HTTP/2 until `shutdown` resolves; answers under way get a second
    /// to finish. ffmpeg, if used, ends with this future, however that ends.
    ///
    /// # Errors
    /// [`Error::FfmpegStart`] and [`Error::FfmpegExit`]; the clip never fails.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        let mut connections = JoinSet::new();
        let graceful = GracefulShutdown::new();
        let packager = async {
            match &self.site.origin {
                Origin::Clip(_) => std::future::pending().await,
                Origin::Packaged(packager) => packager.run(self.site.faults.resets()).await,
            }
        };
        let result = tokio::select! {
            () = shutdown => Ok(()),
            () = accept(&listener, &self.site, &mut connections, &graceful) => Ok(()),
            error = packager => Err(error),
        };
        drop(listener);
        // Whoever stalls beyond the grace is cut off with the set.
        _ = tokio::time::timeout(SHUTDOWN_GRACE, graceful.shutdown()).await;
        connections.shutdown().await;
        result
    }
}

async fn accept(
    listener: &TcpListener,
    site: &Arc<Site>,
    connections: &mut JoinSet<()>,
    graceful: &GracefulShutdown,
) {
    let slots = Arc::new(Semaphore::new(
        site.config.connections_max.min(Semaphore::MAX_PERMITS),
    ));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let serve = serve(stream, Arc::clone(site), graceful);
                connections.spawn(async move {
                    serve.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "environment: cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn serve(
    stream: TcpStream,
    site: Arc<Site>,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + 'static {
    // Small answers must not wait for the client's delayed acknowledgement.
    _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, std::convert::Infallible>(site.handle(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    let watched = graceful.watch(connection);
    async move {
        if let Err(error) = watched.await {
            tracing::debug!(error, "connection ended");
        }
    }
}

impl Site {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if let Some(rest) = path.strip_prefix("/admin/").filter(|_| self.config.admin) {
            return admin::handle(rest, request, &self.faults, &self.stats).await;
        }
        let object = path
            .strip_prefix(BASE_PATH)
            .and_then(|rest| Some((rest, self.classify(rest)?)));
        let response = match (request.method(), object) {
            (&Method::OPTIONS, _) => respond::preflight(),
            (&Method::GET | &Method::HEAD, Some((rest, kind))) => {
                self.handle_object(&request, rest, kind).await
            }
            (&Method::GET | &Method::HEAD, None) => plain(
                StatusCode::NOT_FOUND,
                "no such path; try /live/main.m3u8 or /live/main.mpd\n",
            ),
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"),
        };
        let status = response.status();
        let error = status.is_client_error() || status.is_server_error();
        self.stats.on_answer(object.map(|_| path.as_str()), error);
        tracing::debug!(method = %request.method(), path, status = status.as_u16(), "answered");
        response
    }

    async fn handle_object(
        &self,
        request: &Request<Incoming>,
        rest: &str,
        kind: Kind,
    ) -> Response<Body> {
        let path = request.uri().path();
        let segment = Duration::from_millis(self.config.segment_ms);
        let fault = self.faults.take(kind, path);
        match fault {
            Some(Fault::NotFound) => return not_yet(segment),
            Some(Fault::Status { code }) => {
                let status = StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                return plain(status, "refused by a fault switch\n");
            }
            _ => {}
        }
        if !self.faults.allows(kind, request.uri().query()) {
            return plain(StatusCode::FORBIDDEN, "request: no valid token\n");
        }
        let mut object = match self.lookup_held(rest, kind).await {
            Lookup::Found(bytes) => bytes,
            Lookup::NotYet { .. } => return not_yet(segment),
            Lookup::Expired => return respond::not_found("expired\n", segment),
            Lookup::Unknown => return plain(StatusCode::NOT_FOUND, "no such object\n"),
            Lookup::Starting => return starting(),
        };
        let mut private = false;
        if kind.is_playlist() {
            object = self.faults.frozen(rest, object);
            if let Some(token) = self.faults.issue_token() {
                object = respond::add_token(&object, kind, &token);
                private = true;
            }
        } else if matches!(kind, Kind::Segment(_)) {
            object = respond::stamp_generation(&object, self.faults.generation());
        }
        let window = segment * u32::try_from(self.config.window_segments).unwrap_or(u32::MAX);
        let delivery = Delivery {
            method: request.method(),
            request: request.headers(),
            kind,
            max_age: kind.max_age(segment, window),
            private,
            fault,
            changes: self.faults.changes(),
            stats: self.stats.clone(),
            path,
        };
        delivery.respond(object)
    }

    fn classify(&self, path: &str) -> Option<Kind> {
        let kind = match &self.origin {
            Origin::Clip(clip) => clip.classify(path),
            Origin::Packaged(packager) => packager.classify(path),
        }?;
        let published = match kind {
            Kind::Multivariant | Kind::Playlist => self.config.hls,
            Kind::Manifest | Kind::Time => self.config.dash,
            Kind::Init(_) | Kind::Segment(_) => true,
        };
        published.then_some(kind)
    }

    /// Looks again and again for the segment that comes next, if so configured.
    async fn lookup_held(&self, path: &str, kind: Kind) -> Lookup {
        let patience = Duration::from_millis(self.config.segment_ms * 3 / 2);
        let give_up = tokio::time::Instant::now() + patience;
        loop {
            let found = self.lookup(path, kind).await;
            let early = found == Lookup::NotYet { next: true } && matches!(kind, Kind::Segment(_));
            if !early || !self.config.hold_next || tokio::time::Instant::now() >= give_up {
                return found;
            }
            tokio::time::sleep(HOLD_STEP).await;
        }
    }

    async fn lookup(&self, path: &str, kind: Kind) -> Lookup {
        match &self.origin {
            Origin::Clip(clip) => clip.lookup(path, *self.faults.resets().borrow()),
            Origin::Packaged(packager) => packager.lookup(path, kind).await,
        }
    }
}

/// Not published yet: a cache that remembers this for long loses the segment for its viewers.
fn not_yet(segment: Duration) -> Response<Body> {
    respond::not_found(
        "not published yet\n",
        (segment / 4).min(Duration::from_secs(1)),
    )
}

fn starting() -> Response<Body> {
    let mut response = plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "the packager is still starting\n",
    );
    let retry = http::HeaderValue::from_static("1");
    response
        .headers_mut()
        .insert(http::header::RETRY_AFTER, retry);
    response
}
