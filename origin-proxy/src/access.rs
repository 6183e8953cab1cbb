//! The access log, and the count of what is sent.

use std::{
    fs::OpenOptions,
    io::{BufWriter, Write},
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, StatusCode, Version, header, request};
use metrics::Counter;
use serde_json::json;

use crate::{Error, cmcd::Cmcd, config::LogConfig, error::Failure, metrics::Scope, trace::Trace};

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// From the cache.
    Hit,
    /// From the cache although not fresh any more.
    Stale,
    /// By a request to the origin that was under way for another viewer.
    Collapsed,
    /// By a request to the origin.
    Miss,
    /// By a request to the origin for this viewer alone.
    Passed,
    /// By the proxy itself: its own pages, refusals and failures.
    Own,
}

impl Outcome {
    pub(crate) const ALL: [Self; 6] = [
        Self::Hit,
        Self::Stale,
        Self::Collapsed,
        Self::Miss,
        Self::Passed,
        Self::Own,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Collapsed => "collapsed",
            Self::Miss => "miss",
            Self::Passed => "passed",
            Self::Own => "own",
        }
    }
}

/// Lines that wait to be written; beyond them lines are lost, and counted.
const LINES_MAX: usize = 16_384;
/// Longest text of a viewer in a line, in bytes.
const TEXT_LEN_MAX: usize = 1024;
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

enum Order {
    Line(Vec<u8>),
    /// Tell this channel when all lines before are in the file.
    Flush(SyncSender<()>),
}

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessLog {
    orders: SyncSender<Order>,
    lost: Counter,
    has_query: bool,
}

impl AccessLog {
    /// The log that `config` asks for, if any.
    pub(crate) fn open(config: &LogConfig, lost: Counter) -> Result<Option<Self>, Error> {
        let Some(path) = &config.access_file else {
            return Ok(None);
        };
        let out: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Box::new(file.map_err(|error| {
                Error::Environment(format!("access log {}: {error}", path.display()))
            })?)
        };
        let (orders, inbox) = sync_channel(LINES_MAX);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn({
                let lost = lost.clone();
                move || write_lines(&inbox, out, &lost)
            })
            .map_err(|error| Error::Environment(error.to_string()))?;
        Ok(Some(Self {
            orders,
            lost,
            has_query: config.access_query,
        }))
    }

    /// Waits until all lines so far are written.
    pub(crate) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.orders.send(Order::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_PATIENCE);
        }
    }

    fn write(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.orders.try_send(Order::Line(line)) {
            self.lost.increment(1);
        }
    }
}

fn write_lines(inbox: &Receiver<Order>, out: Box<dyn Write + Send>, lost: &Counter) {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    while let Ok(first) = inbox.recv() {
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                // A full disk must not stop the proxy. What is buffered stays so, whole, until there is room.
                Order::Line(line) => {
                    if out.write_all(&line).is_err() {
                        lost.increment(1);
                    }
                }
                Order::Flush(done) => {
                    let _ = out.flush();
                    let _ = done.try_send(());
                }
            }
            next = inbox.try_recv().ok();
        }
        let _ = out.flush();
    }
}

/// One request, as far as it is known when its answer begins.
pub(crate) struct Entry {
    pub(crate) client: IpAddr,
    pub(crate) head: EntryHead,
    pub(crate) started: Instant,
    pub(crate) status: StatusCode,
    pub(crate) outcome: Outcome,
    pub(crate) log: AccessLog,
    pub(crate) cmcd: Option<Cmcd>,
}

/// What the viewer asked.
pub(crate) struct EntryHead {
    method: String,
    host: String,
    path: String,
    query: Option<String>,
    version: Version,
    range: Option<String>,
    agent: Option<String>,
    trace: Option<String>,
}

impl EntryHead {
    pub(crate) fn of(head: &request::Parts, host: Option<&str>, path: &str) -> Self {
        Self {
            method: cut(head.method.as_str()),
            host: cut(host.unwrap_or_default()),
            path: cut(path),
            query: head.uri.query().map(cut),
            version: head.version,
            range: text_of(&head.headers, &header::RANGE),
            agent: text_of(&head.headers, &header::USER_AGENT),
            trace: Trace::read(&head.headers).map(|trace| trace.id()),
        }
    }
}

fn text_of(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(cut(&String::from_utf8_lossy(value.as_bytes())))
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// Counts what is sent of one answer, and writes its line when it is over.
pub(crate) struct Meter {
    scope: Arc<Scope>,
    bytes: u64,
    failure: Option<String>,
    entry: Option<Box<Entry>>,
}

impl Meter {
    pub(crate) fn new(scope: Arc<Scope>, entry: Option<Entry>) -> Self {
        Self {
            scope,
            bytes: 0,
            failure: None,
            entry: entry.map(Box::new),
        }
    }

    pub(crate) fn on_bytes(&mut self, len: usize) {
        self.bytes += len as u64;
    }

    pub(crate) fn on_failure(&mut self, failure: &Failure) {
        self.failure = Some(failure.to_string());
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.scope.sent_bytes.increment(self.bytes);
        let Some(entry) = self.entry.take() else {
            return;
        };
        let head = &entry.head;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let cmcd = entry.cmcd.as_ref();
        let line = json!({
            "time_ms": u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
            "client": entry.client.to_string(),
            "method": head.method,
            "host": head.host,
            "path": head.path,
            "query": head.query.as_ref().filter(|_| entry.log.has_query),
            "version": format!("{:?}", head.version),
            "status": entry.status.as_u16(),
            "bytes": self.bytes,
            "took_ms": entry.started.elapsed().as_secs_f64() * 1000.0,
            "cache": entry.outcome.name(),
            "stream": self.scope.name,
            "range": head.range,
            "user_agent": head.agent,
            "trace": head.trace,
            "session": cmcd.and_then(|cmcd| cmcd.session.as_ref()),
            "buffer_ms": cmcd.and_then(|cmcd| cmcd.buffer_ms),
            "failure": self.failure,
        });
        let mut line = line.to_string().into_bytes();
        line.push(b'\n');
        entry.log.write(line);
    }
}
