//! Segments on their way to a player: verified pieces as soon as the next one in order is there,
//! the CDN's bytes where the swarm has no say.

mod released;
#[cfg(test)]
mod tests;
mod through;

pub(crate) use self::released::media_ms;
pub(crate) use self::through::pass;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, StatusCode};
use reqwest::Response;
use swarm_core::id::Name;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use self::through::Source;
use crate::catalog::Located;
use crate::driver::{Answer, Next, Released, Request};
use crate::gateway::Gateway;
use crate::origin::{OriginError, content_range};
use crate::pace::{Pace, SLICE_BYTES};
use crate::store::{Media, Prefix};

/// Chunks that wait for a player that reads slowly.
const QUEUE_MAX: usize = 4;
/// How long the core has to answer at once, before what is there is played without an answer.
const AT_ONCE: Duration = Duration::from_millis(20);
/// How long the core has to answer after everything was played.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// Without any progress for this long, and three times the segment's duration, the CDN is asked
/// past the core: whatever is wrong with the swarm, the player goes on.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer for a player.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) status: StatusCode,
    /// The CDN's headers, where the answer is the CDN's.
    pub(crate) headers: HeaderMap,
    /// Length of the body.
    pub(crate) len: Option<u64>,
    /// First byte, last byte and whole length, where only a part was asked for.
    pub(crate) part: Option<(u64, u64, u64)>,
    /// Whether neighbours sent it, at least the beginning.
    pub(crate) from_peer: bool,
    pub(crate) body: mpsc::Receiver<Result<Bytes, io::Error>>,
    /// Comes after the body, if all of it was sent.
    pub(crate) report: oneshot::Receiver<Report>,
}

/// Where a body came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) bytes_p2p: u64,
    pub(crate) bytes_cdn: u64,
    /// The bandwidth that the player's ABR logic should believe, in bit/s; 0 if unknown.
    pub(crate) reported_bps: u64,
}

/// Which part of a segment a player asks for: first byte and, if it says, the last.
pub(crate) type Part = (u64, Option<u64>);

/// How a segment is to be opened.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Only this part of it.
    pub(crate) part: Option<Part>,
    /// For the CDN, if the swarm has no say.
    pub(crate) headers: HeaderMap,
    /// Whether to slow down what neighbours sent, for players that measure.
    pub(crate) pace: bool,
    /// Media that the player takes at a time while the segment arrives, in milliseconds; 0: all at
    /// once.
    pub(crate) grain_ms: u32,
}

/// Opens a segment through the swarm.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    name: Name,
    located: Located,
    options: Options,
) -> Result<Object, OriginError> {
    let asked = Instant::now();
    gateway.on_asked(located.track);
    let changes = gateway.driver.store().changes();
    // A part is asked for to have it, not to play it while it comes: the core brings the whole in time.
    let grain_ms = options.part.map_or(options.grain_ms, |_| 0);
    let request = gateway.driver.want(name, grain_ms).await;
    let waiting = Waiting {
        gateway: gateway.clone(),
        name,
        located,
        request,
        changes,
        asked,
        grain_ms,
        options,
    };
    waiting.open().await
}

/// An error without a body.
pub(crate) fn failed(status: StatusCode) -> Object {
    let (_, body) = mpsc::channel(1);
    let report = oneshot::channel().1;
    let headers = HeaderMap::new();
    Object {
        status,
        headers,
        len: Some(0),
        part: None,
        from_peer: false,
        body,
        report,
    }
}

/// The sending ends of an [`Object`].
struct Out {
    body: mpsc::Sender<Result<Bytes, io::Error>>,
    report: oneshot::Sender<Report>,
}

impl Object {
    fn channel(status: StatusCode) -> (Self, Out) {
        let (send_body, body) = mpsc::channel(QUEUE_MAX);
        let (send_report, report) = oneshot::channel();
        let headers = HeaderMap::new();
        let object = Self {
            status,
            headers,
            len: None,
            part: None,
            from_peer: false,
            body,
            report,
        };
        (
            object,
            Out {
                body: send_body,
                report: send_report,
            },
        )
    }

    fn of(response: &Response) -> (Self, Out) {
        let (mut object, out) = Self::channel(response.status());
        object.headers = response.headers().clone();
        // Of the answer to HEAD, the body's own length says nothing.
        let len = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok());
        object.len = len.and_then(|text| text.parse().ok());
        (object, out)
    }
}

