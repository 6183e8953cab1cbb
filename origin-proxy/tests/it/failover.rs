//! Origins that hang or are gone, with others that step in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
};

use crate::support::{Origin, Proxy, respond};

const LONG: Duration = Duration::from_secs(20);
const DAY_MS: u64 = 86_400_000;
const NO_CACHE: (&str, &str) = ("cache-control", "no-cache");

async fn serve(origin: &Origin) -> String {
    format!("http://{}", origin.clone().serve().await)
}

/// One that hears every request for `path` and answers none.
fn hanging(path: &str) -> Origin {
    let origin = Origin::default();
    origin.on(path, |_| std::future::pending());
    origin
}

/// Waits until `origin` has been asked for `path` so often, with `meanwhile` in each turn.
async fn asked(origin: &Origin, path: &str, count: usize, mut meanwhile: impl AsyncFnMut()) {
    let often = async {
        while origin.count(path) < count {
            meanwhile().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, often).await.unwrap();
}

#[tokio::test]
async fn no_viewer_waits_to_find_out_that_an_origin_is_down_yet() {
    let (origin, backup) = (hanging("/live/a"), Origin::default());
    backup.put("/live/a", &[NO_CACHE], "backup");
    let (url, backup_url) = (serve(&origin).await, serve(&backup).await);
    let proxy = Proxy::before(origin.clone(), &url, |config| {
        config.origin_backups = vec![backup_url];
        // That is the backup's time as well, on a machine that may be busy.
        config.timeouts.first_byte_ms = 500;
        config.upstream.failures_max = 1;
        config.upstream.down_ms = 50;
        config.upstream.headers_add = [("x-secret".into(), "ours".into())].into();
    })
    .await;
    let failovers = "shoal_proxy_origin_failovers_total";
    assert_eq!(proxy.text("/live/a").await, "backup");
    assert_eq!(proxy.metric(failovers).await, 1.0);
    asked(&origin, "/live/a", 5, async || {
        assert_eq!(proxy.text("/live/a").await, "backup");
    })
    .await;
    assert_eq!(proxy.metric(failovers).await, 1.0, "the backup comes first");
    // What it was asked for in vain to find out how it does is in its figures, like what viewers wanted.
    let of_it = |what| format!("shoal_proxy_{what}_by_origin_total{{origin=\"{url}\"}}");
    let counted = async {
        while proxy.metric(&of_it("failures")).await < proxy.metric(&of_it("requests")).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, counted).await.unwrap();
    let failures = proxy.metric(&of_it("failures")).await;
    assert!(failures >= 5.0, "{failures}");
    let of_all = proxy.metric("shoal_proxy_origin_failures_total").await;
    assert_eq!(of_all, failures);
    // One that does better is the first again. It is asked as by viewers, with what operators add.
    origin.on("/live/a", |request| async move {
        let status = if request.headers().contains_key("x-secret") {
            200
        } else {
            503
        };
        respond(status, &[NO_CACHE], "first")
    });
    let back = async {
        while proxy.text("/live/a").await != "first" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, back).await.unwrap();
}

/// An origin that breaks off in the middle of every body as long as it is told to.
#[derive(Clone)]
struct Breaking {
    is_broken: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Breaking {
    async fn start() -> (Self, String) {
        let origin = Self {
            is_broken: Arc::new(AtomicBool::new(true)),
            asked: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = origin.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(socket));
            }
        });
        (origin, url)
    }

    /// Answers until the viewer leaves, or in the middle of the first body if that breaks off.
    async fn serve(self, socket: TcpStream) {
        let mut socket = BufStream::new(socket);
        let mut line = String::new();
        while socket.read_line(&mut line).await.is_ok_and(|len| len > 0) {
            let is_end = line == "\r\n";
            line.clear();
            if !is_end {
                continue;
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            let is_broken = self.is_broken.load(Ordering::Relaxed);
            let len = if is_broken { 500 } else { 5 };
            let head = format!("Cache-Control: no-cache\r\nContent-Length: {len}\r\n");
            let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\nfirst");
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket.flush().await.unwrap();
            if is_broken {
                return;
            }
        }
    }
}

