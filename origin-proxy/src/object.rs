//! Objects that are whole and in memory, and those still on their way.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use swarm_core::record::Record;
use tokio::sync::watch;

use crate::{
    cache_status,
    error::Failure,
    freshness::{Freshness, NOT_FRESH, age_s},
    gzip::Gzipped,
    records::Signed,
    respond,
};

/// A whole answer of the origin.
pub(crate) struct Object {
    pub(crate) status: StatusCode,
    /// End-to-end headers.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the origin sent, if this is a playlist as viewers get it.
    pub(crate) raw: Option<Raw>,
    /// The origin's validator, if it gave one; `headers` of a playlist have one of ours.
    pub(crate) origin_etag: Option<HeaderValue>,
    pub(crate) stored: Instant,
    pub(crate) freshness: Freshness,
    pub(crate) records: ArcSwapOption<Records>,
    /// The headers of an answer with all of it, with room for what each answer adds.
    pub(crate) prepared: OnceLock<HeaderMap>,
    pub(crate) gzipped: Gzipped,
}

/// A playlist as the origin sent it.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// End-to-end headers.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What is signed of an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    /// All of it, if it is a segment.
    pub(crate) whole: Option<Arc<Signed>>,
    /// Those of its ranges that are segments: first byte, end (exclusive), record.
    pub(crate) ranges: Vec<(u64, u64, Arc<Signed>)>,
}

impl Records {
    /// The record of the segment that the bytes from `first` to `end` (exclusive) are, or are part of.
    pub(crate) fn of_range(&self, first: u64, end: u64) -> Option<&Arc<Signed>> {
        let of_it = |range: &&(u64, u64, Arc<Signed>)| range.0 <= first && end <= range.1;
        // Where segments overlap, the viewer's own is the one that it asks all of.
        let is_it = |(from, to, _): &(u64, u64, Arc<Signed>)| (*from, *to) == (first, end);
        let ranges = || self.ranges.iter().filter(of_it);
        let exact = ranges().find(|range| is_it(range));
        let range = exact.or_else(|| ranges().max_by_key(|(from, to, _)| to - from));
        range.map(|(_, _, signed)| signed).or(self.whole.as_ref())
    }
}

/// Headers that answers add to those of their objects.
const ADDED_HEADERS: usize = 16;

impl Object {
    pub(crate) fn is_fresh(&self) -> bool {
        self.stored.elapsed() < self.freshness.fresh
    }

    /// Whether it may be served while the origin is asked.
    pub(crate) fn is_usable_meanwhile(&self) -> bool {
        self.stored.elapsed() < self.freshness.fresh + self.freshness.revalidate
    }

    /// Whether it may be served although the origin failed to confirm it.
    pub(crate) fn is_usable_stale(&self) -> bool {
        self.stored.elapsed() < self.freshness.fresh + self.freshness.stale
    }

    /// The same, to be confirmed before it is served again.
    pub(crate) fn expired(&self) -> Self {
        Self {
            status: self.status,
            headers: self.headers.clone(),
            body: self.body.clone(),
            raw: self.raw.clone(),
            origin_etag: self.origin_etag.clone(),
            stored: self.stored,
            freshness: NOT_FRESH,
            records: Default::default(),
            prepared: Default::default(),
            gzipped: self.gzipped.anew(),
        }
    }

    /// Headers for an answer with all of it, and with `added`, which must always be the same. Its age
    /// and record must be filled in.
    pub(crate) fn prepare(&self, added: Option<&HeaderMap>) -> HeaderMap {
        let prepared = self.prepared.get_or_init(|| {
            let mut headers = HeaderMap::with_capacity(self.headers.len() + ADDED_HEADERS);
            for (name, value) in &self.headers {
                headers.append(name, value.clone());
            }
            headers.insert(header::AGE, HeaderValue::from_static("0"));
            headers.insert(header::CONTENT_LENGTH, self.body.len().into());
            headers.append(header::CACHE_STATUS, cache_status::HIT);
            if is_whole(self.status) {
                headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            }
            if let Some(added) = added {
                respond::add(&mut headers, added);
            }
            headers
        });
        prepared.clone()
    }

    /// How long it has been in caches, in seconds.
    pub(crate) fn age_s(&self) -> u64 {
        age_s(&self.headers).saturating_add(self.stored.elapsed().as_secs())
    }

    pub(crate) fn set_records(&self, records: Records) {
        self.records.store(Some(Arc::new(records)));
    }