impl Media {
    pub(crate) fn len(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// The bytes from `at` up to `end`.
    fn cut(self, at: u64, end: u64) -> Vec<Bytes> {
        cut(self.chunks, at, end)
    }
}

/// The bytes from `at` up to `end` of what `chunks` are together.
fn cut(chunks: Vec<Bytes>, at: u64, end: u64) -> Vec<Bytes> {
    let mut start = 0u64;
    let mut kept = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let len = chunk.len() as u64;
        let (from, to) = (at.max(start), end.min(start + len));
        if from < to {
            kept.push(chunk.slice((from - start) as usize..(to - start) as usize));
        }
        start += len;
    }
    kept
}

/// A segment that was asked for.
struct Waiting {
    gateway: Arc<Gateway>,
    name: Name,
    located: Located,
    request: Request,
    changes: watch::Receiver<u64>,
    asked: Instant,
    grain_ms: u32,
    options: Options,
}

/// With what an answer begins.
enum Begin {
    Answered(Answer),
    /// Bytes from the wanted one on, of a whole of this length.
    Prefix {
        len: u64,
        from_peer: bool,
    },
    /// The first pieces of a whole of this length, of which the core says when there are more.
    Released {
        released: Released,
        len: u64,
        from_peer: bool,
    },
}

/// What a body is sent from.
enum Supply {
    /// All is here; the player should believe this bandwidth.
    Whole(Media, u64),
    /// What is there under the segment's name, as it comes.
    Prefix,
    /// What the core releases, as it does.
    Released(Released),
}

impl Waiting {
    async fn open(mut self) -> Result<Object, OriginError> {
        let part = self.options.part;
        let at = part.map_or(0, |(first, _)| first);
        let (len, from_peer, supply) = match self.begin(at).await {
            Begin::Answered(Answer::Deliver {
                media,
                reported_bps,
                ..
            }) => {
                let from_peer = media.bytes_p2p > media.bytes_cdn;
                (media.len(), from_peer, Supply::Whole(media, reported_bps))
            }
            Begin::Prefix { len, from_peer } => (len, from_peer, Supply::Prefix),
            Begin::Released {
                released,
                len,
                from_peer,
            } => (len, from_peer, Supply::Released(released)),
            Begin::Answered(Answer::Fail { status }) if !status.is_success() => {
                self.gateway.on_answered(&self.located, false);
                return Ok(failed(status));
            }
            Begin::Answered(Answer::Fail { .. } | Answer::Bypass) => {
                return self.bypass(part).await;
            }
        };
        Ok(self.stream(len, part, from_peer, supply))
    }

    /// Waits until there is something to play at `at`.
    async fn begin(&mut self, at: u64) -> Begin {
        if let Ok(answer) = timeout(AT_ONCE, self.request.answer()).await {
            return Begin::Answered(answer);
        }
        let late = Instant::now() + self.patience();
        loop {
            let Prefix {
                len,
                chunks,
                from_peer,
            } = self.prefix(at);
            if let (Some(len), false) = (len, chunks.is_empty()) {
                return Begin::Prefix { len, from_peer };
            }
            tokio::select! {
                next = self.request.next() => match next {
                    Next::Answer(answer) => return Begin::Answered(answer),
                    Next::Released(released) => {
                        if let Some(begin) = self.begin_released(released) {
                            return begin;
                        }
                    }
                },
                _ = self.changes.changed() => {}
                () = sleep_until(late) => return Begin::Answered(Answer::Bypass),
            }
        }
    }

    fn patience(&self) -> Duration {
        PATIENCE + 3 * Duration::from_millis(self.located.duration_ms.into())
    }

    /// What can be played without the core's word. Of what records vouch for it tells a player
    /// that plays while the segment arrives how much that is.
    fn prefix(&self, at: u64) -> Prefix {
        let store = self.gateway.driver.store();
        if self.grain_ms > 0 {
            store.raw(self.name, at)
        } else {
            store.prefix(self.name, at)
        }
    }

