//! Any input with low latency: ffmpeg encodes it frame by frame, and we cut the frames into parts.

use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use mp4_atom::{Atom, Decode, DecodeAtom, Encode, FourCC, Header, Moof, Moov};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use crate::cmaf::{BOX_HEADER_LEN, Fragment, Media, TrackInfo, read_fragment};
use crate::dash::{Form, Manifest};
use crate::hls::{self, LowLatency, Rendition};
use crate::object::Lookup;
use crate::reload::Directives;
use crate::ring::{Plan, Ring};
use crate::route::{File, Route, SOUND};
use crate::timeline::{Edge, Timeline};
use crate::{Config, Error, ffmpeg};

/// No box that ffmpeg writes for us is longer.
const BOX_BYTES_MAX: usize = 64 << 20;
/// Its rate control lets a segment have so much more than asked for, in percent.
const PEAK_PERCENT: u64 = 125;

/// ffmpeg, and what came of it.
pub(crate) struct Encoder {
    config: Config,
    plan: Plan,
    state: Mutex<State>,
    /// Counts what was published.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// Unix time of media time 0, once something came.
    epoch_unix_ms: Option<u64>,
    /// Of how many tracks ffmpeg told.
    expected: usize,
    tracks: Vec<Ring>,
}

impl Encoder {
    /// Checks the input; ffmpeg starts with [`Self::run`].
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        ffmpeg::check(config)?;
        let plan = Plan {
            segment_ms: config.segment_ms,
            part_ms: config.part_ms,
            window_segments: config.window_segments,
        };
        Ok(Self {
            config: config.clone(),
            plan,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// Runs ffmpeg until it stops by itself, which is an error, and starts it anew at each reset.
    /// Dropping the future kills it.
    pub(crate) async fn run(&self, mut resets: watch::Receiver<u64>) -> Error {
        let output = ffmpeg::words(
            "-fps_mode cfr -f mp4 -avoid_negative_ts disabled -flush_packets 1 \
             -movflags frag_every_frame+empty_moov+default_base_moof+separate_moof pipe:1",
        );
        loop {
            let dir = std::env::temp_dir();
            let mut child = match ffmpeg::spawn(&self.config, &output, &dir, Stdio::piped()) {
                Ok(child) => child,
                Err(error) => return error,
            };
            let stdout = child.stdout.take();
            let read = async {
                let read = match stdout {
                    Some(stdout) => self.read(stdout).await,
                    None => Ok(()),
                };
                match read {
                    // It says why it ended when it ends.
                    Ok(()) => std::future::pending().await,
                    Err(error) => error,
                }
            };
            tokio::select! {
                ended = ffmpeg::wait(&mut child) => return ended.unwrap_or_else(|error| error),
                error = read => return error,
                changed = resets.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
            if let Err(source) = child.kill().await {
                let what = "stop ffmpeg";
                return Error::Io { what, source };
            }
            *self.lock() = State::default();
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Whether there may be a track with this name.
    pub(crate) fn has(&self, id: &str) -> bool {
        id == SOUND || (0..self.config.ladder.len()).any(|index| id == video_id(index))
    }

    /// Counts what was published.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The object that `route` names now.
    pub(crate) fn lookup(&self, route: &Route<'_>, directives: Directives) -> Lookup {
        let state = self.lock();
        let is_started = state.expected > 0 && state.tracks.len() == state.expected;
        if !is_started || !state.tracks.iter().all(Ring::is_started) {
            return Lookup::Starting;
        }
        let epoch_unix_ms = state.epoch_unix_ms.unwrap_or_default();
        match route {
            Route::Multivariant => {
                let (video, audio) = self.renditions(&state);
                Lookup::Found(hls::multivariant(&video, audio.as_ref()).into())
            }
            Route::Manifest => Lookup::Found(self.manifest(&state, epoch_unix_ms).into()),
            Route::Time => Lookup::Found(hls::rfc3339(now_unix_ms()).into()),
            Route::Track(id, file) => {
                let Some(track) = state.tracks.iter().find(|track| track.info.id == *id) else {
                    return Lookup::Unknown;
                };
                match file {
                    File::Init => Lookup::Found(track.info.init.clone()),
                    File::Playlist => self.playlist(&state, track, directives, epoch_unix_ms),
                    File::Segment(number) => track.segment(*number),
                    File::Part(number, part) => track.part(*number, *part),
                    File::Timed(_) => Lookup::Unknown,
                }
            }
        }
    }

    fn playlist(
        &self,
        state: &State,
        track: &Ring,
        directives: Directives,
        epoch_unix_ms: u64,
    ) -> Lookup {
        let target_s = self.plan.segment_ms / 1000;
        let window = track.window(epoch_unix_ms);
        if !self.config.ll_hls {
            return Lookup::Found(window.write(target_s, None).into());
        }
        let infos = state.tracks.iter().map(|track| &track.info);
        let others = state
            .tracks
            .iter()
            .filter(|other| other.info.id != track.info.id);
        let report = |other: &Ring| (other.info.id.clone(), other.window(epoch_unix_ms).edge());
        let low_latency = LowLatency {
            are_ranges: self.config.part_byteranges,
            part_target_s: hls::part_target_s(infos, self.plan.part_ms),
            skip: directives.skip,
            reports: others.map(report).collect(),
        };
        hls::answer(&window, target_s, &low_latency, directives)
    }

    fn manifest(&self, state: &State, epoch_unix_ms: u64) -> String {
        let (video, audio) = self.renditions(state);
        let timeline = Timeline {
            epoch_unix_ms,
            segment_ms: self.plan.segment_ms,
            part_ms: self.plan.part_ms,
            window_segments: self.plan.window_segments,
        };
        let end = state.tracks.iter().map(Ring::end).min().unwrap_or_default();
        let edge = Edge {
            kept: end.saturating_sub(2 * self.plan.window_segments),
            oldest: end.saturating_sub(self.plan.window_segments),
            end,
            open_parts: 0,
        };
        let manifest = Manifest {
            video: &video,
            audio: audio.as_ref(),
            timeline: &timeline,
            edge,
            base: 0,
            form: Form::numbered(&self.config),
        };
        manifest.write()
    }

    fn renditions<'a>(&self, state: &'a State) -> (Vec<Rendition<'a>>, Option<Rendition<'a>>) {
        let rendition = |track: &'a Ring, average_bps: u64| Rendition {
            track: &track.info,
            peak_bps: average_bps * PEAK_PERCENT / 100,
            average_bps,
        };
        let is_video = |track: &&Ring| matches!(track.info.media, Media::Video { .. });
        let video = state
            .tracks
            .iter()
            .filter(is_video)
            .zip(&self.config.ladder);
        let audio = state.tracks.iter().find(|track| !is_video(track));
        (
            video
                .map(|(track, rung)| rendition(track, rung.video_bps))
                .collect(),
            audio.map(|track| rendition(track, ffmpeg::SOUND_BPS)),
        )
    }

    /// Reads fragmented MP4 to its end.
    async fn read(&self, mut input: impl AsyncRead + Unpin) -> Result<(), Error> {
        let broken = |reason: String| Error::Encoded { reason };
        let (mut head, mut moov, mut moof) = (Bytes::new(), None, None);
        while let Some((header, bytes)) = read_box(&mut input).await? {
            match header.kind {
                kind if kind == Moov::KIND => {
                    let mut body = &bytes[BOX_HEADER_LEN..];
                    let decoded = Moov::decode_atom(&header, &mut body);
                    let decoded = decoded.map_err(|error| broken(error.to_string()))?;
                    self.lock().expected = decoded.trak.len();
                    moov = Some(decoded);
                }
                kind if kind == Moof::KIND => moof = Some((header, bytes)),
                kind if kind == FourCC::new(b"mdat") => {
                    let (Some(moov), Some((header, start))) = (&moov, moof.take()) else {
                        return Err(broken("an mdat without a moof".into()));
                    };
                    let data = [start, bytes].concat().into();
                    let fragments = read_fragment(moov, &header, &data).map_err(broken)?;
                    for fragment in fragments {
                        self.on_fragment(&head, moov, fragment).map_err(broken)?;
                    }
                }
                kind if kind == FourCC::new(b"ftyp") => head = bytes,
                _ => {}
            }
        }
        Ok(())
    }

    fn on_fragment(&self, head: &Bytes, moov: &Moov, fragment: Fragment) -> Result<(), String> {
        let mut state = self.lock();
        let order = |id: u32| moov.trak.iter().position(|trak| trak.tkhd.track_id == id);
        let place = order(fragment.track_id).ok_or("a fragment of no track")?;
        let id = if place < self.config.ladder.len() {
            video_id(place)
        } else {
            SOUND.to_owned()
        };
        let known = state.tracks.iter().position(|track| track.info.id == id);
        let index = match known {
            Some(index) => index,
            None => {
                let only = only_track(moov, fragment.track_id);
                let init = init_segment(head, &only)?;
                let info = TrackInfo::read(&id, init, &only, fragment.sample_duration)?;
                let before = |track: &Ring| self.place_of(&track.info.id) < place;
                let index = state
                    .tracks
                    .iter()
                    .take_while(|track| before(track))
                    .count();
                state.tracks.insert(index, Ring::new(info, self.plan));
                index
            }
        };
        let track = &mut state.tracks[index];
        let mut start = fragment.start;
        let mut is_news = false;
        for sample in fragment.samples {
            is_news |= track.push(start, sample)?;
            start += u64::from(fragment.sample_duration);
        }
        let age_ms = (track.info.seconds(start) * 1000.0) as u64;
        state
            .epoch_unix_ms
            .get_or_insert_with(|| now_unix_ms().saturating_sub(age_ms));
        drop(state);
        if is_news {
            self.changes.send_modify(|changes| *changes += 1);
        }
        Ok(())
    }

    /// Where a track is in the order of the ladder; sound is last.
    fn place_of(&self, id: &str) -> usize {
        let ladder = 0..self.config.ladder.len();
        ladder
            .clone()
            .find(|index| video_id(*index) == id)
            .unwrap_or(ladder.end)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn video_id(index: usize) -> String {
    format!("v{index}")
}

/// The next box, whole; none at the end.
async fn read_box(input: &mut (impl AsyncRead + Unpin)) -> Result<Option<(Header, Bytes)>, Error> {
    let fail = |source| Error::Io {
        what: "read what ffmpeg writes",
        source,
    };
    let mut head = [0; BOX_HEADER_LEN];
    match input.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(fail(error)),
    }
    let header = Header::decode(&mut &head[..]).ok();
    let sized = header.and_then(|header| Some((header, header.size?)));
    let Some((header, size)) = sized.filter(|(_, size)| *size <= BOX_BYTES_MAX) else {
        let reason = "a box without an end, or a huge one".into();
        return Err(Error::Encoded { reason });
    };
    let mut bytes = BytesMut::zeroed(BOX_HEADER_LEN + size);
    bytes[..BOX_HEADER_LEN].copy_from_slice(&head);
    match input.read_exact(&mut bytes[BOX_HEADER_LEN..]).await {
        Ok(_) => Ok(Some((header, bytes.freeze()))),
        // Killed in the middle.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

/// `moov` with one of its tracks alone.
fn only_track(moov: &Moov, track_id: u32) -> Moov {
    let mut only = moov.clone();
    only.trak.retain(|trak| trak.tkhd.track_id == track_id);
    if let Some(mvex) = &mut only.mvex {
        mvex.trex.retain(|trex| trex.track_id == track_id);
    }
    only
}

fn init_segment(head: &Bytes, moov: &Moov) -> Result<Bytes, String> {
    let mut out = head.to_vec();
    moov.encode(&mut out).map_err(|error| error.to_string())?;
    Ok(out.into())
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}
