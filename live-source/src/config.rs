use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, FaultPlan};

/// Segments are whole groups of pictures; the clip's, and those asked of ffmpeg, last this long.
pub(crate) const GOP_MS: u64 = 2000;
const SEGMENT_MS_MAX: u64 = 10_000;
const PART_MS: std::ops::RangeInclusive<u64> = 200..=1000;
const WINDOW_SEGMENTS: std::ops::RangeInclusive<u64> = 3..=3600;
const PADDING_BYTES_MAX: usize = 16 << 20;
/// The end of the year 9999, the last that playlists can write.
const UNIX_MS_MAX: u64 = 253_402_300_799_000;
const RUNGS_MAX: usize = 8;

/// The default settings as a documented TOML file, for `--print-config`.
pub const DEFAULT_TOML: &str = include_str!("../default.toml");

/// Everything that can be set on a live source. Each field may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What to publish: `"clip"` (built in, the default), `{ file = "show.mp4" }`, looped for ever, or
    /// `{ ffmpeg = ["-f", "v4l2", "-i", "/dev/video0"] }`, the input arguments of an ffmpeg command.
    pub input: Input,
    /// Publish HLS at `/live/main.m3u8`. Default true.
    pub hls: bool,
    /// Publish DASH at `/live/main.mpd`. Default true.
    pub dash: bool,
    /// List every segment of the clip in the DASH manifest (`SegmentTimeline`) in place of a fixed
    /// duration. Needs no exact viewer clocks, but ffmpeg and mpv stop at such a manifest's first
    /// refresh. Default false; no effect on ffmpeg inputs.
    pub dash_timeline: bool,
    /// Name the clip's segments in the DASH manifest by their start (`$Time$`) in place of their number,
    /// which implies `dash_timeline`. Default false; no effect on ffmpeg inputs.
    pub dash_time: bool,
    /// Begin a new DASH Period every so many segments of the clip, as after each advertisement; 0 for one
    /// Period. Default 0; no effect on ffmpeg inputs.
    pub dash_period_segments: u64,
    /// Publish low-latency HLS: the playlists list parts of segments, and wait for them
    /// (draft-pantos-hls-rfc8216bis). Needs `hls`. Default false.
    pub ll_hls: bool,
    /// List parts as byte ranges of their segments, which are sent while they are made, and not as objects of their
    /// own. Needs `ll_hls`. Default false.
    pub part_byteranges: bool,
    /// Publish low-latency DASH: segments can be fetched while they are made, and come part by part. Needs
    /// `dash` without `dash_timeline` and `dash_time`. Default false.
    pub ll_dash: bool,
    /// Length of a part in milliseconds, 200 to 1000, such that 2000 is a multiple of it. No effect without
    /// `ll_hls` and `ll_dash`. Default 500.
    pub part_ms: u64,
    /// Length of a segment in milliseconds: 2000 to 10000, a multiple of 2000. Default 2000.
    pub segment_ms: u64,
    /// Segments listed at a time, 3 to 3600; as many again stay fetchable after they left the list.
    /// Default 10.
    pub window_segments: u64,
    /// Hold a request for the very next segment until it is published, at most one and a half segments
    /// long, in place of a 404 at once. ffmpeg and mpv need it for DASH: they read ahead to the edge and
    /// take a 404 for a lost segment. With `ll_dash`, where the very next one can be fetched while it is made,
    /// the one after it is held until it is begun: Shaka needs that. Later segments get a 404 in any case.
    /// Default true.
    pub hold_next: bool,
    /// Unix time in milliseconds at which media time 0 of the clip was on air. Two sources with equal
    /// values publish equal streams. Default: one window before the start, so that the list is full at
    /// once. Not with `already_run_ms`; no effect on ffmpeg inputs.
    pub start_unix_ms: Option<u64>,
    /// How long the clip shall seem to have run when the source starts, in milliseconds; 0 starts with
    /// an empty list. Not with `start_unix_ms`; no effect on ffmpeg inputs.
    pub already_run_ms: Option<u64>,
    /// Bytes of filler in every video segment of the clip (at most 16 MiB), to rehearse higher bitrates
    /// without the cost of decoding them: 1000000 with 2 s segments adds 4 Mbit/s. Default 0.
    pub padding_bytes: usize,
    /// The renditions to encode for file and ffmpeg inputs, 1 to 8, best first. No effect on the clip.
    pub ladder: Vec<Rung>,
    /// The ffmpeg program for file and ffmpeg inputs. Default `ffmpeg`, looked up on the PATH.
    pub ffmpeg: PathBuf,
    /// Connections served at a time; more wait. Default 1024.
    pub connections_max: usize,
    /// Serve `/admin/faults` (GET, PUT), `/admin/reset-sequence` (POST) and `/admin/stats` (GET). There
    /// is no authentication: for test benches only. Default false.
    pub admin: bool,
    /// Faults from the start; see [`FaultPlan`]. Default none.
    pub faults: FaultPlan,
}

