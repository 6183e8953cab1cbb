//! From a `SegmentTemplate` to the segments that it stands for.

use std::collections::VecDeque;

use dash_mpd_core::{S, SegmentTemplate};
use url::Url;

use crate::timeline::{
    Listed, SEGMENTS_ENDED_MAX, SEGMENTS_LIVE_MAX, SegmentInfo, TimelineError, URL_LEN_MAX,
    names::Namer, resolve,
};

/// What is available of a period, in milliseconds since its start.
pub(super) struct Window {
    /// How long the period is, if known.
    pub(super) duration_ms: Option<u64>,
    /// Segments that end before this are gone.
    pub(super) from_ms: u64,
    /// Segments that end after this are not there yet (live only); negative before the period.
    pub(super) until_ms: Option<i64>,
}

/// What the identifiers of a template stand for, but for number and time.
pub(super) struct Addressing<'a> {
    pub(super) namer: &'a Namer,
    pub(super) base: &'a Url,
    pub(super) id: &'a str,
    pub(super) bandwidth: u64,
}

/// The segments of `template` within `window`, each with its URL.
pub(super) fn expand(
    template: &SegmentTemplate,
    addressing: &Addressing<'_>,
    window: &Window,
) -> Result<Vec<Listed>, TimelineError> {
    let scale = template.timescale.unwrap_or(1);
    if scale == 0 {
        return Err(TimelineError::Malformed(
            "SegmentTemplate@timescale is 0".into(),
        ));
    }
    let places = match &template.SegmentTimeline {
        Some(timeline) => places_of_timeline(&timeline.segments, template, scale, window)?,
        None => places_of_duration(template, scale, window)?,
    };
    let media = template.media.as_deref().unwrap_or_default();
    let seq_of_time = template.startNumber.is_none() && media.contains("$Time");
    let step_ms = seq_of_time.then(|| usual_step_ms(&places, scale));
    let mut listed = Vec::with_capacity(places.len());
    let mut seq_before = None;
    for place in &places {
        let url = addressing.url(media, place.number, place.time)?;
        let seq = match step_ms {
            Some(step_ms) => {
                let by_time = to_ms(place.time, scale).saturating_add(step_ms / 2) / step_ms;
                // Those behind the end of all time have room to rise, too.
                let by_time = by_time.min(u64::MAX / 2);
                seq_before.map_or(by_time, |before: u64| by_time.max(before.saturating_add(1)))
            }
            None => place.number,
        };
        if seq == u64::MAX || seq_before.is_some_and(|before| before >= seq) {
            return Err(TimelineError::Malformed(
                "segments whose numbers do not rise".into(),
            ));
        }
        seq_before = Some(seq);
        let info = SegmentInfo {
            name: addressing.namer.name_of(&url, None),
            seq,
            duration_ms: u32::try_from(to_ms(place.duration, scale)).unwrap_or(u32::MAX),
            content: None,
        };
        listed.push(Listed {
            info,
            url,
            range: None,
        });
    }
    Ok(listed)
}

/// One segment's place, in units of the template's timescale.
#[derive(Clone, Copy)]
struct Place {
    number: u64,
    time: u64,
    duration: u64,
}

/// Segments without a number of their own are numbered by their time: this is the length of one,
/// the same for every viewer and every window of a track with segments of about the same length.
fn usual_step_ms(places: &[Place], scale: u64) -> u64 {
    let longest = places.iter().map(|place| place.duration).max();
    let ms = to_ms(longest.unwrap_or(1), scale);
    if ms >= 1000 {
        ms / 100 * 100
    } else {
        ms.max(1)
    }
}

fn to_ms(units: u64, scale: u64) -> u64 {
    let ms = u128::from(units) * 1000 / u128::from(scale);
    u64::try_from(ms).unwrap_or(u64::MAX)
}

fn places_of_duration(
    template: &SegmentTemplate,
    scale: u64,
    window: &Window,
) -> Result<Vec<Place>, TimelineError> {
    // A float cast saturates, and turns what is not a number into 0.
    let duration = template.duration.unwrap_or(0.0).round() as u64;
    if duration == 0 {
        return Ok(Vec::new());
    }
    let early_ms = early_ms(template);
    let in_units = |ms: u64| u128::from(ms) * u128::from(scale) / 1000;
    let segments_in = |ms: u64| in_units(ms) / u128::from(duration);
    // Exclusive end, counted from 0.
    let whole = window
        .duration_ms
        .map(|ms| in_units(ms).div_ceil(u128::from(duration)));
    let published = window.until_ms.map(|ms| {
        let ms = u64::try_from(ms.saturating_add_unsigned(early_ms)).unwrap_or(0);
        segments_in(ms)
    });
    let start_number = template.startNumber.unwrap_or(1);
    let numbered = template
        .endNumber
        .map(|last| u128::from(last.saturating_add(1).saturating_sub(start_number)));
    let Some(end) = [whole, published, numbered].into_iter().flatten().min() else {
        return Err(TimelineError::Malformed(
            "SegmentTemplate@duration without an end".into(),
        ));
    };
    let is_live = window.until_ms.is_some();
    let (first, end) = if is_live {
        let oldest = segments_in(window.from_ms);
        (
            oldest.max(end.saturating_sub(SEGMENTS_LIVE_MAX as u128)),
            end,
        )
    } else {
        (0, end.min(SEGMENTS_ENDED_MAX as u128))
    };
    let offset = u128::from(template.presentationTimeOffset.unwrap_or(0));
    let place = |index: u128| {
        let time = offset + index * u128::from(duration);
        Some(Place {
            number: u64::try_from(index).ok()?.checked_add(start_number)?,
            time: u64::try_from(time).ok()?,
            duration,
        })
    };
    Ok((first..end).map_while(place).collect())
}

