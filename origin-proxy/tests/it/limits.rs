//! Settings that bound something, over sockets.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

use crate::support::{HLS, Origin, Proxy, header, playlist, respond};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn beyond_its_requests_to_the_origin_the_proxy_is_busy() {
    let proxy = Proxy::start_with(Origin::default(), |config| config.limits.flights_max = 1).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    proxy.origin.on("/vod/slow", move |_| {
        let held = held.clone();
        async move {
            let _ = held.acquire().await;
            respond(200, &[("cache-control", "max-age=60")], "slow")
        }
    });
    proxy.origin.put("/vod/a", &[], "a");
    let refuse = async {
        while proxy.origin.count("/vod/slow") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let refused = proxy.get("/vod/a").await;
        assert_eq!(refused.status(), 503);
        assert_eq!(header(&refused, "retry-after"), "1");
        assert_eq!(proxy.origin.count("/vod/a"), 0);
        gate.add_permits(1);
    };
    let (slow, ()) = tokio::join!(proxy.text("/vod/slow"), refuse);
    assert_eq!(slow, "slow");
    assert_eq!(proxy.text("/vod/a").await, "a");
}

#[tokio::test]
async fn beyond_its_connections_viewers_wait_for_one_to_end() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.limits.connections_max = 1;
    })
    .await;
    proxy.origin.put("/vod/a", &[], "a");
    let request = b"GET /vod/a HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = TcpStream::connect(proxy.address).await.unwrap();
    first.write_all(request).await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b'H');
    let mut second = TcpStream::connect(proxy.address).await.unwrap();
    second.write_all(request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), second.read_u8()).await;
    assert!(early.is_err(), "the first one is open");
    drop(first);
    let late = tokio::time::timeout(LONG, second.read_u8()).await;
    assert_eq!(late.expect("its turn").unwrap(), b'H');
}

#[tokio::test]
async fn larger_objects_than_may_be_are_passed_on_and_not_kept() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.cache.object_bytes_max = 1000;
    })
    .await;
    let kept = [("cache-control", "max-age=60")];
    for (path, len, asked) in [("/vod/small", 1000, 1), ("/vod/large", 1001, 3)] {
        proxy.origin.put(path, &kept, vec![7; len]);
        for _ in 0..3 {
            let answer = proxy.get(path).await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.bytes().await.unwrap(), vec![7; len]);
        }
        assert_eq!(proxy.origin.count(path), asked, "{path}");
    }
}

#[tokio::test]
async fn arguments_that_are_not_kept_do_not_tell_objects_apart() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.query_keep = vec!["v".into(), "part-*".into()];
    })
    .await;
    proxy.origin.on("/vod/a", |request| async move {
        let query = request.uri().query().unwrap_or_default().to_owned();
        respond(200, &[("cache-control", "max-age=60")], query)
    });
    for (query, answer) in [
        ("v=1&user=a", "v=1&user=a"),
        ("user=b&v=1", "v=1&user=a"),
        ("v=1", "v=1&user=a"),
        ("v=2", "v=2"),
        ("part-x=1&v=1", "part-x=1&v=1"),
        ("v=1&part-x=1&token=t", "part-x=1&v=1"),
        ("token=t", "token=t"),
        ("user=c", "token=t"),
    ] {
        assert_eq!(proxy.text(&format!("/vod/a?{query}")).await, answer);
    }
    assert_eq!(proxy.origin.count("/vod/a"), 4);
}

#[tokio::test]
async fn what_is_not_fresh_is_served_while_the_origin_is_asked_if_it_may_be() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.cache.fresh_default_s = 0;
        config.cache.stale_while_revalidate_s = 600;
    })
    .await;
    proxy.origin.put("/vod/a", &[], "old");
    assert_eq!(proxy.text("/vod/a").await, "old");
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    proxy.origin.on("/vod/a", move |_| {
        let held = held.clone();
        async move {
            let _ = held.acquire().await;
            respond::<&str>(200, &[], "new")
        }
    });
    // Although the origin does not answer.
    assert_eq!(proxy.text("/vod/a").await, "old");
    gate.add_permits(100);
    let renewed = async {
        while proxy.text("/vod/a").await != "new" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, renewed)
        .await
        .expect("the new one");
    let strict = Proxy::start_with(Origin::default(), |config| {
        config.cache.fresh_default_s = 0;
    })
    .await;
    strict.origin.put("/vod/a", &[], "old");
    assert_eq!(strict.text("/vod/a").await, "old");
    strict.origin.put("/vod/a", &[], "new");
    assert_eq!(strict.text("/vod/a").await, "new");
}

#[tokio::test]
async fn answers_that_are_held_back_on_purpose_have_a_patience_of_their_own() {
    for (blocking_ms, status) in [(10_000, 200), (300, 504)] {
        let proxy = Proxy::start_with(Origin::default(), |config| {
            config.timeouts.first_byte_ms = 200;
            config.timeouts.blocking_ms = blocking_ms;
        })
        .await;
        proxy.origin.on("/live/v/i.m3u8", |_| async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            respond(200, &[HLS], playlist(1, 0))
        });
        let plain = proxy.get("/live/v/i.m3u8").await;
        assert_eq!(plain.status(), 504);
        let held = proxy.get("/live/v/i.m3u8?_HLS_msn=1").await;
        assert_eq!(held.status(), status, "{blocking_ms}");
    }
}
