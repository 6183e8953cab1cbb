//! Where viewers are: networks, places from narrow to wide, and distances.

use crate::wire::tracker::Distance;

/// What the operator's rules say of a viewer's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum P2pMode {
    /// Peers are used both ways.
    #[default]
    On,
    /// No peers: the viewer is refused and plays from the CDN.
    Off,
    /// Receives from peers and gives nothing.
    Leech,
}

/// A point on the globe, in hundredths of a degree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Latitude, -9000 to 9000, north positive.
    pub lat_centideg: i16,
    /// Longitude, -18000 to 18000, east positive.
    pub lon_centideg: i16,
}

/// What is known of a viewer's network. Zeros stand for "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The address as others see it: two viewers with the same key are one household. For IPv6 the
    /// driver leaves out the part that differs inside a household.
    pub address: u128,
    /// The autonomous system: the ISP.
    pub asn: u32,
    /// ISO 3166 letters.
    pub country: [u8; 2],
    /// Where it is.
    pub location: Option<Location>,
    /// The group that the operator's rules put it in (a company, a campus).
    pub site: Option<u32>,
    /// What the operator's rules allow it.
    pub mode: P2pMode,
    /// It meets viewers of its own site or household alone: the operator keeps its WAN free.
    pub local_only: bool,
}

/// An area that a group is at home in. A viewer belongs to several, one inside the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Everywhere.
    World,
    /// A country.
    Country([u8; 2]),
    /// An ISP in a country.
    Isp(u32, [u8; 2]),
    /// An ISP in a cell of about 100 km.
    Metro(u32, i16, i16),
    /// A group of the operator's.
    Site(u32),
}

impl Place {
    /// A number that places are ordered by as they are, below 2^67: the large indexes compare it in one
    /// step.
    pub(super) const fn rank(self) -> u128 {
        // Negative cells come first, as they do among signed numbers.
        const fn cell(number: i16) -> u64 {
            (number as u16 ^ 0x8000) as u64
        }
        const fn letters(country: [u8; 2]) -> u64 {
            u16::from_be_bytes(country) as u64
        }
        let (kind, detail) = match self {
            Self::World => (0, 0),
            Self::Country(country) => (1, letters(country)),
            Self::Isp(asn, country) => (2, (asn as u64) << 16 | letters(country)),
            Self::Metro(asn, lat, lon) => (3, (asn as u64) << 32 | cell(lat) << 16 | cell(lon)),
            Self::Site(site) => (4, site as u64),
        };
        (kind as u128) << 64 | detail as u128
    }
}

/// Places that one viewer belongs to at most.
pub(super) const LADDER_LEN: usize = 5;
/// A hundredth of a degree of latitude.
const METRES_PER_CENTIDEG: u64 = 1112;
/// Edges of the cells that count as one metro area when places are compared, in centidegrees.
const CELL_LAT_CENTIDEG: i16 = 100;
const CELL_LON_CENTIDEG: i16 = 150;

impl Network {
    /// The places it belongs to, narrowest first; the last is [`Place::World`].
    pub fn ladder(&self) -> impl Iterator<Item = Place> + use<> {
        let known_country = self.country != [0; 2];
        let metro = self.location.filter(|_| self.asn != 0).map(|at| {
            Place::Metro(
                self.asn,
                at.lat_centideg.div_euclid(CELL_LAT_CENTIDEG),
                at.lon_centideg.div_euclid(CELL_LON_CENTIDEG),
            )
        });
        [
            self.site.map(Place::Site),
            metro,
            (self.asn != 0).then_some(Place::Isp(self.asn, self.country)),
            known_country.then_some(Place::Country(self.country)),
            Some(Place::World),
        ]
        .into_iter()
        .flatten()
    }

    /// The same from the widest on, to be compared: what is not known counts as [`Place::World`], after
    /// the others.
    pub(super) fn ladder_from_widest(&self) -> [Place; LADDER_LEN] {
        let mut places = [Place::World; LADDER_LEN];
        let len = self.ladder().count();
        for (n, place) in self.ladder().enumerate() {
            places[len - 1 - n] = place;
        }
        places
    }

    /// Whether the operator's rules let the two meet: one that is kept local meets its own site and
    /// household alone.
    pub fn may_reach(&self, other: &Self) -> bool {
        !(self.local_only || other.local_only) || self.is_beside(other)
    }

    /// Whether the two are in one site or household: no NAT is between them.
    pub fn is_beside(&self, other: &Self) -> bool {
        let same_site = self.site.is_some() && self.site == other.site;
        same_site || (self.address != 0 && self.address == other.address)
    }

    /// How far it is to `other`.
    pub fn distance(&self, other: &Self, metro_km: u32) -> Distance {
        if self.address != 0 && self.address == other.address {
            return Distance::Household;
        }
        if self.site.is_some() && self.site == other.site {
            return Distance::Site;
        }
        let same_country = self.country == other.country;
        if self.asn != 0 && self.asn == other.asn && same_country {
            let near = match (self.location, other.location) {
                (Some(a), Some(b)) => a.is_within(metro_km, b),
                _ => false,
            };
            return if near { Distance::Metro } else { Distance::Isp };
        }
        if same_country && self.country != [0; 2] {
            return Distance::Country;
        }
        Distance::Far
    }
}

