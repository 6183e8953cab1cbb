//! Viewers of a live stream for the benchmark.
//!
//! Each asks when its time has come, whatever the others wait for: a generator whose viewers wait for one
//! another asks less of a server that keeps some of them waiting, and in crowds, which cost less.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};

const PLAYLIST_EVERY: Duration = Duration::from_secs(2);
/// Every so many playlists a segment.
const PLAYLISTS_PER_SEGMENT: u64 = 2;
const SEGMENT_S: u64 = 4;
/// A request that is sent so long after its time is late: the generator is too slow.
const LATE: Duration = Duration::from_millis(100);
/// For the answers to the last requests.
const GRACE: Duration = Duration::from_millis(500);
const WAIT: Duration = Duration::from_millis(50);
/// Connections are made so many at a time, for the queue of those to be accepted is short.
const CONNECTED_AT_ONCE: usize = 100;
const CONNECT_PAUSE: Duration = Duration::from_millis(5);

/// What viewers did.
#[derive(Debug, Default)]
pub(crate) struct Polled {
    /// Those that were answered.
    pub(crate) requests: u64,
    /// Requests that were sent too late, or not at all since the viewer had no answer to the last one.
    pub(crate) late: u64,
    /// How long answers took, sorted, in microseconds.
    pub(crate) times_us: Vec<u64>,
}

/// Viewers, each with a connection of its own.
pub(crate) struct Audience {
    name: String,
    answers: Poll,
    viewers: Vec<Mutex<Viewer>>,
}

impl Audience {
    /// Connects `viewers` of the stream `name` to a server.
    pub(crate) fn connect(address: SocketAddr, name: &str, viewers: usize) -> Result<Self> {
        let answers = Poll::new()?;
        let connect = |index: usize| {
            if index.is_multiple_of(CONNECTED_AT_ONCE) {
                thread::sleep(CONNECT_PAUSE);
            }
            let socket = std::net::TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            let registry = answers.registry();
            registry.register(&mut socket, Token(index), Interest::READABLE)?;
            Ok(Mutex::new(Viewer {
                socket,
                head: Vec::new(),
                asked: None,
                next_segment: None,
            }))
        };
        let viewers: Result<_> = (0..viewers).map(connect).collect();
        Ok(Self {
            name: name.into(),
            viewers: viewers.context("cannot connect all viewers (`ulimit -n`?)")?,
            answers,
        })
    }

    /// Has each viewer read a playlist each 2 s and a segment each 4 s.
    pub(crate) fn poll(&mut self, length: Duration) -> Result<Polled> {
        let Self {
            name,
            answers,
            viewers,
        } = self;
        let is_over = AtomicBool::new(false);
        let mut polled = Polled::default();
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let late = ask_in_time(name, viewers, length);
                thread::sleep(GRACE);
                is_over.store(true, Ordering::Relaxed);
                late
            });
            let mut events = Events::with_capacity(1024);
            while !is_over.load(Ordering::Relaxed) {
                answers.poll(&mut events, Some(WAIT))?;
                for event in &events {
                    lock(&viewers[event.token().0]).hear(name, &mut polled)?;
                }
            }
            polled.late = asking.join().expect("the asking thread panicked")?;
            anyhow::Ok(())
        })?;
        polled.times_us.sort_unstable();
        Ok(polled)
    }
}

fn lock(viewer: &Mutex<Viewer>) -> MutexGuard<'_, Viewer> {
    viewer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has viewers ask for playlists, spread evenly over two seconds. Returns how many requests were late.
