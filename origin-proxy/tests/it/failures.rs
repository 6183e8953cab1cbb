//! Answers that are no object: how they are shared, and what is left of them.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::support::{Proxy, header, respond, segment};

const FOR_ONE: [(&str, &str); 4] = [
    ("set-cookie", "who=first"),
    ("cache-control", "private"),
    ("content-encoding", "gzip"),
    ("vary", "cookie"),
];

#[tokio::test]
async fn a_failure_for_one_leaves_the_old_object_to_all() {
    let proxy = Proxy::start().await;
    for (index, line) in FOR_ONE.into_iter().enumerate() {
        let path = format!("/vod/{index}");
        let control = ("cache-control", "max-age=0, stale-if-error=60");
        proxy.origin.put(&path, &[control], "old");
        proxy.text(&path).await;
        proxy
            .origin
            .on(&path, move |_| async move { respond(503, &[line], "mine") });
        for _ in 0..2 {
            let answer = proxy.get(&path).await;
            assert_eq!(answer.status(), 200, "{line:?}");
            assert_eq!(header(&answer, "set-cookie"), "");
            assert_eq!(answer.text().await.unwrap(), "old");
        }
    }
}

const BEARER: (&str, &str) = ("authorization", "Bearer x");
const UNAVAILABLE: &str = "origin answered 503 Service Unavailable\n";
const TOO_MANY: &str = "origin answered 429 Too Many Requests\n";

#[tokio::test]
async fn who_is_asked_to_come_later_gets_the_old_object_and_is_not_remembered() {
    let proxy = Proxy::start().await;
    for status in [408, 425, 429] {
        let (had, new) = (format!("/vod/had/{status}"), format!("/vod/new/{status}"));
        let control = ("cache-control", "max-age=0, stale-if-error=60");
        proxy.origin.put(&had, &[control], "old");
        proxy.text(&had).await;
        for path in [&had, &new] {
            let kept = [("cache-control", "max-age=60")];
            proxy.origin.on(
                path,
                move |_| async move { respond(status, &kept, "later") },
            );
        }
        assert_eq!(proxy.text(&had).await, "old", "{status}");
        assert_eq!(proxy.get(&new).await.status(), status);
        proxy.origin.put(&new, &[], "new");
        assert_eq!(proxy.text(&new).await, "new", "{status}");
    }
}

#[tokio::test]
async fn all_who_wait_for_a_failure_get_it_from_one_request() {
    let proxy = Proxy::start().await;
    let mut waiting = 0.0;
    for (line, viewer, status, text) in [
        (("set-cookie", "a=b"), &[][..], 503, UNAVAILABLE),
        (("vary", "cookie"), &[][..], 503, UNAVAILABLE),
        (("x-plain", "1"), &[BEARER][..], 503, UNAVAILABLE),
        (("set-cookie", "a=b"), &[][..], 429, TOO_MANY),
        (("x-plain", "1"), &[BEARER][..], 429, TOO_MANY),
        (("x-plain", "1"), &[][..], 429, "for the first alone"),
    ] {
        let gate = Arc::new(Semaphore::new(0));
        let held = gate.clone();
        let path = format!("/vod/{status}/{}/{}", line.0, viewer.len());
        proxy.origin.on(&path, move |_| {
            let held = held.clone();
            async move {
                held.acquire().await.unwrap().forget();
                let headers = [line, ("retry-after", "7")];
                respond(status, &headers, "for the first alone")
            }
        });
        let all = join_all((0..30).map(|_| proxy.get_with(&path, viewer)));
        waiting += 29.0;
        let open = async {
            while proxy.metric("shoal_proxy_collapsed_total").await < waiting {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            // As many as would ask again.
            gate.add_permits(1000);
        };
        let (answers, ()) = tokio::join!(all, open);
        for answer in answers {
            assert_eq!(answer.status(), status, "{line:?}");
            assert_eq!(header(&answer, "set-cookie"), "");
            assert_eq!(header(&answer, "retry-after"), "7");
            assert_eq!(answer.text().await.unwrap(), text);
        }
        assert_eq!(proxy.origin.count(&path), 1, "{line:?}");
    }
}

#[tokio::test]
async fn a_long_page_is_left_out_and_its_status_stays() {
    let proxy = Proxy::start().await;
    let control = ("cache-control", "max-age=0, stale-if-error=60");
    for (path, status, then) in [
        ("/vod/gone", 410, 410),
        ("/vod/missing", 404, 404),
        ("/vod/down", 503, 200),
    ] {
        proxy.origin.put(path, &[control], "old");
        proxy.text(path).await;
        proxy.origin.on(path, move |_| async move {
            let kind = [("content-type", "text/html"), ("etag", "\"page\"")];
            respond(status, &kind, vec![b'x'; 100_000])
        });
        let answer = proxy.get(path).await;
        assert_eq!(answer.status(), then, "{path}");
        if then != 200 {
            assert_eq!(header(&answer, "content-type"), "text/plain; charset=utf-8");
            assert_eq!(header(&answer, "etag"), "");
            let text = answer.text().await.unwrap();
            assert!(text.starts_with("origin answered 4"), "{text}");
        }
    }
    proxy.origin.on("/vod/x", |_| async {
        let kind = [("location", "/vod/y"), ("cache-control", "max-age=9")];
        respond(308, &kind, vec![b'x'; 100_000])
    });
    let leave = Proxy::start_with(proxy.origin.clone(), |config| {
        config.follow_redirects = false;
    });
    let leave = leave.await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let answer = client.get(leave.url("/vod/x")).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "location")),
        (308, "/vod/y")
    );
}

#[tokio::test]
async fn bodies_of_errors_are_counted_as_well() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/vod/a", |_| async {
        respond::<&str>(404, &[], vec![b'x'; 1000])
    });
    assert_eq!(proxy.text("/vod/a").await.len(), 1000);
    assert_eq!(proxy.metric("shoal_proxy_origin_bytes_total").await, 1000.0);
}

#[tokio::test]
async fn what_a_proxy_on_the_way_has_changed_is_an_object_like_others() {
    let proxy = Proxy::start().await;
    let body = segment(5, 200_000);
    let sent = body.clone();
    proxy.origin.on("/vod/a", move |_| {
        let sent = sent.clone();
        async move { respond(203, &[("etag", "\"e\"")], sent) }
    });
    for _ in 0..2 {
        let answer = proxy.get("/vod/a").await;
        assert_eq!(answer.status(), 203);
        assert_eq!(answer.bytes().await.unwrap(), body);
    }
    let part = proxy.get_with("/vod/a", &[("range", "bytes=5-9")]).await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), body[5..10]);
    assert_eq!(proxy.origin.count("/vod/a"), 1);
}

#[tokio::test]
async fn answers_that_can_have_no_body_tell_no_length() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/vod/a", |request| async move {
        let control = [("etag", "\"e\""), ("cache-control", "private")];
        match request.headers().contains_key("if-none-match") {
            true => respond(304, &control, ""),
            false => respond(200, &control, "mine"),
        }
    });
    proxy
        .origin
        .on("/vod/b", |_| async { respond::<&str>(204, &[], "") });
    assert_eq!(proxy.text("/vod/a").await, "mine");
    let known = [("if-none-match", "\"e\"")];
    let not_modified = proxy.get_with("/vod/a", &known).await;
    let nothing = proxy.get("/vod/b").await;
    for (answer, status) in [(not_modified, 304), (nothing, 204)] {
        assert_eq!(answer.status(), status);
        assert_eq!(header(&answer, "content-length"), "", "{status}");
    }
}
