//! What is simulated: the options, and the scenarios that come with the crate.

mod check;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Parts of a large world.
const PARTS: u32 = 8;
/// Smaller audiences are simulated in one part.
const PARTED_FROM: u32 = 400;

/// Everything that a run depends on. The same options give the same run, event by event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The scenario that the options began as.
    pub scenario: String,
    /// Decides every random choice.
    pub seed: u64,
    /// Viewers, at the audience's peak.
    pub viewers: u32,
    /// Streams that the viewers spread over, by Zipf's law.
    pub channels: u32,
    /// Bitrate of the rendition in Mbit/s; the highest one of the ladder.
    pub bitrate_mbps: f64,
    /// Lower renditions, in Mbit/s; viewers' players choose by the bandwidth they are told.
    pub ladder_mbps: Vec<f64>,
    /// Duration of a segment (or LL-HLS part) in seconds.
    pub segment_s: f64,
    /// How far players stay behind the live edge, in seconds.
    pub latency_s: f64,
    /// Media that players take at a time while a segment arrives, in seconds (the chunks of CMAF): they
    /// play before it is whole. 0 for players that take whole segments.
    pub grain_s: f64,
    /// Simulated minutes.
    pub minutes: f64,
    /// Figures are taken from this second on; what comes before counts as the system's start.
    pub measure_from_s: f64,
    /// How late a player sees a new segment in its playlist, at most, in seconds; each viewer has
    /// its own delay, uniform below this. 0 stands for an eighth of a segment.
    pub playlist_lag_s: f64,
    /// Share of the viewers that arrive in a period.
    pub arrivals: Vec<Arrival>,
    /// Whether somebody else arrives for everybody who leaves.
    pub replace_leavers: bool,
    /// A share of the audience leaves at the same time.
    pub exit: Option<Exit>,
    /// How long viewers stay.
    pub session: Session,
    /// What viewers' networks are like.
    pub access: Access,
    /// What the CDN is like.
    pub cdn: Cdn,
    /// Who does not play by the rules.
    pub hostile: Hostile,
    /// Groups have no links to others.
    pub isolated_groups: bool,
    /// What breaks, and when.
    pub faults: Faults,
    /// From this second on everything works and everybody is honest; in the end every viewer must
    /// play and be known to the tracker. At least 45 s before the end.
    pub heal_at_s: Option<f64>,
}

/// Breakdowns of the network and of the tracker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// A period in which the network is in two parts, in seconds, and the share of the viewers in
    /// the smaller one. The CDN and the tracker are in reach of both. At least 10 s long.
    pub partition: Option<(f64, f64, f64)>,
    /// A period in which the tracker is down, in seconds; it comes back with nothing in memory.
    pub tracker_down: Option<(f64, f64)>,
}

/// Viewers that arrive evenly over a period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    /// When the period begins, in seconds.
    pub at_s: f64,
    /// How long it is, in seconds.
    pub over_s: f64,
    /// The share of all viewers.
    pub share: f64,
}

/// Viewers that leave over a period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// When the period begins, in seconds.
    pub at_s: f64,
    /// How long it is, in seconds.
    pub over_s: f64,
    /// The share of those present.
    pub share: f64,
}

/// How long viewers stay, and how they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// Share of arrivals that only look in.
    pub zappers: f64,
    /// How long those stay on average, in seconds.
    pub zap_s: f64,
    /// Median stay of the others, in seconds (log-normal).
    pub median_s: f64,
    /// Deviation of its logarithm.
    pub sigma: f64,
    /// Share of the audience that leaves in a minute, instead of all of the above.
    pub churn_per_minute: Option<f64>,
    /// Share of departures without a goodbye; links break a few seconds later.
    pub silent: f64,
    /// Share of departures that not even the network notices (device off).
    pub crashed: f64,
}

/// The mix of access networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Shares of FTTH, cable, VDSL, ADSL and cellular.
    pub mix: [f64; 5],
    /// Share of the uplink that may be used.
    pub upload_share: f64,
    /// Most that is used of any uplink, in Mbit/s.
    pub upload_cap_mbps: f64,
    /// Share of viewers in the main country.
    pub main_country: f64,
    /// Metro areas of each ISP.
    pub metros: u32,
    /// Share of viewers that live with another one.
    pub household: f64,
    /// Share of viewers in tabs that are not shown: their timers fire once a second.
    pub hidden_tabs: f64,
    /// Shares of the NAT types of fixed lines: open, full cone, address-restricted,
    /// port-restricted, symmetric, UDP blocked.
    pub nat_fixed: [f64; 6],
    /// The same for cellular networks.
    pub nat_cellular: [f64; 6],
    /// Share of lost packets.
    pub loss: f64,
    /// Everybody is on the sites of one company, this many; the sites' WAN links are shared.
    pub campus_sites: u32,
    /// Each site's WAN link, in Mbit/s.
    pub campus_wan_mbps: f64,
}

