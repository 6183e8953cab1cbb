//! The directory machine as it grows: what a viewer takes and what a join costs, with the decisions
//! that fall due meanwhile. Prints one JSON object for each size. Times are of the processor, so
//! that what else the machine does is not counted; median, 99th percentile, and the slowest of all joins
//! are of the clock.
//!
//! With `scaled` there are more metros where there are more viewers, a hundred viewers in each, and all
//! come within the same time: a join does as much with many viewers as with few, and what grows is the wait
//! for memory. Without, there are about 8,600 metros and 5,000 joins a second however many viewers come:
//! ten times as many have ten times as many to meet near by, and more falls due while they come.
//!
//! With `once` each size is filled once, which is enough for who counts instructions.
//!
//!     cargo bench -p swarm-core --bench directory -- [scaled] [once] [VIEWERS ...]

#![expect(
    clippy::disallowed_types,
    reason = "the machine's time is an argument; that of the benchmark is real"
)]

use std::{fs, hint::black_box, sync::Arc, time};

use swarm_core::{
    directory::{ConnId, Directory, Input, Joined, Location, Network, Outbox, P2pMode, Policy},
    id::{PeerId, StreamId, TrackId},
    rng::Rng,
    time::Instant,
    wire::tracker::{Distance, Nat, ViewerFlags},
};

/// Joins come this fast, in the machine's own time.
const JOINS_PER_S: u64 = 5_000;
const STREAM: StreamId = StreamId([1; 16]);
/// Sizes without an argument.
const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
/// Joins that are timed at the least: the processor's time is known to some milliseconds only.
const TIMED_MIN: usize = 20_000;
/// The last part of the joins is what is timed.
const TIMED_PART: usize = 10;
const COUNTRIES: u64 = 20;
const ISPS_PER_COUNTRY: u64 = 8;
/// Where metros are scaled, an ISP has as many viewers, in some 54 metros.
const VIEWERS_PER_ISP: u64 = 5_000;
/// And all join within this time, a million as fast as without scaling.
const SCALED_S: u64 = 200;
const PAGE_LEN: u64 = 4_096;

fn main() {
    // Cargo passes flags of its own.
    let asked = |word| std::env::args().any(|text| text == word);
    let (scaled, once) = (asked("scaled"), asked("once"));
    let sizes: Vec<usize> = std::env::args()
        .filter_map(|text| text.parse().ok())
        .collect();
    let sizes = if sizes.is_empty() {
        SIZES.to_vec()
    } else {
        sizes
    };
    for size in sizes {
        measure(size, scaled, once);
    }
}

fn measure(size: usize, scaled: bool, once: bool) {
    let rounds = if once {
        1
    } else {
        TIMED_MIN.div_ceil(size / TIMED_PART)
    };
    let all: Vec<Figures> = (0..rounds).map(|_| fill(size, scaled)).collect();
    let mean = |of: fn(&Figures) -> f64| all.iter().map(of).sum::<f64>() / rounds as f64;
    let slowest_us = all.iter().map(|round| round.slowest_us).fold(0.0, f64::max);
    println!(
        "{{\"viewers\":{size},\"join_us\":{:.2},\"median_join_us\":{:.2},\
         \"p99_join_us\":{:.1},\"slowest_join_us\":{slowest_us:.0},\
         \"bytes_per_viewer\":{:.0},\"pairs_per_viewer\":{:.2},\"near_percent\":{:.1}}}",
        mean(|round| round.join_us),
        mean(|round| round.median_us),
        mean(|round| round.p99_us),
        all[0].bytes,
        mean(|round| round.introductions),
        mean(|round| round.near_percent),
    );
}

/// What one directory has shown.
struct Figures {
    join_us: f64,
    median_us: f64,
    p99_us: f64,
    slowest_us: f64,
    bytes: f64,
    introductions: f64,
    /// Introductions within a metro or a household.
    near_percent: f64,
}

