//! One fetch that the core asked for: reads the record in the answer's header, cuts the body into
//! pieces, verifies them and hands them to the driver as they complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use reqwest::Response;
use swarm_core::id::{FetchId, Name};
use swarm_core::limits::SEGMENT_LEN_MAX;
use swarm_core::peer::FetchOutcome;
use swarm_core::record::{RECORD_HEADER, Record};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::catalog::Located;
use crate::origin::{Origin, OriginError, content_range};
use crate::store::Store;
use crate::trust::Trust;

/// What to fetch.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) fetch: FetchId,
    pub(crate) name: Name,
    pub(crate) located: Located,
    /// First byte within the segment, and length; the whole segment without.
    pub(crate) range: Option<(u32, u32)>,
    /// Where to count the body's bytes, for who cancels the fetch.
    pub(crate) bytes: Arc<AtomicU32>,
}

/// What a fetch reports. `Done` is the last.
#[derive(Debug)]
pub(crate) enum FetchEvent {
    /// A record that was checked and is of the segment asked for.
    Record {
        fetch: FetchId,
        record: Arc<Record>,
    },
    /// A verified piece.
    Piece {
        fetch: FetchId,
        record: Arc<Record>,
        index: u8,
        bytes: Bytes,
    },
    Done(Done),
}

/// How a fetch ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) fetch: FetchId,
    pub(crate) outcome: FetchOutcome,
    /// What the CDN said, or what a gateway says when it said nothing.
    pub(crate) status: StatusCode,
    pub(crate) bytes: u32,
    pub(crate) ttfb_ms: u32,
    pub(crate) total_ms: u32,
}

/// What fetches share.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    pub(crate) origin: Origin,
    pub(crate) trust: Arc<Trust>,
    pub(crate) store: Arc<Store>,
    pub(crate) events: mpsc::Sender<FetchEvent>,
}

impl Fetcher {
    /// Runs one fetch to its end. Drop the future to cancel it.
    pub(crate) async fn run(self, job: Job) {
        let mut running = Running::new(&self, &job);
        let result = running.fetch().await;
        let (outcome, status) = match result {
            Ok(outcome) => (outcome, running.status),
            Err(error) => {
                tracing::debug!(%error, url = job.located.url, "fetch failed");
                let said = running.status;
                (
                    FetchOutcome::Failed,
                    if said.is_success() {
                        error.status()
                    } else {
                        said
                    },
                )
            }
        };
        if outcome != FetchOutcome::Unverified {
            self.store.drop_body(job.fetch);
        }
        let done = running.done(outcome, status);
        let _ = self.events.send(FetchEvent::Done(done)).await;
    }
}

struct Running<'a> {
    fetcher: &'a Fetcher,
    job: &'a Job,
    started: Instant,
    first_byte: Option<Instant>,
    status: StatusCode,
}

/// Where an answer's body lies within the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    /// Bytes of the body before the segment begins.
    skip: u64,
    /// The segment's byte that comes first after those.
    at: u64,
    /// The segment's first byte that is not wanted any more, where known.
    end: Option<u64>,
    /// Whether the body is the whole segment, as far as the answer's head tells.
    whole: bool,
}

impl<'a> Running<'a> {
    fn new(fetcher: &'a Fetcher, job: &'a Job) -> Self {
        Self {
            fetcher,
            job,
            started: Instant::now(),
            first_byte: None,
            status: StatusCode::BAD_GATEWAY,
        }
    }

    async fn fetch(&mut self) -> Result<FetchOutcome, OriginError> {
        let (job, origin) = (self.job, &self.fetcher.origin);
        let asked = absolute_range(job);
        let opened = origin
            .open(Method::GET, &job.located.url, asked, HeaderMap::new())
            .await;
        let mut response = match opened {
            Ok(response) => response,
            Err(error) => {
                self.status = error.status();
                return Err(error);
            }
        };
        self.status = response.status();
        let Some(extent) = extent_of(job, &response) else {
            return Ok(FetchOutcome::Failed);
        };
        match self.record_for(&response, &extent) {
            Some(record) => self.read_verified(&mut response, extent, record).await,
            None => self.read_raw(&mut response, extent, vec![]).await,
        }
    }

