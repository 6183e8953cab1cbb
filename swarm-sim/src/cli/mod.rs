//! The command: options in, a report out.

mod seeds;
mod show;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::{Options, Report, run, to_html, trace};
use show::Meter;

/// Viewers whose inputs a trace has.
const TRACED: u32 = 3;

/// The commit that this program was built from.
pub const COMMIT: &str = env!("SHOAL_COMMIT");

/// The options of `shoal simulate`. A scenario is the start; the other options change it.
#[derive(Args, Clone, Debug, Default)]
pub struct SimulateArgs {
    /// A scenario by its name (see --list), or a TOML file
    #[arg(
        long,
        value_name = "NAME|FILE",
        default_value = "evening-match",
        hide_default_value = false
    )]
    pub scenario: String,
    /// Lists the scenarios, and simulates nothing
    #[arg(long)]
    pub list: bool,
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
    /// Media that players take at a time while a segment arrives, in seconds; 0: whole segments.
    #[arg(long)]
    pub grain_s: Option<f64>,
    /// Simulated minutes
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Decides every random choice
    #[arg(long)]
    pub seed: Option<u64>,
    /// Any other option of the scenario, such as `access.loss=0.01`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Runs as many seeds, from the given one on, and reports medians and spreads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub seeds: u32,
    /// Threads; as many as the machine has cores unless told otherwise. The result is the same.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: Option<u32>,
    /// Writes a report with plots; of several seeds, that of the median offload
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Writes the report as one JSON object; - is the last line of the standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes what the first three viewers' machines are told, one call a line, and reports nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["html", "json", "seeds"])]
    pub trace: Option<PathBuf>,
    /// Prints the options as TOML, and simulates nothing
    #[arg(long)]
    pub print_config: bool,
}

impl SimulateArgs {
    /// The options that were asked for.
    ///
    /// # Errors
    /// If the scenario is not known, not readable, or makes no sense: the caller's mistake, as [`Refused`]
    /// says.
    pub fn options(&self) -> Result<Options> {
        self.wanted().context(Refused)
    }

    fn wanted(&self) -> Result<Options> {
        let mut options = Options::named(&self.scenario)?;
        for change in &self.set {
            options = options
                .with(change)
                .with_context(|| format!("--set {change}"))?;
        }
        options.viewers = self.viewers.unwrap_or(options.viewers);
        options.bitrate_mbps = self.bitrate_mbps.unwrap_or(options.bitrate_mbps);
        options.segment_s = self.segment_s.unwrap_or(options.segment_s);
        options.latency_s = self.latency_s.unwrap_or(options.latency_s);
        options.grain_s = self.grain_s.unwrap_or(options.grain_s);
        options.minutes = self.minutes.unwrap_or(options.minutes);
        options.seed = self.seed.unwrap_or(options.seed);
        options.check()?;
        Ok(options)
    }

    /// Threads to use.
    fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(cores, |threads| threads as usize)
    }

    /// The command line that repeats one seed's run.
    pub fn replay(&self, options: &Options) -> String {
        let mut line = format!(
            "shoal simulate --scenario {} --viewers {} --bitrate-mbps {} --segment-s {} --latency-s {} --grain-s {} --minutes {} --seed {}",
            self.scenario,
            options.viewers,
            options.bitrate_mbps,
            options.segment_s,
            options.latency_s,
            options.grain_s,
            options.minutes,
            options.seed
        );
        for change in &self.set {
            line.push_str(&format!(" --set '{change}'"));
        }
        line
    }
}

