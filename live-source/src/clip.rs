//! The built-in clip: parsed once into samples, from which segments of any length are muxed.

use std::ops::Range;

use bytes::Bytes;
use mp4_atom::{
    Atom, Codec, Decode, DecodeAtom, Encode, FourCC, Header, Mfhd, Moof, Moov, Styp, Tfdt, Tfhd,
    Traf, Trun, TrunEntry,
};

use crate::Error;

/// Every loop of the clip lasts exactly this long in every track.
pub(crate) const LOOP_MS: u64 = 24_000;

/// What kind of media a track holds, with what manifests must say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Video { width: u16, height: u16, fps: u32 },
    Audio { sample_rate: u32, channels: u16 },
}

/// One rendition of the clip, ready to be cut into segments.
#[derive(Debug)]
pub(crate) struct Track {
    /// Its folder below `/live/` and its DASH Representation id.
    pub(crate) id: &'static str,
    pub(crate) media: Media,
    /// RFC 6381 codec string.
    pub(crate) codec: String,
    pub(crate) timescale: u32,
    /// All samples last equally long, in ticks.
    pub(crate) sample_duration: u32,
    pub(crate) init: Bytes,
    track_id: u32,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    data: Bytes,
    flags: u32,
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
    /// Samples in one loop.
    pub(crate) fn loop_samples(&self) -> u64 {
        self.samples.len() as u64
    }

    /// Muxes the samples `range`, counted from media time 0 across all loops, into one CMAF segment of
    /// one fragment: `styp`, `free` if there is filler, `moof`, `mdat`.
    pub(crate) fn mux(&self, sequence: u32, range: Range<u64>, filler: &[u8]) -> Bytes {
        let samples = || {
            range
                .clone()
                .map(|i| &self.samples[(i % self.loop_samples()) as usize])
        };
        let entries: Vec<TrunEntry> = samples()
            .map(|sample| TrunEntry {
                size: Some(sample.data.len() as u32),
                flags: Some(sample.flags),
                ..TrunEntry::default()
            })
            .collect();
        let payload: usize = samples().map(|sample| sample.data.len()).sum();
        let start = range.start * u64::from(self.sample_duration);
        let moof = self.moof(sequence, start, entries);

        let mut out = Vec::with_capacity(payload + moof.len() + filler.len() + 64);
        let cmaf = [*b"msdh", *b"msix", *b"cmfs"].map(FourCC::from);
        let styp = Styp {
            major_brand: cmaf[0],
            minor_version: 0,
            compatible_brands: cmaf.to_vec(),
        };
        styp.encode(&mut out).expect("a styp box fits");
        if !filler.is_empty() {
            push_box(&mut out, b"free", [filler].into_iter());
        }
        out.extend_from_slice(&moof);
        push_box(&mut out, b"mdat", samples().map(|sample| &sample.data[..]));
        out.into()
    }

    fn moof(&self, sequence_number: u32, start: u64, entries: Vec<TrunEntry>) -> Vec<u8> {
        let encode = |data_offset| {
            let traf = Traf {
                tfhd: Tfhd {
                    track_id: self.track_id,
                    default_sample_duration: Some(self.sample_duration),
                    default_base_is_moof: true,
                    ..Tfhd::default()
                },
                tfdt: Some(Tfdt {
                    base_media_decode_time: start,
                }),
                trun: vec![Trun {
                    data_offset: Some(data_offset),
                    samples: entries.clone().into(),
                }],
                ..Traf::default()
            };
            let mut out = Vec::new();
            let moof = Moof {
                mfhd: Mfhd { sequence_number },
                traf: vec![traf],
            };
            moof.encode(&mut out)
                .expect("a moof box of at most 10 s fits");
            out
        };
        // The offset counts from the start of this box to the first byte in the mdat after it.
        let len = encode(0).len();
        encode(len as i32 + 8)
    }