/// The CDN as a viewer sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cdn {
    /// Median goodput in Mbit/s (log-normal over viewers, deviation 0.6).
    pub goodput_mbps: f64,
    /// Shortest and longest time to the first byte beside the round trips, in milliseconds.
    pub ttfb_ms: (f64, f64),
    /// Share of requests that fail.
    pub failures: f64,
    /// A period in which everything is this many times slower: from, to (seconds), factor.
    pub slow: Option<(f64, f64, f64)>,
}

/// Shares of viewers that do not play by the rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hostile {
    /// Every piece that they send is bad.
    pub polluters: f64,
    /// They promise and announce, and send nothing.
    pub black_holes: f64,
    /// They announce pieces that they do not have.
    pub false_haves: f64,
    /// They upload nothing, and say so.
    pub free_riders: f64,
    /// They send what nobody can use in the place of what they promised, and more of it.
    pub flooders: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scenario: "evening-match".to_owned(),
            seed: 1,
            viewers: 1000,
            channels: 1,
            bitrate_mbps: 5.0,
            ladder_mbps: Vec::new(),
            segment_s: 4.0,
            latency_s: 10.0,
            grain_s: 0.0,
            minutes: 3.0,
            measure_from_s: 60.0,
            playlist_lag_s: 0.0,
            arrivals: vec![Arrival {
                at_s: 0.0,
                over_s: 20.0,
                share: 1.0,
            }],
            replace_leavers: true,
            exit: None,
            session: Session::default(),
            access: Access::default(),
            cdn: Cdn::default(),
            hostile: Hostile::default(),
            isolated_groups: false,
            faults: Faults::default(),
            heal_at_s: None,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            zappers: 0.25,
            zap_s: 60.0,
            median_s: 2100.0,
            sigma: 1.0,
            churn_per_minute: None,
            silent: 0.7,
            crashed: 0.05,
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self {
            mix: [0.35, 0.28, 0.15, 0.04, 0.18],
            upload_share: 0.5,
            upload_cap_mbps: 16.0,
            main_country: 0.9,
            metros: 6,
            household: 0.05,
            hidden_tabs: 0.05,
            nat_fixed: [0.10, 0.10, 0.10, 0.50, 0.17, 0.03],
            nat_cellular: [0.02, 0.05, 0.08, 0.40, 0.40, 0.05],
            loss: 0.001,
            campus_sites: 0,
            campus_wan_mbps: 200.0,
        }
    }
}

impl Default for Cdn {
    fn default() -> Self {
        Self {
            goodput_mbps: 40.0,
            ttfb_ms: (20.0, 80.0),
            failures: 0.0,
            slow: None,
        }
    }
}

