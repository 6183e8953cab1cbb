//! Viewers of the Shoal protocol: joins with full matchmaking.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::pool::Pool;
use super::servers::Server;

/// The viewers are spread over as many streams.
const STREAMS: usize = 10;
/// For the last introductions.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// First bytes of messages (docs/protocol/tracker.md).
const JOIN: u8 = 0x01;
const VERSION: u8 = 0x01;
const WELCOME: u8 = 0x81;
pub(crate) const INTRODUCE: u8 = 0x82;
pub(crate) const REFUSED: u8 = 0x86;

pub(crate) struct Joins {
    /// Joins that one core's time is enough for, in a second.
    pub(crate) per_core_s: f64,
    /// The rate that was offered and reached.
    pub(crate) per_s: f64,
    /// From the join to the first introduction, in milliseconds.
    pub(crate) first_ms_p50: f64,
    pub(crate) first_ms_p99: f64,
    /// Introductions that a viewer has heard of.
    pub(crate) introductions: f64,
    /// Server memory of a viewer, in KiB, with all its links known.
    pub(crate) rss_kib: f64,
}

/// Lets `count` viewers join, `rate` in a second.
pub(crate) fn run(server: &Server, count: usize, rate: u32) -> Result<Joins> {
    let base = server.usage()?;
    let headers = "Sec-WebSocket-Protocol: shoal.v1\r\n";
    let mut pool = Pool::new(server, "/shoal", headers, false)?;
    pool.open(count)?;
    let before = server.usage()?;
    let began = Instant::now();
    let mut joined_at = vec![None; count];
    let mut first_ms = Vec::with_capacity(count);
    let (mut heard, mut introductions, mut welcomed, mut refused) =
        (vec![false; count], 0_u64, 0, 0);
    let mut next = 0;
    let step = Duration::from_secs(1) / rate;
    let (mut used, mut joining) = (before, Duration::ZERO);
    let mut until = None;
    while until.is_none_or(|until| Instant::now() < until) {
        while next < count && began + step * next as u32 <= Instant::now() {
            joined_at[next] = Some(Instant::now());
            pool.send(next, &join((next % STREAMS) as u8 + 1))?;
            next += 1;
        }
        pool.turn(
            Duration::from_millis(1),
            &mut |(viewer, message), _| match message.first() {
                Some(&WELCOME) => welcomed += 1,
                Some(&REFUSED) => refused += 1,
                Some(&INTRODUCE) => {
                    introductions += 1;
                    if !std::mem::replace(&mut heard[viewer], true) {
                        let joined: Option<Instant> = joined_at[viewer];
                        first_ms.extend(joined.map(|at| at.elapsed().as_secs_f64() * 1e3));
                    }
                }
                _ => {}
            },
        )?;
        if until.is_none() && welcomed == count {
            (used, joining) = (server.usage()?, began.elapsed());
            until = Some(Instant::now() + SETTLE_TIME);
        }
        ensure!(refused == 0, "the tracker refuses viewers");
        ensure!(
            began.elapsed() < Duration::from_secs(120),
            "{welcomed} of {count} viewers have joined"
        );
    }
    first_ms.sort_by(f64::total_cmp);
    ensure!(
        first_ms.len() * 100 > count * 99,
        "only {} viewers were introduced",
        first_ms.len()
    );
    let at = |share: f64| first_ms[((first_ms.len() - 1) as f64 * share) as usize];
    Ok(Joins {
        per_core_s: count as f64 / (used.cpu_s - before.cpu_s),
        per_s: count as f64 / joining.as_secs_f64(),
        first_ms_p50: at(0.5),
        first_ms_p99: at(0.99),
        introductions: introductions as f64 / count as f64,
        rss_kib: (server.usage()?.rss_kib - base.rss_kib) / count as f64,
    })
}

/// Joins the stream whose 16 bytes are all this one.
pub(crate) fn join(stream: u8) -> Vec<u8> {
    let mut message = vec![JOIN, VERSION];
    message.extend_from_slice(&[stream; 16]);
    // Track, flags, NAT (open), upload, no name to resume, no token.
    message.extend_from_slice(&1_u32.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message.extend_from_slice(&8_000_u32.to_be_bytes());
    message.extend_from_slice(&[0; 16]);
    message.extend_from_slice(&[0; 2]);
    message
}
