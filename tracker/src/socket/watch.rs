//! Pings silent connections and ends those that stay silent.
//!
//! A walk over all connections now and then takes the place of a timer in each of them, and of a
//! way to tell each of them that the tracker stops.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{task::yield_now, time};
use tokio_util::sync::CancellationToken;

use crate::{clock, outgoing::Outgoing};

/// Walks in the shortest interval of pings.
const WALKS_PER_PING: u32 = 8;
/// Connections seen before others get their turn.
const TURN_MAX: usize = 512;

/// All connections of a tracker.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    connections: Vec<Weak<Outgoing>>,
    stopped: bool,
}

impl Watch {
    /// Watches over connections of which none pings more often than each `ping_ms`; with `stopped`
    /// all end, and those that come later at once.
    pub(crate) fn start(ping_ms: u32, stopped: &CancellationToken) -> Arc<Self> {
        let watch = Arc::new(Self::default());
        let pause = Duration::from_millis(u64::from(ping_ms / WALKS_PER_PING).max(1));
        let (serving, stopped) = (Arc::clone(&watch), stopped.clone());
        tokio::spawn(async move {
            let walks = async {
                loop {
                    time::sleep(pause).await;
                    serving.walk().await;
                }
            };
            stopped.run_until_cancelled(walks).await;
            serving.end_all();
        });
        watch
    }

    pub(crate) fn add(&self, outgoing: &Arc<Outgoing>) {
        let mut watched = self.lock();
        if watched.stopped {
            drop(watched);
            return outgoing.cut();
        }
        watched.connections.push(Arc::downgrade(outgoing));
    }

    async fn walk(&self) {
        let mut at = 0;
        loop {
            {
                let mut watched = self.lock();
                let until = at + TURN_MAX;
                while at < until.min(watched.connections.len()) {
                    match watched.connections[at].upgrade() {
                        Some(outgoing) => outgoing.look_after(clock::now_ms()),
                        None => {
                            watched.connections.swap_remove(at);
                            continue;
                        }
                    }
                    at += 1;
                }
                if at >= watched.connections.len() {
                    return;
                }
            }
            yield_now().await;
        }
    }

    fn end_all(&self) {
        let mut watched = self.lock();
        watched.stopped = true;
        let connections = std::mem::take(&mut watched.connections);
        drop(watched);
        for outgoing in connections.iter().filter_map(Weak::upgrade) {
            outgoing.cut();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
