//! Any other input: ffmpeg packages it into a temporary folder, from which we serve.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::object::{Kind, Lookup, Stream};
use crate::{Config, Error, ffmpeg};

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
        ffmpeg::check(config)?;
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
            let output = output_arguments(&self.config);
            let mut child = match ffmpeg::spawn(&self.config, &output, dir.path(), Stdio::null()) {
                Ok(child) => child,
                Err(error) => return error,
            };
            tokio::select! {
                ended = ffmpeg::wait(&mut child) => return ended.unwrap_or_else(|error| error),
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
}

/// What ffmpeg does with what it has encoded; it runs inside the folder that it fills.
fn output_arguments(config: &Config) -> Vec<String> {
    let segment_s = config.segment_ms / 1000;
    let window = config.window_segments;
    let mut args = ffmpeg::words(&format!(
        "-f dash -seg_duration {segment_s} -window_size {window} -extra_window_size {window} \
         -use_template 1 -use_timeline 0 -streaming 0 -remove_at_exit 0 -dash_segment_type mp4 \
         -hls_playlist {} -hls_master_name main.m3u8 -init_seg_name init-$RepresentationID$.mp4 \
         -media_seg_name seg-$RepresentationID$-$Number$.m4s -utc_timing_url time",
        u8::from(config.hls)
    ));
    args.push("-adaptation_sets".into());
    args.push("id=0,streams=v id=1,streams=a".into());
    args.push("main.mpd".into());
    args
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
