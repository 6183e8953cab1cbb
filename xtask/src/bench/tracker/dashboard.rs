//! The dashboard beside a large audience: how soon its questions are answered, and what viewers who join
//! meanwhile notice of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::pool::Pool;
use super::servers::Server;
use super::shoal::{INTRODUCE, REFUSED, join};

/// The one stream of them all.
const STREAM: u8 = 1;
/// Viewers that join while it is measured, in a second, and for how long.
const JOINS_PER_S: u32 = 400;
const PHASE: Duration = Duration::from_secs(6);
/// The audience comes at this rate.
const AUDIENCE_PER_S: u32 = 5_000;
/// Each viewer reports this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Pages that are open, and how often each asks.
const PAGES: usize = 3;
const REFRESH: Duration = Duration::from_secs(2);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(8);
/// First bytes of messages (docs/protocol/tracker.md).
const STATUS: u8 = 0x02;
const LINK: u8 = 0x04;

pub(crate) struct Watched {
    /// From the join to the first introduction, in milliseconds, while nobody looks and while pages do.
    pub(crate) alone_ms_p99: f64,
    pub(crate) watched_ms_p99: f64,
    /// What the server's core did in the two.
    pub(crate) alone_share: f64,
    pub(crate) watched_share: f64,
    /// What was asked, the slowest and the usual answer in milliseconds, and the longest in KiB.
    pub(crate) answers: Vec<(&'static str, f64, f64, f64)>,
}

/// Looks at `viewers` who are linked with each other and report.
pub(crate) fn run(server: &Server, viewers: usize) -> Result<Watched> {
    let headers = "Sec-WebSocket-Protocol: shoal.v1\r\n";
    let mut audience = Audience {
        pool: Pool::new(server, "/shoal", headers, false)?,
        joined_at: Vec::new(),
        heard: Vec::new(),
        first_ms: Vec::new(),
        reported: 0,
        began: Instant::now(),
    };
    let late = (JOINS_PER_S * PHASE.as_secs() as u32) as usize;
    audience.pool.open(viewers + 2 * late)?;
    audience.began = Instant::now();
    audience.grow(viewers, AUDIENCE_PER_S)?;
    audience.live(2 * REPORT_INTERVAL)?;
    let phase = |audience: &mut Audience| -> Result<(f64, f64)> {
        audience.first_ms.clear();
        let (before, began) = (server.usage()?, Instant::now());
        audience.grow(late, JOINS_PER_S)?;
        let share = (server.usage()?.cpu_s - before.cpu_s) / began.elapsed().as_secs_f64();
        audience.live(Duration::from_secs(1))?;
        Ok((audience.p99()?, share))
    };
    let (alone_ms_p99, alone_share) = phase(&mut audience)?;
    let stop = Arc::new(AtomicBool::new(false));
    let pages: Vec<_> = (0..PAGES)
        .map(|_| {
            let (stop, address) = (Arc::clone(&stop), server.address);
            thread::spawn(move || watch(address, &stop))
        })
        .collect();
    let (watched_ms_p99, watched_share) = phase(&mut audience)?;
    stop.store(true, Ordering::Relaxed);
    let mut taken = Vec::new();
    for page in pages {
        match page.join() {
            Ok(seen) => taken.extend(seen?),
            Err(_) => bail!("a page has panicked"),
        }
    }
    Ok(Watched {
        alone_ms_p99,
        watched_ms_p99,
        alone_share,
        watched_share,
        answers: summed_up(&taken),
    })
}

/// Viewers of one stream.
struct Audience {
    pool: Pool,
    joined_at: Vec<Instant>,
    heard: Vec<bool>,
    first_ms: Vec<f64>,
    /// Reports so far; viewers report in turn.
    reported: u64,
    began: Instant,
}

impl Audience {
    /// Lets `count` more join, `rate` in a second.
    fn grow(&mut self, count: usize, rate: u32) -> Result<()> {
        let (began, step) = (Instant::now(), Duration::from_secs(1) / rate);
        let (mut next, message) = (0, join(STREAM));
        while next < count {
            while next < count && began + step * next as u32 <= Instant::now() {
                let viewer = self.joined_at.len();
                self.joined_at.push(Instant::now());
                self.heard.push(false);
                self.pool.send(viewer, &message)?;
                next += 1;
            }
            self.turn()?;
        }
        Ok(())
    }

