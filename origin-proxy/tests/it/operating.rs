//! What operators see and do.

use std::time::Duration;

use origin_proxy::{HostConfig, StreamConfig};
use serde_json::{Value, json};

use crate::support::{HLS, Origin, Proxy, playlist, respond};

async fn post(proxy: &Proxy, path: &str, token: &str, body: Value) -> (u16, String) {
    let request = reqwest::Client::new()
        .post(proxy.url(path))
        .bearer_auth(token)
        .body(body.to_string());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn operators_purge_by_url_and_by_prefix() {
    let origin = Origin::default();
    let proxy = Proxy::start_with(origin, |config| {
        config.admin.token = Some("secret".into());
    })
    .await;
    let paths = ["/vod/a/1", "/vod/a/2", "/vod/b/1", "/vod/v"];
    for path in paths {
        let vary = [("vary", "x-a"), ("cache-control", "max-age=600")];
        let headers = if path == "/vod/v" {
            &vary[..]
        } else {
            &vary[1..]
        };
        proxy.origin.put(path, headers, "old");
        proxy.text(path).await;
        proxy.origin.put(path, headers, "new");
    }
    for (token, body, status) in [
        ("wrong", json!({"prefixes": ["/"]}), 401),
        ("secret", json!({"all": true}), 400),
        ("secret", json!({"prefixes": ["vod"]}), 400),
    ] {
        let (found, _) = post(&proxy, "/.shoal/admin/purge", token, body).await;
        assert_eq!(found, status);
    }
    for path in paths {
        assert_eq!(proxy.text(path).await, "old");
    }
    let order = json!({"prefixes": ["/vod/a/"], "urls": ["/vod/v?token=x"]});
    let purged = post(&proxy, "/.shoal/admin/purge", "secret", order).await;
    assert_eq!(purged, (200, "{\"purged\":3}".into()));
    for (path, text) in paths.into_iter().zip(["new", "new", "old", "new"]) {
        assert_eq!(proxy.text(path).await, text, "{path}");
    }
    let closed = Proxy::start().await;
    let (status, _) = post(&closed, "/.shoal/admin/purge", "", json!({})).await;
    assert_eq!(status, 401, "no token is set, so none fits");
}

#[tokio::test]
async fn a_purge_reaches_what_is_on_its_way() {
    let origin = Origin::default();
    let proxy = Proxy::start_with(origin, |config| {
        config.admin.token = Some("secret".into());
    })
    .await;
    proxy.origin.on("/vod/a", |_| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        respond(200, &[("cache-control", "max-age=600")], "old")
    });
    let purge = async {
        while proxy.origin.count("/vod/a") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        post(
            &proxy,
            "/.shoal/admin/purge",
            "secret",
            json!({"urls": ["/vod/a"]}),
        )
        .await
    };
    let (first, _) = tokio::join!(proxy.text("/vod/a"), purge);
    assert_eq!(first, "old", "asked for before the purge");
    proxy.origin.put("/vod/a", &[], "new");
    assert_eq!(proxy.text("/vod/a").await, "new");
}

