//! `cargo xtask soak`: simulations with random options until the time is up or an invariant breaks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

/// Audiences: small ones find more faults in a minute than large ones.
const VIEWERS: (u64, u64) = (3, 160);
/// Simulated minutes of one run, in tenths.
const TENTHS: (u64, u64) = (16, 30);
/// Seeds that are run side by side for each draw of the options.
const SEEDS: u64 = 2;

/// The scenario that heals by itself, later than the shortest run ends: all of [`CHANGES`] that have a time are
/// made to it.
const HEALS: &str = "heal";
/// Exit code of the simulator if it refuses the options.
const REFUSED: i32 = 2;

/// What may be changed in any scenario, each with a chance of one in three. The times fit the
/// shortest run.
const CHANGES: [&str; 10] = [
    "hostile={ polluters=0.1, black_holes=0.1, false_haves=0.1, free_riders=0.1 }",
    "cdn.failures=0.03",
    "cdn.slow=[20.0, 45.0, 4.0]",
    "access.loss=0.02",
    "access.hidden_tabs=0.5",
    "session.churn_per_minute=0.5",
    "faults.partition=[20.0, 45.0, 0.4]",
    "faults.tracker_down=[15.0, 40.0]",
    "ladder_mbps=[0.8, 1.6, 3.0]",
    "heal_at_s=50.0",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to go on, in minutes of wall time.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Where to begin; from the clock unless told otherwise.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs one simulation after the other. The first broken invariant ends it with the command that
/// replays it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let scenarios = scenarios()?;
    let seed = args.seed.unwrap_or_else(seed_of_the_clock);
    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let mut draws = Draws(seed);
    let mut runs = 0;
    println!("soak: seed {seed}, {} minutes", args.minutes);
    while runs == 0 || Instant::now() < end {
        let drawn = draw(&mut draws, &scenarios);
        let (code, printed) = shell::run_coded(simulator().args(&drawn))?;
        runs += SEEDS;
        ensure!(
            code != Some(REFUSED),
            "the soak drew options that the simulator refuses, and no invariant is broken: {}",
            drawn.join(" ")
        );
        if code != Some(0) {
            let replay = printed
                .lines()
                .rev()
                .find(|line| line.starts_with("error: "));
            println!(
                "soak: stopped after {runs} runs; replay of all of it: cargo xtask soak --seed {seed}"
            );
            let replay = replay.and_then(|line| line.strip_prefix("error: "));
            bail!("{}", replay.unwrap_or("the simulator fails without a word"));
        }
    }
    println!("soak: {runs} runs, no broken invariant");
    Ok(())
}

/// The optimised simulator, by itself.
fn simulator() -> std::process::Command {
    let mut command = shell::cargo();
    command.args(["run", "--release", "--quiet", "-p", "swarm-sim", "--"]);
    command
}

fn scenarios() -> Result<Vec<String>> {
    let list = shell::query(simulator().arg("--list")).context("the simulator lists nothing")?;
    let names = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "there are no scenarios");
    Ok(names)
}

/// The options of one run.
fn draw(draws: &mut Draws, scenarios: &[String]) -> Vec<String> {
    let scenario = &scenarios[draws.between(0, scenarios.len() as u64 - 1) as usize];
    let minutes = draws.between(TENTHS.0, TENTHS.1) as f64 / 10.0;
    let mut options = vec![
        "--scenario".to_owned(),
        scenario.clone(),
        "--viewers".to_owned(),
        draws.between(VIEWERS.0, VIEWERS.1).to_string(),
        "--minutes".to_owned(),
        minutes.to_string(),
        "--seed".to_owned(),
        draws.between(1, u64::from(u32::MAX)).to_string(),
        "--seeds".to_owned(),
        SEEDS.to_string(),
    ];
    for change in CHANGES {
        let is_drawn = draws.between(0, 2) == 0;
        if is_drawn || (scenario == HEALS && has_time(change)) {
            options.extend(["--set".to_owned(), change.to_owned()]);
        }
    }
    options
}

fn has_time(change: &str) -> bool {
    let timed = ["cdn.slow", "faults.", "heal_at_s"];
    timed.iter().any(|name| change.starts_with(name))
}

fn seed_of_the_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs())
}

/// SplitMix64: the same draws for the same seed.
struct Draws(u64);

impl Draws {
    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        least + (z ^ (z >> 31)) % (most - least + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_repeat_and_stay_in_range() {
        let names = ["a".to_owned(), "b".to_owned()];
        let (mut one, mut other) = (Draws(5), Draws(5));
        for _ in 0..100 {
            let drawn = draw(&mut one, &names);
            assert_eq!(drawn, draw(&mut other, &names));
            let viewers: u64 = drawn[3].parse().unwrap();
            assert!((VIEWERS.0..=VIEWERS.1).contains(&viewers));
        }
    }

    /// The simulator refuses what breaks after it has healed, and healing less than 45 s before the end.
    #[test]
    fn what_heals_has_broken_before_and_has_time_to() {
        let names = [HEALS.to_owned()];
        let mut draws = Draws(7);
        let least_s = TENTHS.0 as f64 * 6.0;
        let heal_at_s = 50.0;
        assert!(heal_at_s + 45.0 <= least_s);
        for _ in 0..50 {
            let drawn = draw(&mut draws, &names);
            let sets = |change: &str| drawn.iter().any(|option| option == change);
            assert!(sets("heal_at_s=50.0"));
            for change in CHANGES.iter().filter(|change| has_time(change)) {
                assert!(sets(change), "{change}");
                let times = change.split(['[', ',', ']']).nth(2);
                let to_s = times.map(|to| to.trim().parse::<f64>().unwrap());
                assert!(to_s.is_none_or(|to_s| to_s <= heal_at_s), "{change}");
            }
        }
    }
}
