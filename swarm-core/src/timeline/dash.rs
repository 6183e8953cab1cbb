//! Reading DASH manifests.

mod template;

use dash_mpd_core::{AdaptationSet, BaseURL, MPD, Period, Representation as Rep, SegmentTemplate};
use url::Url;

use self::template::{Addressing, Window};
use super::{
    Object, Parts, RENDITIONS_MAX, TimelineError, Track, base_url,
    names::Namer,
    resolve,
    tags::{self, DASH_SCHEME, StreamTag},
};
use crate::id::{StreamId, TrackId};

/// What a manifest says, at one time of the day.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The stream, if the origin-proxy has put its property in.
    pub stream: Option<StreamId>,
    /// Whether segments are still being added (`type="dynamic"`).
    pub is_live: bool,
    /// When to read the manifest again, in milliseconds; none if it will not change.
    pub refresh_ms: Option<u32>,
    /// Every representation of every period, in the order of the manifest. Those that are not
    /// addressed by `SegmentTemplate` have no segments, and are the CDN's alone.
    pub representations: Vec<Representation>,
}

/// One representation in one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Representation {
    /// Which period, counted from 0.
    pub period: usize,
    /// `@id`.
    pub id: String,
    /// Bit rate in bit/s; 0 if unknown.
    pub bandwidth_bps: u64,
    /// Media type, such as `video/mp4`.
    pub mime: Option<String>,
    /// Codecs as in RFC 6381.
    pub codecs: Option<String>,
    /// Width and height in pixels.
    pub resolution: Option<(u32, u32)>,
    /// Language as in RFC 5646.
    pub language: Option<String>,
    /// Its initialisation segment and live window.
    pub track: Track,
}

/// Reads the manifest `text` that came from the absolute `url` (after redirects) as it is at
/// `now_unix_ms`, milliseconds since 1970 by the clock that the manifest goes by.
///
/// Understands `SegmentTemplate` with `$Number$` and `@duration`, and with `SegmentTimeline`, at
/// all levels, several periods and nested `BaseURL`s (the first of alternatives). Of a live window
/// the newest segments are kept (the limits are in [`super`]).
///
/// # Errors
/// [`TimelineError`], which says who is at fault.
pub fn read(text: &str, url: &str, now_unix_ms: u64) -> Result<Manifest, TimelineError> {
    let base = base_url(text, url)?;
    if !text.contains("<MPD") && !text.contains(":MPD") {
        return Err(TimelineError::NotAPlaylist("a DASH manifest"));
    }
    let mpd = dash_mpd_core::parse(text)
        .map_err(|error| TimelineError::Malformed(shorten(&error.to_string())))?;
    let tag = read_stream(&mpd);
    let stream = tag.map(|tag| tag.stream);
    let namer = Namer::new(url, tag.and_then(|tag| tag.token_word));
    let is_live = mpd.mpdtype.as_deref() == Some("dynamic");
    let mpd_base = apply_base(&base, &mpd.base_url)?;
    let mut manifest = Manifest {
        stream,
        is_live,
        refresh_ms: mpd.minimumUpdatePeriod.map(|period| {
            let ms = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
            ms.max(REFRESH_MIN_MS)
        }),
        representations: Vec::new(),
    };
    let spans = place_periods(&mpd);
    for (index, (period, span)) in mpd.periods.iter().zip(spans).enumerate() {
        let period_base = apply_base(&mpd_base, &period.BaseURL)?;
        let window = live_window(&mpd, span, now_unix_ms);
        for set in &period.adaptations {
            let set_base = apply_base(&period_base, &set.BaseURL)?;
            for rep in &set.representations {
                let reader = RepReader {
                    period,
                    set,
                    rep,
                    window: &window,
                    stream,
                    namer: &namer,
                };
                manifest
                    .representations
                    .push(reader.read(index, &set_base)?);
                if manifest.representations.len() > RENDITIONS_MAX {
                    return Err(TimelineError::TooLarge("representations"));
                }
            }
        }
    }
    Ok(manifest)
}

/// A manifest that asks to be read again without pause is not read more often than this.
const REFRESH_MIN_MS: u32 = 500;
/// Longest excerpt of a parser's complaint, in characters.
const COMPLAINT_LEN_MAX: usize = 200;

fn shorten(text: &str) -> String {
    text.chars().take(COMPLAINT_LEN_MAX).collect()
}

fn read_stream(mpd: &MPD) -> Option<StreamTag> {
    let of_sets = mpd.periods.iter().flat_map(|period| {
        let sets = period.adaptations.iter();
        let of_sets = sets.flat_map(|set| &set.supplemental_property);
        period.supplemental_property.iter().chain(of_sets)
    });
    let mut ours = mpd.supplemental_property.iter().chain(of_sets);
    let property = ours.find(|property| property.schemeIdUri == DASH_SCHEME)?;
    tags::read_property(property.value.as_deref()?)
}

fn apply_base(base: &Url, elements: &[BaseURL]) -> Result<Url, TimelineError> {
    match elements.first() {
        Some(element) => resolve(base, &element.base),
        None => Ok(base.clone()),
    }
}

/// Start and end of a period on the presentation's time line.
#[derive(Clone, Copy)]
struct Span {
    start_ms: u64,
    end_ms: Option<u64>,
}

