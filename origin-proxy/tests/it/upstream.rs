//! Connections to the origin: kept, shared, and given up.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::{Response, header::HeaderValue, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{Origin, Proxy};

/// What has a head that is too long.
const LONG: &str = "/vod/long";

/// An origin of both versions that has everything, and how many connections it has had.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (
        listener.local_addr().unwrap(),
        Arc::new(AtomicUsize::new(0)),
    );
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let answer = service_fn(async |request: hyper::Request<_>| {
                    let _: &hyper::body::Incoming = request.body();
                    let path = request.uri().path();
                    let body = format!("{:?} {path}", request.version());
                    let mut answer = Response::new(Full::new(Bytes::from(body)));
                    if path == LONG {
                        let value = HeaderValue::try_from("x".repeat(17_000)).unwrap();
                        answer.headers_mut().insert("x-long", value);
                    }
                    Ok::<_, Infallible>(answer)
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn connections_are_kept_and_http2_needs_one() {
    for (is_http2, version) in [(false, "HTTP/1.1"), (true, "HTTP/2.0")] {
        let (address, count) = counting().await;
        let proxy = Proxy::before(Origin::default(), &format!("http://{address}"), |config| {
            config.upstream.http2_prior_knowledge = is_http2;
        })
        .await;
        for number in 0..20 {
            let path = format!("/vod/{number}");
            assert_eq!(proxy.text(&path).await, format!("{version} {path}"));
        }
        assert_eq!(
            count.load(Ordering::Relaxed),
            1,
            "one after the other, by one"
        );
        let paths: Vec<String> = (100..120).map(|number| format!("/vod/{number}")).collect();
        let answers = join_all(paths.iter().map(|path| proxy.text(path))).await;
        assert!(answers.iter().all(|answer| answer.starts_with(version)));
        if is_http2 {
            assert_eq!(count.load(Ordering::Relaxed), 1, "all at once, by one");
        }
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_ends_no_connection_of_http2() {
    let (address, count) = counting().await;
    let proxy = Proxy::before(Origin::default(), &format!("http://{address}"), |config| {
        config.upstream.http2_prior_knowledge = true;
    })
    .await;
    for number in 0..3 {
        let long = proxy.get(LONG).await;
        assert_eq!(long.status(), 502);
        let text = long.text().await.unwrap();
        assert!(text.starts_with("origin failed: "), "{text}");
        let path = format!("/vod/{number}");
        assert_eq!(proxy.text(&path).await, format!("HTTP/2.0 {path}"));
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_origin_that_takes_no_connection_is_given_up_for_another() {
    let deaf = TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Nobody ever accepts: once its queue is full, a connection gets no answer at all.
    let deaf = deaf.listen(1).unwrap();
    let address = deaf.local_addr().unwrap();
    let mut queue = Vec::new();
    let wait = Duration::from_millis(300);
    while let Ok(socket) = tokio::time::timeout(wait, TcpStream::connect(address)).await {
        queue.push(socket.unwrap());
    }
    let backup = Origin::default();
    backup.put("/vod/a", &[], "backup");
    let backup_url = format!("http://{}", backup.serve().await);
    let proxy = Proxy::before(Origin::default(), &format!("http://{address}"), |config| {
        config.origin_backups = vec![backup_url];
        config.timeouts.connect_ms = 200;
    })
    .await;
    assert_eq!(proxy.text("/vod/a").await, "backup");
    assert_eq!(
        proxy.metric("shoal_proxy_origin_failovers_total").await,
        1.0
    );
}

#[tokio::test]
async fn the_cache_is_no_larger_than_it_may_be() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.cache.bytes_max = 1_000_000;
    })
    .await;
    for number in 0..40 {
        let path = format!("/vod/{number}");
        proxy.origin.put(&path, &[], vec![number; 100_000]);
        assert_eq!(
            proxy.get(&path).await.bytes().await.unwrap(),
            vec![number; 100_000]
        );
    }
    let settled = async {
        while proxy.metric("shoal_proxy_cache_bytes").await > 1_000_000.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled)
        .await
        .unwrap();
    assert!(proxy.metric("shoal_proxy_cache_objects").await >= 1.0);
    // What had to go is fetched again.
    for number in 0..40 {
        let path = format!("/vod/{number}");
        assert_eq!(
            proxy.get(&path).await.bytes().await.unwrap(),
            vec![number; 100_000]
        );
    }
    let fetched: usize = (0..40)
        .map(|number| proxy.origin.count(&format!("/vod/{number}")))
        .sum();
    assert!(
        fetched > 60,
        "{fetched} fetches of 40 objects, of which nine fit"
    );
}
