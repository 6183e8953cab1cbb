//! `cargo xtask bench tracker`: what viewers cost the tracker, beside other trackers.
//!
//! The server has the first core and nothing else, the load the last one. What counts is the
//! server's CPU time, so a load generator that is too slow spoils nothing.

mod dashboard;
mod directory;
mod pool;
mod servers;
mod shoal;
mod webtorrent;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use servers::{Bench, Kind, Server, Setup, step_aside};
use webtorrent::{Cycle, Viewers};

use super::{Better, Output, Report};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Viewers whose announcements saturate the server.
    #[arg(long, default_value_t = 2_000)]
    connections: usize,
    /// Viewers that stay connected, for memory and the steady state. Mind the limit of open files.
    #[arg(long, default_value_t = 10_000)]
    viewers: usize,
    /// Announcements in a second in the steady state: 325 are 19,500 viewers every 60 s.
    #[arg(long, default_value_t = 325)]
    announces_per_s: u32,
    /// Viewers of the Shoal protocol that join, and how many in a second.
    #[arg(long, default_value_t = 10_000)]
    joins: usize,
    #[arg(long, default_value_t = 5_000)]
    joins_per_s: u32,
    /// Viewers of one stream that the dashboard looks at.
    #[arg(long, default_value_t = 10_000)]
    watched: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Measure this optimised `shoal` instead of building one.
    #[arg(long, value_name = "FILE")]
    shoal: Option<PathBuf>,
    /// Measure only ours.
    #[arg(long)]
    alone: bool,
    /// Measure only the dashboard.
    #[arg(long)]
    only_dashboard: bool,
    /// Leave the directory machine with its million viewers out.
    #[arg(long)]
    no_directory: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What one server has shown.
struct Shown {
    kind: Kind,
    busy: Cycle,
    stay: Stay,
}

/// What viewers that stay cost.
struct Stay {
    steady: Cycle,
    idle_kib: f64,
    rss_kib: f64,
}

pub(crate) fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("tracker");
    let bench = Bench::new(args.shoal.as_deref())?;
    if args.only_dashboard {
        step_aside()?;
        report_dashboard(&mut report, &bench, args)?;
        return Ok(report);
    }
    if !args.no_directory {
        directory::run(&mut report)?;
    }
    let mut kinds = vec![Kind::Shoal];
    for rival in [Kind::BittorrentTracker, Kind::Aquatic] {
        if args.alone {
            continue;
        }
        match bench.prepare(rival) {
            Ok(()) => kinds.push(rival),
            Err(problem) => eprintln!("skipped: {} cannot be had: {problem:#}", rival.name()),
        }
    }
    eprintln!("skipped: wt-tracker is in no registry");
    step_aside()?;
    let mut shown = Vec::new();
    for kind in kinds {
        match measure(&bench, kind, args) {
            Ok(figures) => shown.push(figures),
            Err(problem) if kind != Kind::Shoal => {
                eprintln!("skipped: {}: {problem:#}", kind.name())
            }
            Err(problem) => return Err(problem),
        }
    }
    report_webtorrent(&mut report, &shown);
    report_joins(&mut report, &bench, args)?;
    report_dashboard(&mut report, &bench, args)?;
    report_tls(&mut report, &bench, args)?;
    Ok(report)
}

fn measure(bench: &Bench, kind: Kind, args: &Args) -> Result<Shown> {
    let time = Duration::from_secs(args.seconds);
    let busy = {
        let server = bench.start(kind, Setup::Forgetful)?;
        Viewers::connect(kind, &server, args.connections)?.saturate(&server, time)?
    };
    tell(kind, "saturated", &busy);
    let stay = stay(&bench.start(kind, Setup::Usual)?, kind, args)?;
    tell(kind, "steady", &stay.steady);
    Ok(Shown { kind, busy, stay })
}

/// Lets viewers connect and announce themselves once in their interval.
fn stay(server: &Server, kind: Kind, args: &Args) -> Result<Stay> {
    let base = server.usage()?;
    let mut viewers = Viewers::connect(kind, server, args.viewers)?;
    let grown = |when: &str| -> Result<f64> {
        let kib = (server.usage()?.rss_kib - base.rss_kib) / args.viewers as f64;
        eprintln!("{} {when}: {kib:.2} KiB a viewer", kind.name());
        Ok(kib)
    };
    let idle_kib = grown("connected")?;
    viewers.announce_all(1)?;
    grown("announced")?;
    let interval = Duration::from_secs_f64(args.viewers as f64 / f64::from(args.announces_per_s));
    let time = interval.max(Duration::from_secs(args.seconds));
    let steady = viewers.keep_up(server, interval, time)?;
    let rss_kib = grown("after traffic")?;
    Ok(Stay {
        steady,
        idle_kib,
        rss_kib,
    })
}