fn place_periods(mpd: &MPD) -> Vec<Span> {
    let ms =
        |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let total = mpd.mediaPresentationDuration.map(ms);
    let mut next_ms = 0_u64;
    let mut spans: Vec<Span> = Vec::with_capacity(mpd.periods.len());
    for period in &mpd.periods {
        let start_ms = period.start.map_or(next_ms, ms);
        let end_ms = period
            .duration
            .map(|duration| start_ms.saturating_add(ms(duration)));
        if let Some(previous) = spans.last_mut() {
            previous.end_ms = Some(previous.end_ms.unwrap_or(start_ms).min(start_ms));
        }
        next_ms = end_ms.unwrap_or(start_ms);
        spans.push(Span { start_ms, end_ms });
    }
    if let Some(last) = spans.last_mut() {
        last.end_ms = last.end_ms.or(total);
    }
    spans
}

/// What of a period is available now, on the period's own time line.
fn live_window(mpd: &MPD, span: Span, now_unix_ms: u64) -> Window {
    let duration_ms = span.end_ms.map(|end| end.saturating_sub(span.start_ms));
    if mpd.mpdtype.as_deref() != Some("dynamic") {
        return Window {
            duration_ms,
            from_ms: 0,
            until_ms: None,
        };
    }
    let start = mpd
        .availabilityStartTime
        .map_or(0, |start| start.timestamp_millis());
    let now = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
    let begin = start.saturating_add_unsigned(span.start_ms);
    let until_ms = now.saturating_sub(begin);
    let depth = mpd
        .timeShiftBufferDepth
        .and_then(|depth| i64::try_from(depth.as_millis()).ok());
    let from_ms = depth.map_or(0, |depth| until_ms.saturating_sub(depth).max(0));
    Window {
        duration_ms,
        from_ms: from_ms.unsigned_abs(),
        until_ms: Some(until_ms),
    }
}

struct RepReader<'a> {
    period: &'a Period,
    set: &'a AdaptationSet,
    rep: &'a Rep,
    window: &'a Window,
    stream: Option<StreamId>,
    namer: &'a Namer,
}

impl RepReader<'_> {
    fn read(&self, period: usize, set_base: &Url) -> Result<Representation, TimelineError> {
        let Self { set, rep, .. } = self;
        let pixels = |own: Option<u64>, inherited: Option<u64>| {
            own.or(inherited)
                .and_then(|pixels| u32::try_from(pixels).ok())
        };
        let width = pixels(rep.width, set.width);
        let height = pixels(rep.height, set.height);
        let text = |own: &Option<String>, inherited: &Option<String>| {
            own.as_ref().or(inherited.as_ref()).cloned()
        };
        Ok(Representation {
            period,
            id: rep.id.clone().unwrap_or_default(),
            bandwidth_bps: rep.bandwidth.unwrap_or(0),
            mime: text(&rep.mimeType, &set.mimeType),
            codecs: text(&rep.codecs, &set.codecs),
            resolution: width.zip(height),
            language: text(&rep.lang, &set.lang),
            track: self.read_track(set_base)?,
        })
    }

    fn read_track(&self, set_base: &Url) -> Result<Track, TimelineError> {
        let base = apply_base(set_base, &self.rep.BaseURL)?;
        let mut track = Track {
            track: TrackId(0),
            stream: self.stream,
            target_ms: 0,
            ended: self.window.until_ms.is_none(),
            inits: Vec::new(),
            segments: Vec::new(),
            parts: Parts::default(),
        };
        let Some(template) = self.template() else {
            track.identify(base.as_str(), self.namer);
            return Ok(track);
        };
        let addressing = Addressing {
            base: &base,
            namer: self.namer,
            id: self.rep.id.as_deref().unwrap_or_default(),
            bandwidth: self.rep.bandwidth.unwrap_or(0),
        };
        if let Some(init) = &template.initialization {
            let url = addressing.url(init, 0, 0)?;
            track.inits.push(Object { url, range: None });
        }
        track.segments = template::expand(&template, &addressing, self.window)?;
        let durations = track.segments.iter().map(|listed| listed.info.duration_ms);
        track.target_ms = durations.max().unwrap_or(0);
        let fallback = addressing.url(template.media.as_deref().unwrap_or_default(), 0, 0)?;
        track.identify(&fallback, self.namer);
        Ok(track)
    }

    /// The template with what it inherits; none without `@media`.
    fn template(&self) -> Option<SegmentTemplate> {
        let levels = [
            &self.rep.SegmentTemplate,
            &self.set.SegmentTemplate,
            &self.period.SegmentTemplate,
        ];
        let merged =
            levels
                .into_iter()
                .flatten()
                .cloned()
                .reduce(|own, outer| SegmentTemplate {
                    media: own.media.or(outer.media),
                    initialization: own.initialization.or(outer.initialization),
                    startNumber: own.startNumber.or(outer.startNumber),
                    endNumber: own.endNumber.or(outer.endNumber),
                    duration: own.duration.or(outer.duration),
                    timescale: own.timescale.or(outer.timescale),
                    presentationTimeOffset: own
                        .presentationTimeOffset
                        .or(outer.presentationTimeOffset),
                    availabilityTimeOffset: own
                        .availabilityTimeOffset
                        .or(outer.availabilityTimeOffset),
                    SegmentTimeline: own.SegmentTimeline.or(outer.SegmentTimeline),
                    ..own
                })?;
        merged.media.is_some().then_some(merged)
    }
}

#[cfg(test)]
mod tests;