    /// The record that vouches for this answer, and told to the driver.
    fn record_for(&self, response: &Response, extent: &Extent) -> Option<Arc<Record>> {
        let header = response
            .headers()
            .get(RECORD_HEADER)
            .and_then(|text| text.to_str().ok());
        let in_header = header.and_then(|text| match Record::from_header(text) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::debug!(%error, "record header ignored");
                None
            }
        });
        let name = self.job.name;
        let record = in_header
            .filter(|record| record.name == name && self.fetcher.trust.accepts(record))
            .map(Arc::new)
            .or_else(|| self.fetcher.store.record_of(name))?;
        let len = response.content_length();
        let fits = !extent.whole || len.is_none_or(|len| len == u64::from(record.len));
        fits.then_some(record)
    }

    async fn read_verified(
        &mut self,
        response: &mut Response,
        extent: Extent,
        record: Arc<Record>,
    ) -> Result<FetchOutcome, OriginError> {
        let fetch = self.job.fetch;
        self.report(FetchEvent::Record {
            fetch,
            record: record.clone(),
        })
        .await;
        let wanted = wanted_pieces(self.job.range, &record);
        let mut cutter = Cutter::new(record.clone(), extent);
        let end = extent.end.unwrap_or(u64::MAX).min(record.len.into());
        let mut raw = Vec::new();
        let mut verified = 0u64;
        while cutter.at < end {
            let Some(chunk) = self.next(response).await? else {
                break;
            };
            if extent.whole {
                raw.push(chunk.clone());
            }
            for (index, bytes) in cutter.push(&chunk) {
                if !record.verify_piece(index.into(), &bytes) {
                    tracing::debug!(
                        url = self.job.located.url,
                        index,
                        "bytes differ from record"
                    );
                    return self.read_raw(response, extent, raw).await;
                }
                verified |= 1 << index;
                self.report(FetchEvent::Piece {
                    fetch,
                    record: record.clone(),
                    index,
                    bytes,
                })
                .await;
            }
        }
        if cutter.at < end {
            return Ok(FetchOutcome::Failed);
        }
        if self.status == StatusCode::PARTIAL_CONTENT || extent.whole {
            // Having seen the end, the connection can be used again.
            let _ = self.next(response).await;
        }
        let all = wanted.is_some_and(|wanted| verified & wanted == wanted);
        Ok(if all {
            FetchOutcome::Verified
        } else {
            FetchOutcome::Unverified
        })
    }

    /// Reads on without a record; of a whole segment the bytes are kept, and may be played.
    async fn read_raw(
        &mut self,
        response: &mut Response,
        extent: Extent,
        already: Vec<Bytes>,
    ) -> Result<FetchOutcome, OriginError> {
        let (fetch, store) = (self.job.fetch, &self.fetcher.store);
        if !extent.whole {
            // Nobody can use a part that nobody vouches for.
            return Ok(FetchOutcome::Unverified);
        }
        store.begin_body(fetch, self.job.name, response.content_length());
        let len_max = SEGMENT_LEN_MAX as usize;
        for chunk in already {
            if !store.push_body(fetch, chunk) {
                return Err(OriginError::TooLong(len_max));
            }
        }
        while let Some(chunk) = self.next(response).await? {
            if !store.push_body(fetch, chunk) {
                return Err(OriginError::TooLong(len_max));
            }
        }
        Ok(FetchOutcome::Unverified)
    }

    async fn next(&mut self, response: &mut Response) -> Result<Option<Bytes>, OriginError> {
        let chunk = self.fetcher.origin.chunk(response).await?;
        self.first_byte.get_or_insert_with(Instant::now);
        let len = chunk.as_ref().map_or(0, |chunk| chunk.len() as u32);
        self.job.bytes.fetch_add(len, Ordering::Relaxed);
        Ok(chunk)
    }

    async fn report(&self, event: FetchEvent) {
        // Without a driver there is nobody to report to, and the task is about to be dropped.
        let _ = self.fetcher.events.send(event).await;
    }

    fn done(&self, outcome: FetchOutcome, status: StatusCode) -> Done {
        let since = |at: Instant| at.duration_since(self.started).as_millis() as u32;
        let total_ms = since(Instant::now());
        Done {
            fetch: self.job.fetch,
            outcome,
            status,
            bytes: self.job.bytes.load(Ordering::Relaxed),
            ttfb_ms: self.first_byte.map_or(total_ms, since),
            total_ms,
        }
    }
}

