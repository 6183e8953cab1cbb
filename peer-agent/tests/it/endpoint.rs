//! What a player sees when it asks the endpoint as it would ask the CDN.

use live_source::{DASH_PATH, Fault, HLS_PATH, Target};
use reqwest::{Method, StatusCode};

use crate::bench::{Source, agent, client};

/// The first line of a playlist that is a reference ending like this, as an absolute URL.
fn reference(playlist: &str, base: &str, end: &str) -> String {
    let lines = playlist.lines().filter(|line| !line.starts_with('#'));
    let line = lines
        .map(str::trim)
        .find(|line| line.contains(end))
        .unwrap();
    url::Url::parse(base).unwrap().join(line).unwrap().into()
}

/// The URLs, at the endpoint, of a media playlist and of its last segment.
async fn segment(endpoint: &str) -> (String, String) {
    let http = client();
    let main = http
        .get(endpoint)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let media = reference(&main, endpoint, ".m3u8");
    let text = http.get(&media).send().await.unwrap().text().await.unwrap();
    let last = text
        .lines()
        .rfind(|line| !line.starts_with('#') && !line.is_empty())
        .unwrap();
    let segment = url::Url::parse(&media).unwrap().join(last).unwrap().into();
    (media, segment)
}

#[tokio::test]
async fn segments_are_the_origins_with_the_right_headers() {
    let source = Source::start().await;
    let agent = agent(&source).await;
    let (_, url) = segment(&agent.endpoint_url()).await;
    let http = client();
    let path = url::Url::parse(&url).unwrap().path().to_owned();
    let origin = http
        .get(source.url(&path))
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();

    for range in [None, Some("bytes=0-")] {
        let request = http.get(&url);
        let request = match range {
            Some(range) => request.header("range", range),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        assert_eq!(headers["content-type"], "video/mp4");
        assert_eq!(headers["accept-ranges"], "bytes");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["content-length"], origin.len().to_string().as_str());
        assert_eq!(response.bytes().await.unwrap(), origin);
    }

    let part = http
        .get(&url)
        .header("range", "bytes=100-299")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    let expected = format!("bytes 100-299/{}", origin.len());
    assert_eq!(part.headers()["content-range"], expected.as_str());
    assert_eq!(part.bytes().await.unwrap(), origin[100..300]);

    let head = http.head(&url).send().await.unwrap();
    assert_eq!(
        head.headers()["content-length"],
        origin.len().to_string().as_str()
    );
    assert!(head.bytes().await.unwrap().is_empty());
    assert!(agent.stats().bytes_cdn > 0 || agent.stats().bytes_bypassed == 0);
    agent.shutdown().await;
}

#[tokio::test]
async fn playlists_are_fresh_and_typed() {
    let source = Source::start().await;
    let agent = agent(&source).await;
    let http = client();
    let (media, _) = segment(&agent.endpoint_url()).await;
    for url in [agent.endpoint_url(), media] {
        let response = http
            .get(&url)
            .header("range", "bytes=0-")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            response.headers()["content-type"],
            "application/vnd.apple.mpegurl"
        );
        assert!(response.text().await.unwrap().starts_with("#EXTM3U"));
    }
    let manifest = agent.endpoint_url_of(&source.url(DASH_PATH)).unwrap();
    let response = http.get(&manifest).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/dash+xml");
    assert!(response.text().await.unwrap().contains("<MPD"));
    let asked = source.stats.path(HLS_PATH).requests;
    http.get(agent.endpoint_url()).send().await.unwrap();
    assert_eq!(source.stats.path(HLS_PATH).requests, asked + 1);
    agent.shutdown().await;
}

