//! What an origin can answer, before faults and HTTP have their say.

use std::time::Duration;

use bytes::Bytes;

/// What an object is, which decides its headers and which faults hit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The HLS multivariant playlist.
    Multivariant,
    /// An HLS media playlist.
    Playlist,
    /// The DASH manifest.
    Manifest,
    Init(Stream),
    Segment(Stream),
    /// A part of a media segment (LL-HLS).
    Part(Stream),
    /// The clock that the DASH manifest points to.
    Time,
}

/// Whether an init or media segment carries pictures or sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Video,
    Audio,
}

impl Kind {
    /// Whether it has frames.
    pub(crate) fn is_media(self) -> bool {
        matches!(self, Self::Segment(_) | Self::Part(_))
    }

    pub(crate) fn is_playlist(self) -> bool {
        matches!(self, Self::Multivariant | Self::Playlist | Self::Manifest)
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Multivariant | Self::Playlist => "application/vnd.apple.mpegurl",
            Self::Manifest => "application/dash+xml",
            Self::Init(stream) | Self::Segment(stream) | Self::Part(stream) => match stream {
                Stream::Video => "video/mp4",
                Stream::Audio => "audio/mp4",
            },
            Self::Time => "text/plain; charset=utf-8",
        }
    }

    /// How long caches may keep the object. Names are used again when a source restarts, so nothing is
    /// immutable; a playlist that is older than half a segment delays everybody behind the cache.
    pub(crate) fn max_age(self, segment: Duration, window: Duration) -> Duration {
        match self {
            Self::Multivariant => Duration::from_secs(10),
            Self::Playlist | Self::Manifest => segment / 2,
            Self::Init(_) | Self::Segment(_) | Self::Part(_) => window.max(Duration::from_secs(60)),
            Self::Time => Duration::ZERO,
        }
    }
}

/// What an origin has under a path right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    Found(Bytes),
    /// Will exist: caches must forget the 404 at once. `next`: it is the first one missing, or a playlist
    /// that is asked for when it has something that comes soon.
    NotYet {
        next: bool,
    },
    /// Existed, and is gone.
    Expired,
    /// Never exists.
    Unknown,
    /// A playlist that is asked for when it has something that is too far off.
    TooFar,
    /// The source is still starting.
    Starting,
}
