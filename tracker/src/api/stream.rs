//! One stream from afar: sums and distributions, small whatever the audience.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use swarm_core::{
    directory::{Seat, ViewerView},
    id::StreamId,
    wire::tracker::ViewerFlags,
};

use super::{Counts, Rates, Share, question::Reply, summary::Stream, survey::Survey, tally::Tally};
use crate::{listed::Listed, shard::Sight};

/// Viewers that are looked at; of a larger audience every second, third, … one, and counts are
/// multiplied.
const SAMPLE_MAX: usize = 20_000;
/// Countries, ISPs or tracks in one answer; the rest is one line.
const SHARES_MAX: usize = 30;
/// Upper edges of the classes of buffers and of distances to the live edge, in milliseconds; what
/// is above the last has a class of its own.
const BUFFER_EDGES_MS: [u32; 7] = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000];
const LAG_EDGES_MS: [u32; 8] = [2_000, 4_000, 6_000, 8_000, 12_000, 20_000, 40_000, 80_000];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Detail {
    #[serde(flatten)]
    totals: Stream,
    /// Each viewer that was looked at stands for this many.
    sampled: u64,
    connected: u64,
    native: u64,
    leech: u64,
    synthetic: u64,
    p2p_kbps: u64,
    cdn_kbps: u64,
    up_kbps: u64,
    /// Viewers that stalled since their last report.
    stalling: u64,
    /// Links, each counted once.
    links_up: u64,
    links_pending: u64,
    /// Links that are up, by distance.
    distances: Counts,
    nats: Counts,
    countries: Vec<Share>,
    isps: Vec<Share>,
    tracks: Vec<Share>,
    buffer_ms: Histogram,
    lag_ms: Histogram,
}

/// How many viewers are in each class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Histogram {
    /// Upper edges.
    edges: Vec<u32>,
    /// One more than edges.
    counts: Vec<u64>,
}

/// A stream that is being looked at.
pub(super) struct DetailSurvey {
    stream: StreamId,
    /// Every so many viewers one is looked at.
    step: usize,
    seat: Option<Seat>,
    detail: Detail,
    tally: Tally,
}

impl DetailSurvey {
    /// `None` if it has no viewers.
    pub(super) fn begin(sight: &Sight<'_>, stream: StreamId) -> Option<Self> {
        let view = sight.directory.stream(stream)?;
        let step = view.viewers.div_ceil(SAMPLE_MAX).max(1);
        let mut detail = Detail::new(Stream::new(stream, view.viewers, &view.totals));
        detail.sampled = step as u64;
        Some(Self {
            stream,
            step,
            seat: None,
            detail,
            tally: Tally::default(),
        })
    }
}

impl Survey for DetailSurvey {
    fn go_on(&mut self, sight: &Sight<'_>, most: usize) -> bool {
        let viewers = sight
            .directory
            .viewers_after(self.stream, self.seat, self.step);
        let mut count = 0;
        for viewer in viewers.take(most) {
            self.detail.add(&viewer, &mut self.tally);
            self.seat = Some(viewer.seat());
            count += 1;
        }
        count == most
    }

    fn finish(self: Box<Self>, sight: &Sight<'_>) -> Reply {
        let Self {
            mut detail, tally, ..
        } = *self;
        (detail.nats, detail.distances) = (tally.nats(), tally.distances());
        (detail.countries, detail.tracks) = (tally.countries(), tally.tracks());
        detail.isps = tally.isps(sight);
        detail.multiply(self.step as u64);
        detail.cut();
        Reply::Stream(Some(Box::new(detail)))
    }
}

impl Detail {
    pub(super) const fn has_viewers(&self) -> bool {
        self.totals.viewers > 0
    }

