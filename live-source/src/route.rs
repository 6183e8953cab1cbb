//! What paths name, for everything that we cut into segments ourselves.

use crate::object::{Kind, Stream};

/// The folder of the only rendition with sound.
pub(crate) const SOUND: &str = "audio";

/// A path below `/live/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Multivariant,
    Manifest,
    Time,
    /// Something of the track with this name.
    Track(&'a str, File),
}

/// What a track has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum File {
    Playlist,
    Init,
    Segment(u64),
    /// A segment, by the decode time of its first sample in ticks.
    Timed(u64),
    /// The number of the segment, and that of the part in it.
    Part(u64, u64),
}

impl<'a> Route<'a> {
    pub(crate) fn read(path: &'a str) -> Option<Self> {
        Some(match path {
            "main.m3u8" => Self::Multivariant,
            "main.mpd" => Self::Manifest,
            "time" => Self::Time,
            _ => {
                let (track, file) = path.split_once('/')?;
                Self::Track(track, File::read(file)?)
            }
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Multivariant => Kind::Multivariant,
            Self::Manifest => Kind::Manifest,
            Self::Time => Kind::Time,
            Self::Track(track, file) => {
                let stream = if *track == SOUND {
                    Stream::Audio
                } else {
                    Stream::Video
                };
                match file {
                    File::Playlist => Kind::Playlist,
                    File::Init => Kind::Init(stream),
                    File::Segment(_) | File::Timed(_) => Kind::Segment(stream),
                    File::Part(..) => Kind::Part(stream),
                }
            }
        }
    }
}

impl File {
    fn read(file: &str) -> Option<Self> {
        let numbers = |prefix| file.strip_prefix(prefix)?.strip_suffix(".m4s");
        match file {
            "index.m3u8" => Some(Self::Playlist),
            "init.mp4" => Some(Self::Init),
            _ => {
                if let Some(segment) = numbers("seg-") {
                    return number(segment).map(Self::Segment);
                }
                if let Some(ticks) = numbers("time-") {
                    return number(ticks).map(Self::Timed);
                }
                let (segment, part) = numbers("part-")?.split_once('.')?;
                Some(Self::Part(number(segment)?, number(part)?))
            }
        }
    }
}

/// A number as we write it: nothing has two names.
fn number(digits: &str) -> Option<u64> {
    let canonical = digits == "0" || !digits.starts_with('0');
    (canonical && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_has_one_path() {
        let file = |path| match Route::read(path) {
            Some(Route::Track("v", file)) => Some(file),
            _ => None,
        };
        assert_eq!(file("v/seg-0.m4s"), Some(File::Segment(0)));
        assert_eq!(file("v/part-10.3.m4s"), Some(File::Part(10, 3)));
        for wrong in [
            "v/seg-01.m4s",
            "v/seg-.m4s",
            "v/part-1.m4s",
            "v/part-1.+2.m4s",
            "v/x",
            "v",
        ] {
            assert_eq!(file(wrong), None, "{wrong}");
        }
    }
}
