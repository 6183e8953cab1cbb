//! The built-in clip: parsed once into samples, from which segments of any length are muxed.

use std::ops::Range;

use bytes::Bytes;
use mp4_atom::{Atom, Decode, DecodeAtom, FourCC, Header, Moof, Moov};

use crate::Error;
use crate::cmaf::{Place, Sample, TrackInfo, read_fragment};

/// Every loop of the clip lasts exactly this long in every track.
pub(crate) const LOOP_MS: u64 = 24_000;

/// One rendition of the clip, ready to be cut into segments.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) info: TrackInfo,
    samples: Vec<Sample>,
}

/// The tracks of the clip: video, best first, then sound.
pub(crate) fn load() -> Result<Vec<Track>, Error> {
    [
        ("360p", include_bytes!("../clip/v360.mp4").as_slice()),
        ("240p", include_bytes!("../clip/v240.mp4")),
        ("144p", include_bytes!("../clip/v144.mp4")),
        ("audio", include_bytes!("../clip/audio.mp4")),
    ]
    .into_iter()
    .map(|(id, file)| Track::parse(id, file).map_err(|reason| Error::Clip { track: id, reason }))
    .collect()
}

impl Track {
    /// Muxes the samples `range`, counted from media time 0 across all loops, into one CMAF fragment.
    pub(crate) fn mux(
        &self,
        sequence: u32,
        begins_segment: bool,
        range: Range<u64>,
        filler: &[u8],
    ) -> Bytes {
        let place = Place {
            sequence,
            start: range.start * u64::from(self.info.sample_duration),
            begins_segment,
        };
        self.info
            .mux(place, range.map(|index| self.sample(index)), filler)
    }

    /// A sample, counted from media time 0 across all loops.
    pub(crate) fn sample(&self, index: u64) -> &Sample {
        &self.samples[(index % self.samples.len() as u64) as usize]
    }

    fn parse(id: &str, file: &'static [u8]) -> Result<Self, String> {
        let mut rest = file;
        let (mut moov, mut init, mut pending) = (None, Bytes::new(), None);
        let mut samples = Vec::new();
        let mut sample_duration = None;
        while !rest.is_empty() {
            let start = file.len() - rest.len();
            let header = Header::decode(&mut rest).map_err(|e| e.to_string())?;
            let size = header
                .size
                .filter(|size| *size <= rest.len())
                .ok_or("a box is cut off")?;
            let (mut body, after) = rest.split_at(size);
            match header.kind {
                kind if kind == Moov::KIND => {
                    moov = Some(Moov::decode_atom(&header, &mut body).map_err(|e| e.to_string())?);
                    init = Bytes::from_static(&file[..file.len() - after.len()]);
                }
                kind if kind == Moof::KIND => pending = Some((start, header)),
                kind if kind == FourCC::new(b"mdat") => {
                    let (start, header) = pending.take().ok_or("an mdat without a moof")?;
                    let moov = moov.as_ref().ok_or("a moof before the moov")?;
                    let data = Bytes::from_static(&file[start..]);
                    let fragments = read_fragment(moov, &header, &data)?;
                    let [fragment] =
                        <[_; 1]>::try_from(fragments).map_err(|_| "not one track a fragment")?;
                    if *sample_duration.get_or_insert(fragment.sample_duration)
                        != fragment.sample_duration
                    {
                        return Err("samples differ in duration".into());
                    }
                    samples.extend(fragment.samples);
                }
                _ => {}
            }
            rest = after;
        }
        let moov = moov.ok_or("no moov")?;
        let sample_duration = sample_duration.ok_or("no samples")?;
        let info = TrackInfo::read(id, init, &moov, sample_duration)?;
        let ticks = samples.len() as u64 * u64::from(sample_duration);
        if ticks * 1000 != LOOP_MS * u64::from(info.timescale) {
            return Err(format!(
                "lasts {ticks}/{} s, not {LOOP_MS} ms",
                info.timescale
            ));
        }
        Ok(Self { info, samples })
    }
}