    /// Gives the stream the operator's name.
    pub(super) fn name(&mut self, listed: &Listed<StreamId>) {
        self.totals.name(listed);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.totals.merge(&other.totals);
        self.sampled = self.sampled.max(other.sampled);
        for (mine, theirs) in self.numbers().into_iter().zip(other.clone().numbers()) {
            *mine += *theirs;
        }
        for (mine, theirs) in [
            (&mut self.distances, other.distances),
            (&mut self.nats, other.nats),
        ] {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
        for (mine, theirs) in [
            (&mut self.countries, other.countries),
            (&mut self.isps, other.isps),
            (&mut self.tracks, other.tracks),
        ] {
            theirs.into_iter().for_each(|share| add_share(mine, share));
        }
        self.buffer_ms.merge(&other.buffer_ms);
        self.lag_ms.merge(&other.lag_ms);
        self.cut();
    }

    fn new(totals: Stream) -> Self {
        Self {
            totals,
            sampled: 1,
            connected: 0,
            native: 0,
            leech: 0,
            synthetic: 0,
            p2p_kbps: 0,
            cdn_kbps: 0,
            up_kbps: 0,
            stalling: 0,
            links_up: 0,
            links_pending: 0,
            distances: Counts::new(),
            nats: Counts::new(),
            countries: Vec::new(),
            isps: Vec::new(),
            tracks: Vec::new(),
            buffer_ms: Histogram::new(&BUFFER_EDGES_MS),
            lag_ms: Histogram::new(&LAG_EDGES_MS),
        }
    }

    fn add(&mut self, viewer: &ViewerView<'_>, tally: &mut Tally) {
        let (status, rates) = (viewer.status(), Rates::of(viewer));
        let has = |flag| u64::from(viewer.flags().has(flag));
        self.connected += u64::from(viewer.connected());
        self.native += has(ViewerFlags::NATIVE);
        self.leech += has(ViewerFlags::LEECH);
        self.synthetic += has(ViewerFlags::SYNTHETIC);
        self.p2p_kbps += rates.p2p_kbps;
        self.cdn_kbps += rates.cdn_kbps;
        self.up_kbps += rates.up_kbps;
        self.stalling += u64::from(status.stalls > 0);
        tally.add(viewer, rates);
        // Each viewer tells its own half of a link; halves are put together at the end.
        for pair in viewer.pairs() {
            if pair.up {
                tally.add_link(pair.distance);
                self.links_up += 1;
            } else {
                self.links_pending += 1;
            }
        }
        if viewer.status_gap_ms() > 0 {
            self.buffer_ms.add(status.buffer_ms);
            self.lag_ms.add(status.lag_ms);
        }
    }

    /// Makes of what was looked at what there is.
    fn multiply(&mut self, factor: u64) {
        for number in self.numbers() {
            *number *= factor;
        }
        let counts = self.nats.values_mut();
        let counts = counts.chain(&mut self.buffer_ms.counts);
        counts
            .chain(&mut self.lag_ms.counts)
            .for_each(|n| *n *= factor);
        for share in [&mut self.countries, &mut self.isps, &mut self.tracks]
            .into_iter()
            .flatten()
        {
            share.viewers *= factor;
            share.p2p_kbps *= factor;
            share.cdn_kbps *= factor;
        }
        // Two halves make a link.
        self.links_up /= 2;
        self.links_pending /= 2;
        for count in self.distances.values_mut() {
            *count = (*count * factor).div_ceil(2);
        }
    }

    fn numbers(&mut self) -> [&mut u64; 10] {
        [
            &mut self.connected,
            &mut self.native,
            &mut self.leech,
            &mut self.synthetic,
            &mut self.p2p_kbps,
            &mut self.cdn_kbps,
            &mut self.up_kbps,
            &mut self.stalling,
            &mut self.links_up,
            &mut self.links_pending,
        ]
    }

    /// Keeps the largest shares, and makes one line of the others.
    fn cut(&mut self) {
        for shares in [&mut self.countries, &mut self.isps, &mut self.tracks] {
            shares.sort_unstable_by(|a, b| {
                let order = |share: &Share| (share.key == REST, Reverse(share.viewers));
                (order(a), &a.key).cmp(&(order(b), &b.key))
            });
            if shares.len() <= SHARES_MAX {
                continue;
            }
            let mut rest = Share {
                key: REST.into(),
                ..Share::default()
            };
            for share in shares.drain(SHARES_MAX - 1..) {
                rest.merge(&share);
            }
            shares.push(rest);
        }
    }
}

/// The key of what is left over.
const REST: &str = "other";

/// Shares are few, or cut to few: a list is as good as a map, and keeps its order on the wire.
fn add_share(shares: &mut Vec<Share>, share: Share) {
    match shares.iter_mut().find(|known| known.key == share.key) {
        Some(known) => known.merge(&share),
        None => shares.push(share),
    }
}

impl Share {
    fn merge(&mut self, other: &Self) {
        self.viewers += other.viewers;
        self.p2p_kbps += other.p2p_kbps;
        self.cdn_kbps += other.cdn_kbps;
        if self.name.is_empty() {
            self.name.clone_from(&other.name);
        }
    }
}

impl Histogram {
    fn new(edges: &[u32]) -> Self {
        Self {
            edges: edges.to_vec(),
            counts: vec![0; edges.len() + 1],
        }
    }

    fn add(&mut self, value: u32) {
        let class = self.edges.partition_point(|edge| *edge <= value);
        self.counts[class] += 1;
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }
}
