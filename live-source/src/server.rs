use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::encoder::Encoder;
use crate::looped::LoopedClip;
use crate::object::{Kind, Lookup};
use crate::packager::Packager;
use crate::reload::Directives;
use crate::respond::{self, Body, Delivery, plain};
use crate::route::{File, Route};
use crate::{BASE_PATH, Config, Error, Fault, Faults, Input, Stats, admin};

/// How long answers under way may take once shutdown is asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// How long a client may take over its request headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a held request looks whether ffmpeg has written its segment.
const HOLD_STEP: Duration = Duration::from_millis(40);
/// A playlist or part is waited for as long as so many segments last (rfc8216bis section 6.2.5.2).
const BLOCKED_SEGMENTS: u32 = 3;
/// The answer to a blocking reload may be repeated for as long as so many segments last.
const RELOAD_SEGMENTS: u32 = 6;
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
    Encoded(Box<Encoder>),
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
            Input::File(_) | Input::Ffmpeg(_) if config.is_low_latency() => {
                Origin::Encoded(Box::new(Encoder::new(&config)?))
            }
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
                Origin::Encoded(encoder) => encoder.run(self.site.faults.resets()).await,
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
    async fn handle(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
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
        self: &Arc<Self>,
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
        let directives = match self.directives(kind, request.uri().query()) {
            Ok(directives) => directives,
            Err(reason) => return plain(StatusCode::BAD_REQUEST, reason),
        };
        // A fault hits the whole segment.
        let may_grow = *request.method() == Method::GET && fault.is_none();
        if may_grow && let Some(growing) = self.handle_growing(request, rest, kind).await {
            return growing;
        }
        let mut object = match self.lookup_held(rest, kind, directives).await {
            Lookup::Found(bytes) => bytes,
            Lookup::NotYet { .. } if kind == Kind::Playlist => {
                return plain(StatusCode::SERVICE_UNAVAILABLE, "the stream has stopped\n");
            }
            Lookup::NotYet { .. } => return not_yet(segment),
            Lookup::Expired => return respond::not_found("expired\n", segment),
            Lookup::Unknown => return plain(StatusCode::NOT_FOUND, "no such object\n"),
            Lookup::TooFar => {
                return plain(StatusCode::BAD_REQUEST, "request: too far ahead\n");
            }
            Lookup::Starting => return starting(),
        };
        let mut private = false;
        if kind.is_playlist() {
            object = self.faults.frozen(rest, object);
            if let Some(token) = self.faults.issue_token() {
                object = respond::add_token(&object, kind, &token);
                private = true;
            }
        } else if begins_segment(rest, kind) {
            object = respond::stamp_generation(&object, self.faults.generation());
        }
        let delivery = Delivery {
            method: request.method(),
            request: request.headers(),
            kind,
            max_age: self.max_age(kind, directives),
            private,
            fault,
            changes: self.faults.changes(),
            stats: self.stats.clone(),
            path,
        };
        delivery.respond(object)
    }

    /// What there is of a segment that is being made, if that is to be had.
    async fn handle_growing(
        self: &Arc<Self>,
        request: &Request<Incoming>,
        rest: &str,
        kind: Kind,
    ) -> Option<Response<Body>> {
        let path = request.uri().path();
        if !request.headers().contains_key(header::RANGE) {
            return self.growing(rest, kind, path).await;
        }
        let range = respond::closed_range(request.headers())?;
        self.part_of_growing(rest, kind, path, range).await
    }

    fn directives(&self, kind: Kind, query: Option<&str>) -> Result<Directives, &'static str> {
        match kind {
            Kind::Playlist if self.config.ll_hls => Directives::read(query),
            _ => Ok(Directives::default()),
        }
    }

    fn max_age(&self, kind: Kind, directives: Directives) -> Duration {
        let segment = Duration::from_millis(self.config.segment_ms);
        let window = segment * u32::try_from(self.config.window_segments).unwrap_or(u32::MAX);
        match kind {
            Kind::Playlist if directives.wanted.is_some() => segment * RELOAD_SEGMENTS,
            Kind::Playlist if self.config.ll_hls => Duration::from_millis(self.config.part_ms) / 2,
            _ => kind.max_age(segment, window),
        }
    }

    fn classify(&self, path: &str) -> Option<Kind> {
        let kind = match &self.origin {
            Origin::Packaged(packager) => packager.classify(path)?,
            origin => {
                let route = Route::read(path)?;
                if let Route::Track(id, _) = route
                    && !origin.has(id)
                {
                    return None;
                }
                route.kind()
            }
        };
        let published = match kind {
            Kind::Multivariant | Kind::Playlist => self.config.hls,
            Kind::Manifest | Kind::Time => self.config.dash,
            Kind::Part(_) => self.config.ll_hls,
            Kind::Init(_) | Kind::Segment(_) => true,
        };
        published.then_some(kind)
    }

    /// Looks again whenever something is published, for as long as what is asked for may come soon.
    async fn lookup_held(&self, path: &str, kind: Kind, directives: Directives) -> Lookup {
        let patience = match kind {
            Kind::Segment(_) => self.segment_patience(),
            _ => Duration::from_millis(self.config.segment_ms) * BLOCKED_SEGMENTS,
        };
        let give_up = tokio::time::Instant::now() + patience;
        loop {
            // Made first: nothing is missed between looking and waiting.
            let change = self.origin.change();
            let found = self.lookup(path, kind, directives).await;
            let is_early = found == Lookup::NotYet { next: true };
            if !is_early || tokio::time::timeout_at(give_up, change).await.is_err() {
                return found;
            }
        }
    }

    async fn lookup(&self, path: &str, kind: Kind, directives: Directives) -> Lookup {
        if let Origin::Packaged(packager) = &self.origin {
            return packager.lookup(path, kind).await;
        }
        let Some(route) = Route::read(path) else {
            return Lookup::Unknown;
        };
        match &self.origin {
            Origin::Clip(clip) => clip.lookup(&route, directives, *self.faults.resets().borrow()),
            Origin::Encoded(encoder) => encoder.lookup(&route, directives),
            Origin::Packaged(_) => Lookup::Unknown,
        }
    }

    /// A segment that is being made, part by part (LL-DASH, and LL-HLS whose parts are ranges); none if it is whole or not to be had yet.
    async fn growing(
        self: &Arc<Self>,
        rest: &str,
        kind: Kind,
        path: &str,
    ) -> Option<Response<Body>> {
        let Some(Route::Track(id, File::Segment(number))) = Route::read(rest) else {
            return None;
        };
        if !self.sends_growing() || !self.once_open(id, number, kind).await {
            return None;
        }
        let first = self.part(id, number, 0).await.ok().flatten()?;
        let (site, id) = (Arc::clone(self), id.to_owned());
        let rest = stream::try_unfold(1, move |part| {
            let (site, id) = (Arc::clone(&site), id.clone());
            async move {
                let next = site.part(&id, number, part).await?;
                Ok(next.map(|bytes| (bytes, part + 1)))
            }
        });
        let parts = stream::once(async move { Ok(first) }).chain(rest);
        let max_age = self.max_age(kind, Directives::default());
        Some(respond::growing(
            kind,
            max_age,
            parts,
            self.stats.clone(),
            path,
        ))
    }

    /// A range of a segment that is being made, once its last byte is there (LL-HLS whose parts are ranges); none if
    /// the segment is whole, not to be had yet, or ends before.
    async fn part_of_growing(
        &self,
        rest: &str,
        kind: Kind,
        path: &str,
        (first, last): (u64, u64),
    ) -> Option<Response<Body>> {
        let Some(Route::Track(id, File::Segment(number))) = Route::read(rest) else {
            return None;
        };
        if !self.config.part_byteranges || !self.once_open(id, number, kind).await {
            return None;
        }
        let mut so_far = Vec::new();
        for part in 0.. {
            if so_far.len() as u64 > last {
                break;
            }
            so_far.extend_from_slice(&self.part(id, number, part).await.ok().flatten()?);
        }
        let bytes = Bytes::from(so_far).slice(first as usize..=last as usize);
        let max_age = self.max_age(kind, Directives::default());
        let stats = &self.stats;
        Some(respond::part_of_growing(
            kind, max_age, first, bytes, stats, path,
        ))
    }

    /// Whether segments can be had while they are made.
    fn sends_growing(&self) -> bool {
        self.config.ll_dash || self.config.part_byteranges
    }

    /// Whether a segment is being made. If it is the one after that, waits until it is: Shaka asks for it
    /// so early, and takes a 404 for a failure.
    async fn once_open(&self, id: &str, number: u64, kind: Kind) -> bool {
        let is_open = async |number: u64| {
            let path = format!("{id}/seg-{number}.m4s");
            let found = self.lookup(&path, kind, Directives::default()).await;
            found == Lookup::NotYet { next: true }
        };
        let give_up = tokio::time::Instant::now() + self.segment_patience();
        loop {
            let change = self.origin.change();
            let is_next = match number.checked_sub(1) {
                Some(before) => is_open(before).await,
                None => false,
            };
            if !is_next {
                return is_open(number).await;
            }
            if tokio::time::timeout_at(give_up, change).await.is_err() {
                return false;
            }
        }
    }

    /// How long a request for a segment that comes next is held.
    fn segment_patience(&self) -> Duration {
        if self.config.hold_next {
            Duration::from_millis(self.config.segment_ms) * 3 / 2
        } else {
            Duration::ZERO
        }
    }

    /// Waits for one part; none past the last one of its segment.
    async fn part(&self, id: &str, number: u64, part: u64) -> std::io::Result<Option<Bytes>> {
        let path = format!("{id}/part-{number}.{part}.m4s");
        let Some(kind) = Route::read(&path).map(|route| route.kind()) else {
            return Ok(None);
        };
        match self.lookup_held(&path, kind, Directives::default()).await {
            Lookup::Found(bytes) if part == 0 => Ok(Some(respond::stamp_generation(
                &bytes,
                self.faults.generation(),
            ))),
            Lookup::Found(bytes) => Ok(Some(bytes)),
            Lookup::Unknown => Ok(None),
            _ => Err(std::io::Error::other("the stream has stopped")),
        }
    }
}

impl Origin {
    fn has(&self, id: &str) -> bool {
        match self {
            Self::Clip(clip) => clip.has(id),
            Self::Encoded(encoder) => encoder.has(id),
            Self::Packaged(_) => false,
        }
    }

    /// Resolves when there may be something new since this was called.
    fn change(&self) -> Pin<Box<dyn Future<Output = ()> + Send + Sync + '_>> {
        match self {
            Self::Clip(clip) => Box::pin(clip.change()),
            Self::Packaged(_) => Box::pin(tokio::time::sleep(HOLD_STEP)),
            Self::Encoded(encoder) => {
                let mut changes = encoder.changes();
                Box::pin(async move {
                    // The encoder lives as long as this: it never ends without a change.
                    _ = changes.changed().await;
                })
            }
        }
    }
}

/// Whether an object is where a segment's generation goes: parts together are the segment.
fn begins_segment(rest: &str, kind: Kind) -> bool {
    match Route::read(rest) {
        Some(Route::Track(_, File::Part(_, part))) => part == 0,
        _ => matches!(kind, Kind::Segment(_)),
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
    let retry = HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, retry);
    response
}
