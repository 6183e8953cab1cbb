//! A deterministic simulator of large swarms: the very same machines that run in pages, agents and
//! trackers ([`swarm_core::peer::Peer`], [`swarm_core::directory::Directory`]), in virtual time.
//!
//! Around them are models: access links that households share, delays, NATs, a CDN, players,
//! visits, and people who do not play by the rules. Every run has a twin with the same audience and
//! without peers, so that what peers cost viewers is measured, not assumed. `docs/SIMULATOR.md`
//! tells how to read a report and how to add a scenario.
//!
//! The same [`Options`] give the same run on every machine, event by event: one thread, one queue
//! in a total order, seeded choices, no walk through a hash map, no library mathematics.

mod bounds;
pub mod cli;
mod html;
mod measure;
mod options;
mod player;
mod population;
mod queue;
mod random;
mod report;
mod world;

pub use html::to_html;
pub use options::{Access, Arrival, Cdn, Exit, Hostile, Options, SCENARIOS, Session};
pub use report::{Quality, Report};

use std::{sync::Arc, time::Instant};

use anyhow::Result;
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

/// Simulates what `options` describe, and the twin. Calls `progress` now and then.
///
/// # Errors
/// If the options make no sense. What goes wrong inside the simulation is in the report.
pub fn run(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    options.check()?;
    let began = Instant::now();
    let options = Arc::new(options.clone());
    let end_us = options.end_us() as f64;
    let mut twin = World::new(&options, false);
    twin.run(&mut |at_us, events| {
        let done = TWIN_SHARE * at_us as f64 / end_us;
        progress(Progress {
            done,
            simulated_s: at_us as f64 / 1e6,
            events,
        });
    });
    let mut world = World::new(&options, true);
    world.run(&mut |at_us, events| {
        let done = TWIN_SHARE + (1.0 - TWIN_SHARE) * at_us as f64 / end_us;
        progress(Progress {
            done,
            simulated_s: at_us as f64 / 1e6,
            events,
        });
    });
    let wall_s = began.elapsed().as_secs_f64();
    Ok(Report::new(&options, &mut world, &mut twin, wall_s))
}
