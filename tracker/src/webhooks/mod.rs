//! Tells the broadcaster's services that streams start and end.
//!
//! `watch` looks at the streams of all nodes and knows what is new; `delivery` brings it to the
//! receivers. Of several nodes one speaks; another one takes over where it is lost.

mod config;
mod delivery;
mod watch;

pub use config::WebhooksConfig;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time;

use crate::{api, server::Context};
use delivery::Receivers;
use watch::Watch;

/// How often the streams are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Watches and tells until the tracker stops.
pub(crate) async fn serve(context: Arc<Context>) {
    let config = &context.config.webhooks;
    let receivers = match Receivers::start(config, &context.counters) {
        Ok(receivers) => receivers,
        Err(error) => {
            tracing::error!(%error, "webhooks cannot be sent");
            return;
        }
    };
    let mut watch = Watch::new(u64::from(config.end_after_ms));
    let mut ticks = time::interval(LOOK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some((streams, cut)) = api::census(&context).await else {
            return;
        };
        let events = watch.look(now_ms(), streams);
        // All nodes watch, so that the next one to speak knows what was said.
        if context.peers.as_ref().is_none_or(|peers| peers.is_first()) {
            receivers.tell(&events);
            *context.told() = watch.starts();
        } else {
            context.told().clear();
            let Some(told) = api::told(&context).await else {
                return;
            };
            watch.adopt(told);
        }
        if cut && look_closer(&context, &mut watch).await.is_none() {
            return;
        }
    }
}

/// Asks for streams that are not listed any more where not all are: they may just have become small.
/// `None` if the tracker stops.
async fn look_closer(context: &Arc<Context>, watch: &mut Watch) -> Option<()> {
    for stream in watch.unlisted(now_ms()) {
        if api::is_watched(context, &stream).await? {
            watch.still_there(now_ms(), &stream);
        }
    }
    Some(())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