    fn stream(self, len: u64, part: Option<Part>, from_peer: bool, supply: Supply) -> Object {
        let (mut at, mut end) = (0, len);
        if let Some((first, last)) = part {
            at = first;
            end = last.map_or(len, |last| last.saturating_add(1).min(len));
            if at >= end {
                self.gateway.on_answered(&self.located, false);
                let mut object = failed(StatusCode::RANGE_NOT_SATISFIABLE);
                object.part = Some((0, 0, len));
                return object;
            }
        }
        let status = if part.is_some() {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        let (mut object, out) = Object::channel(status);
        object.len = Some(end - at);
        object.part = part.map(|_| (at, end - 1, len));
        object.from_peer = from_peer;
        let streaming = Streaming {
            waiting: self,
            out,
            at,
            end,
            len,
        };
        tokio::spawn(streaming.run(supply));
        object
    }

    /// Gets the segment from the CDN as if there were no swarm.
    async fn bypass(self, part: Option<Part>) -> Result<Object, OriginError> {
        let range = self.range_of(part);
        let Self {
            gateway,
            located,
            options,
            ..
        } = self;
        let opened = gateway
            .origin
            .open(Method::GET, &located.url, range, options.headers)
            .await;
        let response = match opened {
            Ok(response) => response,
            Err(error) => {
                gateway.on_answered(&located, false);
                return Err(error);
            }
        };
        let good = response.status().is_success();
        let (mut object, out) = Object::of(&response);
        if located.range.is_some() && part.is_none() && object.status == StatusCode::PARTIAL_CONTENT
        {
            object.status = StatusCode::OK;
        }
        let source = Source {
            origin: gateway.origin.clone(),
            bypassed: gateway.bytes_bypassed.clone(),
            response,
        };
        let (done, was_all) = oneshot::channel();
        tokio::spawn(source.pour(out, Some(done)));
        tokio::spawn(async move {
            let got = good && was_all.await.unwrap_or(false);
            gateway.on_answered(&located, got);
        });
        Ok(object)
    }

    /// Part of a segment as first byte and length of the object in which it is.
    fn range_of(&self, part: Option<Part>) -> Option<(u64, u64)> {
        let (base, size) = self.located.range.unwrap_or((0, 0));
        match part {
            None => self.located.range,
            Some((first, Some(last))) => Some((base + first, (last + 1).saturating_sub(first))),
            Some((first, None)) => Some((base + first, size.saturating_sub(first))),
        }
    }
}

/// A segment that is being sent to the player.
struct Streaming {
    waiting: Waiting,
    out: Out,
    /// The byte that comes next, and the one after the last.
    at: u64,
    end: u64,
    len: u64,
}

/// Why a segment could not be sent to its end.
enum Broken {
    /// The player has gone.
    Gone,
    /// There is no way to get the rest.
    Lost(&'static str),
}

impl Streaming {
    async fn run(mut self, supply: Supply) {
        let sent = match supply {
            Supply::Whole(media, reported_bps) => self.deliver(media, reported_bps).await,
            Supply::Prefix => self.follow().await,
            Supply::Released(released) => self.follow_released(released).await,
        };
        let Self { waiting, out, .. } = self;
        waiting.gateway.on_answered(&waiting.located, sent.is_ok());
        match sent {
            Ok(report) => {
                let _ = out.report.send(report);
            }
            Err(Broken::Gone) => {}
            Err(Broken::Lost(why)) => {
                tracing::warn!(url = waiting.located.url, why, "segment broke off");
                let _ = out.body.send(Err(io::Error::other(why))).await;
            }
        }
    }

    /// Sends what comes, as it comes, until the core answers.
    async fn follow(&mut self) -> Result<Report, Broken> {
        let mut late = Instant::now() + self.waiting.patience();
        loop {
            let prefix = self.waiting.prefix(self.at);
            let room = self.end - self.at;
            for chunk in cut(prefix.chunks, 0, room) {
                self.send(chunk).await?;
                late = Instant::now() + self.waiting.patience();
            }
            if self.at == self.end {
                let answered = timeout(AFTERWARDS, self.waiting.request.answer()).await;
                return Ok(match answered {
                    Ok(Answer::Deliver {
                        media,
                        reported_bps,
                        ..
                    }) => report(&media, reported_bps),
                    _ => Report {
                        bytes_cdn: self.len,
                        ..Report::default()
                    },
                });
            }
            tokio::select! {
                answer = self.waiting.request.answer() => return self.finish(answer).await,
                _ = self.waiting.changes.changed() => {}
                () = sleep_until(late) => return self.continue_from_cdn().await,
            }
        }
    }