    /// Puts the records that `look` finds in the place of those that it has.
    pub(crate) fn renew_records(&self, look: impl Fn(&Record) -> Option<Arc<Signed>>) {
        let Some(before) = self.records.load_full() else {
            return;
        };
        let renew = |signed: &mut Arc<Signed>| {
            let next = look(&signed.record);
            // That of other bytes is no record of this object.
            if let Some(next) = next.filter(|next| next.record.id() == signed.record.id()) {
                *signed = next;
            }
        };
        let mut records = Records::clone(&before);
        records.whole.iter_mut().for_each(renew);
        records
            .ranges
            .iter_mut()
            .for_each(|(_, _, signed)| renew(signed));
        // Whoever has signed it meanwhile has done so with the keys that are in force.
        let after = Some(Arc::new(records));
        self.records.compare_and_swap(&Some(before), after);
    }

    /// Whether it is a mere beginning of an object that has `len` bytes at least.
    pub(crate) fn is_cut(&self, len: u64) -> bool {
        self.status == StatusCode::OK && (self.body.len() as u64) < len
    }

    /// Bytes that it takes in memory, about.
    pub(crate) fn weight(&self) -> u32 {
        let raw = self.raw.as_ref().map_or(0, |raw| raw.body.len());
        // It may come later, and is never weighed again.
        let gzipped = match self.gzipped.is_possible() {
            true => self.body.len() / GZIP_SHARE,
            false => 0,
        };
        u32::try_from(self.body.len() + raw + gzipped + OBJECT_OVERHEAD).unwrap_or(u32::MAX)
    }
}

const OBJECT_OVERHEAD: usize = 2048;
/// What of a playlist its compressed form takes, at most as a rule: a quarter.
const GZIP_SHARE: usize = 4;

/// The head of an answer whose body is still coming.
#[derive(Debug)]
pub(crate) struct Head {
    /// 200 or 203.
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Length of the body, where the origin tells.
    pub(crate) len: Option<u64>,
}

/// How a flight ended.
#[derive(Clone)]
pub(crate) enum Landing {
    /// With an answer for everyone.
    Whole(Arc<Object>),
    /// With an answer that only the one who asked may have, who has it.
    NotShared,
    /// With none.
    Failed(Failure),
}

/// One request to the origin, which any number of viewers wait for. It goes on when they leave.
pub(crate) struct Flight {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    started: Instant,
}

struct State {
    /// The key that the answer is kept under; another one than asked for if answers vary.
    key: String,
    head: Option<Arc<Head>>,
    chunks: Vec<Bytes>,
    len: u64,
    landing: Option<Landing>,
}

/// How long an answer may be held back until all of it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    /// Since the origin was asked.
    pub(crate) most: Duration,
    /// Whether one whose length is not known yet may be: it may be made while it is sent.
    pub(crate) is_for_growing: bool,
}

/// What a viewer finds when it waits for a flight.
pub(crate) enum Progress {
    /// Body bytes are coming.
    Growing(Arc<Head>),
    /// It is over.
    Landed(Landing),
}

