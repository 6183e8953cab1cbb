//! What the operator knows better than the origin.

use origin_proxy::RuleConfig;

use crate::support::{HLS, Origin, Proxy, header, playlist, respond};

fn rule(prefix: &str, extensions: &[&str], ignore: &[&str], fresh_s: Option<u64>) -> RuleConfig {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).into()).collect();
    RuleConfig {
        prefix: prefix.into(),
        extensions: texts(extensions),
        ignore: texts(ignore),
        fresh_s,
    }
}

#[tokio::test]
async fn what_the_operator_ignores_keeps_nothing_from_being_shared() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.rules = vec![
            rule("/live/", &["m4s"], &["Set-Cookie"], None),
            rule("/live/", &["m3u8"], &["cache-control"], Some(1)),
        ];
    })
    .await;
    let cookie = ("set-cookie", "AWSALB=me");
    let private = ("cache-control", "private, no-store");
    let old = ("expires", "Thu, 01 Jan 1970 00:00:00 GMT");
    proxy.origin.put("/live/s.m4s", &[cookie], "s");
    proxy
        .origin
        .put("/live/i.m3u8", &[HLS, private, old], playlist(1, 0));
    proxy.origin.put("/live/s.mp4", &[cookie], "s");
    proxy.origin.put("/vod/s.m4s", &[cookie], "s");
    proxy.origin.put("/live/p.m4s", &[cookie, private], "p");
    for (path, asked) in [
        ("/live/s.m4s", 1),
        ("/live/i.m3u8", 1),
        ("/live/s.mp4", 3),
        ("/vod/s.m4s", 3),
        ("/live/p.m4s", 3),
    ] {
        for _ in 0..3 {
            let answer = proxy.get(path).await;
            let is_shared = asked == 1;
            assert_eq!(
                header(&answer, "set-cookie").is_empty(),
                is_shared,
                "{path}"
            );
        }
        assert_eq!(proxy.origin.count(path), asked, "{path}");
    }
    let answer = proxy.get("/live/i.m3u8").await;
    assert_eq!(header(&answer, "cache-control"), "max-age=1");
}

#[tokio::test]
async fn an_origin_gets_the_operators_headers_and_nobody_else_does() {
    let elsewhere = Origin::default();
    let echo = async |request: axum::extract::Request| {
        let value = request.headers().get("x-secret");
        let text = value.map_or("none".into(), |value| value.as_bytes().to_vec());
        respond::<&str>(200, &[("cache-control", "no-store")], text)
    };
    elsewhere.on("/b", echo);
    let to = format!("http://{}/b", elsewhere.serve().await);
    let proxy = Proxy::start_with(Origin::default(), |config| {
        let secret = ("x-secret".into(), "ours".into());
        config.upstream.headers_add = [secret].into();
    })
    .await;
    proxy.origin.on("/a", echo);
    proxy.origin.on("/b", echo);
    proxy.origin.on("/c", move |_| {
        let to = to.clone();
        async move { respond(302, &[("location", to.as_str())], "") }
    });
    let here = [("location", "/b")];
    proxy
        .origin
        .on("/d", move |_| async move { respond(302, &here, "") });
    for (path, seen) in [("/a", "ours"), ("/c", "none"), ("/d", "ours")] {
        for viewer in [&[][..], &[("x-secret", "theirs")]] {
            let answer = proxy.get_with(path, viewer).await;
            assert_eq!(answer.text().await.unwrap(), seen, "{path}");
        }
    }
}
