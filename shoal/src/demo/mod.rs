//! `shoal demo`: the whole system in one process, and a page that shows it at work.
//!
//! A live source, the origin-proxy before it (which stands for the CDN: every viewer's CDN bytes
//! come from it), a tracker that gives viewers invented ISPs, native viewers, and a web server with
//! a page in which each browser tab is one more viewer. They meet over real sockets only.

mod assets;
mod audience;
mod forward;
mod native;
mod page;
mod report;
mod stage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::commands::JsonTo;
pub use assets::missing_assets;
use audience::Audience;
pub use report::Report;
use stage::Stage;

/// Native viewers at most: each is a whole viewer, with encryption, in this process.
pub const VIEWERS_MAX: u16 = 40;
/// Pause between the starts of viewers, so that they do not all join in the same instant.
const STAGGER: Duration = Duration::from_millis(150);
const SAMPLE: Duration = Duration::from_secs(1);

/// What the demo shall be like.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the page is. Stream and tracker listen on the same address, at ports of their own.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Native viewers from the start, at most 40.
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u16).range(0..=i64::from(VIEWERS_MAX)))]
    pub viewers: u16,
    /// No page: only native viewers.
    #[arg(long)]
    pub headless: bool,
    /// End after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
    /// At the end, print how it went as one JSON object: `-` for standard output.
    #[arg(long, value_name = "-")]
    json: Option<JsonTo>,
    /// Length of a segment in seconds, even, 2 to 10.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pub segment_s: u64,
    /// Publish this media file in a loop instead of the built-in clip. Needs ffmpeg.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl Args {
    /// A demo without page that tests can start: ports are taken as they are free.
    pub fn headless(viewers: u16) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            viewers,
            headless: true,
            seconds: None,
            json: None,
            segment_s: 2,
            file: None,
        }
    }

    pub(crate) fn json(&self) -> bool {
        self.json.is_some()
    }
}

/// Where the parts of a running demo are.
#[derive(Clone, Debug)]
pub struct Urls {
    /// The page, unless the demo is headless.
    pub page: Option<String>,
    /// The HLS playlist, at the origin-proxy.
    pub stream: String,
    /// The tracker's WebSocket.
    pub tracker: String,
}

/// A running demo. [`Demo::run`] it to its end; dropping it stops it without a report.
pub struct Demo {
    stage: Arc<Stage>,
    audience: Arc<Audience>,
    page: Option<(SocketAddr, JoinHandle<()>)>,
    stop: CancellationToken,
}

impl Demo {
    /// Starts everything. When it returns, the stream is on air and viewers are joining.
    ///
    /// # Errors
    /// [`Failure`], if the page's port is taken, or the stream cannot be published.
    pub async fn start(args: &Args) -> Result<Self, Failure> {
        let listener = if args.headless {
            None
        } else {
            let failed = |error| Failure::listen(args.listen, &error);
            Some(TcpListener::bind(args.listen).await.map_err(failed)?)
        };
        let stage = Arc::new(Stage::start(args).await?);
        let audience = Arc::new(Audience::new(stage.viewer_config()));
        let stop = CancellationToken::new();
        let page = match listener {
            None => None,
            Some(listener) => {
                let addr = listener.local_addr().map_err(Failure::environment)?;
                let site = page::Site::new(stage.clone(), audience.clone());
                let serving = page::serve(listener, site, stop.clone().cancelled_owned());
                Some((addr, tokio::spawn(serving)))
            }
        };
        tokio::spawn(sample(audience.clone(), stop.clone()));
        for i in 0..args.viewers {
            if i > 0 {
                tokio::time::sleep(STAGGER).await;
            }
            audience.add_native().await?;
        }
        Ok(Self {
            stage,
            audience,
            page,
            stop,
        })
    }

    /// Where to find it.
    pub fn urls(&self) -> Urls {
        Urls {
            page: self
                .page
                .as_ref()
                .map(|(addr, _)| format!("http://{addr}/")),
            stream: self.stage.stream_url(),
            tracker: self.stage.tracker_url(),
        }
    }

    /// Runs until `shutdown` or until the stream breaks, then stops everything and reports.
    ///
    /// # Errors
    /// [`Failure`], if the stream broke.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Report, Failure> {
        let broken = tokio::select! {
            () = shutdown => None,
            failure = self.stage.broken() => Some(failure),
        };
        let report = self.audience.finish().await;
        self.stop.cancel();
        if let Some((_, serving)) = self.page {
            let _ = serving.await;
        }
        self.stage.stop().await;
        broken.map_or(Ok(report), Err)
    }
}

async fn sample(audience: Arc<Audience>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SAMPLE);
    loop {
        tokio::select! {
            _ = ticks.tick() => audience.sample(),
            () = stop.cancelled() => return,
        }
    }
}