fn fill(size: usize, scaled: bool) -> Figures {
    let policy = Policy {
        viewers_max: u32::MAX,
        // Nobody reports here, and nobody shall be taken for gone.
        silence_ms_max: u32::MAX,
        ..Policy::default()
    };
    let before = resident_bytes();
    let mut directory = Directory::new(Arc::new(policy), 1, Instant::ORIGIN);
    let (mut rng, mut outbox) = (Rng::new(7), Outbox::new());
    let timed_from = size - size / TIMED_PART;
    let (mut timed_from_ns, mut slowest) = (0, time::Duration::ZERO);
    let gap_us = if scaled {
        SCALED_S * 1_000_000 / size as u64
    } else {
        1_000_000 / JOINS_PER_S
    };
    let isps = scaled.then(|| (size as u64).div_ceil(VIEWERS_PER_ISP));
    let mut took_us = Vec::with_capacity(size - timed_from);
    let mut tick_at: Option<Instant> = None;
    for number in 0..size {
        if number == timed_from {
            timed_from_ns = cpu_ns();
        }
        let joined = viewer(number as u64, isps, &mut rng);
        let now = Instant::from_micros(1 + number as u64 * gap_us);
        let began = time::Instant::now();
        if tick_at.is_some_and(|at| at <= now) {
            directory.handle(now, Input::Tick, &mut outbox);
            tick_at = None;
        }
        directory.handle(now, Input::Joined(&joined), &mut outbox);
        let next = directory.next_wakeup().map(|wakeup| wakeup.at);
        tick_at = tick_at.min(next).or(next);
        let took = began.elapsed();
        slowest = slowest.max(took);
        if number >= timed_from {
            took_us.push(took.as_secs_f64() * 1e6);
        }
        black_box(outbox.actions());
        outbox.clear();
    }
    let timed_us = cpu_ns().saturating_sub(timed_from_ns) as f64 / 1e3;
    let taken = size_of::<f64>() * took_us.capacity();
    took_us.sort_by(f64::total_cmp);
    let bytes = resident_bytes().saturating_sub(before + taken as u64) as f64 / size as f64;
    let join_us = timed_us / (size - timed_from) as f64;
    Figures {
        join_us,
        median_us: took_us[took_us.len() / 2],
        p99_us: took_us[took_us.len() * 99 / 100],
        slowest_us: slowest.as_secs_f64() * 1e6,
        bytes,
        introductions: directory.stats().introductions as f64 / size as f64,
        near_percent: near_percent(&directory),
    }
}

/// How many of all pairs are of one metro or household.
fn near_percent(directory: &Directory) -> f64 {
    let (mut all, mut near) = (0_u64, 0_u64);
    for pair in directory.viewers(STREAM).flat_map(|viewer| viewer.pairs()) {
        all += 1;
        near += u64::from(pair.distance <= Distance::Metro);
    }
    100.0 * near as f64 / all.max(1) as f64
}

fn viewer(number: u64, isps: Option<u64>, rng: &mut Rng) -> Joined {
    let (country, isp) = match isps {
        None => (
            rng.at_most(COUNTRIES - 1),
            rng.at_most(ISPS_PER_COUNTRY - 1),
        ),
        Some(isps) => {
            let number = rng.at_most(isps - 1);
            (number % COUNTRIES, number / COUNTRIES)
        }
    };
    let nats = [Nat::Open, Nat::Cone, Nat::Cone, Nat::Symmetric];
    Joined {
        conn: ConnId(number + 1),
        peer: PeerId(rng.next_u64() | 1),
        resumed: false,
        stream: STREAM,
        track: TrackId(1),
        flags: ViewerFlags(0),
        nat: nats[rng.at_most(nats.len() as u64 - 1) as usize],
        upload_kbps: 8_000,
        network: Network {
            address: u128::from(number) + 1,
            asn: 1 + (isp * COUNTRIES + country) as u32,
            country: [b'A' + country as u8, b'A'],
            location: Some(Location {
                lat_centideg: 3_000 + (country * 150 + rng.at_most(800)) as i16,
                lon_centideg: (country * 300 + rng.at_most(800)) as i16,
            }),
            mode: P2pMode::On,
            ..Network::default()
        },
    }
}

/// What this thread has had of a processor.
fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = text.split_whitespace().next();
    spent.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_LEN
}
