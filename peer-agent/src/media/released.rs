//! A segment that the core hands out piece by piece, to a player that plays while the rest comes. All
//! that is sent is one content, or the answer breaks off: the player asks anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use swarm_core::peer::Payload;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Begin, Broken, Report, Streaming, Waiting};
use crate::catalog::Located;
use crate::driver::{Answer, Next, Released};
use crate::gateway::Gateway;
use crate::store::Prefix;

/// The playlist is read again after one in so many parts of a segment's duration, and never more often
/// than the pause says.
const REREADS: u32 = 4;
const REREAD_PAUSE_MIN: Duration = Duration::from_millis(250);
const CHANGED: &str = "the segment was replaced while it was played";

/// Media of the first `part` of `whole` bytes of a segment, in milliseconds: so much of it as a player
/// plays that takes `grain_ms` at a time.
pub(crate) fn media_ms(duration_ms: u32, (part, whole): (u64, u64), grain_ms: u32) -> u32 {
    if part >= whole {
        return duration_ms;
    }
    let media_ms = u64::from(duration_ms) * part / whole;
    let grain_ms = u64::from(grain_ms.max(1));
    (media_ms / grain_ms * grain_ms) as u32
}

impl Waiting {
    /// How to begin with what is released; none if the store has lost it.
    pub(super) fn begin_released(&self, released: Released) -> Option<Begin> {
        let Prefix {
            len,
            chunks,
            from_peer,
        } = self.gateway.driver.store().released(released, 0);
        let len = len.filter(|_| !chunks.is_empty())?;
        Some(Begin::Released {
            released,
            len,
            from_peer,
        })
    }
}

impl Streaming {
    /// Sends what the core releases, as it does, until it delivers all. Meanwhile the playlist is read
    /// for a player that looks for the next segment only afterwards: neighbours count on each other to
    /// know it.
    pub(super) async fn follow_released(&mut self, released: Released) -> Result<Report, Broken> {
        let waiting = &self.waiting;
        let reading = keep_reading(
            waiting.gateway.clone(),
            waiting.located.clone(),
            waiting.options.headers.clone(),
        );
        tokio::select! {
            sent = self.send_released(released) => sent,
            never = reading => match never {},
        }
    }

    async fn send_released(&mut self, mut released: Released) -> Result<Report, Broken> {
        let mut late = Instant::now() + self.waiting.patience();
        loop {
            let here = self.waiting.gateway.driver.store();
            for chunk in here.released(released, self.at).chunks {
                self.send(chunk).await?;
                late = Instant::now() + self.waiting.patience();
            }
            tokio::select! {
                next = self.waiting.request.next() => match next {
                    Next::Released(more) if more.segment == released.segment => released = more,
                    Next::Released(_) => return Err(Broken::Lost(CHANGED)),
                    Next::Answer(Answer::Deliver { payload, media, reported_bps })
                        if payload == Payload::Segment(released.segment) =>
                    {
                        return self.deliver(media, reported_bps).await;
                    }
                    Next::Answer(_) => return Err(Broken::Lost(CHANGED)),
                },
                () = self.out.body.closed() => return Err(Broken::Gone),
                () = sleep_until(late) => return Err(Broken::Lost("the rest did not come")),
            }
        }
    }
}

async fn keep_reading(gateway: Arc<Gateway>, located: Located, headers: HeaderMap) -> Infallible {
    let duration = Duration::from_millis(located.duration_ms.into());
    let pause = (duration / REREADS).max(REREAD_PAUSE_MIN);
    loop {
        sleep(pause).await;
        let headers = headers.clone();
        gateway.reread_playlist(located.track, headers, pause).await;
    }
}
