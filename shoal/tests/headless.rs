//! The demo as it is: every part real, on loopback, without a page.

use std::time::Duration;

use shoal::demo::{Args, Demo};

const SECONDS: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_viewers_share_a_live_stream() {
    let demo = Demo::start(&Args::headless(4)).await.unwrap();
    assert!(demo.urls().page.is_none());
    let report = demo
        .run(tokio::time::sleep(Duration::from_secs(SECONDS)))
        .await
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    for field in [
        "viewers",
        "bytes_cdn",
        "bytes_p2p",
        "offload",
        "cdn_copies_per_segment",
        "stalls",
        "stall_ratio",
        "startup_ms_p50",
        "latency_s_p50",
        "bad_pieces",
    ] {
        assert!(json[field].is_number(), "{field} in {json}");
    }
    assert_eq!(
        (json["viewers"].as_u64(), json["viewers_failed"].as_u64()),
        (Some(4), Some(0))
    );
    assert_eq!(
        (json["bad_pieces"].as_u64(), json["stalls"].as_u64()),
        (Some(0), Some(0)),
        "{json}"
    );
    assert!(report.bytes_p2p > 0, "nothing was shared: {json}");
}

#[tokio::test]
async fn a_taken_port_is_said_to_be_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let mut args = Args::headless(0);
    (args.listen, args.headless) = (addr, false);
    let Err(failure) = Demo::start(&args).await else {
        panic!("{addr} is taken")
    };
    assert!(
        failure.to_string().contains(&format!("{addr} is taken")),
        "{failure}"
    );
}
