//! Invented networks, for demonstrations on one machine.

use swarm_core::{directory::Location, id::PeerId, rng};

use crate::networks::Found;

/// Name, autonomous system (of the private range), country, and towns with their place.
type Isp = (&'static str, u32, [u8; 2], [(f64, f64); 2]);

const ISPS: [Isp; 6] = [
    ("Nordlicht", 64_601, *b"DE", [(53.55, 9.99), (52.52, 13.40)]),
    ("Isarnetz", 64_602, *b"DE", [(48.14, 11.58), (49.45, 11.08)]),
    ("Lumière", 64_603, *b"FR", [(48.86, 2.35), (45.76, 4.84)]),
    ("Marée", 64_604, *b"FR", [(43.30, 5.37), (47.22, -1.55)]),
    (
        "Tulip Cable",
        64_605,
        *b"NL",
        [(52.37, 4.90), (51.92, 4.48)],
    ),
    (
        "Polderfiber",
        64_606,
        *b"NL",
        [(52.09, 5.12), (53.22, 6.57)],
    ),
];

/// The network that a viewer of this name pretends to be in.
pub(crate) fn network_of(peer: PeerId) -> Found {
    let hash = rng::mix(peer.0);
    let (isp, asn, country, towns) = ISPS[(hash % ISPS.len() as u64) as usize];
    let (latitude, longitude) = towns[(hash >> 32) as usize % towns.len()];
    let mut found = Found::default();
    found.network.address = u128::from(hash) << 64 | u128::from(peer.0);
    found.network.asn = asn;
    found.network.country = country;
    found.network.location = Some(location(latitude, longitude));
    found.isp = Some(isp.into());
    found
}

/// A point by its degrees.
pub(crate) fn location(latitude: f64, longitude: f64) -> Location {
    Location {
        lat_centideg: (latitude.clamp(-90.0, 90.0) * 100.0).round() as i16,
        lon_centideg: (longitude.clamp(-180.0, 180.0) * 100.0).round() as i16,
    }
}
