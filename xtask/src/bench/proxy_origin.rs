//! An origin for the benchmark: a thread for each connection, objects made of nothing.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result};

/// Length of what is below `/cold/`.
const COLD_LEN: usize = 1 << 20;
/// Length of what is below `/live/`: 4 s of 200 kbit/s, so that the generator keeps up with thousands.
const SEGMENT_LEN: usize = 100_000;
/// Seconds of a segment.
const SEGMENT_S: u64 = 4;

pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// How often each segment of a live stream was asked for.
    segments_asked: Mutex<HashMap<String, u64>>,
    /// When each live playlist was first asked for: its streams have begun then.
    begun: Mutex<HashMap<String, Instant>>,
}

impl Origin {
    /// Serves until the process ends.
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let with_all = shared.clone();
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let shared = with_all.clone();
                // Proxies close connections as they please.
                thread::spawn(move || drop(serve(&socket, &shared)));
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often a segment of the live stream `name` was asked for, on average.
    pub(crate) fn asked_per_segment(&self, name: &str) -> f64 {
        let asked = lock(&self.shared.segments_asked);
        let beginning = format!("/live/{name}/");
        let counts = asked
            .iter()
            .filter(|(path, _)| path.starts_with(&beginning));
        let counts: Vec<u64> = counts.map(|(_, count)| *count).collect();
        counts.iter().sum::<u64>() as f64 / counts.len() as f64
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// All segments of the live stream at `path` so far.
    fn playlist(&self, path: &str) -> String {
        let mut begun = lock(&self.begun);
        let since = begun.entry(path.into()).or_insert_with(Instant::now);
        let mut text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:{SEGMENT_S}\n");
        for number in 0..=since.elapsed().as_secs() / SEGMENT_S {
            text += &format!("#EXTINF:{SEGMENT_S}.0,\n{number}.m4s\n");
        }
        text
    }
}

fn serve(socket: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let body = vec![7_u8; COLD_LEN];
    let mut lines = BufReader::new(socket).lines();
    while let Some(first) = lines.next() {
        let first = first?;
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let path = first.split(' ').nth(1).unwrap_or("/");
        let is_head = first.starts_with("HEAD");
        let (len, kind, control) = match path.strip_prefix("/object/") {
            Some(len) => (len.parse().unwrap_or(0), "video/mp4", "max-age=3600"),
            None if path.starts_with("/cold/") => (COLD_LEN, "video/mp4", "max-age=3600"),
            None if path.ends_with(".m3u8") => (0, "application/vnd.apple.mpegurl", "max-age=1"),
            None if path.starts_with("/live/") => {
                *lock(&shared.segments_asked).entry(path.into()).or_default() += 1;
                (SEGMENT_LEN, "video/mp4", "max-age=60")
            }
            None => (2, "text/plain", "max-age=60"),
        };
        let playlist = match len {
            0 => shared.playlist(path),
            _ => String::new(),
        };
        let text = match len {
            0 => playlist.as_bytes(),
            len => &body[..len],
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nCache-Control: {control}\r\n\
             ETag: \"1\"\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        let mut out = socket;
        out.write_all(head.as_bytes())?;
        if !is_head {
            out.write_all(text)?;
        }
    }
    Ok(())
}
