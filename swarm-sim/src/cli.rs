//! The command: options in, a report out.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{Options, Progress, Report, run, to_html};

/// How often a progress line is written, on a terminal and elsewhere.
const PROGRESS_EVERY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// The options of `shoal simulate`. A scenario is the start; the other options change it.
#[derive(Args, Clone, Debug, Default)]
pub struct SimulateArgs {
    /// A scenario of the crate; evening-match unless told otherwise
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// A scenario from a TOML file
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    pub scenario_file: Option<PathBuf>,
    /// Viewers at the audience's peak
    #[arg(long)]
    pub viewers: Option<u32>,
    /// Bitrate in Mbit/s
    #[arg(long)]
    pub bitrate_mbps: Option<f64>,
    /// Duration of segments in seconds
    #[arg(long)]
    pub segment_s: Option<f64>,
    /// How far players stay behind the live edge, in seconds
    #[arg(long)]
    pub latency_s: Option<f64>,
    /// Simulated minutes
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Decides every random choice
    #[arg(long)]
    pub seed: Option<u64>,
    /// Runs this many seeds from the given one on, and prints a line for each
    #[arg(long, default_value_t = 1)]
    pub seeds: u32,
    /// Writes a report with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Writes the report as one JSON object a line; - is the standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Prints the options as TOML and simulates nothing
    #[arg(long)]
    pub print_config: bool,
}

impl SimulateArgs {
    /// The options that were asked for.
    ///
    /// # Errors
    /// If the scenario is not known, not readable, or makes no sense.
    pub fn options(&self) -> Result<Options> {
        let mut options = match (&self.scenario, &self.scenario_file) {
            (_, Some(path)) => {
                let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
                Options::from_toml(&text).with_context(|| path.display().to_string())?
            }
            (name, None) => Options::scenario(name.as_deref().unwrap_or("evening-match"))?,
        };
        options.viewers = self.viewers.unwrap_or(options.viewers);
        options.bitrate_mbps = self.bitrate_mbps.unwrap_or(options.bitrate_mbps);
        options.segment_s = self.segment_s.unwrap_or(options.segment_s);
        options.latency_s = self.latency_s.unwrap_or(options.latency_s);
        options.minutes = self.minutes.unwrap_or(options.minutes);
        options.seed = self.seed.unwrap_or(options.seed);
        options.check()?;
        Ok(options)
    }
}

/// Runs the command. The exit code is a failure if an invariant was broken.
///
/// # Errors
/// If the options make no sense or a file cannot be written.
pub fn simulate(args: &SimulateArgs) -> Result<ExitCode> {
    let first = args.options()?;
    if args.print_config {
        print!("{}", toml::to_string(&first)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut problems = 0;
    for seed in first.seed..first.seed + u64::from(args.seeds.max(1)) {
        let options = Options {
            seed,
            ..first.clone()
        };
        eprintln!(
            "simulating {} (seed {seed}): {} viewers, {} Mbit/s, segments of {} s, {} s behind, {} min",
            options.scenario,
            options.viewers,
            options.bitrate_mbps,
            options.segment_s,
            options.latency_s,
            options.minutes
        );
        let mut meter = Meter::new();
        let report = run(&options, &mut |progress| meter.show(progress))?;
        meter.clear();
        problems += report.problems;
        summarise(&report);
        if let Some(path) = &args.html {
            fs::write(path, to_html(&report)).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &args.json {
            let json = serde_json::to_string(&report)?;
            if path.as_os_str() == "-" {
                println!("{json}");
            } else {
                let mut file = fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)?;
                writeln!(file, "{json}")?;
            }
        }
    }
    Ok(if problems == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn summarise(report: &Report) {
    eprintln!(
        "  offload {:.3} (bound {:.3}, groups {:.3}), {:.1} CDN copies a segment ({:.2} a group), wasted {:.3}",
        report.offload,
        report.offload_bound,
        report.offload_bound_groups,
        report.cdn_copies_per_segment,
        report.cdn_copies_per_group,
        report.bytes_wasted_ratio
    );
    eprintln!(
        "  stalls {:.5} (twin {:.5}), start-up {}/{} ms (twin {}/{}), latency {:.2} s (twin {:.2})",
        report.stall_ratio,
        report.stall_ratio_cdn_only,
        report.startup_ms_p50,
        report.startup_ms_p95,
        report.startup_ms_p50_cdn_only,
        report.startup_ms_p95_cdn_only,
        report.latency_s_p50,
        report.latency_s_p50_cdn_only
    );
    let lost: Vec<String> = report
        .lost
        .iter()
        .map(|(name, share)| format!("{name} {share:.4}"))
        .collect();
    eprintln!(
        "  CDN bytes by reason: {}; ready {:?} ms; {:.0} groups of {:.1}; core {:.0} bytes; {} events in {:.1} s; hash {}",
        lost.join(", "),
        report.ready_ms,
        report.groups.0,
        report.groups.1,
        report.core_bytes_per_viewer,
        report.events,
        report.wall_s,
        report.event_hash
    );
    for problem in &report.problems_first {
        eprintln!("  broken: {problem}");
    }
    if report.problems > 0 {
        eprintln!(
            "  {} broken invariants; seed {} replays them",
            report.problems, report.options.seed
        );
    }
}

/// The progress line.
struct Meter {
    began: Instant,
    shown: Instant,
    is_terminal: bool,
}

impl Meter {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            shown: now,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, progress: Progress) {
        if self.shown.elapsed() < PROGRESS_EVERY[usize::from(!self.is_terminal)] {
            return;
        }
        self.shown = Instant::now();
        let spent = self.began.elapsed().as_secs_f64();
        let left = spent / progress.done.max(1e-6) * (1.0 - progress.done);
        let end = if self.is_terminal { '\r' } else { '\n' };
        eprint!(
            "  {:3.0} %  at {:.0} s  {} events  {:.0} s left {end}",
            progress.done * 100.0,
            progress.simulated_s,
            progress.events,
            left
        );
    }

    fn clear(&self) {
        if self.is_terminal {
            eprint!("\r{:70}\r", "");
        }
    }
}
