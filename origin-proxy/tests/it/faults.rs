//! Origins that fail, each in its own way.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::support::{HLS, Origin, Proxy, header, playlist, respond, segment};

/// An origin that plays these scripts, one for each connection, and the last one for all others.
async fn scripted(scripts: &'static [&'static [Act]]) -> (String, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (counted, count) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((socket, _)) = listener.accept().await {
            counted.send(()).unwrap();
            let script = scripts[number.min(scripts.len() - 1)];
            number += 1;
            tokio::spawn(play(socket, script));
        }
    });
    (url, count)
}

#[derive(Clone, Copy)]
enum Act {
    /// Reads a request.
    Hear,
    Say(&'static str),
    /// Says nothing more, and keeps the connection.
    Stall,
    /// Resets the connection.
    Reset,
}

use Act::{Hear, Reset, Say, Stall};

async fn play(mut socket: TcpStream, script: &[Act]) {
    for act in script {
        match act {
            Hear => {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
            }
            Say(text) => drop(socket.write_all(text.as_bytes()).await),
            Stall => std::future::pending().await,
            Reset => {
                socket.set_zero_linger().unwrap();
                return;
            }
        }
    }
}

/// The whole body, or nothing if it broke off.
async fn body(answer: reqwest::Result<reqwest::Response>) -> Option<(u16, String)> {
    let answer = answer.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.text().await.ok()?))
}

const WHOLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole";

/// A first connection that fails in some way, and what the first and the second viewer get.
struct Fault {
    first: &'static [&'static [Act]],
    answers: [Option<(u16, &'static str)>; 2],
}

const FAULTS: [Fault; 9] = [
    // Less than promised, and then the end.
    Fault {
        first: &[
            &[
                Hear,
                Say("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart"),
            ],
            &[Hear, Say(WHOLE), Hear],
        ],
        answers: [None, Some((200, "whole"))],
    },
    // The same in chunks.
    Fault {
        first: &[
            &[
                Hear,
                Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"),
            ],
            &[Hear, Say(WHOLE), Hear],
        ],
        answers: [None, Some((200, "whole"))],
    },
    // A reset in the middle.
    Fault {
        first: &[
            &[
                Hear,
                Say("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart"),
                Reset,
            ],
            &[Hear, Say(WHOLE), Hear],
        ],
        answers: [None, Some((200, "whole"))],
    },
    // A reset before the head: asked for once more, unnoticed.
    Fault {
        first: &[&[Hear, Reset], &[Hear, Say(WHOLE), Hear]],
        answers: [Some((200, "whole")), Some((200, "whole"))],
    },
    // Silence after the head.
    Fault {
        first: &[
            &[
                Hear,
                Say("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart"),
                Stall,
            ],
            &[Hear, Say(WHOLE), Hear],
        ],
        answers: [None, Some((200, "whole"))],
    },
    // No HTTP at all.
    Fault {
        first: &[
            &[Hear, Say("220 mail.example ESMTP\r\n")],
            &[Hear, Say(WHOLE), Hear],
        ],
        answers: [Some((200, "whole")), Some((200, "whole"))],
    },
    // More than promised: the rest belongs to no answer.
    Fault {
        first: &[
            &[
                Hear,
                Say(
                    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npartHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
                ),
            ],
            &[Hear, Say(WHOLE), Hear],
        ],
        answers: [Some((200, "part")), Some((200, "part"))],
    },
    // A coding that ends with the connection: nobody can tell whether that is all.
    Fault {
        first: &[
            &[
                Hear,
                Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\npart"),
            ],
            &[Hear, Say(WHOLE), Hear],
        ],
        answers: [Some((200, "part")), Some((200, "whole"))],
    },
    // Two lengths.
    Fault {
        first: &[&[
            Hear,
            Say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\npart"),
        ]],
        answers: [Some((502, "")), Some((502, ""))],
    },
];

#[tokio::test]
async fn no_fault_is_taken_for_an_answer() {
    for (index, fault) in FAULTS.into_iter().enumerate() {
        let (url, _count) = scripted(fault.first).await;
        let proxy = Proxy::before(Origin::default(), &url, |config| {
            config.timeouts.stall_ms = 200;
            config.timeouts.first_byte_ms = 1000;
        })
        .await;
        for expected in fault.answers {
            let found = body(reqwest::get(proxy.url("/vod/a")).await).await;
            match (found, expected) {
                (None, None) => {}
                (Some((502, _)), None | Some((502, _))) => {}
                (Some((status, text)), Some(expected)) => {
                    assert_eq!((status, text.as_str()), expected, "fault {index}");
                }
                (found, expected) => panic!("fault {index}: {found:?}, not {expected:?}"),
            }
        }
    }
}

#[tokio::test]
async fn another_origin_steps_in_and_the_first_one_comes_back() {
    let backup = Origin::default();
    backup.put("/vod/a", &[("cache-control", "no-cache")], "backup");
    let backup_url = format!("http://{}", backup.clone().serve().await);
    let origin = Origin::default();
    origin.on("/vod/a", |_| async { respond::<&str>(503, &[], "down") });
    let start = |down_ms| {
        let backup_url = backup_url.clone();
        Proxy::start_with(origin.clone(), move |config| {
            config.origin_backups = vec![backup_url];
            config.upstream.failures_max = 2;
            config.upstream.down_ms = down_ms;
        })
    };
    let patient = start(86_400_000).await;
    for _ in 0..4 {
        assert_eq!(patient.text("/vod/a").await, "backup");
    }
    assert_eq!(origin.count("/vod/a"), 2, "not asked while it is down");
    assert_eq!(patient.get("/readyz").await.status(), 200);
    let proxy = start(300).await;
    for _ in 0..2 {
        assert_eq!(proxy.text("/vod/a").await, "backup");
    }
    origin.put("/vod/a", &[("cache-control", "no-cache")], "first");
    let back = async {
        while proxy.text("/vod/a").await != "first" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back)
        .await
        .unwrap();
    assert!(
        proxy
            .text("/metrics")
            .await
            .contains("shoal_proxy_origin_failovers_total ")
    );
}

#[tokio::test]
async fn checks_know_before_viewers_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let proxy = Proxy::before(Origin::default(), &dead, |config| {
        config.upstream.health_path = Some("/up".into());
        config.upstream.health_interval_ms = 20;
        config.upstream.failures_max = 2;
    })
    .await;
    let unready = async {
        while proxy.get("/readyz").await.status() != 503 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), unready)
        .await
        .unwrap();
    assert_eq!(proxy.text("/readyz").await, "origin is down\n");
    assert_eq!(proxy.text("/healthz").await, "ok\n");
}