/// First byte and length to ask the CDN for; `None` for the whole object.
fn absolute_range(job: &Job) -> Option<(u64, u64)> {
    match (job.located.range, job.range) {
        (None, None) => None,
        (Some(whole), None) => Some(whole),
        (base, Some((first, len))) => Some((
            base.map_or(0, |(first, _)| first) + u64::from(first),
            len.into(),
        )),
    }
}

/// `None` if the answer is not what was asked for.
fn extent_of(job: &Job, response: &Response) -> Option<Extent> {
    let base = job.located.range.map_or(0, |(first, _)| first);
    let first = job.range.map_or(0, |(first, _)| u64::from(first));
    let end = match (job.range, job.located.range) {
        (Some((first, len)), _) => Some(u64::from(first) + u64::from(len)),
        (None, Some((_, len))) => Some(len),
        (None, None) => None,
    };
    match response.status() {
        StatusCode::OK => {
            let whole = job.range.is_none() && job.located.range.is_none();
            Some(Extent {
                skip: base,
                at: 0,
                end,
                whole,
            })
        }
        StatusCode::PARTIAL_CONTENT => {
            let (sent_first, _, _) = content_range(response.headers())?;
            let whole = job.range.is_none();
            (sent_first == base + first).then_some(Extent {
                skip: 0,
                at: first,
                end,
                whole,
            })
        }
        _ => None,
    }
}

/// The pieces that make up a range; `None` if it does not consist of whole pieces.
fn wanted_pieces(range: Option<(u32, u32)>, record: &Record) -> Option<u64> {
    let (first, len) = range.unwrap_or((0, record.len));
    let end = first.saturating_add(len).min(record.len);
    let aligned = first.is_multiple_of(record.piece_len)
        && (end == record.len || end.is_multiple_of(record.piece_len));
    if !aligned || first >= end {
        return None;
    }
    let pieces = first / record.piece_len..end.div_ceil(record.piece_len);
    Some(pieces.fold(0, |bits, piece| bits | 1 << piece))
}

/// Cuts a body into pieces.
struct Cutter {
    record: Arc<Record>,
    skip: u64,
    /// The segment's byte that comes next.
    at: u64,
    piece: BytesMut,
}

impl Cutter {
    fn new(record: Arc<Record>, extent: Extent) -> Self {
        Self {
            record,
            skip: extent.skip,
            at: extent.at,
            piece: BytesMut::new(),
        }
    }

    /// The pieces that these bytes complete.
    fn push(&mut self, mut bytes: &[u8]) -> Vec<(u8, Bytes)> {
        let mut pieces = Vec::new();
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        bytes = &bytes[skipped as usize..];
        let piece_len = u64::from(self.record.piece_len);
        while !bytes.is_empty() && self.at < u64::from(self.record.len) {
            let index = (self.at / piece_len) as u32;
            let start = u64::from(index) * piece_len;
            let size = u64::from(self.record.piece_size(index));
            let take = (start + size - self.at).min(bytes.len() as u64);
            // A piece whose beginning is not in this answer is of no use.
            if self.at - start == self.piece.len() as u64 {
                self.piece.extend_from_slice(&bytes[..take as usize]);
            }
            self.at += take;
            bytes = &bytes[take as usize..];
            if self.at == start + size {
                let piece = self.piece.split().freeze();
                if piece.len() as u64 == size {
                    pieces.push((index as u8, piece));
                }
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests;
