//! Who watches: networks, places, habits. Everything about a viewer follows from the seed and its
//! number, so that the CDN-only twin of a run has the very same audience.

use swarm_core::{
    directory::{Location, Network, P2pMode},
    rng::{Rng, mix},
    wire::tracker::Nat,
};

use crate::{
    options::{Access, Options, us},
    random::{between, chance, exponential, lognormal, pick, unit},
    world::letters::{local_of, number, part_of},
};

/// Medians and deviations of up- and downlinks in Mbit/s, and the range of the one-way delay to the
/// ISP's core in milliseconds.
struct Class {
    up: (f64, f64),
    down: (f64, f64),
    delay_ms: (f64, f64),
}

const CLASSES: [Class; 5] = [
    Class {
        up: (60.0, 0.9),
        down: (250.0, 0.5),
        delay_ms: (2.0, 4.0),
    },
    Class {
        up: (15.0, 0.6),
        down: (150.0, 0.5),
        delay_ms: (4.0, 6.0),
    },
    Class {
        up: (8.0, 0.6),
        down: (50.0, 0.4),
        delay_ms: (6.0, 10.0),
    },
    Class {
        up: (0.9, 0.3),
        down: (8.0, 0.3),
        delay_ms: (8.0, 12.0),
    },
    Class {
        up: (10.0, 0.8),
        down: (40.0, 0.8),
        delay_ms: (15.0, 25.0),
    },
];
const CELLULAR: usize = 4;
/// Market shares of the ISPs of a country.
const ISPS: [f64; 5] = [0.4, 0.25, 0.15, 0.12, 0.08];
const COUNTRIES: [[u8; 2]; 4] = [*b"DE", *b"FR", *b"NL", *b"US"];

/// How a network maps ports: finer than what the tracker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NatType {
    Open,
    FullCone,
    AddressRestricted,
    PortRestricted,
    Symmetric,
    Blocked,
}

const NAT_TYPES: [NatType; 6] = [
    NatType::Open,
    NatType::FullCone,
    NatType::AddressRestricted,
    NatType::PortRestricted,
    NatType::Symmetric,
    NatType::Blocked,
];

impl NatType {
    /// Whether UDP hole punching works between the two.
    pub(crate) fn reaches(self, other: Self) -> bool {
        use NatType::{Blocked, PortRestricted, Symmetric};
        let hard = |a, b| a == Symmetric && matches!(b, Symmetric | PortRestricted);
        self != Blocked && other != Blocked && !hard(self, other) && !hard(other, self)
    }

    /// What STUN lets a viewer find out: no answer may be the server's fault.
    pub(crate) fn as_told(self) -> Nat {
        match self {
            Self::Open => Nat::Open,
            Self::Symmetric => Nat::Symmetric,
            Self::Blocked => Nat::Unknown,
            _ => Nat::Cone,
        }
    }
}

/// How somebody does not play by the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cheat {
    Honest,
    Polluter,
    BlackHole,
    FalseHaves,
    FreeRider,
    Flooder,
}

/// How a viewer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// With a goodbye.
    Polite,
    /// The tab is closed: links break after a moment.
    Silent,
    /// The device is off: nobody is told.
    Crashed,
}

/// What decides whether and how fast two viewers reach each other.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    /// The number of the household; those who share it have numbers of the same part of the world.
    pub(crate) household: u32,
    /// From the device to the ISP's core, one way.
    pub(crate) delay_us: u64,
    pub(crate) nat: NatType,
    pub(crate) network: Network,
    seed: u64,
}

impl Contact {
    /// Whether a link between the two can be set up.
    pub(crate) fn reaches(&self, other: &Self) -> bool {
        self.household == other.household || self.nat.reaches(other.nat)
    }

    /// On which side of a partition of the network it is; `share` of all are on the far one.
    pub(crate) fn is_far(&self, seed: u64, share: f64) -> bool {
        unit(&mut Rng::new(mix(
            seed ^ mix(u64::from(self.household) | 1 << 43)
        ))) < share
    }
}

/// One viewer, before it does anything.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    pub(crate) contact: Contact,
    pub(crate) channel: u32,
    pub(crate) cdn_rtt_us: u64,
    pub(crate) cdn_bps: u64,
    pub(crate) upload_bps: u64,
    /// The same if it plays by the rules.
    honest_bps: u64,
    /// It has not always played by the rules: the tracker may remember.
    pub(crate) is_reformed: bool,
    pub(crate) leech: bool,
    pub(crate) playlist_lag_us: u64,
    pub(crate) hidden: bool,
    pub(crate) stay_us: u64,
    pub(crate) departure: Departure,
    pub(crate) cheat: Cheat,
    pub(crate) seed: u64,
}

