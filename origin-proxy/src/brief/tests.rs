use proptest::prelude::*;

use super::*;

fn of(text: &str) -> Option<request::Parts> {
    read(&Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn plain_requests_are_read_and_others_left() {
    let plain = "GET /a?b=c HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive\r\nA: 1\r\na: \r\n\r\n";
    let head = of(plain).expect("a plain request");
    assert_eq!(head.uri, "/a?b=c");
    let lines: Vec<&HeaderValue> = head.headers.get_all("a").iter().collect();
    assert_eq!(lines, ["1", ""]);
    for line in [
        "Connection: close",
        "Connection: keep-alive, x",
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        "Upgrade: h2c",
        "Host : x",
        "a\x01: x",
        " folded",
    ] {
        let text = format!("GET /a HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n");
        assert!(of(&text).is_none(), "{line}");
    }
    let many = "a: 1\r\n".repeat(LINES_MAX + 1);
    for text in [
        "",
        "GET /a HTTP/1.1\r\nHost: x\r\n",
        "GET /a HTTP/1.1\r\nHost: x\r\n\r\nG",
        "GET /a HTTP/1.0\r\nHost: x\r\n\r\n",
        "HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /\"<a HTTP/1.1\r\nHost: x\r\n\r\n",
        &format!("GET /a HTTP/1.1\r\n{many}\r\n"),
    ] {
        assert!(of(text).is_none(), "{text}");
    }
}

fn answer(status: u16, lines: &[(&str, &str)], body: &'static str) -> Response<Body> {
    let mut builder = Response::builder().status(status);
    for (name, value) in lines {
        builder = builder.header(*name, *value);
    }
    builder
        .body(Body::full(Bytes::from_static(body.as_bytes())))
        .expect("an answer")
}

#[test]
fn answers_are_written_whole_or_left() {
    let mut whole = answer(
        200,
        &[
            ("date", "x"),
            ("a", "1"),
            ("a", "2"),
            ("content-length", "2"),
        ],
        "hi",
    );
    let (head, body) = write(&mut whole).expect("an answer");
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\ndate: x\r\na: 1\r\na: 2\r\ncontent-length: 2\r\n\r\n"
    );
    assert_eq!(body, "hi");
    let mut unchanged = answer(304, &[("date", "x")], "");
    let (head, body) = write(&mut unchanged).expect("an answer");
    assert_eq!(head, "HTTP/1.1 304 Not Modified\r\ndate: x\r\n\r\n");
    assert!(body.is_empty());
    for (status, lines, body) in [
        (200, &[("content-length", "2")][..], "hi"),
        (200, &[("date", "x")], "hi"),
        (200, &[("date", "x"), ("content-length", "3")], "hi"),
        (
            200,
            &[
                ("date", "x"),
                ("content-length", "2"),
                ("content-length", "2"),
            ],
            "hi",
        ),
        (
            200,
            &[
                ("date", "x"),
                ("content-length", "2"),
                ("connection", "close"),
            ],
            "hi",
        ),
        (
            200,
            &[
                ("date", "x"),
                ("content-length", "2"),
                ("transfer-encoding", "chunked"),
            ],
            "hi",
        ),
        (204, &[("date", "x"), ("content-length", "0")], ""),
        (304, &[("date", "x"), ("content-length", "0")], ""),
        (599, &[("date", "x"), ("content-length", "2")], "hi"),
    ] {
        let mut response = answer(status, lines, body);
        assert!(write(&mut response).is_none(), "{status} {lines:?}");
        assert_eq!(response.body_mut().take(), body);
    }
    let stream = Body::stream(futures_util::stream::empty());
    assert!(write(&mut Response::new(stream)).is_none());
}

/// A request as viewers and attackers may send it.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![18 => Just("GET"), 1 => Just("HEAD"), 1 => Just("POST")];
    let target = prop_oneof![
        9 => "/[a-z0-9/._-]{0,12}([?][a-z=&%0-9]{0,8})?",
        1 => "http://[a-z]{1,4}(:[0-9]{1,6})?/[a-z]{0,3}",
        1 => "[ -~]{0,8}",
    ];
    let name = prop_oneof![
        9 => "[A-Za-z][A-Za-z-]{0,7}",
        1 => "[!-~ ]{0,4}",
        4 => prop::sample::select(vec![
            "Host", "Connection", "Content-Length", "Transfer-Encoding", "Range", "Expect",
        ]).prop_map(str::to_owned),
    ];
    let value = prop_oneof![
        3 => "[ -~]{0,10}",
        2 => prop::sample::select(vec!["keep-alive", "close", "0", "3", "chunked", "100-continue"])
            .prop_map(str::to_owned),
    ];
    let line = (
        name,
        prop_oneof![9 => Just(": "), 1 => Just(":"), 1 => Just(" : ")],
        value,
    )
        .prop_map(|(name, between, value)| name + between + &value);
    let end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
    let rest = prop_oneof![9 => Just(""), 1 => Just("GET /b HTTP/1.1\r\n\r\n"), 1 => Just("abc")];
    let spoiled = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let lines = prop::collection::vec(line, 0..6);
    (
        method,
        target,
        prop_oneof![9 => Just(1), 1 => Just(0)],
        lines,
        end,
        rest,
        spoiled,
    )
        .prop_map(|(method, target, minor, lines, end, rest, spoiled)| {
            let lines: String = lines.into_iter().map(|line| line + end).collect();
            let text = format!("{method} {target} HTTP/1.{minor}{end}{lines}{end}{rest}");
            let mut bytes = text.into_bytes();
            if let Some((at, byte)) = spoiled {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_read_here_is_what_hyper_reads(bytes in request()) {
        fuzzing::request(&bytes);
    }
}
