//! `cargo xtask bench targets`: the table of `docs/benchmarks.md`, measured anew.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Better, Output, Report, simulator};

/// Stalls may be as much above the twin's.
const STALL_EXTRA_MAX: f64 = 0.0005;
/// Bytes from peers that may be wasted.
const WASTE_MAX: f64 = 0.03;
/// How far the peak of a flash crowd may be above what newcomers take.
const PEAK_MAX: f64 = 1.15;
/// Offload that polluters may cost.
const POLLUTION_MAX: f64 = 0.03;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seeds of each row.
    #[arg(long, default_value_t = 10)]
    seeds: u32,
    /// Audiences are no larger than this; the targets are for 10,000.
    #[arg(long, default_value_t = 10_000)]
    viewers_max: u32,
    /// Simulated minutes of each run; those of the scenarios unless told otherwise.
    #[arg(long)]
    minutes: Option<f64>,
    /// Only the rows whose name holds this.
    #[arg(long)]
    only: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What a row must reach.
#[derive(Clone, Copy)]
enum Target {
    Offload(f64),
    /// The peak against what newcomers take.
    Peak,
    /// The loss against the same audience without polluters, and nothing bad played.
    Pollution,
    /// No more stalls than the twin.
    Stalls,
}

/// One row: its name, the scenario, the audience, other options.
struct Row {
    name: &'static str,
    scenario: &'static str,
    viewers: u32,
    options: &'static [&'static str],
    target: Target,
}

const fn row(
    name: &'static str,
    scenario: &'static str,
    viewers: u32,
    options: &'static [&'static str],
    target: Target,
) -> Row {
    Row {
        name,
        scenario,
        viewers,
        options,
        target,
    }
}

const LARGE: u32 = 10_000;
const MIDDLE: u32 = 2_000;
const ROWS: &[Row] = &[
    row(
        "steady, 10 s",
        "evening-match",
        LARGE,
        &[],
        Target::Offload(0.97),
    ),
    row(
        "steady, 6 s",
        "evening-match",
        LARGE,
        &["--latency-s", "6"],
        Target::Offload(0.93),
    ),
    row(
        "6 s, played while it arrives",
        "progressive",
        LARGE,
        &[],
        Target::Offload(0.93),
    ),
    row(
        "10 s, played while it arrives",
        "progressive",
        LARGE,
        &["--latency-s", "10"],
        Target::Offload(0.97),
    ),
    row(
        "separate groups",
        "isolated-groups",
        MIDDLE,
        &[],
        Target::Offload(0.89),
    ),
    row("5 viewers", "small-channel", 5, &[], Target::Offload(0.72)),
    row("3 viewers", "small-channel", 3, &[], Target::Offload(0.60)),
    row(
        "LL-HLS, 0.5 s parts, 3 s",
        "ll-hls",
        MIDDLE,
        &[],
        Target::Offload(0.75),
    ),
    row("flash crowd", "flash-crowd", LARGE, &[], Target::Peak),
    row("10 % polluters", "hostile", MIDDLE, &[], Target::Pollution),
    row("30 % churn a minute", "churn", MIDDLE, &[], Target::Stalls),
];

/// Measures row by row; a Markdown table goes to standard error as it grows.
pub(crate) fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("targets");
    let mut table = String::from(
        "| scenario | options | offload [least, greatest] | bounds: uplinks, NATs | target | met | stall ratio (twin) | start-up p50 / p95 ms (twin) | Mbit/s, changes of rendition (twin) | wasted | problems |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let wanted = |row: &&Row| {
        args.only
            .as_ref()
            .is_none_or(|part| row.name.contains(part))
    };
    let mut problems = 0.0;
    for row in ROWS.iter().filter(wanted) {
        let options = options(row, args);
        let found = simulator::report(options.iter().map(String::as_str))?;
        let measured = Measured::of(row, args, &found)?;
        report.add(row.name, "offload", Better::More, measured.offload, &[]);
        table.push_str(&measured.line(row, &options));
        problems += measured.problems;
        eprint!("{table}");
    }
    ensure!(problems == 0.0, "{problems} broken invariants");
    Ok(report)
}

