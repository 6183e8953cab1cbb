//! Origins that hang or are gone, with others that step in.

use std::time::Duration;

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
        config.timeouts.first_byte_ms = 100;
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

#[tokio::test]
async fn an_origin_that_is_fine_but_for_its_media_is_down() {
    let (origin, backup) = (hanging("*"), Origin::default());
    origin.put("/up", &[], "fine");
    backup.on("*", |_| async { respond::<&str>(200, &[], "backup") });
    let backup_url = serve(&backup).await;
    let proxy = Proxy::start_with(origin.clone(), |config| {
        config.origin_backups = vec![backup_url];
        config.timeouts.first_byte_ms = 300;
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
