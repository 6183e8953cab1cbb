//! Which options make sense.

use anyhow::{Result, ensure};

use super::Options;

/// Renditions below the highest one: places number sixteen.
const LADDER_MAX: usize = 15;
/// They lie two degrees of latitude apart, from 45 degrees on.
const METROS_MAX: u32 = 20;
/// Healing needs at least so many seconds before the end.
const HEAL_S_MIN: f64 = 45.0;

impl Options {
    /// Checks that the values make sense.
    ///
    /// # Errors
    /// The first one that does not.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (1..=1_000_000).contains(&self.viewers),
            "viewers: 1 to 1000000"
        );
        ensure!(
            (1..=100_000).contains(&self.channels),
            "channels: 1 to 100000"
        );
        ensure!(
            (0.05..=200.0).contains(&self.bitrate_mbps),
            "bitrate_mbps: 0.05 to 200"
        );
        ensure!(
            (0.2..=20.0).contains(&self.segment_s),
            "segment_s: 0.2 to 20"
        );
        ensure!(
            self.latency_s > self.segment_s,
            "latency_s: more than a segment"
        );
        ensure!(self.latency_s <= 120.0, "latency_s: at most 120");
        ensure!(
            (0.0..self.segment_s).contains(&self.grain_s),
            "grain_s: 0, or less than a segment"
        );
        ensure!(
            self.minutes > 0.0 && self.minutes <= 600.0,
            "minutes: more than 0, up to 600"
        );
        ensure!(
            self.bitrate_mbps * self.segment_s <= 500.0,
            "segments: at most 62 MB"
        );
        ensure!(
            self.ladder_mbps.len() <= LADDER_MAX
                && self
                    .ladder_mbps
                    .iter()
                    .all(|mbps| (0.05..=self.bitrate_mbps).contains(mbps)),
            "ladder_mbps: up to {LADDER_MAX} rates, 0.05 to bitrate_mbps"
        );
        ensure!(
            (1..=METROS_MAX).contains(&self.access.metros),
            "access.metros: 1 to {METROS_MAX}"
        );
        self.check_faults()?;
        self.check_shares()
    }

    /// What would begin after the end of the run, and when, in seconds: most of such a scenario is missing.
    pub(crate) fn never_begins(&self) -> Vec<(&'static str, f64)> {
        let arrivals = self.arrivals.iter().filter(|arrival| arrival.share > 0.0);
        let mut times: Vec<_> = arrivals.map(|arrival| ("arrivals", arrival.at_s)).collect();
        times.extend(self.exit.iter().map(|exit| ("exit", exit.at_s)));
        times.extend(self.cdn.slow.map(|slow| ("cdn.slow", slow.0)));
        let partition = self.faults.partition;
        times.extend(partition.map(|period| ("faults.partition", period.0)));
        let down = self.faults.tracker_down;
        times.extend(down.map(|period| ("faults.tracker_down", period.0)));
        times.retain(|(_, at_s)| *at_s >= self.minutes * 60.0);
        times
    }

    /// What is to heal must break before.
    fn check_faults(&self) -> Result<()> {
        let is_period = |from_s: f64, to_s: f64| from_s >= 0.0 && to_s > from_s;
        let mut ends = Vec::new();
        if let Some((from_s, to_s, share)) = self.faults.partition {
            ensure!(
                to_s >= from_s + 10.0 && from_s >= 0.0 && (0.0..=1.0).contains(&share),
                "faults.partition: from, to (10 s later or more), share"
            );
            ends.push(("faults.partition", to_s));
        }
        if let Some((from_s, to_s)) = self.faults.tracker_down {
            ensure!(
                is_period(from_s, to_s),
                "faults.tracker_down: from, to (later)"
            );
            ends.push(("faults.tracker_down", to_s));
        }
        if let Some((from_s, to_s, factor)) = self.cdn.slow {
            ensure!(
                is_period(from_s, to_s) && (1.0..=1000.0).contains(&factor),
                "cdn.slow: from, to (later), 1 to 1000 times"
            );
        }
        if let Some(heal_at_s) = self.heal_at_s {
            ensure!(
                heal_at_s + HEAL_S_MIN <= self.minutes * 60.0,
                "heal_at_s: at least {HEAL_S_MIN} s before the end"
            );
            for (name, to_s) in ends {
                ensure!(to_s <= heal_at_s, "{name}: over before heal_at_s");
            }
        }
        Ok(())
    }

    fn check_shares(&self) -> Result<()> {
        let (session, access, hostile) = (&self.session, &self.access, &self.hostile);
        for arrival in &self.arrivals {
            ensure!(
                (0.0..=1.0).contains(&arrival.share)
                    && arrival.at_s >= 0.0
                    && arrival.over_s >= 0.0,
                "arrivals: at_s and over_s from 0 on, a share, 0 to 1"
            );
        }
        for (name, share) in [
            ("session.silent", session.silent),
            ("session.crashed", session.crashed),
            ("hostile.polluters", hostile.polluters),
            ("hostile.black_holes", hostile.black_holes),
            ("hostile.false_haves", hostile.false_haves),
            ("hostile.free_riders", hostile.free_riders),
            ("hostile.flooders", hostile.flooders),
            ("session.zappers", session.zappers),
            (
                "session.silent + session.crashed",
                session.silent + session.crashed,
            ),
            ("access.upload_share", access.upload_share),
            ("access.main_country", access.main_country),
            ("access.household", access.household),
            ("access.hidden_tabs", access.hidden_tabs),
            ("access.loss", access.loss),
            ("cdn.failures", self.cdn.failures),
            (
                "hostile, all together",
                hostile.polluters
                    + hostile.black_holes
                    + hostile.false_haves
                    + hostile.free_riders
                    + hostile.flooders,
            ),
        ] {
            ensure!((0.0..=1.0).contains(&share), "{name}: a share, 0 to 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_short_run_never_comes_to_is_named() {
        let never = |scenario: &str, minutes: f64| {
            let mut options = Options::scenario(scenario).unwrap();
            options.minutes = minutes;
            let names = options.never_begins().into_iter().map(|(name, _)| name);
            names.collect::<Vec<_>>()
        };
        assert_eq!(never("slow-cdn", 1.0), ["cdn.slow"]);
        assert_eq!(never("goal-spike", 1.0), ["arrivals"]);
        assert_eq!(never("mass-exit", 1.0), ["exit"]);
        for (name, _) in crate::SCENARIOS {
            let minutes = Options::scenario(name).unwrap().minutes;
            assert_eq!(never(name, minutes), [""; 0], "{name}");
        }
    }

    #[test]
    fn senseless_values_are_refused_by_name() {
        for (change, named) in [
            ("access.loss=1.5", "access.loss"),
            ("heal_at_s=170.0", "heal_at_s"),
            ("faults.partition=[10.0, 12.0, 0.5]", "faults.partition"),
            ("hostile={polluters=0.7, free_riders=0.7}", "hostile"),
            (
                "hostile={polluters=-0.5, free_riders=0.7}",
                "hostile.polluters",
            ),
            ("ladder_mbps=[0.0]", "ladder_mbps"),
            ("ladder_mbps=[6.0]", "ladder_mbps"),
            ("access.metros=400", "access.metros"),
            ("faults.tracker_down=[50.0, 40.0]", "faults.tracker_down"),
            ("cdn.slow=[20.0, 40.0, 0.0]", "cdn.slow"),
            ("arrivals=[{at_s=0.0, over_s=1.0, share=-0.5}]", "arrivals"),
        ] {
            let options = Options::default().with(change).unwrap();
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(named), "{change}: {error}");
        }
        let many = format!("ladder_mbps={:?}", [1.0; LADDER_MAX + 1]);
        assert!(Options::default().with(&many).unwrap().check().is_err());
    }

    #[test]
    fn what_is_to_heal_must_break_before() {
        let heals = Options::default().with("heal_at_s=60.0").unwrap();
        assert!(heals.check().is_ok());
        for (change, named) in [
            ("faults.tracker_down=[40.0, 70.0]", "faults.tracker_down"),
            ("faults.partition=[40.0, 70.0, 0.4]", "faults.partition"),
        ] {
            let error = heals.with(change).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
