//! Any other input: ffmpeg packages it into a temporary folder, from which we serve.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::object::{Kind, Lookup, Stream};
use crate::{Config, Error, Input};

const LOG_LINES_MAX: usize = 20;
const LOG_LINE_BYTES_MAX: usize = 500;
/// Far above any segment that a ladder of ours can give.
const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// ffmpeg and the folder it writes to.
pub(crate) struct Packager {
    config: Config,
    dir: RwLock<Arc<TempDir>>,
}

impl Packager {
    /// Prepares the folder; ffmpeg starts with [`Self::run`].
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        if let Input::File(path) = &config.input {
            let readable = std::fs::File::open(path);
            readable.map_err(|source| Error::Input {
                path: path.clone(),
                source,
            })?;
        }
        Ok(Self {
            config: config.clone(),
            dir: RwLock::new(Arc::new(temp_dir()?)),
        })
    }

    /// Runs ffmpeg until it stops by itself, which is an error, and starts it anew at each reset. Dropping
    /// the future kills it.
    pub(crate) async fn run(&self, mut resets: watch::Receiver<u64>) -> Error {
        loop {
            let dir = self.dir();
            let mut child = match self.spawn(dir.path()) {
                Ok(child) => child,
                Err(error) => return error,
            };
            tokio::select! {
                ended = wait(&mut child) => return ended.unwrap_or_else(|error| error),
                changed = resets.changed() => {
                    if let Err(source) = child.kill().await {
                        return Error::Io { what: "stop ffmpeg", source };
                    }
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
            match temp_dir() {
                Ok(fresh) => {
                    *self.dir.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh)
                }
                Err(error) => return error,
            }
        }
    }

    /// What `path` (below `/live/`) names, whether or not it exists yet.
    pub(crate) fn classify(&self, path: &str) -> Option<Kind> {
        let stream = |id: usize| {
            if id < self.config.ladder.len() {
                Stream::Video
            } else {
                Stream::Audio
            }
        };
        match path {
            "main.m3u8" => return Some(Kind::Multivariant),
            "main.mpd" => return Some(Kind::Manifest),
            "time" => return Some(Kind::Time),
            _ => {}
        }
        if let Some(id) = path
            .strip_prefix("media_")
            .and_then(|rest| rest.strip_suffix(".m3u8"))
        {
            return number(id).map(|_| Kind::Playlist);
        }
        if let Some(id) = path
            .strip_prefix("init-")
            .and_then(|rest| rest.strip_suffix(".mp4"))
        {
            return number(id).map(|id| Kind::Init(stream(id)));
        }
        let (id, index) = path
            .strip_prefix("seg-")?
            .strip_suffix(".m4s")?
            .split_once('-')?;
        number(index)?;
        number(id).map(|id| Kind::Segment(stream(id)))
    }

    /// The object under `path`, which [`Self::classify`] knows, now.
    pub(crate) async fn lookup(&self, path: &str, kind: Kind) -> Lookup {
        if kind == Kind::Time {
            let now = std::time::SystemTime::now();
            return Lookup::Found(humantime::format_rfc3339_millis(now).to_string().into());
        }
        let dir = self.dir();
        let file = dir.path().join(path);
        match tokio::fs::metadata(&file).await {
            Ok(meta) if meta.len() > OBJECT_BYTES_MAX => Lookup::Unknown,
            Ok(_) => match tokio::fs::read(&file).await {
                Ok(bytes) if bytes.is_empty() => Lookup::NotYet { next: true },
                Ok(bytes) if kind == Kind::Manifest => Lookup::Found(cap_depth(bytes)),
                Ok(bytes) => Lookup::Found(bytes.into()),
                _ => Lookup::NotYet { next: true },
            },
            Err(_) if kind.is_playlist() => Lookup::Starting,
            Err(_) => Lookup::NotYet {
                next: follows_existing(dir.path(), path),
            },
        }
    }

    fn dir(&self) -> Arc<TempDir> {
        Arc::clone(&self.dir.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn spawn(&self, dir: &Path) -> Result<Child, Error> {
        Command::new(&self.config.ffmpeg)
            .args(arguments(&self.config))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::FfmpegStart {
                program: self.config.ffmpeg.clone(),
                source,
            })
    }
}

/// The whole ffmpeg command line; it runs inside the folder that it fills.
fn arguments(config: &Config) -> Vec<String> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut args = words("-hide_banner -loglevel error -nostdin");
    let inputs = match &config.input {
        Input::Clip => 0,
        Input::File(path) => {
            args.extend(words("-re -stream_loop -1 -i"));
            // ffmpeg runs elsewhere, and must not take the name for a protocol or an option.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            args.push(format!("file:{}", path.display()));
            1
        }
        Input::Ffmpeg(input) => {
            args.extend(input.iter().cloned());
            input.iter().filter(|arg| *arg == "-i").count()
        }
    };
    for (i, rung) in config.ladder.iter().enumerate() {
        let (height, bps) = (rung.height, rung.video_bps);
        args.extend(words(&format!(
            "-map 0:v:0 -filter:v:{i} scale=-2:{height} -b:v:{i} {bps} -maxrate:v:{i} {} -bufsize:v:{i} {}",
            bps * 5 / 4,
            bps * 2
        )));
    }
    let sound = usize::from(inputs > 1);
    let gop_s = crate::config::GOP_MS / 1000;
    args.extend(words(&format!(
        "-map {sound}:a:0? -c:v libx264 -preset veryfast -profile:v main -bf 0 -pix_fmt yuv420p \
         -sc_threshold 0 -force_key_frames expr:gte(t,n_forced*{gop_s}) \
         -c:a aac -b:a 96k -ar 48000 -ac 2 -af aresample=async=1:first_pts=0"
    )));
    let segment_s = config.segment_ms / 1000;
    let window = config.window_segments;
    args.extend(words(&format!(
        "-f dash -seg_duration {segment_s} -window_size {window} -extra_window_size {window} \
         -use_template 1 -use_timeline 0 -streaming 0 -remove_at_exit 0 -dash_segment_type mp4 \
         -hls_playlist {} -hls_master_name main.m3u8 -init_seg_name init-$RepresentationID$.mp4 \
         -media_seg_name seg-$RepresentationID$-$Number$.m4s -utc_timing_url time",
        u8::from(config.hls)
    )));
    args.push("-adaptation_sets".into());
    args.push("id=0,streams=v id=1,streams=a".into());
    args.push("main.mpd".into());
    args
}

