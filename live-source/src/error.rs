use std::path::PathBuf;

/// Why a live source could not start or go on. The text says first who is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration value is out of its range, or two contradict each other.
    #[error("configuration: {0}")]
    Config(String),
    /// The media file to publish does not exist or cannot be read.
    #[error("input: cannot read {path}: {source}")]
    Input {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The built-in clip does not parse: the build is broken.
    #[error("built-in clip {track}: {reason}")]
    Clip {
        /// Which of the embedded files.
        track: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// ffmpeg is needed for this input and is not installed, or cannot be run.
    #[error("environment: cannot start {program} (is ffmpeg installed and on the PATH?): {source}")]
    FfmpegStart {
        /// The program that was tried.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// ffmpeg stopped. A finite input that ended says `exit status: 0`; else `log` holds the reason.
    #[error("input: ffmpeg stopped ({status}): {log}")]
    FfmpegExit {
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The last lines that it wrote to standard error.
        log: String,
    },
    /// What ffmpeg made of the input cannot be cut into parts.
    #[error("input: ffmpeg's output cannot be packaged: {reason}")]
    Encoded {
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused something else.
    #[error("environment: {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}
