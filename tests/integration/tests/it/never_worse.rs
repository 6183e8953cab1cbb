//! Whatever of ours fails, the CDN goes on, without a stall.

use std::time::Duration;

use integration::{Stack, StackOptions, Viewer, share_of_peers};
use peer_agent::{Config, playback::Report};

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn start(stack: &Stack, count: usize) -> Vec<Viewer> {
    let mut viewers = Vec::new();
    for _ in 0..count {
        viewers.push(Viewer::start(stack.agent_config()).await);
    }
    viewers
}

async fn stop(viewers: Vec<Viewer>) -> Vec<Report> {
    let mut reports = Vec::new();
    for viewer in viewers {
        reports.push(viewer.stop().await);
    }
    reports
}

fn check_no_stalls(reports: &[Report]) {
    for report in reports {
        assert_eq!(
            (report.stalls, report.failed, report.invalid),
            (0, 0, 0),
            "{report:?}"
        );
        assert!(report.startup_ms.is_some_and(|ms| ms < 3000), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tracker_dies_and_comes_back() {
    let mut stack = Stack::start(StackOptions::default()).await;
    let viewers = start(&stack, 4).await;
    seconds(10).await;
    stack.kill_tracker();
    seconds(10).await;
    for viewer in &viewers {
        let stats = viewer.stats();
        assert!(!stats.tracker_up);
        assert_eq!(stats.links, 3, "links need no tracker");
    }
    stack.restart_tracker().await;
    let late = Viewer::start(stack.agent_config()).await;
    let all_back = async {
        while !viewers.iter().all(|viewer| viewer.stats().tracker_up) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), all_back)
        .await
        .expect("all come back");
    let linked = async {
        while late.stats().links < 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), linked)
        .await
        .expect("newcomers are linked");
    let mut reports = stop(viewers).await;
    let share = share_of_peers(&reports, 20);
    assert!(share > 0.5, "{share}");
    reports.push(late.stop().await);
    check_no_stalls(&reports);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_peers_vanish() {
    let stack = Stack::start(StackOptions::default()).await;
    let mut viewers = start(&stack, 5).await;
    seconds(14).await;
    let last = viewers.pop().expect("there are five");
    assert!(last.stats().bytes_p2p > 0, "it has lived off the others");
    viewers.into_iter().for_each(Viewer::kill);
    seconds(20).await;
    assert_eq!(last.stats().links, 0);
    let report = last.stop().await;
    stack.check_bytes(std::slice::from_ref(&report)).await;
    check_no_stalls(&[report]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_records_without_p2p_and_without_a_tracker_the_cdn_plays() {
    let stack = Stack::start(StackOptions::default()).await;
    let bare = stack.at_origin(&stack.hls_url());
    let unsigned = Config {
        stream: bare,
        ..stack.agent_config()
    };
    let configs = [
        unsigned.clone(),
        unsigned,
        Config {
            p2p: false,
            ..stack.agent_config()
        },
        Config {
            tracker: String::new(),
            ..stack.agent_config()
        },
        Config {
            tracker: "ws://127.0.0.1:9/".into(),
            ..stack.agent_config()
        },
        Config {
            trust_cdn: false,
            ..stack.agent_config()
        },
    ];
    let mut viewers = Vec::new();
    for config in configs {
        viewers.push(Viewer::start(config).await);
    }
    seconds(16).await;
    assert!(viewers.iter().all(|viewer| viewer.stats().bytes_p2p == 0));
    let reports = stop(viewers).await;
    check_no_stalls(&reports);
    stack.check_bytes(&reports).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_restarts() {
    let mut stack = Stack::start(StackOptions::default()).await;
    let viewers = start(&stack, 3).await;
    seconds(10).await;
    stack.restart_proxy().await;
    seconds(14).await;
    let reports = stop(viewers).await;
    for report in &reports {
        assert_eq!((report.stalls, report.invalid), (0, 0), "{report:?}");
    }
    stack.check_bytes(&reports).await;
    assert!(share_of_peers(&reports, 20) > 0.3, "sharing goes on");
    stack.stop().await;
}