/// The access link of a household (or site): shared by all who live there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct House {
    class: usize,
    pub(crate) up_bps: u64,
    pub(crate) down_bps: u64,
    pub(crate) up_free: u64,
    pub(crate) down_free: u64,
}

impl House {
    pub(crate) fn new(options: &Options, index: u32) -> Self {
        let mut rng = Rng::new(mix(options.seed ^ mix(u64::from(index) | 1 << 40)));
        let access = &options.access;
        let class = pick(&mut rng, access.mix.iter().copied());
        let kind = &CLASSES[class];
        let mut up = lognormal(&mut rng, kind.up.0, kind.up.1);
        let down = lognormal(&mut rng, kind.down.0, kind.down.1);
        let wifi = lognormal(&mut rng, 60.0, 0.5);
        if class != CELLULAR {
            up = up.min(wifi);
        }
        let (up, down) = match access.campus_sites {
            0 => (up, down),
            _ => (access.campus_wan_mbps, access.campus_wan_mbps),
        };
        let class = if access.campus_sites > 0 { 0 } else { class };
        Self {
            class,
            up_bps: (up * 1e6) as u64,
            down_bps: (down * 1e6) as u64,
            up_free: 0,
            down_free: 0,
        }
    }
}

impl Viewer {
    /// The viewer of number `index`, who lives in the house that [`household_of`] names.
    pub(crate) fn new(options: &Options, index: u32, house: &House) -> Self {
        let mut rng = Rng::new(mix(options.seed ^ mix(u64::from(index) | 1 << 41)));
        let household = household_of(options, index);
        let kind = &CLASSES[house.class];
        let access = &options.access;
        let cellular = house.class == CELLULAR && access.campus_sites == 0;
        let delay_us = (between(&mut rng, kind.delay_ms.0, kind.delay_ms.1) * 1e3) as u64;
        let nat_mix = if cellular {
            &access.nat_cellular
        } else {
            &access.nat_fixed
        };
        let nat = NAT_TYPES[pick(&mut rng, nat_mix.iter().copied())];
        let cdn_bps = (lognormal(&mut rng, options.cdn.goodput_mbps, 0.6) * 1e6) as u64;
        let cap = (house.up_bps as f64 * access.upload_share).min(access.upload_cap_mbps * 1e6);
        let honest_bps = if cellular { 0 } else { cap as u64 };
        let cheat = cheat(options, &mut rng);
        let seed = rng.next_u64();
        let leaves = departure(options, &mut rng);
        let network = network(
            access,
            household,
            &mut Rng::new(mix(options.seed ^ u64::from(household))),
        );
        Self {
            channel: channel(options, &mut rng),
            cdn_rtt_us: 2 * delay_us + us(between(&mut rng, 0.004, 0.015)),
            cdn_bps: cdn_bps.min(house.down_bps),
            upload_bps: if cheat == Cheat::FreeRider {
                0
            } else {
                honest_bps
            },
            honest_bps,
            is_reformed: false,
            leech: cellular,
            playlist_lag_us: us(between(&mut rng, 0.02, options.playlist_lag_s().max(0.03))),
            hidden: chance(&mut rng, access.hidden_tabs),
            stay_us: stay_us(options, &mut rng),
            departure: leaves,
            cheat,
            seed,
            contact: Contact {
                household,
                delay_us,
                nat: if access.campus_sites > 0 {
                    NatType::Open
                } else {
                    nat
                },
                network,
                seed,
            },
        }
    }
}

impl Viewer {
    /// From now on it plays by the rules.
    pub(crate) fn reform(&mut self) {
        self.is_reformed = self.cheat != Cheat::Honest;
        self.cheat = Cheat::Honest;
        self.upload_bps = self.honest_bps;
    }
}

/// The number of the house that a viewer lives in: its own, that of the one before in its part of
/// the world, or one of the part's sites.
pub(crate) fn household_of(options: &Options, viewer: u32) -> u32 {
    let (part, local) = (part_of(viewer) as u32, local_of(viewer));
    let sites = options.access.campus_sites;
    if sites > 0 {
        let here = (sites - part).div_ceil(options.parts());
        let site = mix(options.seed ^ u64::from(viewer)) % u64::from(here.max(1));
        return number(part, site as u32);
    }
    let mut rng = Rng::new(mix(options.seed ^ mix(u64::from(viewer) | 1 << 42)));
    if local > 0 && chance(&mut rng, options.access.household) {
        viewer - 1
    } else {
        viewer
    }
}