fn options(row: &Row, args: &Args) -> Vec<String> {
    let viewers = row.viewers.min(args.viewers_max).to_string();
    let seeds = args.seeds.to_string();
    let mut options = vec!["--scenario", row.scenario, "--viewers", &viewers];
    options.extend(row.options);
    options.extend(["--seeds", &seeds]);
    let mut options: Vec<String> = options.into_iter().map(str::to_owned).collect();
    // A flash crowd comes at its time.
    if let Some(minutes) = args.minutes.filter(|_| !matches!(row.target, Target::Peak)) {
        options.extend(["--minutes".to_owned(), minutes.to_string()]);
    }
    options
}

/// The medians of one row.
struct Measured {
    offload: f64,
    spread: (f64, f64),
    /// That of all uplinks, and that of who reaches whom.
    bounds: (f64, f64),
    stalls: (f64, f64),
    startup_ms: [f64; 4],
    /// Mean bitrate and changes of rendition a viewer, and the twin's.
    played: [(f64, f64); 2],
    wasted: f64,
    /// Broken invariants, of all seeds.
    problems: f64,
    /// What is compared with the target, in words, and whether it is met.
    verdict: (String, bool),
}

impl Measured {
    fn of(row: &Row, args: &Args, found: &Value) -> Result<Self> {
        let number = |name: &str| simulator::number(found, name);
        let offload = number("offload")?;
        let stalls = (number("stall_ratio")?, number("stall_ratio_cdn_only")?);
        let played = |world: &str| -> Result<(f64, f64)> {
            let number = |name: &str| simulator::number(&found[world], name);
            Ok((number("bitrate_mbps")?, number("switches_per_viewer")?))
        };
        let side = |at: usize| found["spread"]["offload"][at].as_f64().unwrap_or(offload);
        let (p50, p95) = ("startup_ms_p50", "startup_ms_p95");
        Ok(Self {
            offload,
            spread: (side(0), side(1)),
            bounds: (number("offload_bound")?, number("offload_bound_reach")?),
            stalls,
            startup_ms: [
                number(p50)?,
                number(p95)?,
                number(&format!("{p50}_cdn_only"))?,
                number(&format!("{p95}_cdn_only"))?,
            ],
            played: [played("quality")?, played("quality_cdn_only")?],
            wasted: number("bytes_wasted_ratio")?,
            problems: number("problems")?,
            verdict: verdict(row, args, found, offload, stalls)?,
        })
    }

    fn line(&self, row: &Row, options: &[String]) -> String {
        let (offload, (least, greatest)) = (self.offload, self.spread);
        let (target, met) = &self.verdict;
        let more_stalls = self.stalls.0 - self.stalls.1 > STALL_EXTRA_MAX;
        let [p50, p95, twin_p50, twin_p95] = self.startup_ms;
        let [ours, twins] = self.played;
        let is_worse = ours.0 < twins.0 || ours.1 > twins.1;
        let mark = |over: bool| if over { " (over)" } else { "" };
        format!(
            "| {} | `{}` | {offload:.3} [{least:.3}, {greatest:.3}] | {:.3}, {:.3} | {target} | {} | {:.4} ({:.4}){} | {p50:.0} / {p95:.0} ({twin_p50:.0} / {twin_p95:.0}){} | {:.3}, {:.3} ({:.3}, {:.3}){} | {:.3}{} | {} |\n",
            row.name,
            options.join(" "),
            self.bounds.0,
            self.bounds.1,
            if *met { "yes" } else { "no" },
            self.stalls.0,
            self.stalls.1,
            mark(more_stalls),
            mark(p50 > twin_p50 || p95 > twin_p95),
            ours.0,
            ours.1,
            twins.0,
            twins.1,
            mark(is_worse),
            self.wasted,
            mark(self.wasted > WASTE_MAX),
            self.problems,
        )
    }
}