async fn wait(child: &mut Child) -> Result<Error, Error> {
    let log = match child.stderr.take() {
        Some(stderr) => last_lines(stderr).await,
        None => String::new(),
    };
    let status: ExitStatus = child.wait().await.map_err(|source| Error::Io {
        what: "wait for ffmpeg",
        source,
    })?;
    Ok(Error::FfmpegExit { status, log })
}

/// Reads to the end and keeps the last lines; each is also logged as it comes.
async fn last_lines(stderr: tokio::process::ChildStderr) -> String {
    let mut kept = VecDeque::new();
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let text =
            String::from_utf8_lossy(&line[..line.len().min(LOG_LINE_BYTES_MAX)]).into_owned();
        tracing::warn!(target: "live_source::ffmpeg", "{text}");
        if kept.len() == LOG_LINES_MAX {
            kept.pop_front();
        }
        kept.push_back(text);
    }
    Vec::from(kept).join("\n")
}

/// Says no deeper a window than the stream is old: players built on ffmpeg else go astray.
fn cap_depth(manifest: Vec<u8>) -> Bytes {
    let capped = || {
        let text = std::str::from_utf8(&manifest).ok()?;
        let (_, start) = text.split_once("availabilityStartTime=\"")?;
        let start = humantime::parse_rfc3339(start.split_once('"')?.0).ok()?;
        let age_s = start.elapsed().ok()?.as_secs();
        let (before, depth) = text.split_once("timeShiftBufferDepth=\"PT")?;
        let (depth, after) = depth.split_once("S\"")?;
        let depth_s = depth.parse::<f64>().ok()?.min(age_s as f64);
        Some(format!(
            "{before}timeShiftBufferDepth=\"PT{depth_s}S\"{after}"
        ))
    };
    capped().map_or_else(|| manifest.clone().into(), Bytes::from)
}

/// Whether `path` is a segment whose predecessor is there.
fn follows_existing(dir: &Path, path: &str) -> bool {
    let before = || {
        let (stem, index) = path.strip_suffix(".m4s")?.rsplit_once('-')?;
        Some(format!("{stem}-{}.m4s", number(index)?.checked_sub(1)?))
    };
    before().is_some_and(|name| dir.join(name).exists())
}

fn temp_dir() -> Result<TempDir, Error> {
    tempfile::Builder::new()
        .prefix("shoal-live-")
        .tempdir()
        .map_err(|source| Error::Io {
            what: "make a temporary folder",
            source,
        })
}

fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.len() < 19 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}
