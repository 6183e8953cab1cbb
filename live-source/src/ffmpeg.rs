//! ffmpeg: its command line as far as all uses of it have it in common, and its end.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Config, Error, Input};

/// What sound is encoded with, in bits per second.
pub(crate) const SOUND_BPS: u64 = 96_000;
const LOG_LINES_MAX: usize = 20;
const LOG_LINE_BYTES_MAX: usize = 500;

/// Whether the input can be read, as far as that is known before ffmpeg runs.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    if let Input::File(path) = &config.input {
        let readable = std::fs::File::open(path);
        readable.map_err(|source| Error::Input {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Starts ffmpeg in `dir`, to encode the input as `config` says and to do with it what `output` says.
pub(crate) fn spawn(
    config: &Config,
    output: &[String],
    dir: &Path,
    stdout: Stdio,
) -> Result<Child, Error> {
    Command::new(&config.ffmpeg)
        .args(encoder_arguments(config))
        .args(output)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::FfmpegStart {
            program: config.ffmpeg.clone(),
            source,
        })
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn encoder_arguments(config: &Config) -> Vec<String> {
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
    let tune = if config.is_low_latency() {
        " -tune zerolatency"
    } else {
        ""
    };
    let gop_s = crate::config::GOP_MS / 1000;
    args.extend(words(&format!(
        "-map {sound}:a:0? -c:v libx264 -preset veryfast{tune} -profile:v main -bf 0 -pix_fmt yuv420p \
         -sc_threshold 0 -force_key_frames expr:gte(t,n_forced*{gop_s}) \
         -c:a aac -b:a {SOUND_BPS} -ar 48000 -ac 2 -af aresample=async=1:first_pts=0"
    )));
    args
}

/// Waits for the end of ffmpeg, which is an error whatever it says.
pub(crate) async fn wait(child: &mut Child) -> Result<Error, Error> {
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