#[tokio::test]
async fn an_origin_whose_bodies_break_off_is_down_until_one_is_whole() {
    let (origin, url) = Breaking::start().await;
    let backup = Origin::default();
    backup.put("/live/a", &[NO_CACHE], "backup");
    let backup_url = serve(&backup).await;
    let proxy = Proxy::before(Origin::default(), &url, |config| {
        config.origin_backups = vec![backup_url];
        config.upstream.failures_max = 2;
        config.upstream.down_ms = 50;
    })
    .await;
    for _ in 0..2 {
        let broken = reqwest::get(proxy.url("/live/a")).await;
        let body = match broken {
            Ok(answer) => answer.bytes().await.ok(),
            Err(_) => None,
        };
        assert_eq!(body, None, "nothing is taken for the whole");
    }
    // It is tried again and again, and its heads are fine.
    let often = async {
        while origin.asked.load(Ordering::Relaxed) < 6 {
            assert_eq!(proxy.text("/live/a").await, "backup");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, often).await.unwrap();
    assert_eq!(proxy.text("/live/a").await, "backup");
    origin.is_broken.store(false, Ordering::Relaxed);
    let back = async {
        while proxy.text("/live/a").await != "first" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, back).await.unwrap();
}

#[tokio::test]
async fn an_origin_that_is_fine_but_for_its_media_is_down() {
    let (origin, backup) = (hanging("*"), Origin::default());
    origin.put("/up", &[], "fine");
    backup.on("*", |_| async { respond::<&str>(200, &[], "backup") });
    let backup_url = serve(&backup).await;
    let proxy = Proxy::start_with(origin.clone(), |config| {
        config.origin_backups = vec![backup_url];
        config.timeouts.first_byte_ms = 1000;
        config.upstream.failures_max = 1;
        config.upstream.down_ms = DAY_MS;
        config.upstream.health_path = Some("/up".into());
        config.upstream.health_interval_ms = 10;
    })
    .await;
    assert_eq!(proxy.text("/live/1").await, "backup");
    for number in 2..=4 {
        let checks = origin.count("/up");
        asked(&origin, "/up", checks + 2, async || {}).await;
        let path = format!("/live/{number}");
        assert_eq!(proxy.text(&path).await, "backup");
        assert_eq!(origin.count(&path), 0, "a check has said that it is up");
    }
    assert_eq!(origin.count("/live/1"), 1);
}

#[tokio::test]
async fn playlists_do_not_speak_for_media() {
    let (origin, backup) = (Origin::default(), Origin::default());
    origin.put("/live/i.m3u8", &[NO_CACHE], "#EXTM3U\n");
    origin.on("*", |_| async { respond::<&str>(503, &[], "down") });
    backup.put("/live/i.m3u8", &[NO_CACHE], "#EXTM3U\n#backup\n");
    backup.on("*", |_| async { respond::<&str>(200, &[], "backup") });
    let backup_url = serve(&backup).await;
    let start = |down_ms| {
        let backup_url = backup_url.clone();
        Proxy::start_with(origin.clone(), move |config| {
            config.origin_backups = vec![backup_url];
            config.upstream.failures_max = 2;
            config.upstream.down_ms = down_ms;
        })
    };
    let proxy = start(DAY_MS).await;
    for (number, list) in [
        (1, "#EXTM3U\n"),
        (2, "#EXTM3U\n"),
        (3, "#EXTM3U\n#backup\n"),
        (4, "#EXTM3U\n#backup\n"),
    ] {
        assert_eq!(proxy.text("/live/i.m3u8").await, list);
        let path = format!("/live/{number}.m4s");
        assert_eq!(proxy.text(&path).await, "backup");
        assert_eq!(origin.count(&path), usize::from(number <= 2), "{path}");
    }
    assert_eq!(proxy.get("/readyz").await.status(), 200);
    // It comes back although a playlist is always asked for first.
    let proxy = start(50).await;
    for number in 5..=6 {
        assert_eq!(proxy.text(&format!("/live/{number}.m4s")).await, "backup");
    }
    origin.on("*", |_| async { respond::<&str>(200, &[], "first") });
    let back = async {
        for number in 7.. {
            proxy.text("/live/i.m3u8").await;
            if proxy.text(&format!("/live/{number}.m4s")).await == "first" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, back).await.unwrap();
}

#[tokio::test]
async fn a_check_that_hangs_holds_up_no_other() {
    let (origin, backup) = (hanging("/up"), Origin::default());
    let backup_url = serve(&backup).await;
    let _proxy = Proxy::start_with(origin.clone(), |config| {
        config.origin_backups = vec![backup_url];
        config.timeouts.first_byte_ms = DAY_MS;
        config.upstream.health_path = Some("/up".into());
        config.upstream.health_interval_ms = 10;
    })
    .await;
    asked(&backup, "/up", 3, async || {}).await;
    assert_eq!(origin.count("/up"), 1);
}

#[tokio::test]
async fn an_origin_that_fails_its_checks_comes_back_with_them() {
    let (origin, backup) = (Origin::default(), Origin::default());
    origin.on("/up", |_| async { respond::<&str>(503, &[], "down") });
    origin.put("/live/a", &[NO_CACHE], "first");
    backup.put("/live/a", &[NO_CACHE], "backup");
    let backup_url = serve(&backup).await;
    let proxy = Proxy::start_with(origin.clone(), |config| {
        config.origin_backups = vec![backup_url];
        config.upstream.failures_max = 1;
        config.upstream.down_ms = 0;
        config.upstream.health_path = Some("/up".into());
        config.upstream.health_interval_ms = 10;
    })
    .await;
    for expected in ["backup", "first"] {
        let turned = async {
            while proxy.text("/live/a").await != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, turned).await.unwrap();
        origin.put("/up", &[], "fine");
    }
}
