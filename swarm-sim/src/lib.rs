//! A deterministic simulator of large swarms: the very same machines that run in pages, agents and
//! trackers ([`swarm_core::peer::Peer`], [`swarm_core::directory::Directory`]), in virtual time.
//!
//! Around them are models: access links that households share, delays, NATs, a CDN, players,
//! visits, and people who do not play by the rules. Every run has a twin with the same audience and
//! without peers, so that what peers cost viewers is measured, not assumed. `docs/SIMULATOR.md`
//! tells how to read a report and how to add a scenario.
//!
//! The same [`Options`] give the same run on every machine, event by event, however many threads
//! there are: queues in a total order, messages between parts handed over at fixed times, seeded
//! choices, no walk through a hash map that an outcome depends on, no library mathematics.

mod bounds;
pub mod cli;
mod histogram;
mod html;
mod measure;
mod options;
mod player;
mod population;
mod queue;
mod random;
mod reach;
mod report;
mod trace;
mod world;

pub use html::to_html;
pub use options::{Access, Arrival, Cdn, Exit, Faults, Hostile, Options, SCENARIOS, Session};
pub use report::{Quality, Report};

use std::{sync::Arc, time::Instant};

use anyhow::Result;
use report::Cost;
use world::World;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Share of the work that is done, the twin included.
    pub done: f64,
    /// Simulated seconds of the world under way.
    pub simulated_s: f64,
    /// Events so far in the world under way.
    pub events: u64,
}

/// The share of a run's work that the twin is, roughly.
const TWIN_SHARE: f64 = 0.05;

/// Simulates what `options` describe, and the twin, on so many threads: their number changes
/// nothing but the time it takes. Calls `progress` now and then.
///
/// # Errors
/// If the options make no sense. What goes wrong inside the simulation is in the report.
pub fn run(
    options: &Options,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report> {
    options.check()?;
    let began = Instant::now();
    let options = Arc::new(options.clone());
    let simulate = |enabled: bool, from: f64, to: f64| {
        World::new(&options, enabled, 0).run(threads, &|at_us, events| {
            progress(Progress {
                done: from + (to - from) * at_us as f64 / options.end_us() as f64,
                simulated_s: at_us as f64 / 1e6,
                events,
            });
        })
    };
    let twin = simulate(false, 0.0, TWIN_SHARE);
    let wall_s_cdn_only = began.elapsed().as_secs_f64();
    let world = simulate(true, TWIN_SHARE, 1.0);
    let cost = Cost {
        wall_s: began.elapsed().as_secs_f64(),
        wall_s_cdn_only,
        threads,
    };
    Ok(Report::new(&options, world, twin, cost))
}

/// What the first `viewers` viewers' machines are told in a run, in order: lines of JSON with the
/// viewer, the time in microseconds, and a call of the browser viewer's interface with its
/// arguments. At most some hundred lines for each viewer.
///
/// # Errors
/// If the options make no sense.
pub fn trace(options: &Options, viewers: u32) -> Result<Vec<String>> {
    options.check()?;
    let world = World::new(&Arc::new(options.clone()), true, viewers);
    Ok(world.run(1, &|_, _| {}).trace)
}