    fn live(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let (heard, joined_at, first_ms) = (&mut self.heard, &self.joined_at, &mut self.first_ms);
        let mut refused = false;
        self.pool.turn(
            Duration::from_millis(1),
            &mut |(viewer, message), out| match message {
                [INTRODUCE, rest @ ..] if rest.len() >= 8 => {
                    out.push((viewer, link_up(&rest[..8])));
                    if !std::mem::replace(&mut heard[viewer], true) {
                        first_ms.push(joined_at[viewer].elapsed().as_secs_f64() * 1e3);
                    }
                }
                [REFUSED, ..] => refused = true,
                _ => {}
            },
        )?;
        ensure!(!refused, "the tracker refuses viewers");
        let all = self.joined_at.len() as u64;
        let rate = all as f64 / REPORT_INTERVAL.as_secs_f64();
        let mut due = (self.began.elapsed().as_secs_f64() * rate) as u64;
        // At the start nobody was there to report.
        due = due.min(self.reported + all / 100);
        while self.reported < due {
            let viewer = (self.reported % all) as usize;
            self.pool.send(viewer, &status())?;
            self.reported += 1;
        }
        Ok(())
    }

    fn p99(&mut self) -> Result<f64> {
        self.first_ms.sort_by(f64::total_cmp);
        let last = self.first_ms.len().checked_sub(1);
        let last = last.context("nobody was introduced")?;
        Ok(self.first_ms[last * 99 / 100])
    }
}

fn link_up(peer: &[u8]) -> Vec<u8> {
    let mut message = vec![LINK];
    message.extend_from_slice(peer);
    // Up, with a round trip of 20 ms.
    message.extend_from_slice(&[0, 0, 20]);
    message
}

/// A viewer that has most from others.
fn status() -> Vec<u8> {
    let mut message = vec![STATUS];
    for word in [1_u32, 9_000, 6_000] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    // Links, and none wanted.
    message.extend_from_slice(&[15, 0]);
    for word in [2_500_000_u32, 600_000, 2_500_000] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    // No stalls, no time in them; what it may upload; nothing new of its NAT.
    message.extend_from_slice(&[0; 2]);
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&8_000_u32.to_be_bytes());
    message.push(0);
    message
}

/// What was asked, how long it took in milliseconds, and how long the answer is in bytes.
type Taken = (&'static str, f64, usize);

/// An operator's page: from all streams to one group, again and again.
fn watch(address: SocketAddr, stop: &AtomicBool) -> Result<Vec<Taken>> {
    let stream = format!("/api/streams/{}", format!("{STREAM:02x}").repeat(16));
    let mut taken = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut ask = |name, path: &str| -> Result<String> {
            let asked_at = Instant::now();
            let body = get(address, path)?;
            taken.push((name, asked_at.elapsed().as_secs_f64() * 1e3, body.len()));
            Ok(body)
        };
        ask("all streams", "/api/streams")?;
        ask("a stream", &stream)?;
        let groups = ask("its groups", &format!("{stream}/groups"))?;
        let group = first_group(&groups).context("a stream without groups")?;
        ask("a group", &format!("{stream}/mesh?group={group}"))?;
        thread::sleep(REFRESH.saturating_sub(began.elapsed()));
    }
    Ok(taken)
}

/// The number of the first group. The rest is not read: the pages share a core with the viewers whose waiting is
/// measured.
fn first_group(groups: &str) -> Option<u32> {
    let (_, rest) = groups.split_once("\"group\":")?;
    let (number, _) = rest.split_once(',')?;
    number.parse().ok()
}

/// The body of an answer.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    Ok(body.to_owned())
}

/// By what was asked: the slowest and the usual answer, and the longest.
fn summed_up(taken: &[Taken]) -> Vec<(&'static str, f64, f64, f64)> {
    let mut names: Vec<_> = taken.iter().map(|(name, ..)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let of = |name| {
        let of_it = taken.iter().filter(move |(other, ..)| *other == name);
        let mut times: Vec<f64> = of_it.clone().map(|(_, ms, _)| *ms).collect();
        times.sort_by(f64::total_cmp);
        let longest = of_it.map(|(.., len)| *len).max().unwrap_or(0);
        let slowest = times.last().copied().unwrap_or(0.0);
        (
            name,
            slowest,
            times[times.len() / 2],
            longest as f64 / 1024.0,
        )
    };
    names.into_iter().map(of).collect()
}