fn early_ms(template: &SegmentTemplate) -> u64 {
    let early_s = template.availabilityTimeOffset.unwrap_or(0.0);
    // With `INF`, everything is there from the start; a day is as good.
    (early_s * 1000.0).clamp(0.0, 86_400_000.0) as u64
}

fn places_of_timeline(
    runs: &[S],
    template: &SegmentTemplate,
    scale: u64,
    window: &Window,
) -> Result<Vec<Place>, TimelineError> {
    let offset = template.presentationTimeOffset.unwrap_or(0);
    let in_units = |ms: u64| {
        let units = u128::from(ms) * u128::from(scale) / 1000;
        u64::try_from(units)
            .unwrap_or(u64::MAX)
            .saturating_add(offset)
    };
    let is_live = window.until_ms.is_some();
    let period_end = window.duration_ms.map(in_units);
    let published = window.until_ms.map(|ms| {
        let ms = ms.saturating_add_unsigned(early_ms(template));
        u64::try_from(ms).map_or(0, in_units)
    });
    let mut kept = VecDeque::new();
    let mut time = offset;
    let mut number = template.startNumber.unwrap_or(1);
    for (index, run) in runs.iter().enumerate() {
        if run.d == 0 {
            return Err(TimelineError::Malformed(
                "SegmentTimeline with S@d of 0".into(),
            ));
        }
        time = run.t.unwrap_or(time);
        number = run.n.unwrap_or(number);
        let repeat = run.r.unwrap_or(0);
        let count = match u64::try_from(repeat) {
            Ok(repeat) => repeat.saturating_add(1),
            Err(_) => {
                // Until the next run, the end of the period or now, whichever comes first.
                let next = runs.get(index + 1).and_then(|next| next.t);
                let live = published.map(|until| {
                    (until.saturating_sub(time) / run.d)
                        .saturating_mul(run.d)
                        .saturating_add(time)
                });
                let end = [next, period_end, live].into_iter().flatten().min();
                end.map_or(1, |end| end.saturating_sub(time).div_ceil(run.d))
            }
        };
        push_run(
            &mut kept,
            Place {
                number,
                time,
                duration: run.d,
            },
            count,
            is_live,
        );
        number = number.saturating_add(count);
        time = time.saturating_add(run.d.saturating_mul(count));
    }
    Ok(kept.into())
}

/// Adds `count` places from `first` on, without ever walking through those that will not be kept.
fn push_run(kept: &mut VecDeque<Place>, first: Place, count: u64, is_live: bool) {
    let skipped = if is_live {
        count.saturating_sub(SEGMENTS_LIVE_MAX as u64)
    } else {
        0
    };
    for index in skipped..count {
        if !is_live && kept.len() >= SEGMENTS_ENDED_MAX {
            return;
        }
        if is_live && kept.len() >= SEGMENTS_LIVE_MAX {
            kept.pop_front();
        }
        kept.push_back(Place {
            number: first.number.saturating_add(index),
            time: first
                .time
                .saturating_add(index.saturating_mul(first.duration)),
            duration: first.duration,
        });
    }
}

impl Addressing<'_> {
    /// The absolute URL that `template` stands for.
    pub(super) fn url(
        &self,
        template: &str,
        number: u64,
        time: u64,
    ) -> Result<String, TimelineError> {
        let malformed = |what: &str| TimelineError::Malformed(format!("{what} in a URL template"));
        if template.len() > URL_LEN_MAX {
            return Err(TimelineError::TooLarge("URLs"));
        }
        let mut out = String::with_capacity(template.len() + 16);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let (identifier, after) = after.split_once('$').ok_or_else(|| malformed("single $"))?;
            rest = after;
            let (name, width) = match identifier.split_once('%') {
                Some((name, format)) => (
                    name,
                    read_width(format).ok_or_else(|| malformed("bad width"))?,
                ),
                None => (identifier, 0),
            };
            match name {
                "" => out.push('$'),
                "RepresentationID" => out.push_str(self.id),
                "Number" => out.push_str(&format!("{number:0width$}")),
                "Time" => out.push_str(&format!("{time:0width$}")),
                "Bandwidth" => out.push_str(&format!("{:0width$}", self.bandwidth)),
                _ => return Err(malformed("unknown identifier")),
            }
            if out.len() > URL_LEN_MAX {
                return Err(TimelineError::TooLarge("URLs"));
            }
        }
        out.push_str(rest);
        Ok(resolve(self.base, &out)?.into())
    }
}

/// The width of a format such as `%05d`, at most 20 digits.
fn read_width(format: &str) -> Option<usize> {
    let digits = format.strip_suffix('d')?.strip_prefix('0')?;
    digits.parse().ok().filter(|width| *width <= 20)
}