fn verdict(
    row: &Row,
    args: &Args,
    found: &Value,
    offload: f64,
    stalls: (f64, f64),
) -> Result<(String, bool)> {
    Ok(match row.target {
        Target::Offload(least) => (format!("{least:.2}"), offload >= least),
        Target::Peak => {
            let peak = found["cdn_peak_mbps"][0].as_f64().unwrap_or(f64::INFINITY);
            let most = PEAK_MAX * simulator::number(found, "cdn_peak_newcomers_mbps")?;
            let steady = found["cdn_steady_mbps"][0].as_f64().unwrap_or(f64::NAN);
            (
                format!("peak {peak:.0} of {most:.0} Mbit/s ({steady:.0} before)"),
                peak <= most,
            )
        }
        Target::Pollution => {
            let mut honest = options(row, args);
            honest.extend(["--set".to_owned(), "hostile.polluters=0.0".to_owned()]);
            let honest = simulator::report(honest.iter().map(String::as_str))?;
            let lost = simulator::number(&honest, "offload")? - offload;
            let of_honest = |found| simulator::number(found, "offload_honest");
            let lost_by_honest = of_honest(&honest)? - of_honest(found)?;
            let played = &found["spread"]["bad_pieces_played"][1];
            let played = played.as_f64().or(found["bad_pieces_played"].as_f64());
            let met = lost <= POLLUTION_MAX && played == Some(0.0);
            let played = played.unwrap_or(f64::NAN);
            (
                format!(
                    "lost {lost:.3} of {POLLUTION_MAX} (honest viewers {lost_by_honest:.3}), {played} played"
                ),
                met,
            )
        }
        Target::Stalls => (
            "no extra stalls".to_owned(),
            stalls.0 - stalls.1 <= STALL_EXTRA_MAX,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_is_judged_by_its_own_target_and_those_of_all() {
        let found = json!({
            "offload": 0.95, "offload_bound": 1.0, "offload_bound_reach": 0.97, "bytes_wasted_ratio": 0.05,
            "stall_ratio": 0.002, "stall_ratio_cdn_only": 0.001,
            "startup_ms_p50": 900, "startup_ms_p95": 3000,
            "startup_ms_p50_cdn_only": 901, "startup_ms_p95_cdn_only": 2900,
            "cdn_peak_mbps": [900.0, 5000.0], "cdn_peak_newcomers_mbps": 1000.0,
            "cdn_steady_mbps": [170.0, 900.0],
            "quality": { "bitrate_mbps": 4.9, "switches_per_viewer": 0.1 },
            "quality_cdn_only": { "bitrate_mbps": 5.0, "switches_per_viewer": 0.1 },
            "problems": 1,
            "spread": { "offload": [0.94, 0.96] },
        });
        let args = Args {
            seeds: 2,
            viewers_max: 100,
            minutes: Some(1.0),
            only: None,
            output: Output { json: None },
        };
        let met = |name: &str| {
            let row = ROWS.iter().find(|row| row.name == name).unwrap();
            Measured::of(row, &args, &found).unwrap().verdict.1
        };
        assert!(!met("steady, 10 s") && met("steady, 6 s"));
        assert!(met("flash crowd") && !met("30 % churn a minute"));
        let options = options(&ROWS[0], &args);
        let line = Measured::of(&ROWS[0], &args, &found)
            .unwrap()
            .line(&ROWS[0], &options);
        assert_eq!(line.matches("(over)").count(), 4, "{line}");
        assert!(line.ends_with(" | 1 |\n"), "{line}");
        assert!(line.contains("0.950 [0.940, 0.960]") && line.contains("--viewers 100"));
    }
}
