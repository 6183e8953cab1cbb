//! CMAF in both directions: what an init segment says, the samples of fragments, and fragments made of
//! samples.

use bytes::Bytes;
use mp4_atom::{
    Codec, DecodeAtom, Encode, FourCC, Header, Mfhd, Moof, Moov, Styp, Tfdt, Tfhd, Traf, Trun,
    TrunEntry,
};

/// What kind of media a track holds, with what manifests must say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Video { width: u16, height: u16, fps: u32 },
    Audio { sample_rate: u32, channels: u16 },
}

/// What players are told of one rendition.
#[derive(Debug, Clone)]
pub(crate) struct TrackInfo {
    /// Its folder below `/live/` and its DASH Representation id.
    pub(crate) id: String,
    pub(crate) media: Media,
    /// RFC 6381 codec string.
    pub(crate) codec: String,
    pub(crate) timescale: u32,
    /// All samples last equally long, in ticks.
    pub(crate) sample_duration: u32,
    pub(crate) init: Bytes,
    track_id: u32,
}

/// One frame.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) data: Bytes,
    pub(crate) flags: u32,
}

/// What a fragment has of one track.
pub(crate) struct Fragment {
    pub(crate) track_id: u32,
    /// Decode time of the first sample, in ticks.
    pub(crate) start: u64,
    /// Of every sample, in ticks.
    pub(crate) sample_duration: u32,
    pub(crate) samples: Vec<Sample>,
}

/// `sample_is_non_sync_sample` of ISO/IEC 14496-12 section 8.8.3.1.
const NON_SYNC: u32 = 1 << 16;

impl Sample {
    /// Whether a decoder can start here.
    pub(crate) fn is_sync(&self) -> bool {
        self.flags & NON_SYNC == 0
    }
}

impl TrackInfo {
    /// Reads the only track of an init segment.
    pub(crate) fn read(
        id: &str,
        init: Bytes,
        moov: &Moov,
        sample_duration: u32,
    ) -> Result<Self, String> {
        let trak = moov.trak.first().ok_or("no track")?;
        let mdia = &trak.mdia;
        let timescale = mdia.mdhd.timescale;
        if timescale == 0 || sample_duration == 0 {
            return Err("no time scale, or samples without duration".into());
        }
        let (media, codec) = describe(&mdia.minf.stbl.stsd.codecs, timescale / sample_duration)?;
        Ok(Self {
            id: id.into(),
            media,
            codec,
            timescale,
            sample_duration,
            init,
            track_id: trak.tkhd.track_id,
        })
    }

    /// One fragment of `samples`: `styp` if it begins a segment, `free` if there is filler, `moof`
    /// and `mdat`.
    /// `mdat`. `start` is the first sample's, counted in samples.
    pub(crate) fn mux<'a>(
        &self,
        place: Place,
        samples: impl Iterator<Item = &'a Sample> + Clone,
        filler: &[u8],
    ) -> Bytes {
        let entries: Vec<TrunEntry> = samples
            .clone()
            .map(|sample| TrunEntry {
                size: Some(sample.data.len() as u32),
                flags: Some(sample.flags),
                ..TrunEntry::default()
            })
            .collect();
        let payload: usize = samples.clone().map(|sample| sample.data.len()).sum();
        let moof = self.moof(&place, entries);
        let mut out = Vec::with_capacity(payload + moof.len() + filler.len() + 64);
        if place.begins_segment {
            let cmaf = [*b"msdh", *b"msix", *b"cmfs"].map(FourCC::from);
            let styp = Styp {
                major_brand: cmaf[0],
                minor_version: 0,
                compatible_brands: cmaf.to_vec(),
            };
            styp.encode(&mut out).expect("a styp box fits");
        }
        if !filler.is_empty() {
            push_box(&mut out, b"free", [filler].into_iter());
        }
        out.extend_from_slice(&moof);
        push_box(&mut out, b"mdat", samples.map(|sample| &sample.data[..]));
        out.into()
    }

    fn moof(&self, place: &Place, entries: Vec<TrunEntry>) -> Vec<u8> {
        let encode = |data_offset| {
            let traf = Traf {
                tfhd: Tfhd {
                    track_id: self.track_id,
                    default_sample_duration: Some(self.sample_duration),
                    default_base_is_moof: true,
                    ..Tfhd::default()
                },
                tfdt: Some(Tfdt {
                    base_media_decode_time: place.start,
                }),
                trun: vec![Trun {
                    data_offset: Some(data_offset),
                    samples: entries.clone().into(),
                }],
                ..Traf::default()
            };
            let mut out = Vec::new();
            let moof = Moof {
                mfhd: Mfhd {
                    sequence_number: place.sequence,
                },
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

    pub(crate) fn seconds(&self, ticks: u64) -> f64 {
        ticks as f64 / f64::from(self.timescale)
    }
}

/// Where a fragment is in its track.
pub(crate) struct Place {
    pub(crate) sequence: u32,
    /// Decode time of its first sample, in ticks.
    pub(crate) start: u64,
    pub(crate) begins_segment: bool,
}

/// Size and type of a box that is below 4 GiB.
pub(crate) const BOX_HEADER_LEN: usize = 8;

/// Reads one fragment of any number of tracks; `data` starts at its `moof`, of which `header` is read
/// already.
pub(crate) fn read_fragment(
    moov: &Moov,
    header: &Header,
    data: &Bytes,
) -> Result<Vec<Fragment>, String> {
    let end = header.size.map_or(data.len(), |size| size + BOX_HEADER_LEN);
    let mut body = data
        .get(BOX_HEADER_LEN..end)
        .ok_or("a moof that is cut off")?;
    let moof = Moof::decode_atom(header, &mut body).map_err(|error| error.to_string())?;
    moof.traf
        .iter()
        .map(|traf| read_track(moov, traf, data))
        .collect()
}

fn read_track(moov: &Moov, traf: &Traf, data: &Bytes) -> Result<Fragment, String> {
    let tfhd = &traf.tfhd;
    let trexes = moov.mvex.iter().flat_map(|mvex| &mvex.trex);
    let trex = trexes
        .into_iter()
        .find(|trex| trex.track_id == tfhd.track_id)
        .ok_or("no trex")?;
    let fallback = tfhd
        .default_sample_duration
        .unwrap_or(trex.default_sample_duration);
    let mut sample_duration = None;
    let mut samples = Vec::new();
    for trun in &traf.trun {
        let mut at = trun
            .data_offset
            .and_then(|at| usize::try_from(at).ok())
            .ok_or("no data offset")?;
        for entry in &trun.samples {
            let duration = entry.duration.unwrap_or(fallback);
            if *sample_duration.get_or_insert(duration) != duration || entry.cts.unwrap_or(0) != 0 {
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
            let end = at
                .checked_add(size as usize)
                .filter(|end| *end <= data.len());
            let end = end.ok_or("a sample is cut off")?;
            samples.push(Sample {
                data: data.slice(at..end),
                flags,
            });
            at = end;
        }
    }
    Ok(Fragment {
        track_id: tfhd.track_id,
        start: traf
            .tfdt
            .as_ref()
            .map_or(0, |tfdt| tfdt.base_media_decode_time),
        sample_duration: sample_duration.ok_or("no samples")?,
        samples,
    })
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
