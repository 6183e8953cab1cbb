//! `shoal demo`.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{Failure, commands::print, demo, shutdown};

pub(crate) async fn run(args: demo::Args, stop: CancellationToken) -> Result<(), Failure> {
    let json = args.json();
    if let Some(seconds) = args.seconds {
        shutdown::after(&stop, Duration::from_secs(seconds));
    }
    let started = Box::pin(demo::Demo::start(&args)).await?;
    greet(&started, &args);
    let report = Box::pin(started.run(stop.cancelled_owned())).await?;
    let text = report.to_json();
    if json {
        print(&text);
    } else {
        eprintln!("\n{report}");
    }
    Ok(())
}

/// Says where to look. To standard error, as standard output may be a program's.
fn greet(demo: &demo::Demo, args: &demo::Args) {
    let urls = demo.urls();
    if let Some(page) = &urls.page {
        eprintln!("Shoal demo: open {page} in a browser; each tab is a viewer. Ctrl-C ends it.");
        if let Some(missing) = demo::missing_assets() {
            eprintln!("  note: {missing}");
        }
    }
    eprintln!(
        "  stream  {}\n  tracker {}\n  native viewers: {}",
        urls.stream, urls.tracker, args.viewers
    );
}
