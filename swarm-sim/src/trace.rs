//! What some viewers' machines are told in a run, as lines of JSON: calls of the browser viewer's
//! interface, so that the same trace can be played to the native build and to WebAssembly.

use serde_json::{Value, json};
use swarm_core::{
    peer::{FetchOutcome, Input, Source},
    timeline::tags,
};

use crate::world::catalog::Catalog;

/// Inputs of one viewer that are written down at most.
const LINES_MAX: usize = 600;

/// The inputs of the viewers whose numbers are below `viewers`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    viewers: u32,
    lines: Vec<(u32, String)>,
}

impl Trace {
    pub(crate) fn new(viewers: u32) -> Self {
        Self {
            viewers,
            lines: Vec::new(),
        }
    }

    pub(crate) const fn follows(&self, viewer: u32) -> bool {
        viewer < self.viewers
    }

    /// Writes down what a viewer is told. Times are in microseconds of the simulation.
    pub(crate) fn add(&mut self, viewer: u32, now_us: u64, input: &Input<'_>, catalog: &Catalog) {
        if self.lines.iter().filter(|line| line.0 == viewer).count() >= LINES_MAX {
            return;
        }
        for (call, args) in calls(input, catalog) {
            let line = json!({ "viewer": viewer, "us": now_us, "call": call, "args": args });
            self.lines.push((viewer, line.to_string()));
        }
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into_iter().map(|(_, line)| line).collect()
    }
}

/// An input as calls of the browser viewer; `{"hex": ..}` stands for bytes.
fn calls(input: &Input<'_>, catalog: &Catalog) -> Vec<(&'static str, Value)> {
    let one = |call, args| vec![(call, args)];
    match *input {
        Input::Tick => one("tick", json!([])),
        Input::Environment(e) => one("environment", json!([e.flags.0, e.upload_bps_max])),
        Input::Join { stream, token } => one("join", json!([stream.to_string(), hex(token)])),
        Input::Timeline { track, segments } => {
            let mut text = format!(
                "#EXTM3U\n{}\n#EXT-X-TARGETDURATION:20\n#EXT-X-MEDIA-SEQUENCE:{}\n",
                tags::write_stream(&catalog.stream_of(segments).into()),
                segments.first().map_or(0, |segment| segment.seq)
            );
            for segment in segments {
                if let Some(content) = &segment.content {
                    text.push_str(&tags::write_segment(content));
                }
                let seconds = f64::from(segment.duration_ms) / 1000.0;
                let url = catalog.url_of(segment.name);
                text.push_str(&format!("\n#EXTINF:{seconds},\n{url}\n"));
            }
            let playlist = json!([text, "https://cdn.example/index.m3u8"]);
            vec![("read_playlist", playlist), ("timeline", json!([track.0]))]
        }
        Input::TrackEnded(track) => one("track_ended", json!([track.0])),
        Input::Wanted {
            request,
            name,
            grain_ms,
        } => one("wanted", json!([request.0, name.to_string(), grain_ms])),
        Input::Abandoned(request) => one("abandoned", json!([request.0])),
        Input::Player {
            buffer_ms,
            lag_ms,
            stalled,
        } => one("player", json!([buffer_ms, lag_ms, stalled])),
        Input::TrackerUp => one("tracker_up", json!([])),
        Input::TrackerDown => one("tracker_down", json!([])),
        Input::TrackerFrame(frame) => one("tracker_frame", json!([hex(frame)])),
        Input::Signal { slot, payload } => one("signal", json!([slot.0, hex(payload)])),
        Input::LinkUp(slot) => one("link_up", json!([slot.0])),
        Input::LinkDown(slot) => one("link_down", json!([slot.0])),
        Input::Frame { slot, bytes } => one("frame", json!([slot.0, hex(bytes)])),
        Input::Leave => one("leave", json!([])),
        ref other => bytes_call(other),
    }
}

/// The inputs about media bytes.
fn bytes_call(input: &Input<'_>) -> Vec<(&'static str, Value)> {
    let (call, args) = match *input {
        Input::Record { source, record } => {
            let (from_peer, source) = words(source);
            let bytes = hex(&record.encode());
            ("record", json!([from_peer, source, bytes]))
        }
        Input::Pieces {
            source,
            segment,
            bits,
        } => {
            let (from_peer, source) = words(source);
            let (low, high) = (bits as u32, (bits >> 32) as u32);
            let args = json!([from_peer, source, segment.to_string(), low, high]);
            ("pieces", args)
        }
        Input::Surplus { slot, len } => ("surplus", json!([slot.0, len])),
        Input::Misbehaved(slot) => ("misbehaved", json!([slot.0])),
        Input::FetchDone {
            fetch,
            outcome,
            bytes,
            ttfb_ms,
            total_ms,
        } => {
            let outcome = match outcome {
                FetchOutcome::Verified => 0,
                FetchOutcome::Unverified => 1,
                FetchOutcome::Failed => 2,
            };
            let args = json!([fetch.0, outcome, bytes, ttfb_ms, total_ms]);
            ("fetch_done", args)
        }
        Input::Sent { slot, buffered } => ("sent", json!([slot.0, buffered])),
        _ => return Vec::new(),
    };
    vec![(call, args)]
}

fn words(source: Source) -> (bool, u32) {
    match source {
        Source::Peer(slot) => (true, slot.0.into()),
        Source::Cdn(fetch) => (false, fetch.0),
    }
}

fn hex(bytes: &[u8]) -> Value {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "hex": digits })
}