#[tokio::test]
async fn hosts_have_origins_and_streams_of_their_own() {
    let sports = Origin::default();
    sports.put("/live/a", &[], "sports");
    let url = format!("http://{}", sports.clone().serve().await);
    let origin = Origin::default();
    origin.put("/live/a", &[], "main");
    let proxy = Proxy::start_with(origin, |config| {
        config.admin.token = Some("secret".into());
        config.hosts = vec![HostConfig {
            names: vec!["sports.example".into()],
            origin: url,
            origin_backups: Vec::new(),
            streams: vec![StreamConfig {
                name: "sports".into(),
                prefix: "/live/".into(),
            }],
            cors: None,
            steering: None,
        }];
    })
    .await;
    for _ in 0..2 {
        for (host, text) in [("sports.example", "sports"), ("other.example", "main")] {
            let answer = proxy.get_with("/live/a", &[("host", host)]).await;
            assert_eq!(answer.text().await.unwrap(), text);
        }
    }
    assert_eq!(sports.count("/live/a"), 1);
    let metrics = proxy.text("/metrics").await;
    for line in [
        "shoal_proxy_stream_requests_total{stream=\"sports\",cache=\"hit\"} 1\n",
        "shoal_proxy_stream_requests_total{stream=\"main\",cache=\"miss\"} 1\n",
        "shoal_proxy_stream_origin_bytes_total{stream=\"sports\"} 6\n",
        "shoal_proxy_stream_sent_bytes_total{stream=\"main\"} 8\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    // URLs are those of the host that the request is sent to.
    for (url, status, purged) in [
        ("https://other.example/live/a", 400, None),
        ("https://sports.example/live/a", 200, Some(1)),
    ] {
        let answer = reqwest::Client::new()
            .post(proxy.url("/.shoal/admin/purge"))
            .header("host", "sports.example")
            .bearer_auth("secret")
            .body(json!({ "urls": [url] }).to_string());
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), status, "{url}");
        let answer: Option<Value> = serde_json::from_str(&answer.text().await.unwrap()).ok();
        assert_eq!(answer.and_then(|answer| answer["purged"].as_u64()), purged);
    }
    let main = json!({ "urls": ["https://sports.example/live/a"] });
    let (found, _) = post(&proxy, "/.shoal/admin/purge", "secret", main).await;
    assert_eq!(found, 400, "it is another host's");
    proxy
        .get_with("/live/a", &[("host", "sports.example")])
        .await;
    let status = reqwest::Client::new()
        .get(proxy.url("/.shoal/admin/status"))
        .bearer_auth("secret")
        .send();
    let status: Value = serde_json::from_str(&status.await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(status["sites"][1][0]["up"], true);
    assert_eq!(status["cache"]["objects"], 2);
    assert_eq!(status["streams"][1]["name"], "sports");
}

#[tokio::test]
async fn an_edge_is_ready_while_it_can_serve_any_host() {
    let origin = Origin::default();
    origin.put("/a", &[], "a");
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", away.local_addr().unwrap());
    drop(away);
    let host = HostConfig {
        names: vec!["sports.example".into()],
        origin: url.clone(),
        origin_backups: Vec::new(),
        streams: Vec::new(),
        cors: None,
        steering: None,
    };
    let change = |config: &mut origin_proxy::Config| {
        config.hosts = vec![host.clone()];
        config.upstream.failures_max = 1;
        config.upstream.down_ms = 3_600_000;
    };
    let proxy = Proxy::start_with(origin, change).await;
    let broken = proxy.get_with("/a", &[("host", "sports.example")]).await;
    assert_eq!(broken.status(), 502);
    assert_eq!(proxy.get("/readyz").await.status(), 200);
    let proxy = Proxy::before(Origin::default(), &url, change).await;
    for host in ["sports.example", "other.example"] {
        assert_eq!(proxy.get("/readyz").await.status(), 200, "{host}");
        proxy.get_with("/a", &[("host", host)]).await;
    }
    assert_eq!(proxy.get("/readyz").await.status(), 503);
}

#[tokio::test]
async fn figures_are_for_operators_alone_if_they_want_it() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.admin.token = Some("secret".into());
        config.admin.metrics_for_operators = true;
    })
    .await;
    assert_eq!(proxy.get("/metrics").await.status(), 401);
    let known = [("authorization", "Bearer secret")];
    let answer = proxy.get_with("/metrics", &known).await;
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    assert!(text.contains("shoal_proxy_connections "), "{text}");
}