/// What a live source publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// The built-in clip: 24 s of swimming fish with a timecode, in three renditions, with sound.
    #[default]
    Clip,
    /// A media file, looped for ever. Needs ffmpeg.
    File(PathBuf),
    /// The input part of an ffmpeg command line, such as `["-re", "-i", "rtmp://..."]`. Video is taken from the first `-i`,
    /// sound from the second if there are two. A source that is not paced by itself needs `-re`.
    Ffmpeg(Vec<String>),
}

/// One rendition to encode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rung {
    /// Height in pixels, even, 64 to 4320; the width follows from the input's shape.
    pub height: u32,
    /// Video bitrate in bits per second, 50000 to 100000000.
    pub video_bps: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            input: Input::Clip,
            hls: true,
            dash: true,
            dash_timeline: false,
            dash_time: false,
            dash_period_segments: 0,
            ll_hls: false,
            part_byteranges: false,
            ll_dash: false,
            part_ms: 500,
            segment_ms: GOP_MS,
            window_segments: 10,
            hold_next: true,
            start_unix_ms: None,
            already_run_ms: None,
            padding_bytes: 0,
            ladder: vec![
                Rung {
                    height: 540,
                    video_bps: 1_500_000,
                },
                Rung {
                    height: 360,
                    video_bps: 700_000,
                },
                Rung {
                    height: 180,
                    video_bps: 250_000,
                },
            ],
            ffmpeg: PathBuf::from("ffmpeg"),
            connections_max: 1024,
            admin: false,
            faults: FaultPlan::default(),
        }
    }
}

impl Config {
    /// Whether anything is published part by part.
    pub(crate) fn is_low_latency(&self) -> bool {
        self.ll_hls || self.ll_dash
    }

    /// The length of what is published at a time, in milliseconds.
    pub(crate) fn published_part_ms(&self) -> u64 {
        if self.is_low_latency() {
            self.part_ms
        } else {
            self.segment_ms
        }
    }

