//! WebTorrent viewers as p2p-media-loader's: announcements with five offers, each answered.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::pool::{Outbox, Pool};
use super::servers::{Kind, Server, Usage};

/// Viewers of one swarm.
const SWARM: usize = 50;
/// Offers of one announcement, and the length of their descriptions: as measured of
/// p2p-media-loader 2.3 in Chromium with two STUN candidates.
const OFFERS: usize = 5;
const SDP_LEN: usize = 860;
/// Announcements under way at the same time.
const OUTSTANDING: usize = 32;
const WARM_UP: Duration = Duration::from_secs(2);
const TURN: Duration = Duration::from_millis(20);
/// For the replies that are still on their way.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Viewers {
    pool: Pool,
    /// Requests of each viewer that the server will reply to: whether it is an announcement.
    expected: Vec<VecDeque<bool>>,
    replies_to_answers: bool,
    sdp: String,
    counts: Counts,
    random: u64,
    offers_made: u64,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    announces: u64,
    replies: u64,
    offers: u64,
    answers: u64,
}

/// What a cycle costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cycle {
    /// Server time of one announcement with all that follows, in microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) per_s: f64,
    pub(crate) offers: f64,
    pub(crate) answers: f64,
    /// Share of one core.
    pub(crate) cpu_share: f64,
}

impl Viewers {
    pub(crate) fn connect(kind: Kind, server: &Server, count: usize) -> Result<Self> {
        let mut pool = Pool::new(server, kind.path(), "", true)?;
        pool.open(count)?;
        Ok(Self {
            pool,
            expected: vec![VecDeque::new(); count],
            replies_to_answers: kind.replies_to_answers(),
            sdp: sdp(),
            counts: Counts::default(),
            random: 0x9e37_79b9_7f4a_7c15,
            offers_made: 0,
        })
    }

    /// A fixed number of announcements under way: each reply starts another, of a random viewer.
    pub(crate) fn saturate(&mut self, server: &Server, time: Duration) -> Result<Cycle> {
        self.announce_all_once()?;
        for _ in 0..OUTSTANDING {
            self.announce_random()?;
        }
        self.run_closed(WARM_UP)?;
        let (before, usage, began) = (self.counts, server.usage()?, Instant::now());
        self.run_closed(time)?;
        Ok(self.cycle(before, usage, server.usage()?, began.elapsed()))
    }

