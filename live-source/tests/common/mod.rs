//! What the tests share: a running source and a plain HTTP client.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use live_source::{Config, Error, Faults, LiveSource, Rung, Stats};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const FFMPEG_START_MAX: Duration = Duration::from_secs(40);
const RESET_MAX: Duration = Duration::from_secs(10);
/// Between two looks at what must come true.
const LOOK: Duration = Duration::from_millis(20);

/// A source on a free loopback port.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) faults: Faults,
    pub(crate) stats: Stats,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Running {
    pub(crate) async fn start(config: Config) -> Self {
        let source = LiveSource::new(config).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (faults, stats) = (source.faults(), source.stats());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(source.run(listener, async { _ = stopped.await }));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            address,
            faults,
            stats,
            client,
            stop,
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request and returns once the headers are there.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<hyper::body::Incoming> {
        let mut request = Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let sent = self.client.request(request.body(body).unwrap());
        tokio::time::timeout(Duration::from_secs(20), sent)
            .await
            .expect("no answer")
            .unwrap()
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let response = self.send(Method::GET, path, headers, "").await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// The body of an object that must be there.
    pub(crate) async fn body(&self, path: &str) -> Bytes {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        answer.body
    }

    /// The answer at `path` as soon as ffmpeg has published it.
    pub(crate) async fn once_published(&self, path: &str) -> Answer {
        tokio::time::timeout(FFMPEG_START_MAX, async {
            loop {
                let answer = self.get(path).await;
                if answer.status == StatusCode::OK {
                    return answer;
                }
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
                tokio::time::sleep(LOOK).await;
            }
        })
        .await
        .expect("ffmpeg publishes in time")
    }

    /// Returns as soon as nothing is published at `path`.
    pub(crate) async fn once_gone(&self, path: &str) {
        let gone = async {
            while self.get(path).await.status != StatusCode::SERVICE_UNAVAILABLE {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(RESET_MAX, gone)
            .await
            .expect("the old stream goes away");
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        String::from_utf8(self.body(path).await.to_vec()).unwrap()
    }

    pub(crate) async fn playlist(&self, path: &str) -> m3u8_rs::MediaPlaylist {
        m3u8_rs::parse_media_playlist_res(&self.body(path).await).expect("a media playlist")
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        _ = self.stop.send(());
        tokio::time::timeout(Duration::from_secs(5), self.task)
            .await
            .expect("stops in time")
            .unwrap()
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// Runs a media tool, which must be installed, and returns its standard output and error.
pub(crate) async fn tool(program: &str, args: &[&str]) -> (bool, String, String) {
    let child = tokio::process::Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), child)
        .await
        .unwrap_or_else(|_| panic!("{program} {args:?} did not end within 60 s"))
        .unwrap_or_else(|error| panic!("this test needs {program}; install ffmpeg: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Two renditions that cost little to encode.
pub(crate) fn small_ladder() -> Vec<Rung> {
    let rung = |height, video_bps| Rung { height, video_bps };
    vec![rung(180, 200_000), rung(90, 80_000)]
}

/// ffmpeg decodes two seconds of HLS and of DASH, and complains of nothing.
pub(crate) async fn decode_both(source: &Running) {
    for path in [live_source::HLS_PATH, live_source::DASH_PATH] {
        let url = source.url(path);
        let args = [
            "-v", "error", "-xerror", "-i", &url, "-t", "2", "-f", "null", "-",
        ];
        let (ok, _, err) = tool("ffmpeg", &args).await;
        assert!(ok && err.trim().is_empty(), "{path}: {err}");
    }
}