#[tokio::test]
async fn players_words_are_counted_logged_and_split_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.json");
    let path = file.clone();
    let origin = Origin::default();
    let proxy = Proxy::start_with(origin, move |config| {
        config.log.access_file = Some(path);
    })
    .await;
    proxy.origin.put("/live/s.m4s", &[], "bytes");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    proxy
        .get_with(
            "/live/s.m4s?CMCD=bl%3D1500%2Cbs%2Cmtp%3D3000%2Csid%3D%22me%22&token=t",
            &[("traceparent", trace), ("range", "bytes=1-2")],
        )
        .await;
    proxy
        .get_with(
            "/live/s.m4s",
            &[("cmcd-status", "bs"), ("cmcd-request", "bl=500,su")],
        )
        .await;
    assert_eq!(proxy.origin.count("/live/s.m4s"), 1);
    let metrics = proxy.text("/metrics").await;
    for line in [
        "shoal_proxy_cmcd_requests_total{stream=\"main\"} 2\n",
        "shoal_proxy_cmcd_starved_total{stream=\"main\"} 2\n",
        "shoal_proxy_cmcd_startup_total{stream=\"main\"} 1\n",
        "shoal_proxy_cmcd_buffer_seconds_sum{stream=\"main\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    let lines = async {
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<Value> = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
            if lines.len() >= 2 {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let lines = tokio::time::timeout(Duration::from_secs(10), lines)
        .await
        .unwrap();
    let first = &lines[0];
    for (name, value) in [
        ("method", json!("GET")),
        ("path", json!("/live/s.m4s")),
        ("query", Value::Null),
        ("status", json!(206)),
        ("bytes", json!(2)),
        ("cache", json!("miss")),
        ("stream", json!("main")),
        ("range", json!("bytes=1-2")),
        ("session", json!("me")),
        ("buffer_ms", json!(1500)),
        ("client", json!("127.0.0.1")),
        ("version", json!("HTTP/1.1")),
        ("trace", json!("0af7651916cd43dd8448eb211c80319c")),
        ("failure", Value::Null),
    ] {
        assert_eq!(first[name], value, "{name}: {first}");
    }
    assert_eq!(lines[1]["cache"], "hit");
}

#[tokio::test]
async fn a_trace_goes_on_to_the_origin() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/vod/a", |request| async move {
        let value = request.headers().get("traceparent");
        let text = value.map_or("none", |value| value.to_str().unwrap());
        respond(200, &[("cache-control", "no-store")], text.to_owned())
    });
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for path in ["/vod/a", "/vod/a?again"] {
        let answer = proxy.get_with(path, &[("traceparent", trace)]).await;
        let seen = answer.text().await.unwrap();
        assert_eq!((&seen[..36], &seen[52..]), (&trace[..36], &trace[52..]));
        assert_ne!(seen, trace, "another span");
    }
    let answer = proxy.get_with("/vod/a", &[("traceparent", "x")]).await;
    assert_eq!(answer.text().await.unwrap(), "none");
}

#[tokio::test]
async fn an_address_has_its_rate_and_its_connections() {
    let origin = Origin::default();
    let proxy = Proxy::start_with(origin, |config| {
        config.limits.requests_per_s_per_address_max = 1;
    })
    .await;
    proxy.origin.put("/vod/a", &[], "a");
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(proxy.get("/vod/a").await.status().as_u16());
    }
    assert_eq!(statuses[..10], [200; 10]);
    assert_eq!(statuses[19], 429);
    let origin = Origin::default();
    let narrow = Proxy::start_with(origin, |config| {
        config.limits.connections_per_address_max = 1;
    })
    .await;
    narrow.origin.put("/vod/a", &[], "a");
    let first = reqwest::Client::new();
    let url = narrow.url("/vod/a");
    assert_eq!(
        first.get(&url).send().await.unwrap().text().await.unwrap(),
        "a"
    );
    assert!(
        reqwest::get(&url).await.is_err(),
        "the first one is kept alive"
    );
}

#[tokio::test]
async fn a_share_of_the_audience_is_steered_here() {
    let origin = Origin::default();
    let proxy = Proxy::start_with(origin, |config| {
        config.admin.token = Some("secret".into());
    })
    .await;
    let ask =
        async |path: &str| -> Value { serde_json::from_str(&proxy.text(path).await).unwrap() };
    let first = ask("/.shoal/steering?_HLS_pathway=CDN&_HLS_throughput=5140000").await;
    assert_eq!(first["VERSION"], 1);
    assert_eq!(first["PATHWAY-PRIORITY"], json!(["CDN", "SHOAL"]));
    let next = first["RELOAD-URI"].as_str().unwrap().to_owned();
    for (percent, status, order) in [
        (json!(100), 200, ["SHOAL", "CDN"]),
        (json!(101), 400, ["SHOAL", "CDN"]),
        (json!(0.0), 200, ["CDN", "SHOAL"]),
    ] {
        let order_given = json!({ "share_percent": percent });
        let (found, _) = post(&proxy, "/.shoal/admin/steering", "secret", order_given).await;
        assert_eq!(found, status);
        let again = ask(&next).await;
        assert_eq!(again["PATHWAY-PRIORITY"], json!(order));
        assert_eq!(
            again["RELOAD-URI"],
            next.as_str(),
            "the viewer keeps its number"
        );
    }
}