fn ask_in_time(name: &str, viewers: &[Mutex<Viewer>], length: Duration) -> Result<u64> {
    let started = Instant::now();
    let mut late = 0;
    for round in 0.. {
        for (index, viewer) in viewers.iter().enumerate() {
            let offset = PLAYLIST_EVERY.mul_f64(index as f64 / viewers.len() as f64);
            let due = PLAYLIST_EVERY * round + offset;
            if due >= length {
                return Ok(late);
            }
            if let Some(early) = due.checked_sub(started.elapsed()) {
                thread::sleep(early);
            }
            let mut viewer = lock(viewer);
            if viewer.asked.is_some() || started.elapsed() > due + LATE {
                late += 1;
            }
            if viewer.asked.is_none() {
                let number = u64::from(round) + index as u64;
                let has_segment = number.is_multiple_of(PLAYLISTS_PER_SEGMENT);
                // The newest segment by the clock, as all viewers see it.
                viewer.next_segment = has_segment.then_some(due.as_secs() / SEGMENT_S);
                viewer.ask(&format!("/live/{name}/index.m3u8"))?;
            }
        }
    }
    Ok(late)
}

struct Viewer {
    socket: TcpStream,
    /// What has come of the head of an answer.
    head: Vec<u8>,
    asked: Option<Asked>,
    /// To be asked for after the playlist.
    next_segment: Option<u64>,
}

/// A request that is not answered yet.
struct Asked {
    since: Instant,
    /// Bytes of the body that are to come, once the head is there.
    left: Option<usize>,
}

impl Viewer {
    fn ask(&mut self, path: &str) -> Result<()> {
        self.asked = Some(Asked {
            since: Instant::now(),
            left: None,
        });
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        Ok(self.socket.write_all(request.as_bytes())?)
    }

    /// Reads what has come, and asks for the segment that follows.
    fn hear(&mut self, name: &str, polled: &mut Polled) -> Result<()> {
        let mut room = [0; 128 * 1024];
        loop {
            let len = match self.socket.read(&mut room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            };
            ensure!(len > 0, "a connection was closed");
            let Some(since) = self.take(&room[..len])? else {
                continue;
            };
            polled.requests += 1;
            polled.times_us.push(since.elapsed().as_micros() as u64);
            self.asked = None;
            if let Some(segment) = self.next_segment.take() {
                self.ask(&format!("/live/{name}/{segment}.m4s"))?;
            }
        }
    }

    /// Takes bytes of an answer. Returns when it was asked for, if it is there now.
    fn take(&mut self, bytes: &[u8]) -> Result<Option<Instant>> {
        let asked = self.asked.as_mut().context("an answer to nothing")?;
        let mut came = bytes.len();
        if asked.left.is_none() {
            self.head.extend_from_slice(bytes);
            let end = self.head.windows(4).position(|some| some == b"\r\n\r\n");
            let Some(end) = end.map(|at| at + 4) else {
                return Ok(None);
            };
            asked.left = Some(read_len(&self.head[..end])?);
            came = self.head.len() - end;
            self.head = Vec::new();
        }
        let left = asked.left.unwrap_or(0).checked_sub(came);
        asked.left = Some(left.context("more than an answer")?);
        Ok((left == Some(0)).then_some(asked.since))
    }
}

/// The length of the body that follows this head.
fn read_len(head: &[u8]) -> Result<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 200"), "{head}");
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    Ok(len.context("no length")?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn answers_end_where_they_say() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let audience = Audience::connect(address, "x", 1).unwrap();
        let mut viewer = lock(&audience.viewers[0]);
        assert!(viewer.take(b"HTTP").is_err(), "nothing was asked");
        viewer.ask("/a").unwrap();
        for (bytes, is_whole) in [
            ("HTTP/1.1 200 OK\r\nContent-", false),
            ("Length: 6\r\n\r", false),
            ("\n", false),
            ("abc", false),
            ("def", true),
        ] {
            let since = viewer.take(bytes.as_bytes()).unwrap();
            assert_eq!(since.is_some(), is_whole, "{bytes}");
        }
        assert!(viewer.take(b"x").is_err(), "more than was said");
        viewer.ask("/a").unwrap();
        assert!(viewer.take(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
    }
}
