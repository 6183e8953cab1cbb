//! Load for the benchmark: h2load for as many requests as go, and single requests of our own.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::proxy_servers::{LOAD_CORE, Server, on_load_core};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

impl Version {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// One object, over and over.
pub(crate) struct Load<'a> {
    pub(crate) path: &'a str,
    pub(crate) version: Version,
    pub(crate) seconds: u64,
    pub(crate) connections: usize,
    /// Requests a second of each connection, when it is not as many as go.
    pub(crate) pace: u32,
}

/// What a server did.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) requests: f64,
    pub(crate) wall_s: f64,
    /// CPU time that the server took.
    pub(crate) cpu_s: f64,
    pub(crate) p99_ms: f64,
}

/// Streams of one HTTP/2 connection at the same time.
const STREAMS: &str = "4";

impl Load<'_> {
    /// As many requests as go, and then as many as the pace says: the time of each is told by a log, which
    /// would be what slows h2load down first.
    pub(crate) fn run(&self, server: &Server) -> Result<Loaded> {
        let before_s = server.cpu_s()?;
        let started = Instant::now();
        let text = self.ask(server, &[])?;
        let wall_s = started.elapsed().as_secs_f64();
        let cpu_s = server.cpu_s()? - before_s;
        let requests = read_count(&text)
            .with_context(|| format!("{} answered badly or nothing:\n{text}", server.name))?;
        Ok(Loaded {
            requests,
            wall_s,
            cpu_s: cpu_s.max(0.01),
            p99_ms: self.pace(server)?,
        })
    }

    fn pace(&self, server: &Server) -> Result<f64> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("requests");
        let paced = [
            format!("--rps={}", self.pace),
            format!("--log-file={}", log.display()),
        ];
        let text = self.ask(server, &paced)?;
        let times = read_log(&fs::read_to_string(&log)?, server.name)?;
        ensure!(
            !times.is_empty(),
            "{} answered nothing:\n{text}",
            server.name
        );
        Ok(times[times.len() * 99 / 100] as f64 / 1000.0)
    }

    /// Runs h2load, and returns what it says.
    fn ask(&self, server: &Server, more: &[String]) -> Result<String> {
        let url = format!("http://{}{}", server.address(self.version), self.path);
        let mut command = Command::new("taskset");
        command
            .args(["-c", LOAD_CORE, "h2load", "-t1"])
            .arg(format!("-c{}", self.connections))
            .arg(format!("-D{}", self.seconds))
            .args(more);
        match self.version {
            Version::Http1 => command.args(["--h1", "-m1"]),
            Version::Http2 => command.args(["-m", STREAMS, "-w20", "-W24"]),
        };
        let output = command
            .arg(&url)
            .output()
            .context("environment: cannot start h2load (`apt-get install nghttp2-client`)")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "h2load failed:\n{text}");
        Ok(text)
    }
}

/// The same by HTTP/3, with our own generator in the folder `programs`.
pub(crate) fn load_http3(server: &Server, programs: &Path, load: &Load<'_>) -> Result<Loaded> {
    let (address, certificate) = server.http3()?;
    let mut command = on_load_core(&programs.join("h3load"));
    command.args([&address.to_string(), load.path]);
    command.arg(certificate);
    command.args([
        &load.seconds.to_string(),
        &load.connections.to_string(),
        STREAMS,
    ]);
    let before_s = server.cpu_s()?;
    let started = Instant::now();
    let output = command.output().context("cannot start h3load")?;
    let wall_s = started.elapsed().as_secs_f64();
    let cpu_s = server.cpu_s()? - before_s;
    let text = String::from_utf8_lossy(&output.stdout);
    let failure = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "h3load failed:\n{failure}");
    let (requests, p99_ms) = text.trim().split_once(' ').context("h3load says nothing")?;
    Ok(Loaded {
        requests: requests.parse()?,
        wall_s,
        cpu_s: cpu_s.max(0.01),
        p99_ms: p99_ms.parse()?,
    })
}