    fn parse(id: &'static str, file: &'static [u8]) -> Result<Self, String> {
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
                kind if kind == Moof::KIND => {
                    let moof = Moof::decode_atom(&header, &mut body).map_err(|e| e.to_string())?;
                    pending = Some((start, moof));
                }
                kind if kind == FourCC::new(b"mdat") => {
                    let (start, moof) = pending.take().ok_or("an mdat without a moof")?;
                    let moov = moov.as_ref().ok_or("a moof before the moov")?;
                    let duration = read_fragment(moov, &moof, &file[start..], &mut samples)?;
                    if *sample_duration.get_or_insert(duration) != duration {
                        return Err("samples differ in duration".into());
                    }
                }
                _ => {}
            }
            rest = after;
        }
        let moov = moov.ok_or("no moov")?;
        let sample_duration = sample_duration.ok_or("no samples")?;
        let mdia = &moov.trak.first().ok_or("no track")?.mdia;
        let timescale = mdia.mdhd.timescale;
        let (media, codec) = describe(&mdia.minf.stbl.stsd.codecs, timescale / sample_duration)?;
        let ticks = samples.len() as u64 * u64::from(sample_duration);
        if ticks * 1000 != LOOP_MS * u64::from(timescale) {
            return Err(format!("lasts {ticks}/{timescale} s, not {LOOP_MS} ms"));
        }
        let track_id = moov.trak[0].tkhd.track_id;
        Ok(Self {
            id,
            media,
            codec,
            timescale,
            sample_duration,
            init,
            track_id,
            samples,
        })
    }
}

/// Adds the samples of one fragment; `data` starts at its moof. Returns their common duration.
fn read_fragment(
    moov: &Moov,
    moof: &Moof,
    data: &'static [u8],
    samples: &mut Vec<Sample>,
) -> Result<u32, String> {
    let trex = moov
        .mvex
        .as_ref()
        .and_then(|mvex| mvex.trex.first())
        .ok_or("no trex")?;
    let [traf] = &moof.traf[..] else {
        return Err("not one track a fragment".into());
    };
    let tfhd = &traf.tfhd;
    let duration = tfhd
        .default_sample_duration
        .unwrap_or(trex.default_sample_duration);
    for trun in &traf.trun {
        let mut at = trun
            .data_offset
            .and_then(|at| usize::try_from(at).ok())
            .ok_or("no data offset")?;
        for entry in &trun.samples {
            if entry.duration.unwrap_or(duration) != duration || entry.cts.unwrap_or(0) != 0 {
                return Err("samples differ in duration or are reordered".into());
            }
            let size = entry
                .size
                .or(tfhd.default_sample_size)
                .unwrap_or(trex.default_sample_size);
            let flags = entry
                .flags
                .or(tfhd.default_sample_flags)
                .unwrap_or(trex.default_sample_flags);
            let data = data
                .get(at..at + size as usize)
                .ok_or("a sample is cut off")?;
            at += data.len();
            samples.push(Sample {
                data: Bytes::from_static(data),
                flags,
            });
        }
    }
    Ok(duration)
}

fn describe(codecs: &[Codec], fps: u32) -> Result<(Media, String), String> {
    match codecs {
        [Codec::Avc1(avc1)] => {
            let avcc = &avc1.avcc;
            let codec = format!(
                "avc1.{:02x}{:02x}{:02x}",
                avcc.avc_profile_indication, avcc.profile_compatibility, avcc.avc_level_indication
            );
            let (width, height) = (avc1.visual.width, avc1.visual.height);
            Ok((Media::Video { width, height, fps }, codec))
        }
        [Codec::Mp4a(mp4a)] => {
            let config = &mp4a.esds.es_desc.dec_config;
            let profile = config
                .dec_specific
                .as_ref()
                .map_or(2, |specific| specific.profile);
            let channels = mp4a.audio.channel_count;
            let sample_rate = u32::from(mp4a.audio.sample_rate.integer());
            Ok((
                Media::Audio {
                    sample_rate,
                    channels,
                },
                format!("mp4a.40.{profile}"),
            ))
        }
        _ => Err("neither H.264 nor AAC".into()),
    }
}

fn push_box<'a>(out: &mut Vec<u8>, kind: &[u8; 4], parts: impl Iterator<Item = &'a [u8]>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(kind);
    parts.for_each(|part| out.extend_from_slice(part));
    let size = u32::try_from(out.len() - start).expect("a segment is far below 4 GiB");
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}