fn network(access: &Access, household: u32, rng: &mut Rng) -> Network {
    let abroad = !chance(rng, access.main_country);
    let country = if abroad {
        1 + rng.at_most(2) as usize
    } else {
        0
    };
    let isp = pick(rng, ISPS.iter().copied());
    let metro = rng.at_most(u64::from(access.metros.max(1)) - 1) as i16;
    let site = (access.campus_sites > 0).then_some(household);
    Network {
        address: u128::from(household) + 1,
        asn: 1000 * (country as u32 + 1) + isp as u32,
        country: COUNTRIES[country],
        location: Some(Location {
            lat_centideg: 4_500 + metro * 200,
            lon_centideg: 1_000 + 1_500 * country as i16,
        }),
        site,
        mode: P2pMode::On,
        local_only: false,
    }
}

fn cheat(options: &Options, rng: &mut Rng) -> Cheat {
    let hostile = &options.hostile;
    let shares = [
        hostile.polluters,
        hostile.black_holes,
        hostile.false_haves,
        hostile.free_riders,
        hostile.flooders,
    ];
    let honest = 1.0 - shares.iter().sum::<f64>();
    let all = [
        Cheat::Polluter,
        Cheat::BlackHole,
        Cheat::FalseHaves,
        Cheat::FreeRider,
        Cheat::Flooder,
        Cheat::Honest,
    ];
    all[pick(rng, shares.into_iter().chain([honest.max(0.0)]))]
}

fn departure(options: &Options, rng: &mut Rng) -> Departure {
    let session = &options.session;
    let polite = 1.0 - session.silent - session.crashed;
    let all = [Departure::Silent, Departure::Crashed, Departure::Polite];
    all[pick(
        rng,
        [session.silent, session.crashed, polite.max(0.0)].into_iter(),
    )]
}

fn stay_us(options: &Options, rng: &mut Rng) -> u64 {
    let session = &options.session;
    let seconds = match session.churn_per_minute {
        Some(share) => exponential(rng, 60.0 / share.max(1e-6)),
        None if chance(rng, session.zappers) => exponential(rng, session.zap_s),
        None => lognormal(rng, session.median_s, session.sigma),
    };
    us(seconds.clamp(1.0, 1e7))
}

fn channel(options: &Options, rng: &mut Rng) -> u32 {
    if options.channels <= 1 {
        return 0;
    }
    pick(
        rng,
        (1..=options.channels).map(|rank| 1.0 / f64::from(rank)),
    ) as u32
}

/// The one-way delay between two viewers in microseconds, their access links left out for those of
/// one house.
pub(crate) fn delay_us(a: &Contact, b: &Contact) -> u64 {
    let (x, y) = (&a.network, &b.network);
    if a.household == b.household {
        return 500;
    }
    let core_us = if (x.asn, x.location) == (y.asn, y.location) {
        1_000
    } else if x.asn == y.asn {
        4_000
    } else if x.country == y.country {
        9_000
    } else {
        let far = x.country == *b"US" || y.country == *b"US";
        if far { 45_000 } else { 20_000 }
    };
    let jitter = mix(a.seed ^ b.seed) % (1 + core_us / 5);
    a.delay_us + b.delay_us + core_us + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_connect_as_often_as_was_measured_in_the_field() {
        let options = Options::default();
        let viewers: Vec<Viewer> = (0..2000)
            .map(|i| {
                Viewer::new(
                    &options,
                    i,
                    &House::new(&options, household_of(&options, i)),
                )
            })
            .filter(|viewer| !viewer.leech)
            .collect();
        let pairs = viewers
            .windows(2)
            .filter(|w| w[0].contact.reaches(&w[1].contact))
            .count();
        let share = pairs as f64 / viewers.len() as f64;
        assert!((0.70..0.80).contains(&share), "{share}");
    }

    #[test]
    fn a_viewer_follows_from_seed_and_number() {
        let options = Options::default();
        let house = House::new(&options, 7);
        let (a, b) = (
            Viewer::new(&options, 7, &house),
            Viewer::new(&options, 7, &house),
        );
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
    }
}
