//! Tells the broadcaster's services that streams start and end.
//!
//! `watch` looks at the streams of all nodes and knows what is new; `delivery` brings it to the
//! receivers. Of several nodes one speaks. The others ask it what it has told, so that any of them
//! can go on where it is lost; and nobody speaks while it is not clear who does.

mod config;
mod delivery;
mod watch;

pub use config::WebhooksConfig;
pub(crate) use watch::Told;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time;

use crate::{api, cluster::Standing, server::Context};
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
    let mut listened = false;
    loop {
        ticks.tick().await;
        let peers = context.peers.as_ref();
        let standing = peers.map_or(Standing::Speaks, |peers| peers.standing());
        let may_speak = standing == Standing::Speaks;
        // Before its first word it hears all others once, now that all are known.
        let hears = may_speak && !listened && peers.is_some_and(|peers| peers.others_len() > 0);
        let done = if hears || standing == Standing::Listens {
            let answered = listen(&context, &mut watch).await;
            listened |= may_speak && answered == Some(true);
            answered.map(|_| ())
        } else {
            speak(&context, &mut watch, &receivers, standing).await
        };
        if done.is_none() {
            return;
        }
    }
}

/// Hears what others have told, and whether any has answered. `None` if the tracker stops.
async fn listen(context: &Arc<Context>, watch: &mut Watch) -> Option<bool> {
    // It has itself spoken until now, perhaps: what it knows is still there for the others.
    context.told().speaks = false;
    let (told, answered) = api::told(context).await?;
    // While one speaks, the others have nothing to add.
    let spoken = told.speaks;
    watch.follow(told);
    *context.told() = if spoken {
        Told::default()
    } else {
        watch.told(false)
    };
    Some(answered)
}

/// Looks at the streams and tells what is new. `None` if the tracker stops.
async fn speak(
    context: &Arc<Context>,
    watch: &mut Watch,
    receivers: &Receivers,
    standing: Standing,
) -> Option<()> {
    let census = api::census(context).await?;
    let speaks = standing == Standing::Speaks;
    let cut = census.cut;
    receivers.tell(&watch.look(now_ms(), census, speaks));
    *context.told() = watch.told(speaks);
    if cut {
        look_closer(context, watch).await?;
    }
    Some(())
}

/// Asks for streams that are not listed any more where not all are: they may just have become small.
/// `None` if the tracker stops.
async fn look_closer(context: &Arc<Context>, watch: &mut Watch) -> Option<()> {
    for stream in watch.unlisted(now_ms()) {
        match api::is_watched(context, &stream).await? {
            (true, _) => watch.still_there(now_ms(), &stream),
            (false, true) => watch.not_there(&stream),
            // A node that may have viewers has not answered.
            (false, false) => {}
        }
    }
    Some(())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
