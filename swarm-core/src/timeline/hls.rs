//! Reading HLS playlists, and adding the origin-proxy's tags to them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Deref,
};

use quick_m3u8::{
    HlsLine,
    config::ParsingOptions,
    custom_parsing::line::parse,
    tag::{
        KnownTag,
        hls::{self, EnumeratedString, MediaType},
    },
};
use url::Url;

use self::parts::{PartsReader, Place};
use super::{
    Content, Listed, Object, RANGE_END_MAX, RENDITIONS_MAX, SEGMENTS_ENDED_MAX, SEGMENTS_LIVE_MAX,
    SegmentInfo, TimelineError, Track, base_url,
    names::Namer,
    resolve,
    tags::{self, PART_TAG, SEGMENT_TAG, STREAM_TAG, StreamTag},
};
use crate::id::{StreamId, TrackId};

mod parts;

/// An HLS playlist of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HlsPlaylist {
    /// The list of renditions.
    Multivariant(Multivariant),
    /// The segments of one rendition.
    Media(Track),
}

/// What a player can choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Multivariant {
    /// `EXT-X-STREAM-INF`, in the order of the playlist.
    pub variants: Vec<Variant>,
    /// `EXT-X-MEDIA`, in the order of the playlist.
    pub renditions: Vec<Rendition>,
}

/// One variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Absolute URL of its media playlist.
    pub url: String,
    /// Peak bit rate in bit/s, its audio included.
    pub bandwidth_bps: u64,
    /// Width and height in pixels.
    pub resolution: Option<(u32, u32)>,
    /// Codecs as in RFC 6381.
    pub codecs: Option<String>,
    /// Whether there is no video in it.
    pub is_audio: bool,
    /// Group of the audio renditions that go with it.
    pub audio_group: Option<String>,
    /// Group of the subtitle renditions that go with it.
    pub subtitles_group: Option<String>,
}

/// What a rendition of a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenditionKind {
    /// Sound.
    Audio,
    /// Another picture (camera angles).
    Video,
    /// Text.
    Subtitles,
    /// Captions and whatever comes later.
    Other,
}

/// One alternative rendition of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendition {
    /// Absolute URL of its media playlist; none if it is within the variant's own segments.
    pub url: Option<String>,
    /// What it is.
    pub kind: RenditionKind,
    /// The group that variants name.
    pub group: String,
    /// Its name for people.
    pub name: String,
    /// Language as in RFC 5646.
    pub language: Option<String>,
    /// Whether it is played unless the viewer chooses otherwise.
    pub is_default: bool,
}

/// Reads the playlist `text` that came from the absolute `url` (after redirects).
///
/// Of a live playlist the newest segments are kept, of an ended one the first (the limits are in
/// [`super`]). Gaps, and segments whose URL has a variable in it, are left out but counted.
///
/// # Errors
/// [`TimelineError`], which says who is at fault.
pub fn read(text: &str, url: &str) -> Result<HlsPlaylist, TimelineError> {
    let base = base_url(text, url)?;
    let mut reader = PlaylistReader::new(text, base);
    let mut lines = Lines::new(text);
    match lines.next() {
        Some(first) if first.is_header() => {}
        _ => return Err(TimelineError::NotAPlaylist("an HLS playlist")),
    }
    for line in lines {
        reader.handle_line(&line)?;
    }
    reader.finish(url)
}

/// The media playlist `text` with the stream's tag, and with the tag of every segment and every part for which
/// `content_of` knows the content. Tags of ours that are in there already are replaced; all else
/// stays as it is, byte for byte. Any other text comes back unchanged.
pub fn annotate(
    text: &str,
    url: &str,
    stream: impl Into<StreamTag>,
    mut content_of: impl FnMut(&Listed) -> Option<Content>,
) -> String {
    let Ok(base) = base_url(text, url) else {
        return text.into();
    };
    let stream = stream.into();
    let mut reader = PlaylistReader::new(text, base);
    for line in Lines::new(text) {
        if reader.handle_line(&line).is_err() {
            return text.into();
        }
    }
    if !reader.is_media {
        return text.into();
    }
    let mut segments = reader.segments.iter().peekable();
    let mut parts = reader.parts.listed.iter().peekable();
    let tags_max = segments.len() + parts.len() + 1;
    let mut out = String::with_capacity(text.len() + 64 * tags_max);
    for line in Lines::new(text) {
        let due = segments.next_if(|segment| segment.inf_offset == line.offset);
        if let Some(content) = due.and_then(|segment| content_of(&segment.listed)) {
            push_line(&mut out, &tags::write_segment(&content), &line);
        }
        let due = parts.next_if(|(offset, _)| *offset == line.offset);
        if let Some(content) = due.and_then(|(_, part)| content_of(&part.listed)) {
            push_line(&mut out, &tags::write_part(&content), &line);
        }
        let ours = [STREAM_TAG, SEGMENT_TAG, PART_TAG];
        if ours.iter().any(|tag| line.starts_with(tag)) {
            continue;
        }
        out.push_str(line.raw);
        if line.is_header() {
            if !line.raw.ends_with('\n') {
                out.push('\n');
            }
            push_line(&mut out, &tags::write_stream(&stream), &line);
        }
    }
    out
}