    /// Checks ranges and contradictions.
    ///
    /// # Errors
    /// [`Error::Config`] names the field and what it may be.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |text: String| Err(Error::Config(text));
        if self.segment_ms == 0
            || self.segment_ms > SEGMENT_MS_MAX
            || !self.segment_ms.is_multiple_of(GOP_MS)
        {
            return fail(format!(
                "segment_ms must be a multiple of {GOP_MS} up to {SEGMENT_MS_MAX}, is {}",
                self.segment_ms
            ));
        }
        if !PART_MS.contains(&self.part_ms) || !GOP_MS.is_multiple_of(self.part_ms) {
            return fail(format!(
                "part_ms must divide {GOP_MS} and be in {PART_MS:?}, is {}",
                self.part_ms
            ));
        }
        if self.ll_hls && !self.hls || self.ll_dash && !self.dash {
            return fail("ll_hls needs hls, and ll_dash needs dash".into());
        }
        if self.part_byteranges && !self.ll_hls {
            return fail("part_byteranges needs ll_hls".into());
        }
        if self.ll_dash && (self.dash_timeline || self.dash_time) {
            return fail("ll_dash excludes dash_timeline and dash_time".into());
        }
        if !WINDOW_SEGMENTS.contains(&self.window_segments) {
            return fail(format!(
                "window_segments must be in {WINDOW_SEGMENTS:?}, is {}",
                self.window_segments
            ));
        }
        if self.start_unix_ms.is_some() && self.already_run_ms.is_some() {
            return fail("start_unix_ms and already_run_ms exclude each other".into());
        }
        if self
            .start_unix_ms
            .max(self.already_run_ms)
            .is_some_and(|ms| ms > UNIX_MS_MAX)
        {
            return fail(format!(
                "start_unix_ms and already_run_ms must be at most {UNIX_MS_MAX}"
            ));
        }
        if self.padding_bytes > PADDING_BYTES_MAX {
            return fail(format!("padding_bytes must be at most {PADDING_BYTES_MAX}"));
        }
        if self.connections_max == 0 {
            return fail("connections_max must be at least 1".into());
        }
        if !self.hls && !self.dash {
            return fail("hls and dash are both off: nothing to publish".into());
        }
        if self.ladder.is_empty() || self.ladder.len() > RUNGS_MAX {
            return fail(format!("ladder must have 1 to {RUNGS_MAX} renditions"));
        }
        for rung in &self.ladder {
            let height_ok = (64..=4320).contains(&rung.height) && rung.height.is_multiple_of(2);
            if !height_ok || !(50_000..=100_000_000).contains(&rung.video_bps) {
                return fail(format!("ladder: {rung:?} is out of range"));
            }
        }
        match &self.input {
            Input::Ffmpeg(args) if !args.iter().any(|arg| arg == "-i") => {
                fail("input.ffmpeg must contain -i and the input".into())
            }
            _ => self.faults.validate(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_toml_and_refuses_unknown_fields() {
        let config: Config = toml::from_str(
            "segment_ms = 4000\ninput = { file = \"a.mp4\" }\n[faults]\ntokens = true",
        )
        .unwrap();
        assert_eq!(config.input, Input::File("a.mp4".into()));
        assert!(config.faults.tokens);
        assert!(toml::from_str::<Config>("segment_msec = 4000").is_err());
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    }

    #[test]
    fn the_printed_file_is_the_default_and_explains_every_setting() {
        let printed: Config = toml::from_str(DEFAULT_TOML).unwrap();
        assert_eq!(printed, Config::default());
        let full = Config {
            start_unix_ms: Some(1),
            already_run_ms: Some(1),
            ..Config::default()
        };
        let all = toml::Table::try_from(full).unwrap();
        let faults = all["faults"].as_table().unwrap().keys();
        for key in all.keys().chain(faults) {
            let is_it = |line: &str| {
                let line = line.trim_start_matches(['#', '[']);
                let line = line.strip_prefix("faults.").unwrap_or(line);
                line.strip_prefix(key.as_str())
                    .is_some_and(|rest| rest.starts_with([' ', ']']))
            };
            assert!(DEFAULT_TOML.lines().any(is_it), "{key} is not explained");
        }
        // What is commented out can be used as it stands.
        let lines = DEFAULT_TOML.lines();
        let used: Vec<&str> = lines
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') && !rest.starts_with("already") => rest,
                _ => line,
            })
            .collect();
        let used: Config = toml::from_str(&used.join("\n")).unwrap();
        used.validate().unwrap();
        assert_eq!(used.faults.rules.len(), 1);
    }

    #[test]
    fn refuses_values_out_of_range() {
        let wrong = [
            Config {
                segment_ms: 3000,
                ..Config::default()
            },
            Config {
                segment_ms: 0,
                ..Config::default()
            },
            Config {
                window_segments: 2,
                ..Config::default()
            },
            Config {
                start_unix_ms: Some(1),
                already_run_ms: Some(1),
                ..Config::default()
            },
            Config {
                hls: false,
                dash: false,
                ..Config::default()
            },
            Config {
                part_ms: 300,
                ..Config::default()
            },
            Config {
                part_ms: 100,
                ..Config::default()
            },
            Config {
                hls: false,
                ll_hls: true,
                ..Config::default()
            },
            Config {
                dash_time: true,
                ll_dash: true,
                ..Config::default()
            },
            Config {
                ladder: vec![],
                ..Config::default()
            },
            Config {
                input: Input::Ffmpeg(vec!["x".into()]),
                ..Config::default()
            },
        ];
        for config in wrong {
            assert!(
                matches!(config.validate(), Err(Error::Config(_))),
                "{config:?}"
            );
        }
        Config::default().validate().unwrap();
    }
}