#[tokio::test]
async fn what_the_cdn_refuses_and_what_nobody_may_ask() {
    let source = Source::start().await;
    let agent = agent(&source).await;
    let (_, url) = segment(&agent.endpoint_url()).await;
    let http = client();
    source
        .faults
        .hit(Target::Segment, Fault::Status { code: 503 })
        .unwrap();
    assert_eq!(
        http.get(&url).send().await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    source.faults.clear();
    let missing = agent.endpoint_url_of("/live/nothing-here.m4s").unwrap();
    assert_eq!(
        http.get(missing).send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    let elsewhere = agent
        .endpoint_url_of("/.shoal/via/http/127.0.0.1:1/secret")
        .unwrap();
    assert_eq!(
        http.get(elsewhere).send().await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
    let post = http.post(&url).body("x").send().await.unwrap();
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    let preflight = http.request(Method::OPTIONS, &url).send().await.unwrap();
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    let status = agent.endpoint_url_of("/.shoal/status").unwrap();
    let status = http.get(status).send().await.unwrap().text().await.unwrap();
    assert!(status.contains("\"bytes_p2p\":0"), "{status}");
    assert_eq!(agent.endpoint_url_of("http://elsewhere.example/x"), None);
    agent.shutdown().await;
}

#[tokio::test]
async fn per_viewer_tokens_pass_through() {
    let source = Source::start().await;
    source.faults.require_tokens(true);
    let agent = agent(&source).await;
    let (_, url) = segment(&agent.endpoint_url()).await;
    assert!(url.contains("token="), "{url}");
    let response = client().get(&url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    agent.shutdown().await;
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_names_it() {
    let source = Source::start().await;
    let first = agent(&source).await;
    let config = peer_agent::Config {
        listen: first.addr(),
        ..crate::bench::config(&source)
    };
    let error = peer_agent::Agent::start(config)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&first.addr().to_string()), "{error}");
    first.shutdown().await;
}

/// An origin whose multivariant playlist is moved to another host, where everything is absolute.
async fn moved_origin() -> (String, String) {
    let cdn = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cdn_url = format!("http://{}", cdn.local_addr().unwrap());
    let other_url = format!("http://{}", other.local_addr().unwrap());
    let (to, back) = (format!("{other_url}/b/main.m3u8"), cdn_url.clone());
    let moved = axum::Router::new()
        .route(
            "/main.m3u8",
            axum::routing::get(|| async move { (StatusCode::FOUND, [("location", to)]) }),
        )
        .route("/v/seg-1.ts", axum::routing::get(|| async { "media" }));
    let main = format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:1\n\
         #EXT-X-KEY:METHOD=AES-128,URI=\"key\"\n#EXTINF:2,\n{back}/v/seg-1.ts\n#EXTINF:2,\nseg-2.ts\n"
    );
    let there = axum::Router::new()
        .route("/b/main.m3u8", axum::routing::get(|| async move { main }))
        .route("/b/seg-2.ts", axum::routing::get(|| async { "more media" }));
    tokio::spawn(async move { axum::serve(cdn, moved).await });
    tokio::spawn(async move { axum::serve(other, there).await });
    (cdn_url, other_url)
}

#[tokio::test]
async fn redirects_and_other_hosts_lead_back_to_the_endpoint() {
    let (cdn, other) = moved_origin().await;
    let config = peer_agent::Config {
        stream: format!("{cdn}/main.m3u8"),
        listen: ([127, 0, 0, 1], 0).into(),
        ..peer_agent::Config::default()
    };
    let agent = peer_agent::Agent::start(config).await.unwrap();
    let http = client();
    let moved = http.get(agent.endpoint_url()).send().await.unwrap();
    assert_eq!(moved.status(), StatusCode::TEMPORARY_REDIRECT);
    let location = moved.headers()["location"].to_str().unwrap();
    let playlist = agent.endpoint_url_of(location).unwrap();
    let text = http
        .get(&playlist)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.contains(&format!("URI=\"{other}/b/key\"")), "{text}");
    for (end, body) in [("seg-1.ts", "media"), ("seg-2.ts", "more media")] {
        let url = reference(&text, &playlist, end);
        assert!(url.contains(&agent.addr().to_string()), "{url}");
        let response = http.get(&url).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), body);
    }
    agent.shutdown().await;
}
