//! Names of things. All are small values; strings stay with the drivers.

use core::fmt;

use sha2::{Digest, Sha256};

/// A viewer, named by the tracker for the length of its visit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl PeerId {
    /// A short name, for lists in which the members of one group are told apart: the four parts
    /// of 16 bits, xored.
    pub const fn tag(self) -> u16 {
        let half = self.0 ^ self.0 >> 32;
        (half ^ half >> 16) as u16
    }
}

/// A stream: everything that one signing key publishes under one name.
///
/// See [`StreamId::of`]. Viewers of different streams never meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub [u8; 16]);

impl StreamId {
    /// The id of the stream `name` that `public_key` signs: the first 16 bytes of
    /// SHA-256 over `"shoal stream v1"`, the key, and the name.
    pub fn of(public_key: &[u8; 32], name: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(b"shoal stream v1")
            .chain_update(public_key)
            .chain_update(name.as_bytes())
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// The id written as 32 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut id = [0; 16];
        // `from_str_radix` would take a sign, and one id would have two texts.
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = core::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(id))
    }
}

/// One rendition (a media playlist, a DASH representation): viewers on the same track want the same
/// bytes. A hash of what the names of its segments have in common, so that HLS and DASH agree.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId(pub u32);

/// The place of a segment in its stream: a hash of its URL's path, which every viewer can compute
/// before it has the segment. Two segments may carry the same name one after the other; their
/// [`SegmentId`]s differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub u64);

impl Name {
    /// The name of the object at `path`: the first 8 bytes (big-endian) of SHA-256 over the path
    /// as [`canonical_path`] gives it.
    pub fn of(path: &str) -> Self {
        let digest = Sha256::digest(path.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }

    /// The name of `len` bytes from `first` on of the object at `url`, for segments that are ranges
    /// of a larger object.
    pub fn of_range(url: &str, first: u64, len: u64) -> Self {
        let path = alloc::format!("{}#{first}+{len}", canonical_path(url));
        Self::of(&path)
    }

    /// The name of the object at `url`, absolute or not. Scheme, host, query and fragment do not
    /// count: tokens, CDN hosts and CMCD arguments never split a swarm.
    pub fn of_url(url: &str) -> Self {
        Self::of(canonical_path(url))
    }
}

/// The part of `url` that names a segment: its path, without scheme, host, query and fragment.
pub fn canonical_path(url: &str) -> &str {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let Some(start) = url.find("://") else {
        return url;
    };
    let rest = &url[start + 3..];
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

/// A segment by its content: the first 8 bytes (big-endian) of its record's root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// A neighbour's place in the peer machine's table; given out again after the link is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

/// One request of the player, named by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// One fetch from the CDN, named by the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u32);

macro_rules! hex_debug {
    ($($type:ident: $format:literal),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    )*};
}
hex_debug!(PeerId: "{:016x}", TrackId: "{:08x}", Name: "{:016x}", SegmentId: "{:016x}");

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn tokens_and_hosts_do_not_count_in_names() {
        let plain = Name::of("/live/v/seg-1.m4s");
        for url in [
            "https://cdn-a.example/live/v/seg-1.m4s?token=abc",
            "http://b.example:8080/live/v/seg-1.m4s#t=3",
            "/live/v/seg-1.m4s?CMCD=bl%3D1",
        ] {
            assert_eq!(Name::of_url(url), plain, "{url}");
        }
        assert_eq!(canonical_path("https://host.example"), "/");
    }

    #[test]
    fn stream_ids_round_trip_as_hex() {
        let id = StreamId::of(&[7; 32], "main");
        assert_eq!(StreamId::from_hex(&id.to_string()), Some(id));
        assert_ne!(id, StreamId::of(&[8; 32], "main"));
        for text in ["zz", "+123456789abcdef+123456789abcdef"] {
            assert_eq!(StreamId::from_hex(text), None, "{text}");
        }
    }
}