/// Scenarios by name, as TOML.
pub const SCENARIOS: &[(&str, &str)] = &[
    (
        "evening-match",
        include_str!("../scenarios/evening-match.toml"),
    ),
    ("progressive", include_str!("../scenarios/progressive.toml")),
    ("flash-crowd", include_str!("../scenarios/flash-crowd.toml")),
    (
        "small-channel",
        include_str!("../scenarios/small-channel.toml"),
    ),
    ("long-tail", include_str!("../scenarios/long-tail.toml")),
    (
        "cellular-heavy",
        include_str!("../scenarios/cellular-heavy.toml"),
    ),
    ("lan-campus", include_str!("../scenarios/lan-campus.toml")),
    ("ll-hls", include_str!("../scenarios/ll-hls.toml")),
    ("hostile", include_str!("../scenarios/hostile.toml")),
    ("slow-cdn", include_str!("../scenarios/slow-cdn.toml")),
    ("mass-exit", include_str!("../scenarios/mass-exit.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    ("goal-spike", include_str!("../scenarios/goal-spike.toml")),
    ("abr-ladder", include_str!("../scenarios/abr-ladder.toml")),
    ("heal", include_str!("../scenarios/heal.toml")),
    (
        "isolated-groups",
        include_str!("../scenarios/isolated-groups.toml"),
    ),
];

impl Options {
    /// A scenario of the crate.
    ///
    /// # Errors
    /// If there is none of that name; the message lists those that there are.
    pub fn scenario(name: &str) -> Result<Self> {
        let Some((_, text)) = SCENARIOS.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
            bail!("no scenario {name:?}; there are {}", names.join(", "));
        };
        let mut options = Self::from_toml(text).with_context(|| format!("scenario {name}"))?;
        name.clone_into(&mut options.scenario);
        Ok(options)
    }

    /// A scenario of the crate by its name, or a file: what has a `/` or ends in `.toml`.
    ///
    /// # Errors
    /// If there is none of that name, or the file cannot be read or makes no sense.
    pub fn named(name_or_file: &str) -> Result<Self> {
        if !name_or_file.contains(['/', '\\']) && !name_or_file.ends_with(".toml") {
            return Self::scenario(name_or_file);
        }
        let text = std::fs::read_to_string(name_or_file)
            .with_context(|| format!("cannot read {name_or_file}"))?;
        let mut options = Self::from_toml(&text).with_context(|| name_or_file.to_owned())?;
        if !toml::from_str::<toml::Table>(&text)?.contains_key("scenario") {
            let stem = std::path::Path::new(name_or_file).file_stem();
            options.scenario = stem.unwrap_or_default().to_string_lossy().into_owned();
        }
        Ok(options)
    }

    /// These options but for one, written as `key=value` or `table.key=value`, the value in TOML. Whether
    /// they make sense together is for [`Options::check`], once all are changed that are to be.
    ///
    /// # Errors
    /// If the key is not known, or the value is none for it.
    pub fn with(&self, change: &str) -> Result<Self> {
        let change: toml::Table =
            toml::from_str(change).context("KEY=VALUE in TOML; strings need quotes")?;
        let mut table = toml::Table::try_from(self)?;
        merge(&mut table, change);
        Ok(table.try_into()?)
    }

    /// Reads a scenario file. What it does not name has its default.
    ///
    /// # Errors
    /// If it is not TOML, names what is not known, or holds a senseless value.
    pub fn from_toml(text: &str) -> Result<Self> {
        let options: Self = toml::from_str(text)?;
        options.check()?;
        Ok(options)
    }

    /// Parts of the world that are simulated side by side. It follows from the options alone, so
    /// that threads do not change what happens.
    pub(crate) fn parts(&self) -> u32 {
        let sites = match self.access.campus_sites {
            0 => PARTS,
            sites => sites,
        };
        if self.viewers < PARTED_FROM {
            1
        } else {
            PARTS.min(sites)
        }
    }

    /// The end of the run in microseconds from its start.
    pub(crate) fn end_us(&self) -> u64 {
        us(self.minutes * 60.0)
    }

    /// When measuring begins: never later than half of the run.
    pub(crate) fn measure_from_us(&self) -> u64 {
        us(self.measure_from_s).min(self.end_us() / 2)
    }

    pub(crate) fn segment_us(&self) -> u64 {
        us(self.segment_s)
    }

    pub(crate) fn playlist_lag_s(&self) -> f64 {
        if self.playlist_lag_s > 0.0 {
            self.playlist_lag_s
        } else {
            self.segment_s / 8.0
        }
    }

    /// Bitrates from low to high, in bit/s.
    pub(crate) fn ladder_bps(&self) -> Vec<u64> {
        let mut ladder: Vec<u64> = self
            .ladder_mbps
            .iter()
            .chain([&self.bitrate_mbps])
            .map(|mbps| (mbps * 1e6) as u64)
            .collect();
        ladder.sort_unstable();
        ladder.dedup();
        ladder
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(changes)) => merge(inner, changes),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Seconds as whole microseconds.
pub(crate) fn us(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_reads() {
        for (name, _) in SCENARIOS {
            let options = Options::scenario(name).expect("it is valid");
            assert_eq!(options.scenario, *name);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my-evening.toml");
        std::fs::write(&file, "viewers = 3").unwrap();
        let options = Options::named(&file.to_string_lossy()).unwrap();
        assert_eq!((&*options.scenario, options.viewers), ("my-evening", 3));
        assert!(Options::scenario("nope").is_err());
        assert!(Options::from_toml("wievers = 3").is_err());
        assert!(Options::from_toml("latency_s = 1.0").is_err());
    }
}