    fn run_closed(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let replies = self.counts.replies;
            self.turn()?;
            for _ in replies..self.counts.replies {
                self.announce_random()?;
            }
        }
        Ok(())
    }

    /// Everybody announces once in `interval`, for `time`.
    pub(crate) fn keep_up(
        &mut self,
        server: &Server,
        interval: Duration,
        time: Duration,
    ) -> Result<Cycle> {
        let step = interval / self.pool.len() as u32;
        let (before, usage, began) = (self.counts, server.usage()?, Instant::now());
        let (mut next, mut viewer) = (began, 0);
        while began.elapsed() < time {
            while next <= Instant::now() {
                self.announce(viewer, OFFERS)?;
                viewer = (viewer + 1) % self.pool.len();
                next += step;
            }
            let wait = next.saturating_duration_since(Instant::now()).min(TURN);
            self.turn_for(wait)?;
        }
        Ok(self.cycle(before, usage, server.usage()?, began.elapsed()))
    }

    /// Everybody announces, in turn, and all offers are answered.
    pub(crate) fn announce_all(&mut self, offers: usize) -> Result<()> {
        for viewer in 0..self.pool.len() {
            self.announce(viewer, offers)?;
            self.wait_for(OUTSTANDING as u64)?;
        }
        self.wait_for(0)?;
        // The last answers.
        let until = Instant::now() + Duration::from_millis(500);
        while Instant::now() < until {
            self.turn()?;
        }
        Ok(())
    }

    fn announce_all_once(&mut self) -> Result<()> {
        self.announce_all(0)
    }

    fn wait_for(&mut self, under_way: u64) -> Result<()> {
        let until = Instant::now() + SETTLE_TIME_MAX;
        while self.counts.announces - self.counts.replies > under_way {
            ensure!(Instant::now() < until, "announcements stay without reply");
            self.turn()?;
        }
        Ok(())
    }

    fn cycle(&self, before: Counts, used: Usage, uses: Usage, time: Duration) -> Cycle {
        let count = (self.counts.replies - before.replies) as f64;
        let cpu_s = uses.cpu_s - used.cpu_s;
        Cycle {
            cpu_us: cpu_s * 1e6 / count,
            per_s: count / time.as_secs_f64(),
            offers: (self.counts.offers - before.offers) as f64 / count,
            answers: (self.counts.answers - before.answers) as f64 / count,
            cpu_share: cpu_s / time.as_secs_f64(),
        }
    }

    fn turn(&mut self) -> Result<()> {
        self.turn_for(TURN)
    }

    fn turn_for(&mut self, wait: Duration) -> Result<()> {
        let (counts, expected, sdp) = (&mut self.counts, &mut self.expected, &self.sdp);
        let replies_to_answers = self.replies_to_answers;
        self.pool.turn(wait, &mut |(viewer, message), outbox| {
            let Ok(text) = std::str::from_utf8(message) else {
                return;
            };
            if text.contains("\"offer\":") {
                counts.offers += 1;
                answer(viewer, text, sdp, outbox);
                if replies_to_answers {
                    expected[viewer].push_back(false);
                }
            } else if text.contains("\"answer\":") {
                counts.answers += 1;
            } else if text.contains("\"interval\":") {
                let announced = expected[viewer].pop_front().unwrap_or(true);
                counts.replies += u64::from(announced);
            }
        })
    }

    fn announce_random(&mut self) -> Result<()> {
        // xorshift64: which viewer does not matter much.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.announce((self.random % self.pool.len() as u64) as usize, OFFERS)
    }

    fn announce(&mut self, viewer: usize, offers: usize) -> Result<()> {
        let mut text = format!(
            r#"{{"numwant":{offers},"uploaded":0,"downloaded":0,"action":"announce","info_hash":"{}","peer_id":"{}","offers":["#,
            swarm(viewer),
            peer(viewer)
        );
        for offer in 0..offers {
            self.offers_made += 1;
            let comma = if offer > 0 { "," } else { "" };
            let _ = write!(
                text,
                r#"{comma}{{"offer":{{"type":"offer","sdp":"{}"}},"offer_id":"{:0>20}"}}"#,
                self.sdp, self.offers_made
            );
        }
        text.push_str("]}");
        self.counts.announces += 1;
        self.expected[viewer].push_back(true);
        self.pool.send(viewer, text.as_bytes())
    }
}

fn answer(viewer: usize, offer: &str, sdp: &str, outbox: &mut Outbox) {
    let field = |name: &str| {
        let begin = offer.find(name)? + name.len();
        offer.get(begin..begin + 20)
    };
    let (Some(to), Some(id)) = (field("\"peer_id\":\""), field("\"offer_id\":\"")) else {
        return;
    };
    let text = format!(
        r#"{{"action":"announce","info_hash":"{}","peer_id":"{}","to_peer_id":"{to}","answer":{{"type":"answer","sdp":"{sdp}"}},"offer_id":"{id}"}}"#,
        swarm(viewer),
        peer(viewer)
    );
    outbox.push((viewer, text.into_bytes()));
}

fn swarm(viewer: usize) -> String {
    format!("swarm{:0>15}", viewer / SWARM)
}

fn peer(viewer: usize) -> String {
    format!("-PM0203-{viewer:0>12}")
}

/// A description of the usual length, with the usual line ends, as JSON has it.
fn sdp() -> String {
    let mut text = String::new();
    while text.len() < SDP_LEN {
        text.push_str("a=candidate:1 1 udp 2113937151 198.51.100.7 54321 typ host\r\n");
    }
    text.truncate(SDP_LEN);
    text.replace("\r\n", "\\r\\n").replace('\r', "\\r")
}