#[tokio::test]
async fn changes_are_never_sent_twice() {
    let origin = Origin::default();
    origin.on("/vod/a", |_| async { respond::<&str>(503, &[], "down") });
    let backup = Origin::default();
    let backup_url = format!("http://{}", backup.clone().serve().await);
    let proxy = Proxy::start_with(origin.clone(), |config| {
        config.origin_backups = vec![backup_url];
        config.limits.body_bytes_max = 100;
    })
    .await;
    let post = reqwest::Client::new().post(proxy.url("/vod/a")).body("x");
    assert_eq!(post.send().await.unwrap().status(), 503);
    assert_eq!((origin.count("/vod/a"), backup.count("/vod/a")), (1, 0));
}

#[tokio::test]
async fn a_burst_of_errors_is_collapsed_and_over_when_it_is_over() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/live/s.m4s", |_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        respond::<&str>(500, &[], "oops")
    });
    let answers = join_all((0..30).map(|_| proxy.get("/live/s.m4s"))).await;
    assert!(answers.iter().all(|answer| answer.status() == 500));
    assert!(proxy.origin.count("/live/s.m4s") <= 5);
    proxy.origin.put("/live/s.m4s", &[], "fine");
    assert_eq!(proxy.text("/live/s.m4s").await, "fine");
}

#[tokio::test]
async fn redirects_are_followed_or_left_to_viewers() {
    let origin = Origin::default();
    origin.on("/live/v/i.m3u8", |_| async {
        respond::<&str>(302, &[("location", "/moved/i.m3u8")], "")
    });
    origin.put("/moved/i.m3u8", &[HLS], playlist(1, 1));
    origin.put("/live/v/seg-1.m4s", &[], segment(1, 1000));
    origin.on("/live/loop", |_| async {
        respond::<&str>(302, &[("location", "/live/loop")], "")
    });
    let proxy = Proxy::start_with(origin.clone(), |_| {}).await;
    let answer = proxy.get("/live/v/i.m3u8").await;
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().contains("seg-1.m4s"));
    assert_eq!(proxy.get("/live/loop").await.status(), 502);
    let strict = Proxy::start_with(origin, |config| config.follow_redirects = false).await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let answer = client
        .get(strict.url("/live/v/i.m3u8"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(header(&answer, "location"), "/moved/i.m3u8");
}