impl Location {
    /// Kilometres to `other` as the map shows it: exact to a few percent up to some hundred
    /// kilometres, rough beyond. Integers only, so that every machine agrees.
    pub fn km_to(self, other: Self) -> u32 {
        (self.square_to(other).isqrt() * METRES_PER_CENTIDEG / 1000) as u32
    }

    /// Whether it is at most `km` to `other`, as [`Location::km_to`] has it: without the root, since
    /// this is asked for each of many.
    fn is_within(self, km: u32, other: Self) -> bool {
        let root_max = ((u64::from(km) + 1) * 1000 - 1) / METRES_PER_CENTIDEG;
        self.square_to(other) < (root_max + 1) * (root_max + 1)
    }

    /// The square of the distance to `other`, in hundredths of a degree of latitude.
    fn square_to(self, other: Self) -> u64 {
        let lat_delta = i64::from(self.lat_centideg) - i64::from(other.lat_centideg);
        let lon_delta = (i64::from(self.lon_centideg) - i64::from(other.lon_centideg)).abs();
        let lon_delta = lon_delta.min(36_000 - lon_delta).max(0);
        let middle = (i64::from(self.lat_centideg) + i64::from(other.lat_centideg)) / 2;
        let east = lon_delta * cos_milli(middle) / 1000;
        (lat_delta * lat_delta + east * east).unsigned_abs()
    }
}

/// The cosine of a latitude, times 1000, by Bhaskara's approximation (off by less than 2).
const fn cos_milli(centideg: i64) -> i64 {
    let square = centideg * centideg;
    1000 * (324_000_000 - 4 * square) / (324_000_000 + square)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const fn at(lat_centideg: i16, lon_centideg: i16) -> Location {
        Location {
            lat_centideg,
            lon_centideg,
        }
    }

    #[test]
    fn kilometres_are_near_the_truth() {
        let berlin = at(5252, 1340);
        for (other, km) in [
            (berlin, 0),
            (at(5240, 1306), 26),  // Potsdam
            (at(4814, 1158), 504), // Munich
            (at(4886, 235), 878),  // Paris
            (at(5252, 1341), 1),
        ] {
            let got = berlin.km_to(other);
            assert!(got.abs_diff(km) <= km / 20 + 1, "{got} instead of {km}");
            assert!(
                berlin.is_within(got, other) && (got == 0 || !berlin.is_within(got - 1, other))
            );
        }
        assert!(
            at(0, 17_999).km_to(at(0, -17_999)) < 5,
            "across the date line"
        );
    }

    #[test]
    fn places_and_their_ranks_have_one_order() {
        let mut places = Vec::from([Place::World]);
        for country in [[0, 0], [b'D', b'E'], [b'D', b'Z'], [b'E', b'A'], [0xff; 2]] {
            places.push(Place::Country(country));
            for asn in [0, 1, u32::MAX] {
                places.push(Place::Isp(asn, country));
            }
        }
        let edges = [i16::MIN, -1, 0, 1, i16::MAX];
        for (lat, lon) in edges
            .into_iter()
            .flat_map(|lat| edges.map(|lon| (lat, lon)))
        {
            for asn in [0, 1, u32::MAX] {
                places.push(Place::Metro(asn, lat, lon));
            }
        }
        places.extend([0, 1, u32::MAX].map(Place::Site));
        places.sort();
        assert!(places.is_sorted_by(|a, b| a.rank() < b.rank()));
        assert!(places.iter().all(|place| place.rank() < 1 << 67));
    }

    #[test]
    fn distances_are_decided_from_near_to_far() {
        let home = Network {
            address: 1,
            asn: 3320,
            country: *b"DE",
            location: Some(at(5252, 1340)),
            site: Some(4),
            mode: P2pMode::On,
            local_only: false,
        };
        let other = Network {
            address: 2,
            site: None,
            ..home
        };
        let munich = Network {
            location: Some(at(4814, 1158)),
            ..other
        };
        let rival = Network { asn: 6805, ..other };
        let abroad = Network {
            country: *b"FR",
            ..other
        };
        let site = Network { address: 9, ..home };
        for (network, expected) in [
            (home, Distance::Household),
            (site, Distance::Site),
            (other, Distance::Metro),
            (munich, Distance::Isp),
            (rival, Distance::Country),
            (abroad, Distance::Far),
            (Network::default(), Distance::Far),
        ] {
            assert_eq!(home.distance(&network, 50), expected);
            assert_eq!(network.distance(&home, 50), expected);
        }
        let local = |network: Network| Network {
            local_only: true,
            ..network
        };
        for (a, b, may) in [
            (home, other, true),
            (local(home), other, false),
            (local(home), site, true),
            (local(other), other, true),
            (local(other), munich, true),
            (local(other), abroad, true),
            (local(other), local(site), false),
        ] {
            assert_eq!((a.may_reach(&b), b.may_reach(&a)), (may, may));
        }
        let nowhere = Network::default();
        assert!(!local(nowhere).may_reach(&nowhere));
        assert_eq!(nowhere.distance(&nowhere, 50), Distance::Far);
        assert!(nowhere.ladder().eq([Place::World]));
        assert_eq!(home.ladder().count(), 5);
    }
}