impl Flight {
    /// A flight for the object with this key.
    pub(crate) fn new(key: &str) -> Arc<Self> {
        let state = State {
            key: key.into(),
            head: None,
            chunks: Vec::new(),
            len: 0,
            landing: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            started: Instant::now(),
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key that the answer is for.
    pub(crate) fn is_for(&self, key: &str) -> bool {
        self.with(|state| state.key == key)
    }

    pub(crate) fn key(&self) -> String {
        self.with(|state| state.key.clone())
    }

    pub(crate) fn on_key(&self, key: String) {
        self.with(|state| state.key = key);
    }

    pub(crate) fn on_head(&self, head: Arc<Head>) {
        self.with(|state| state.head = Some(head));
        self.changed.send_replace(());
    }

    /// Returns the length so far.
    pub(crate) fn on_chunk(&self, chunk: Bytes) -> u64 {
        let len = self.with(|state| {
            state.len += chunk.len() as u64;
            state.chunks.push(chunk);
            state.len
        });
        self.changed.send_replace(());
        len
    }

    /// Only the first landing counts.
    pub(crate) fn on_landing(&self, landing: Landing) {
        self.with(|state| {
            if state.landing.is_none() {
                state.landing = Some(landing);
            }
        });
        self.changed.send_replace(());
    }

    /// All bytes that have come.
    pub(crate) fn collect(&self) -> Bytes {
        self.with(|state| match state.chunks.as_slice() {
            [one] => one.clone(),
            chunks => {
                let mut whole = BytesMut::with_capacity(state.len as usize);
                chunks
                    .iter()
                    .for_each(|chunk| whole.extend_from_slice(chunk));
                whole.freeze()
            }
        })
    }

    async fn wait<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let mut changes = self.changed.subscribe();
        loop {
            if let Some(found) = self.with(|state| look(state)) {
                return found;
            }
            // The sender lives as long as `self`, so this only ever ends with a change.
            let _ = changes.changed().await;
        }
    }

    /// Waits until the bytes before `end` have come. Returns false if it is over before, or was already.
    pub(crate) async fn reaches(&self, end: u64) -> bool {
        let reached = self.wait(|state| match &state.landing {
            Some(_) => Some(false),
            None => (state.len >= end).then_some(true),
        });
        reached.await
    }

    /// The length so far.
    pub(crate) fn len_so_far(&self) -> u64 {
        self.with(|state| state.len)
    }

    pub(crate) async fn landing(&self) -> Landing {
        self.wait(|state| state.landing.clone()).await
    }

    /// Waits for the head; then, if `hold` is given, for the end until it has passed since the start.
    pub(crate) async fn progress(&self, hold: Option<Hold>) -> Progress {
        let head = self.wait(|state| match (&state.landing, &state.head) {
            (Some(landing), _) => Some(Progress::Landed(landing.clone())),
            (None, Some(head)) => Some(Progress::Growing(head.clone())),
            (None, None) => None,
        });
        let progress = head.await;
        let (Progress::Growing(head), Some(hold)) = (&progress, hold) else {
            return progress;
        };
        if head.len.is_none() && !hold.is_for_growing {
            return progress;
        }
        let left = hold.most.saturating_sub(self.started.elapsed());
        match tokio::time::timeout(left, self.landing()).await {
            Ok(landing) => Progress::Landed(landing),
            Err(_) => progress,
        }
    }

    /// The bytes from `first` to `end` (exclusive; none for all), as they come. A flight that fails
    /// on the way ends the stream with an error, so that nobody takes a part for the whole.
    pub(crate) fn read(
        self: Arc<Self>,
        first: u64,
        end: Option<u64>,
    ) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
        let reader = Reader {
            flight: self,
            chunk: 0,
            offset: 0,
            first,
            end: end.unwrap_or(u64::MAX),
        };
        stream::try_unfold(reader, |mut reader| async move {
            let next = reader.next().await?;
            Ok(next.map(|bytes| (bytes, reader)))
        })
    }
}

struct Reader {
    flight: Arc<Flight>,
    /// Next chunk and where it begins in the body.
    chunk: usize,
    offset: u64,
    first: u64,
    end: u64,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.offset < self.end {
            let index = self.chunk;
            let found = self.flight.wait(|state| {
                let chunk = state.chunks.get(index).cloned();
                match (chunk, &state.landing) {
                    (Some(chunk), _) => Some(Ok(Some(chunk))),
                    (None, Some(Landing::Failed(failure))) => Some(Err(failure.clone())),
                    (None, Some(_)) => Some(Ok(None)),
                    (None, None) => None,
                }
            });
            let Some(chunk) = found.await? else {
                return Ok(None);
            };
            let begin = self.offset;
            self.chunk += 1;
            self.offset += chunk.len() as u64;
            let from = self.first.saturating_sub(begin).min(chunk.len() as u64) as usize;
            let to = (self.end - begin).min(chunk.len() as u64) as usize;
            if from < to {
                return Ok(Some(chunk.slice(from..to)));
            }
        }
        Ok(None)
    }
}

/// Whether an answer with this status is the object itself: 203 is what 200 is, changed by a proxy on the
/// way (RFC 9110 section 15.3.4).
pub(crate) fn is_whole(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION
    )
}

/// Headers that are between two hops only (RFC 9110 section 7.6.1), the lengths, which are set anew, and
/// the origin's other addresses, which are none of the proxy's (RFC 7838).
pub(crate) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let nominated: Vec<String> = headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let is_hop = HOP_BY_HOP.contains(&name.as_str());
        if !is_hop && !nominated.iter().any(|nominated| nominated == name.as_str()) {
            out.append(name, value.clone());
        }
    }
    out
}

pub(crate) const HOP_BY_HOP: [&str; 12] = [
    "alt-svc",
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];