/// Runs the command: what was asked for goes to standard output or files, the rest to standard
/// error.
///
/// # Errors
/// If the options make no sense, a file cannot be written, or an invariant was broken.
pub fn simulate(args: &SimulateArgs) -> Result<()> {
    if args.list {
        print!("{}", show::scenarios());
        return Ok(());
    }
    let first = args.options()?;
    if args.print_config {
        print!("{}", toml::to_string(&first)?);
        return Ok(());
    }
    for path in [&args.html, &args.json, &args.trace].into_iter().flatten() {
        check_writable(path)?;
    }
    eprint!("{}", show::announcement(args, &first)?);
    if let Some(path) = &args.trace {
        let lines = trace(&first, TRACED)?;
        let text = lines.join("\n") + "\n";
        return fs::write(path, text).with_context(|| path.display().to_string());
    }
    let reports = if args.seeds == 1 {
        let meter = Meter::new(1);
        let report = run(&first, args.threads(), &|progress| meter.show(0, progress))?;
        meter.clear();
        vec![report]
    } else {
        seeds::run_all(args, &first)?
    };
    for report in &reports {
        eprint!("{}", show::summary(report));
    }
    if let Some(path) = &args.html {
        let page = to_html(seeds::median_run(&reports));
        fs::write(path, page).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.json {
        let json = to_json(args, &reports)?.to_string();
        if path.as_os_str() == "-" {
            println!("{json}");
        } else {
            fs::write(path, json + "\n").with_context(|| path.display().to_string())?;
        }
    }
    let broken = reports.iter().filter(|report| report.problems > 0);
    match broken.map(|report| args.replay(&report.options)).next() {
        None => Ok(()),
        Some(replay) => bail!("an invariant was broken; `{replay}` at commit {COMMIT} replays it"),
    }
}

/// A run may take hours; that its report cannot be written is better known before.
fn check_writable(path: &Path) -> Result<()> {
    if path.as_os_str() != "-" {
        let mut file = fs::OpenOptions::new();
        let opened = file.create(true).append(true).open(path);
        opened.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The options make no sense: nothing was simulated.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these options make no sense")
    }
}

/// What a program ends with that could not do as it was told: 2 if the options are refused, else 1 (an
/// invariant was broken, a file cannot be written).
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Refused>() { 2 } else { 1 }
}

/// One report, or the medians of several with their spreads.
fn to_json(args: &SimulateArgs, reports: &[Report]) -> Result<Value> {
    let mut values = Vec::new();
    for report in reports {
        let mut value = serde_json::to_value(report)?;
        value["commit"] = json!(COMMIT);
        value["replay"] = json!(args.replay(&report.options));
        values.push(value);
    }
    Ok(match values.len() {
        1 => values.remove(0),
        _ => seeds::summary(&values),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SCENARIOS;

    fn args(scenario: &str) -> SimulateArgs {
        SimulateArgs {
            scenario: scenario.to_owned(),
            ..SimulateArgs::default()
        }
    }

    #[test]
    fn options_begin_as_a_scenario_and_are_changed() {
        let mut args = args("flash-crowd");
        args.viewers = Some(77);
        args.set = vec![
            "access.loss=0.25".to_owned(),
            "replace_leavers=false".to_owned(),
        ];
        let options = args.options().unwrap();
        assert_eq!((options.viewers, options.access.loss), (77, 0.25));
        assert!(!options.replace_leavers && options.arrivals.len() == 2);
        assert!(
            args.replay(&options)
                .ends_with("--set 'replace_leavers=false'")
        );
        for mistake in [
            "acess.loss=1",
            "access.loss",
            "access.loss=much",
            "viewers=0",
        ] {
            args.set = vec![mistake.to_owned()];
            args.viewers = None;
            let error = args.options().unwrap_err();
            assert_eq!(exit_code(&error), 2, "{mistake}: {error:#}");
        }
        args.set = vec!["scenario=mine".to_owned()];
        let error = format!("{:#}", args.options().unwrap_err());
        assert!(error.contains("strings need quotes"), "{error}");
    }

    #[test]
    fn options_are_judged_when_all_of_them_are_known() {
        let mut args = args("evening-match");
        args.minutes = Some(10.0);
        args.set = ["heal_at_s=300.0", "latency_s=3.0", "segment_s=1.0"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(args.options().unwrap().heal_at_s, Some(300.0));
        args.minutes = Some(2.0);
        assert!(args.options().is_err());
    }

    #[test]
    fn a_report_that_cannot_be_written_is_no_run() {
        let mut args = args("small-channel");
        args.minutes = Some(600.0);
        args.html = Some(PathBuf::from("/no/such/folder/report.html"));
        let error = simulate(&args).unwrap_err();
        assert!(error.to_string().contains("report.html"), "{error:#}");
        assert_eq!(exit_code(&error), 1);
    }

    #[test]
    fn who_only_looks_at_the_options_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args("small-channel");
        args.json = Some(folder.path().join("report.json"));
        args.print_config = true;
        simulate(&args).unwrap();
        assert!(!folder.path().join("report.json").exists());
    }

    #[test]
    fn every_scenario_is_listed() {
        let list = show::scenarios();
        assert!(SCENARIOS.iter().all(|(name, _)| list.contains(name)));
        assert!(args("no-such").options().is_err());
        assert!(args("no/such.toml").options().is_err());
    }
}
