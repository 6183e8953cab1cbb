//! Clients that others have written: curl and h2load, which must be installed.

use std::process::{Command, Output};

use crate::support::{Proxy, segment};

/// What `program` says.
async fn run(program: &'static str, arguments: Vec<String>) -> Output {
    let start = move || Command::new(program).args(arguments).output();
    let output = tokio::task::spawn_blocking(start).await.unwrap();
    output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

fn words(text: &str, url: &str) -> Vec<String> {
    let words = text.split(' ').map(String::from);
    words.chain([url.to_owned()]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_wholes_ranges_and_nothing_new() {
    let proxy = Proxy::start().await;
    let body = segment(1, 300_000);
    let headers = [("etag", "\"v1\""), ("cache-control", "max-age=60")];
    proxy.origin.put("/vod/a", &headers, body.clone());
    let url = proxy.url("/vod/a");
    for version in ["--http1.1", "--http2-prior-knowledge", "--http2"] {
        let whole = run("curl", words(&format!("-sS {version}"), &url)).await;
        assert!(whole.status.success() && whole.stdout == body, "{version}");
        let range = words(&format!("-sS {version} -r 1000-1999"), &url);
        assert_eq!(
            run("curl", range).await.stdout,
            &body[1000..2000],
            "{version}"
        );
        let several = words(
            &format!("-sS {version} -r 0-9,100-109 -o /dev/null -w %{{http_code}}"),
            &url,
        );
        assert_eq!(run("curl", several).await.stdout, b"206", "{version}");
        let known = format!("-sS {version} -o /dev/null -w %{{http_code}} -H If-None-Match:\"v1\"");
        assert_eq!(
            run("curl", words(&known, &url)).await.stdout,
            b"304",
            "{version}"
        );
        let head = run("curl", words(&format!("-sSI {version}"), &url)).await;
        let head = String::from_utf8(head.stdout).unwrap().to_ascii_lowercase();
        assert!(head.contains("content-length: 300000"), "{head}");
    }
    assert_eq!(proxy.origin.count("/vod/a"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_gets_an_answer_to_every_request() {
    let proxy = Proxy::start().await;
    proxy.origin.put(
        "/vod/a",
        &[("cache-control", "max-age=60")],
        segment(1, 4000),
    );
    let url = proxy.url("/vod/a");
    for options in ["-n2000 -c8 -m16", "-n2000 -c8 --h1"] {
        let output = run("h2load", words(options, &url)).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("2000 succeeded, 0 failed, 0 errored"),
            "{text}"
        );
        assert!(text.contains("status codes: 2000 2xx"), "{text}");
    }
    assert_eq!(proxy.origin.count("/vod/a"), 1);
}