/// Adds `text` with the line end of `like`.
fn push_line(out: &mut String, text: &str, like: &Line<'_>) {
    out.push_str(text);
    let end = if like.raw.ends_with("\r\n") {
        "\r\n"
    } else {
        "\n"
    };
    out.push_str(end);
}

/// A line and where it starts. Derefs to the line without its end.
struct Line<'a> {
    offset: usize,
    raw: &'a str,
}

impl Deref for Line<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.raw.trim_end_matches(['\r', '\n'])
    }
}

impl Line<'_> {
    fn is_header(&self) -> bool {
        let line = self.trim_end();
        self.offset == 0 && line.strip_prefix('\u{feff}').unwrap_or(line) == "#EXTM3U"
    }
}

struct Lines<'a> {
    text: &'a str,
    offset: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, offset: 0 }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = &self.text[self.offset..];
        let raw = rest.split_inclusive('\n').next()?;
        let offset = self.offset;
        self.offset += raw.len();
        Some(Line { offset, raw })
    }
}

struct ReadSegment {
    inf_offset: usize,
    listed: Listed,
}

/// What the tags since the last URI say of the next one.
#[derive(Default)]
struct Pending {
    inf: Option<(usize, u32)>,
    range: Option<(u64, Option<u64>)>,
    gap: bool,
    content: Option<Content>,
    variant: Option<Variant>,
}

struct PlaylistReader {
    base: Url,
    options: ParsingOptions,
    multivariant: Multivariant,
    is_media: bool,
    is_multivariant: bool,
    stream: Option<StreamId>,
    namer: Namer,
    target_ms: Option<u32>,
    ended: bool,
    seq: u64,
    inits: Vec<Object>,
    segments: VecDeque<ReadSegment>,
    parts: PartsReader,
    /// Where the last byte range of each object ended.
    range_ends: BTreeMap<String, u64>,
    pending: Pending,
}

impl PlaylistReader {
    fn new(text: &str, base: Url) -> Self {
        Self {
            base,
            options: ParsingOptions::default(),
            multivariant: Multivariant::default(),
            is_media: false,
            is_multivariant: false,
            stream: None,
            namer: Namer::default(),
            target_ms: None,
            ended: text.lines().any(|line| line.trim_end() == "#EXT-X-ENDLIST"),
            seq: 0,
            inits: Vec::new(),
            segments: VecDeque::new(),
            parts: PartsReader::default(),
            range_ends: BTreeMap::new(),
            pending: Pending::default(),
        }
    }

    fn handle_line(&mut self, line: &Line<'_>) -> Result<(), TimelineError> {
        if line.starts_with(STREAM_TAG) {
            let tag = tags::read_stream(line);
            self.stream = tag.map(|tag| tag.stream);
            self.namer = Namer::new(self.base.as_str(), tag.and_then(|tag| tag.token_word));
            return Ok(());
        }
        if line.starts_with(SEGMENT_TAG) {
            self.pending.content = tags::read_segment(line);
            return Ok(());
        }
        if line.starts_with(PART_TAG) {
            self.parts.handle_tag(line);
            return Ok(());
        }
        let malformed = |what| TimelineError::Malformed(format!("{what} at byte {}", line.offset));
        let parsed = parse(line, &self.options)
            .map_err(|_| malformed("unreadable line"))?
            .parsed;
        match parsed {
            HlsLine::KnownTag(KnownTag::Hls(tag)) => self.handle_tag(&tag, line),
            HlsLine::UnknownTag(tag) => match tag.validation_error() {
                Some(_) if tag.name() == "INF" => Err(malformed("bad EXTINF")),
                Some(_) if tag.name() == "-X-BYTERANGE" => Err(malformed("bad EXT-X-BYTERANGE")),
                _ => Ok(()),
            },
            HlsLine::Uri(uri) if !uri.trim().is_empty() => self.handle_uri(uri.trim()),
            _ => Ok(()),
        }
    }

