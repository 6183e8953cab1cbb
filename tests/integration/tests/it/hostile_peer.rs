//! A viewer that cheats harms nobody but itself.

use std::time::Duration;

use integration::{Stack, StackOptions, Viewer, share_of_peers};
use peer_agent::Misbehaviour;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupted_bytes_are_never_played_or_relayed_and_their_sender_is_dropped() {
    let stack = Stack::start(StackOptions::default()).await;
    let mut honest = Vec::new();
    for _ in 0..3 {
        honest.push(Viewer::start(stack.agent_config()).await);
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let misbehaviour = Some(Misbehaviour::Corrupt { every: 1 });
    let liar = Viewer::start(peer_agent::Config {
        misbehaviour,
        ..stack.agent_config()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(24)).await;
    assert_eq!(liar.stats().links, 0, "nobody keeps a link with it");
    let caught: u64 = honest.iter().map(|viewer| viewer.stats().bad_pieces).sum();
    assert!(caught > 0, "it has tried");
    assert!(
        honest.iter().all(|viewer| viewer.stats().links == 2),
        "the others stay together"
    );
    let mut reports = Vec::new();
    for viewer in honest {
        reports.push(viewer.stop().await);
    }
    let liar = liar.stop().await;
    stack.check_bytes(&reports).await;
    for report in reports.iter().chain([&liar]) {
        assert_eq!((report.stalls, report.invalid), (0, 0), "{report:?}");
    }
    assert!(share_of_peers(&reports, 20) > 0.4);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_that_are_not_kept_cost_no_stall() {
    let stack = Stack::start(StackOptions::default()).await;
    let misbehaviour = Some(Misbehaviour::ClaimOnly);
    let hole = Viewer::start(peer_agent::Config {
        misbehaviour,
        ..stack.agent_config()
    })
    .await;
    let mut honest = Vec::new();
    for _ in 0..3 {
        honest.push(Viewer::start(stack.agent_config()).await);
    }
    tokio::time::sleep(Duration::from_secs(25)).await;
    let mut reports = Vec::new();
    for viewer in honest {
        reports.push(viewer.stop().await);
    }
    hole.stop().await;
    stack.check_bytes(&reports).await;
    assert!(
        reports.iter().all(|report| report.stalls == 0),
        "{reports:?}"
    );
    assert!(share_of_peers(&reports, 20) > 0.3);
    stack.stop().await;
}