/// The requests that h2load tells of, if all of them were answered as they should be.
fn read_count(text: &str) -> Option<f64> {
    let line = |name| text.lines().find_map(|line| line.strip_prefix(name));
    let is_well = line("status codes: ")?.ends_with(" 2xx, 0 3xx, 0 4xx, 0 5xx");
    let (count, _) = line("requests: ")?.split_once(" total")?;
    let count = count.parse().ok()?;
    (is_well && count > 0.0).then_some(count)
}

/// How long each request took in microseconds, the shortest first. A line is: start, status, time.
fn read_log(text: &str, server: &str) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (status, time) = (fields.next(), fields.next());
        match (status, time.and_then(|time| time.parse().ok())) {
            (Some("200"), Some(time)) => times.push(time),
            // Cut off by the end of the measurement.
            (Some("-1" | "0"), _) => {}
            _ => bail!("{server} answered `{line}`"),
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// Fetches an object on a new connection. Returns the time to the first byte of its body, by HTTP/1.1;
/// by HTTP/2 it only fills the cache, with h2load.
pub(crate) fn first_byte(address: SocketAddr, path: &str, version: Version) -> Result<Duration> {
    let started = Instant::now();
    if version == Version::Http2 {
        let status = Command::new("h2load")
            .args(["-n1", "-c1", &format!("http://{address}{path}")])
            .output()?
            .status;
        ensure!(status.success(), "h2load failed");
        return Ok(started.elapsed());
    }
    let mut viewer = Viewer::connect(address)?;
    let started = Instant::now();
    let len = viewer.ask(path)?;
    let mut first = [0];
    viewer.socket.read_exact(&mut first)?;
    let took = started.elapsed();
    viewer.skip(len - 1)?;
    Ok(took)
}

/// Fetches a text.
pub(crate) fn get_text(address: SocketAddr, path: &str) -> Result<String> {
    let mut viewer = Viewer::connect(address)?;
    let mut body = vec![0; viewer.ask(path)?];
    viewer.socket.read_exact(&mut body)?;
    Ok(String::from_utf8(body)?)
}

/// One connection by HTTP/1.1.
struct Viewer {
    socket: BufReader<TcpStream>,
}

impl Viewer {
    fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self {
            socket: BufReader::new(socket),
        })
    }

    /// Asks, and reads the head. Returns the length of the body.
    fn ask(&mut self, path: &str) -> Result<usize> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.socket.get_mut().write_all(request.as_bytes())?;
        let mut len = None;
        let mut line = String::new();
        self.socket.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{path}: {line}");
        loop {
            line.clear();
            ensure!(self.socket.read_line(&mut line)? > 0, "{path}: no head");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return len.with_context(|| format!("{path}: no length"));
            }
            if let Some(text) = line.strip_prefix("content-length:") {
                len = text.trim().parse().ok();
            }
        }
    }

    fn skip(&mut self, len: usize) -> Result<()> {
        let buffered = self.socket.buffer().len().min(len);
        self.socket.consume(buffered);
        let mut left = len - buffered;
        let mut scratch = [0; 64 * 1024];
        while left > 0 {
            let room = left.min(scratch.len());
            let read = self.socket.get_mut().read(&mut scratch[..room])?;
            ensure!(read > 0, "a body broke off");
            left -= read;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_h2load_are_read() {
        let text = |codes| {
            format!(
                "finished in 4.00s, 2.00 req/s\n\
                 requests: 8 total, 8 started, 8 done, 8 succeeded, 0 failed\n\
                 status codes: 8 2xx, 0 3xx, {codes}\n"
            )
        };
        assert_eq!(read_count(&text("0 4xx, 0 5xx")), Some(8.0));
        assert_eq!(read_count(&text("1 4xx, 0 5xx")), None);
        assert_eq!(read_count(""), None);
    }

    #[test]
    fn logs_of_h2load_are_read() {
        let text = "1000\t200\t300\n1001\t200\t100\n1002\t-1\t0\n";
        assert_eq!(read_log(text, "x").unwrap(), [100, 300]);
        assert!(read_log("1000\t404\t300\n", "x").is_err());
    }
}