    async fn finish(&mut self, answer: Answer) -> Result<Report, Broken> {
        match answer {
            Answer::Deliver {
                media,
                reported_bps,
                ..
            } => self.deliver(media, reported_bps).await,
            Answer::Bypass | Answer::Fail { .. } => self.continue_from_cdn().await,
        }
    }

    async fn deliver(&mut self, media: Media, reported_bps: u64) -> Result<Report, Broken> {
        if media.len() != self.len {
            return Err(Broken::Lost("the segment was replaced while it was played"));
        }
        let report = report(&media, reported_bps);
        let pace = self.plan_pace(reported_bps);
        let start = self.at;
        for chunk in media.cut(self.at, self.end) {
            if !pace.pauses() {
                self.send(chunk).await?;
                continue;
            }
            for from in (0..chunk.len()).step_by(SLICE_BYTES) {
                let slice = chunk.slice(from..chunk.len().min(from + SLICE_BYTES));
                self.send(slice).await?;
                sleep_until(pace.due(self.at - start)).await;
            }
        }
        Ok(report)
    }

    fn plan_pace(&self, reported_bps: u64) -> Pace {
        let gateway = &self.waiting.gateway;
        let duration = Duration::from_millis(self.waiting.located.duration_ms.into());
        let buffer = gateway.estimate().map_or(0, |player| player.buffer_ms);
        // A player that is starting, or short of media, gets everything at once.
        if !self.waiting.options.pace || Duration::from_millis(buffer.into()) < duration {
            return Pace::none();
        }
        let left = self.end - self.at;
        let asked = self.waiting.asked;
        Pace::plan(
            asked,
            Instant::now(),
            self.len,
            left,
            reported_bps,
            duration,
        )
    }

    /// Gets the rest from the CDN, where the swarm has given up half-way.
    async fn continue_from_cdn(&mut self) -> Result<Report, Broken> {
        let waiting = &self.waiting;
        let range = waiting.range_of(Some((self.at, Some(self.end - 1))));
        let origin = waiting.gateway.origin.clone();
        let headers = waiting.options.headers.clone();
        let opened = origin
            .open(Method::GET, &waiting.located.url, range, headers)
            .await;
        let mut response = opened.map_err(|_| Broken::Lost("the CDN did not answer"))?;
        let first = range.map_or(0, |(first, _)| first);
        let mut skip = match (response.status(), content_range(response.headers())) {
            (StatusCode::PARTIAL_CONTENT, Some((sent, _, _))) if sent == first => 0,
            (StatusCode::OK, _) => first,
            _ => return Err(Broken::Lost("the CDN has no such bytes")),
        };
        while self.at < self.end {
            let chunk = origin.chunk(&mut response).await;
            let chunk = chunk.map_err(|_| Broken::Lost("the CDN's answer broke off"))?;
            let Some(mut chunk) = chunk else {
                return Err(Broken::Lost("the CDN sent too little"));
            };
            self.waiting.gateway.on_bypassed(chunk.len() as u64);
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let room = (self.end - self.at).min(chunk.len() as u64 - skipped);
            chunk = chunk.slice(skipped as usize..(skipped + room) as usize);
            self.send(chunk).await?;
        }
        Ok(Report {
            bytes_cdn: self.len,
            ..Report::default()
        })
    }

    async fn send(&mut self, chunk: Bytes) -> Result<(), Broken> {
        self.at += chunk.len() as u64;
        if chunk.is_empty() {
            return Ok(());
        }
        let sent = self.out.body.send(Ok(chunk)).await;
        sent.map_err(|_| Broken::Gone)?;
        let waiting = &self.waiting;
        if waiting.grain_ms > 0 {
            let (located, part) = (&waiting.located, (self.at, self.len));
            let ms = media_ms(located.duration_ms, part, waiting.grain_ms);
            waiting.gateway.on_progress(located, ms);
        }
        Ok(())
    }
}

fn report(media: &Media, reported_bps: u64) -> Report {
    Report {
        bytes_p2p: media.bytes_p2p,
        bytes_cdn: media.bytes_cdn,
        reported_bps,
    }
}