    fn handle_tag(&mut self, tag: &hls::Tag<'_>, line: &Line<'_>) -> Result<(), TimelineError> {
        match tag {
            hls::Tag::Targetduration(tag) => {
                self.is_media = true;
                let ms = tag.target_duration().saturating_mul(1000);
                self.target_ms = Some(u32::try_from(ms).unwrap_or(u32::MAX));
            }
            // Before the first segment, says RFC 8216 section 4.3.3.2: two segments with one number are none.
            hls::Tag::MediaSequence(tag) if tag.media_sequence() < self.seq => {
                return Err(TimelineError::Malformed("numbers that go back".into()));
            }
            hls::Tag::MediaSequence(tag) => self.seq = tag.media_sequence(),
            hls::Tag::Skip(tag) => self.seq = self.seq.saturating_add(tag.skipped_segments()),
            hls::Tag::Inf(tag) => {
                self.is_media = true;
                // A float cast saturates, and turns what is not a number into 0.
                let ms = (tag.duration() * 1000.0 + 0.5) as u32;
                self.pending.inf = Some((line.offset, ms));
            }
            hls::Tag::Byterange(tag) => self.pending.range = Some((tag.length(), tag.offset())),
            hls::Tag::Gap(_) => self.pending.gap = true,
            hls::Tag::Map(tag) => self.handle_map(tag)?,
            hls::Tag::PartInf(tag) => self.parts.handle_inf(tag),
            hls::Tag::Part(tag) => {
                let at = Place {
                    base: &self.base,
                    namer: &self.namer,
                    seq: self.seq,
                };
                self.parts.handle_part(tag, &at, line.offset);
            }
            hls::Tag::PreloadHint(tag) => {
                let at = Place {
                    base: &self.base,
                    namer: &self.namer,
                    seq: self.seq,
                };
                self.parts.handle_hint(tag, &at, line);
            }
            hls::Tag::StreamInf(tag) => {
                self.is_multivariant = true;
                self.pending.variant = Some(read_variant(tag));
            }
            hls::Tag::Media(tag) => {
                self.is_multivariant = true;
                let rendition = self.read_rendition(tag)?;
                self.multivariant.renditions.push(rendition);
                self.check_rendition_count()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn check_rendition_count(&self) -> Result<(), TimelineError> {
        let Multivariant {
            variants,
            renditions,
        } = &self.multivariant;
        if variants.len() + renditions.len() > RENDITIONS_MAX {
            return Err(TimelineError::TooLarge("renditions"));
        }
        Ok(())
    }

    fn handle_map(&mut self, tag: &hls::Map<'_>) -> Result<(), TimelineError> {
        if has_variable(tag.uri()) {
            return Ok(());
        }
        let range = tag.byterange().map(|range| (range.offset, range.length));
        if let Some((first, len)) = range {
            end_of_range(first, len)?;
        }
        let init = Object {
            url: resolve(&self.base, tag.uri())?.into(),
            range,
        };
        if self.inits.last() != Some(&init) && self.inits.len() < SEGMENTS_LIVE_MAX {
            self.inits.push(init);
        }
        Ok(())
    }

    fn read_rendition(&self, tag: &hls::Media<'_>) -> Result<Rendition, TimelineError> {
        let url = tag.uri().filter(|uri| !has_variable(uri));
        let url = url.map(|uri| resolve(&self.base, uri)).transpose()?;
        Ok(Rendition {
            url: url.map(Into::into),
            kind: match tag.media_type() {
                EnumeratedString::Known(MediaType::Audio) => RenditionKind::Audio,
                EnumeratedString::Known(MediaType::Video) => RenditionKind::Video,
                EnumeratedString::Known(MediaType::Subtitles) => RenditionKind::Subtitles,
                _ => RenditionKind::Other,
            },
            group: tag.group_id().into(),
            name: tag.name().into(),
            language: tag.language().map(Into::into),
            is_default: tag.default(),
        })
    }

    fn handle_uri(&mut self, uri: &str) -> Result<(), TimelineError> {
        let pending = std::mem::take(&mut self.pending);
        if let Some(mut variant) = pending.variant {
            if !has_variable(uri) {
                variant.url = resolve(&self.base, uri)?.into();
                self.multivariant.variants.push(variant);
                self.check_rendition_count()?;
            }
            return Ok(());
        }
        let Some((inf_offset, duration_ms)) = pending.inf else {
            return Ok(());
        };
        let seq = self.seq;
        let next = seq.checked_add(1);
        self.seq = next.ok_or_else(|| TimelineError::Malformed("numbers past 2^64".into()))?;
        self.parts.on_segment();
        if has_variable(uri) {
            return Ok(());
        }
        let url = String::from(resolve(&self.base, uri)?);
        let range = self.place_range(&url, pending.range)?;
        if pending.gap {
            return Ok(());
        }
        let info = SegmentInfo {
            name: self.namer.name_of(&url, range),
            seq,
            duration_ms,
            content: pending.content,
        };
        self.keep(ReadSegment {
            inf_offset,
            listed: Listed { info, url, range },
        });
        Ok(())
    }

    /// First byte and length: a range without offset begins where the last one of its object ended.
    fn place_range(
        &mut self,
        url: &str,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<Option<(u64, u64)>, TimelineError> {
        let Some((len, offset)) = range else {
            return Ok(None);
        };
        let first = offset.or_else(|| self.range_ends.get(url).copied());
        let Some(first) = first else {
            return Err(TimelineError::Malformed(
                "EXT-X-BYTERANGE without a place to begin at".into(),
            ));
        };
        let end = end_of_range(first, len)?;
        if self.range_ends.len() >= SEGMENTS_LIVE_MAX {
            self.range_ends.clear();
        }
        self.range_ends.insert(url.into(), end);
        Ok(Some((first, len)))
    }

    fn keep(&mut self, segment: ReadSegment) {
        if self.ended {
            if self.segments.len() < SEGMENTS_ENDED_MAX {
                self.segments.push_back(segment);
            }
            return;
        }
        if self.segments.len() == SEGMENTS_LIVE_MAX {
            self.segments.pop_front();
        }
        self.segments.push_back(segment);
    }

    fn finish(self, url: &str) -> Result<HlsPlaylist, TimelineError> {
        match (self.is_media, self.is_multivariant) {
            (true, true) => Err(TimelineError::Malformed(
                "tags of both kinds of playlist".into(),
            )),
            (false, true) => Ok(HlsPlaylist::Multivariant(self.multivariant)),
            (false, false) => Err(TimelineError::Malformed("no EXT-X-TARGETDURATION".into())),
            (true, false) => {
                let segments: Vec<Listed> = self.segments.into_iter().map(|s| s.listed).collect();
                let longest_ms = segments.iter().map(|s| s.info.duration_ms).max();
                let mut track = Track {
                    track: TrackId(0),
                    stream: self.stream,
                    target_ms: self.target_ms.or(longest_ms).unwrap_or(0),
                    ended: self.ended,
                    inits: self.inits,
                    segments,
                    parts: self.parts.finish(),
                };
                track.identify(url, &self.namer);
                Ok(HlsPlaylist::Media(track))
            }
        }
    }
}

fn end_of_range(first: u64, len: u64) -> Result<u64, TimelineError> {
    let end = first.checked_add(len).filter(|end| *end <= RANGE_END_MAX);
    end.ok_or_else(|| TimelineError::Malformed("a byte range that no object has".into()))
}

/// Whether `EXT-X-DEFINE` has a say in `uri`. Such segments are the CDN's alone.
fn has_variable(uri: &str) -> bool {
    uri.contains("{$")
}

fn read_variant(tag: &hls::StreamInf<'_>) -> Variant {
    let codecs = tag.codecs();
    let is_audio_codec = |codec: &str| {
        let audio = [
            "mp4a", "ac-3", "ec-3", "ac-4", "opus", "flac", "fLaC", "Opus",
        ];
        audio.iter().any(|prefix| codec.trim().starts_with(prefix))
    };
    let only_audio = codecs.is_some_and(|codecs| codecs.split(',').all(is_audio_codec));
    Variant {
        url: String::new(),
        bandwidth_bps: tag.bandwidth(),
        resolution: tag.resolution().map(|size| {
            let clamp = |pixels| u32::try_from(pixels).unwrap_or(u32::MAX);
            (clamp(size.width), clamp(size.height))
        }),
        codecs: codecs.map(Into::into),
        is_audio: only_audio && tag.resolution().is_none(),
        audio_group: tag.audio().map(Into::into),
        subtitles_group: tag.subtitles().map(Into::into),
    }
}

#[cfg(test)]
mod tests;