#[tokio::test]
async fn figures_tell_origins_statuses_and_waits_apart() {
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}", away.local_addr().unwrap());
    drop(away);
    let origin = Origin::default();
    let alive = format!("http://{}", origin.clone().serve().await);
    origin.put("/live/a", &[], "a");
    origin.put("/live/i.m3u8", &[HLS], playlist(1, 0));
    let proxy = Proxy::before(origin, &dead, |config| {
        config.origin_backups = vec![alive.clone()];
        config.upstream.failures_max = 1;
        config.upstream.retries_max = 0;
        config.upstream.down_ms = 3_600_000;
    })
    .await;
    for path in [
        "/live/a",
        "/live/a",
        "/live/missing",
        "/live/i.m3u8?_HLS_msn=1",
        // What only looks like a reload is none.
        "/live/a?token=_HLS_msn",
    ] {
        proxy.text(path).await;
    }
    let metrics = proxy.text("/metrics").await;
    for line in [
        format!("shoal_proxy_requests_by_origin_total{{origin=\"{dead}\"}} 1\n"),
        format!("shoal_proxy_requests_by_origin_total{{origin=\"{alive}\"}} 3\n"),
        format!("shoal_proxy_failures_by_origin_total{{origin=\"{dead}\"}} 1\n"),
        format!("shoal_proxy_failures_by_origin_total{{origin=\"{alive}\"}} 0\n"),
        format!("shoal_proxy_origin_up{{origin=\"{dead}\"}} 0\n"),
        format!("shoal_proxy_origin_up{{origin=\"{alive}\"}} 1\n"),
        // The reload is left out: whether that one waits is for the stream to say.
        format!("shoal_proxy_origin_first_byte_seconds_count{{origin=\"{alive}\"}} 2\n"),
        "shoal_proxy_stream_status_total{stream=\"main\",status=\"2xx\"} 4\n".into(),
        "shoal_proxy_stream_status_total{stream=\"main\",status=\"4xx\"} 1\n".into(),
        "shoal_proxy_blocking_seconds_count{stream=\"main\"} 1\n".into(),
        "shoal_proxy_head_seconds_count{stream=\"main\"} 4\n".into(),
    ] {
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[tokio::test]
async fn a_live_playlist_that_stands_still_and_one_that_leads_away_are_told() {
    let proxy = Proxy::start().await;
    let now = [HLS, ("cache-control", "no-cache")];
    let figure = "shoal_proxy_live_unchanged_seconds{stream=\"main\",playlist=\"/live/i.m3u8\"}";
    proxy.origin.put("/live/i.m3u8", &now, playlist(1, 3));
    proxy.text("/live/i.m3u8").await;
    assert_eq!(proxy.metric(figure).await, 0.0);
    proxy.text("/live/i.m3u8").await;
    let frozen_s = proxy.metric(figure).await;
    assert!(frozen_s > 0.0);
    proxy.origin.put("/live/i.m3u8", &now, playlist(1, 4));
    proxy.text("/live/i.m3u8").await;
    assert_eq!(proxy.metric(figure).await, 0.0);
    let away = "shoal_proxy_elsewhere_total{stream=\"main\"}";
    assert_eq!(proxy.metric(away).await, 0.0);
    let list = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttps://cdn.example/a.m3u8\n\
        #EXT-X-STREAM-INF:BANDWIDTH=2\nb.m3u8\n";
    proxy.origin.put("/live/main.m3u8", &now, list);
    proxy.text("/live/main.m3u8").await;
    let absolute = playlist(1, 4).replace("seg-", "http://origin.example/live/seg-");
    proxy.origin.put("/live/i.m3u8", &now, absolute);
    proxy.text("/live/i.m3u8").await;
    assert_eq!(proxy.metric(away).await, 5.0);
    let over = playlist(1, 4) + "#EXT-X-ENDLIST\n";
    proxy.origin.put("/live/i.m3u8", &now, over);
    proxy.text("/live/i.m3u8").await;
    assert!(!proxy.text("/metrics").await.contains(figure));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn lines_that_a_full_disk_does_not_take_are_counted() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.log.access_file = Some("/dev/full".into());
    })
    .await;
    let path = format!("/{}", "x".repeat(1000));
    let client = reqwest::Client::new();
    let lost = async {
        while proxy.metric("shoal_proxy_log_lost_total").await == 0.0 {
            for _ in 0..30 {
                client.get(proxy.url(&path)).send().await.unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), lost)
        .await
        .unwrap();
    assert_eq!(proxy.text("/healthz").await, "ok\n");
}
