//! The tracker drains and restarts; neither links nor playback notice.

use std::collections::BTreeSet;
use std::time::Duration;

use integration::{Stack, StackOptions, Viewer};

const VIEWERS: u32 = 4;

/// Waits until `holds` for all viewers. If `linked`, nobody may lose a link meanwhile.
async fn wait(what: &str, viewers: &[Viewer], linked: bool, holds: impl Fn(&Viewer) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !viewers.iter().all(&holds) {
            for viewer in viewers.iter().filter(|_| linked) {
                assert_eq!(viewer.stats().links, VIEWERS - 1, "before: {what}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

/// The links that are up, by place and by how long they took to open.
fn links_of(viewer: &Viewer) -> BTreeSet<(u8, u32)> {
    let up = viewer.stats().neighbours.into_iter().filter(|n| n.up);
    up.map(|n| (n.slot, n.setup_ms)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_and_a_restart_of_the_tracker_go_unnoticed() {
    let mut stack = Stack::start(StackOptions::default()).await;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        viewers.push(Viewer::start(stack.agent_config()).await);
    }
    let is_linked = |viewer: &Viewer| viewer.stats().links == VIEWERS - 1;
    let is_up = |viewer: &Viewer| viewer.stats().tracker_up;
    wait("all are linked", &viewers, false, is_linked).await;
    let links: Vec<_> = viewers.iter().map(links_of).collect();
    stack.drain_tracker(Some(1_000)).await;
    wait("all are sent away", &viewers, true, |viewer| !is_up(viewer)).await;
    stack.drain_tracker(None).await;
    wait("all come back", &viewers, true, is_up).await;
    stack.restart_tracker().await;
    wait("all find the new tracker", &viewers, true, is_up).await;
    // Newcomers are linked as ever.
    let late = Viewer::start(stack.agent_config()).await;
    wait("the newcomer is linked", &[late], false, |viewer| {
        viewer.stats().links == VIEWERS
    })
    .await;
    for (viewer, links) in viewers.iter().zip(links) {
        assert!(links_of(viewer).is_superset(&links), "links were replaced");
    }
    for viewer in viewers {
        let report = viewer.stop().await;
        assert_eq!(
            (report.stalls, report.failed, report.invalid),
            (0, 0, 0),
            "{report:?}"
        );
    }
    stack.stop().await;
}