fn tell(kind: Kind, when: &str, cycle: &Cycle) {
    eprintln!(
        "{} {when}: {:.0} cycles/s with {:.2} offers and {:.2} answers each, {:.1} us, {:.1} % of a core",
        kind.name(),
        cycle.per_s,
        cycle.offers,
        cycle.answers,
        cycle.cpu_us,
        cycle.cpu_share * 100.0
    );
}

fn report_webtorrent(report: &mut Report, shown: &[Shown]) {
    let Some((ours, rivals)) = shown.split_first() else {
        return;
    };
    let mut add = |name: &str, unit, better, of: &dyn Fn(&Shown) -> f64| {
        let others: Vec<_> = rivals
            .iter()
            .map(|rival| (rival.kind.name(), of(rival)))
            .collect();
        report.add(name, unit, better, of(ours), &others);
    };
    add(
        "server CPU of a WebTorrent cycle, saturated",
        "us",
        Better::Less,
        &|s| s.busy.cpu_us,
    );
    add(
        "WebTorrent cycles that one core is enough for",
        "per s",
        Better::More,
        &|s| 1e6 / s.busy.cpu_us,
    );
    add(
        "offers passed on in a cycle",
        "offers",
        Better::More,
        &|s| s.busy.offers,
    );
    add(
        "answers passed on in a cycle",
        "answers",
        Better::More,
        &|s| s.busy.answers,
    );
    add(
        "memory of a connection before it says anything",
        "KiB",
        Better::Less,
        &|s| s.stay.idle_kib,
    );
    add(
        "memory of a WebTorrent viewer after traffic",
        "KiB",
        Better::Less,
        &|s| s.stay.rss_kib,
    );
    add(
        "server CPU in the steady state",
        "% of a core",
        Better::Less,
        &|s| s.stay.steady.cpu_share * 100.0,
    );
    add(
        "server CPU of a cycle in the steady state",
        "us",
        Better::Less,
        &|s| s.stay.steady.cpu_us,
    );
}

fn report_joins(report: &mut Report, bench: &Bench, args: &Args) -> Result<()> {
    let server = bench.start(Kind::Shoal, Setup::Usual)?;
    let joins = shoal::run(&server, args.joins, args.joins_per_s)?;
    for (name, unit, better, value) in [
        (
            "joins that one core is enough for",
            "per s",
            Better::More,
            joins.per_core_s,
        ),
        (
            "joins offered and taken",
            "per s",
            Better::More,
            joins.per_s,
        ),
        (
            "from join to first introduction, p50",
            "ms",
            Better::Less,
            joins.first_ms_p50,
        ),
        (
            "from join to first introduction, p99",
            "ms",
            Better::Less,
            joins.first_ms_p99,
        ),
        (
            "introductions heard by a viewer",
            "introductions",
            Better::More,
            joins.introductions,
        ),
        (
            "memory of a viewer, Shoal protocol",
            "KiB",
            Better::Less,
            joins.rss_kib,
        ),
    ] {
        report.add(format!("Shoal: {name}"), unit, better, value, &[]);
    }
    Ok(())
}

/// The dashboard's answers, and what joins notice of them.
fn report_dashboard(report: &mut Report, bench: &Bench, args: &Args) -> Result<()> {
    let server = bench.start(Kind::Shoal, Setup::Usual)?;
    let watched = dashboard::run(&server, args.watched)?;
    let mut add = |name: &str, unit, value| {
        let name = format!("{} viewers in a stream: {name}", args.watched);
        report.add(name, unit, Better::Less, value, &[]);
    };
    for (when, p99_ms, share) in [
        ("nobody looks", watched.alone_ms_p99, watched.alone_share),
        (
            "three pages look",
            watched.watched_ms_p99,
            watched.watched_share,
        ),
    ] {
        add(
            &format!("join to first introduction, p99, {when}"),
            "ms",
            p99_ms,
        );
        add(&format!("server CPU, {when}"), "% of a core", share * 100.0);
    }
    for (what, slowest_ms, usual_ms, longest_kib) in watched.answers {
        add(&format!("dashboard's {what}, slowest"), "ms", slowest_ms);
        add(&format!("dashboard's {what}, median"), "ms", usual_ms);
        add(&format!("dashboard's {what}, longest"), "KiB", longest_kib);
    }
    Ok(())
}

/// Memory with TLS, of ours alone.
fn report_tls(report: &mut Report, bench: &Bench, args: &Args) -> Result<()> {
    eprintln!("with TLS:");
    let kind = Kind::Shoal;
    let stay = stay(&bench.start(kind, Setup::Secured)?, kind, args)?;
    let server = bench.start(kind, Setup::Secured)?;
    let joins = shoal::run(&server, args.joins, args.joins_per_s)?;
    for (name, kib) in [
        (
            "memory of a connection before it says anything",
            stay.idle_kib,
        ),
        ("memory of a WebTorrent viewer after traffic", stay.rss_kib),
        ("memory of a viewer, Shoal protocol", joins.rss_kib),
    ] {
        report.add(format!("with TLS: {name}"), "KiB", Better::Less, kib, &[]);
    }
    Ok(())
}
