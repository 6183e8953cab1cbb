//! A programmable origin and a running proxy.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use futures_util::future::BoxFuture;
use origin_proxy::{Config, StreamConfig, keygen};
use tokio::{net::TcpListener, sync::oneshot};

pub(crate) type Handler = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// Answers what it was told to, and counts.
#[derive(Clone, Default)]
pub(crate) struct Origin(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    handlers: HashMap<String, Handler>,
    /// Paths with queries, in order.
    asked: Vec<String>,
}

impl Origin {
    /// Answers requests for `path`; for all paths that have no handler, if it is `*`.
    pub(crate) fn on<F, R>(&self, path: &str, handler: F)
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        self.0.lock().unwrap().handlers.insert(path.into(), handler);
    }

    /// Answers `path` with 200, `headers` and `body`.
    pub(crate) fn put(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) {
        let headers: Vec<(String, String)> = headers
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        let body: Vec<u8> = body.into();
        self.on(path, move |_| {
            let response = respond(200, &headers, body.clone());
            async move { response }
        });
    }

    /// How often `path` was asked for, with whatever query.
    pub(crate) fn count(&self, path: &str) -> usize {
        let inner = self.0.lock().unwrap();
        let is_it = |asked: &&String| asked.split('?').next() == Some(path);
        inner.asked.iter().filter(is_it).count()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    pub(crate) async fn serve(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(handle).with_state(self);
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }
}

async fn handle(State(origin): State<Origin>, request: Request) -> Response {
    let handler = {
        let mut inner = origin.0.lock().unwrap();
        inner.asked.push(request.uri().to_string());
        let own = inner.handlers.get(request.uri().path());
        own.or_else(|| inner.handlers.get("*")).cloned()
    };
    match handler {
        Some(handler) => handler(request).await,
        None => respond::<&str>(404, &[], "not there"),
    }
}

pub(crate) fn respond<S: AsRef<str>>(
    status: u16,
    headers: &[(S, S)],
    body: impl Into<Body>,
) -> Response {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name.as_ref(), value.as_ref());
    }
    builder.body(body.into()).unwrap()
}

/// A proxy under test. It stops when dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) public_key: String,
    pub(crate) origin: Origin,
    _stop: oneshot::Sender<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::start_with(Origin::default(), |_| {}).await
    }

    pub(crate) async fn start_with(origin: Origin, change: impl FnOnce(&mut Config)) -> Self {
        let address = origin.clone().serve().await;
        Self::before(origin, &format!("http://{address}"), change).await
    }

    /// Before an origin of any kind at `url`.
    pub(crate) async fn before(
        origin: Origin,
        url: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        // Whichever is first, the proxy or a test's own client.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (secret, _) = keygen().unwrap();
        let mut config = Config {
            origin: url.into(),
            signing_key: Some(secret),
            streams: vec![StreamConfig {
                name: "main".into(),
                prefix: "/live/".into(),
            }],
            ..Config::default()
        };
        change(&mut config);
        let secret = config.signing_key.as_ref();
        let public_key = secret.map_or_else(String::new, |secret| {
            origin_proxy::public_key(secret).unwrap()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        tokio::spawn(async move { origin_proxy::run(listener, config, shutdown).await.unwrap() });
        Self {
            address,
            public_key,
            origin,
            _stop: stop,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = reqwest::Client::new().get(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    /// What is counted as `name`, with its labels if it has any.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.text("/metrics").await;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {name}"))
            .parse()
            .unwrap()
    }
}

pub(crate) fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

pub(crate) const HLS: (&str, &str) = ("content-type", "application/vnd.apple.mpegurl");

/// A live playlist of the segments `first` to `last`, two seconds each.
pub(crate) fn playlist(first: u64, last: u64) -> String {
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-MAP:URI=\"init.mp4\"\n"
    );
    for number in first..=last {
        text += &format!("#EXTINF:2.000,\nseg-{number}.m4s\n");
    }
    text
}

/// Bytes that differ from segment to segment.
pub(crate) fn segment(number: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| (index as u64 * 31 + number * 7 + index as u64 / 251) as u8)
        .collect()
}
