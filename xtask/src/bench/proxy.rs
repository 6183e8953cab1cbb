//! `cargo xtask bench proxy`: the origin-proxy next to nginx and Varnish.
//!
//! Each server has one core to itself and the load generator another. What a server can do is told by
//! the CPU time that its processes take for a request: wall-clock rates are reported, too, but suffer
//! from whatever else runs on the machine. Servers take turns in every round, and medians count.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::proxy_audience::Audience;
use super::proxy_load::{Load, Loaded, Version, first_byte, get_text, load_http3};
use super::proxy_origin::Origin;
use super::proxy_servers::{self as servers, Server};
use super::{Better, Output, Report};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every server in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections of the load generator.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Viewers that poll a live stream: a playlist each 2 s and a segment each 4 s.
    #[arg(long, default_value_t = 10_000)]
    viewers: usize,
    /// For how many seconds they do, in each round.
    #[arg(long, default_value_t = 12)]
    live_seconds: u64,
    /// Measure these viewers alone.
    #[arg(long)]
    only_live: bool,
    /// Measure one object by one version of HTTP alone, such as `1 MB, HTTP/1.1`, or `cold` ones alone.
    #[arg(long, value_name = "FIGURE", conflicts_with = "only_live")]
    only: Option<String>,
    /// Measure the examples `edge` and `h3load` in this folder instead of an optimised build.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What is fetched over and over, its length, and how often a second by each connection where latency counts.
const OBJECTS: [(&str, &str, f64, u32); 2] = [
    ("4 KB", "/object/4096", 4096.0, 300),
    ("1 MB", "/object/1048576", 1_048_576.0, 10),
];
/// What `--only` calls objects that no cache has.
const COLD: &str = "cold";
/// So many of them, for the time to the first byte.
const COLD_OBJECTS: usize = 100;
const WARM_UP_REQUESTS: usize = 3;

pub(crate) fn run(args: &Args) -> Result<Report> {
    ensure!(args.rounds > 0, "`--rounds` must be 1 at least");
    let origin = Origin::start()?;
    let programs = match &args.programs {
        Some(folder) => folder.clone(),
        None => servers::build_ours()?,
    };
    servers::make_way()?;
    let mut report = Report::new("proxy");
    if !args.only_live {
        report_objects(args, &mut report, &origin, &programs)?;
    }
    if args.only.is_some() {
        return Ok(report);
    }
    // What the servers keep of other objects is no part of what viewers of a live stream cost.
    let servers = servers::start_all(origin.address(), &programs)?;
    report_live(args, &mut report, &servers, &origin)?;
    Ok(report)
}

fn report_objects(
    args: &Args,
    report: &mut Report,
    origin: &Origin,
    programs: &Path,
) -> Result<()> {
    let servers = servers::start_all(origin.address(), programs)?;
    for (label, path, len, pace) in OBJECTS {
        for version in [Version::Http1, Version::Http2] {
            let name = format!("{label}, {}", version.name());
            if args.only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let load = Load {
                path,
                version,
                seconds: args.seconds,
                connections: args.connections,
                pace,
            };
            let rounds = measure(args, &servers, &load)?;
            let latency = format!("99th percentile at {pace}/s a connection");
            report_load(report, &name, len, &servers, &rounds, &latency);
        }
    }
    if args.only.is_none() {
        report_http3(args, report, &servers[0], programs)?;
    }
    if args.only.as_ref().is_none_or(|only| only == COLD) {
        report_cold(args, report, &servers)?;
    }
    Ok(())
}

/// What each server did in each round.
fn measure(args: &Args, servers: &[Server], load: &Load<'_>) -> Result<Vec<Vec<Loaded>>> {
    let mut rounds = vec![Vec::new(); servers.len()];
    for _ in 0..args.rounds {
        for (server, rounds) in servers.iter().zip(&mut rounds) {
            for _ in 0..WARM_UP_REQUESTS {
                first_byte(server.address(load.version), load.path, load.version)?;
            }
            rounds.push(load.run(server)?);
        }
    }
    Ok(rounds)
}

fn report_load(
    report: &mut Report,
    name: &str,
    len: f64,
    servers: &[Server],
    rounds: &[Vec<Loaded>],
    latency: &str,
) {
    let per_core = |loaded: &Loaded| loaded.requests / loaded.cpu_s;
    let bits = |loaded: &Loaded| per_core(loaded) * len * 8.0 / 1e9;
    let wall = |loaded: &Loaded| loaded.requests / loaded.wall_s;
    let p99 = |loaded: &Loaded| loaded.p99_ms;
    type Look<'a> = &'a dyn Fn(&Loaded) -> f64;
    let figures: [(&str, &'static str, Better, Look<'_>); 4] = [
        ("requests per core", "1/CPU s", Better::More, &per_core),
        ("throughput per core", "Gbit/CPU s", Better::More, &bits),
        ("requests by the clock", "1/s", Better::More, &wall),
        (latency, "ms", Better::Less, &p99),
    ];
    for (what, unit, better, look) in figures {
        let values = rounds
            .iter()
            .map(|rounds| median(rounds.iter().map(look)))
            .collect();
        add(
            report,
            format!("{name}: {what}"),
            unit,
            better,
            servers,
            values,
        );
    }
}

/// Ours alone: the others, as they come with Debian, have no HTTP/3.
fn report_http3(args: &Args, report: &mut Report, server: &Server, programs: &Path) -> Result<()> {
    for (label, path, len, pace) in OBJECTS {
        let mut rounds = Vec::new();
        for _ in 0..args.rounds {
            first_byte(server.address(Version::Http1), path, Version::Http1)?;
            let load = Load {
                path,
                // Its own; what counts is the rest.
                version: Version::Http2,
                seconds: args.seconds,
                connections: args.connections,
                pace,
            };
            rounds.push(load_http3(server, programs, &load)?);
        }
        let name = format!("{label}, HTTP/3");
        let server = std::slice::from_ref(server);
        let latency = "99th percentile under full load";
        report_load(report, &name, len, server, &[rounds], latency);
    }
    Ok(())
}

fn report_cold(args: &Args, report: &mut Report, servers: &[Server]) -> Result<()> {
    let mut medians = vec![Vec::new(); servers.len()];
    for round in 0..args.rounds {
        for (server, medians) in servers.iter().zip(&mut medians) {
            let mut times = Vec::new();
            for number in 0..COLD_OBJECTS {
                let path = format!("/cold/{round}/{}/{number}", server.name);
                let address = server.address(Version::Http1);
                times.push(first_byte(address, &path, Version::Http1)?.as_secs_f64() * 1e3);
            }
            medians.push(median(times.into_iter()));
        }
    }
    let values = medians
        .into_iter()
        .map(|rounds| median(rounds.into_iter()))
        .collect();
    let name = "cold 1 MB: time to the first byte".to_owned();
    add(report, name, "ms", Better::Less, servers, values);
    Ok(())
}

/// What a server did for viewers of a live stream.
struct Live {
    cpu_percent: f64,
    /// Of a core, for signing; only ours tells.
    signing_percent: f64,
    p99_ms: f64,
    resident_mb: f64,
    /// For each viewer.
    growth_kb: f64,
    /// Requests to the origin for each segment.
    copies: f64,
}

fn report_live(
    args: &Args,
    report: &mut Report,
    servers: &[Server],
    origin: &Origin,
) -> Result<()> {
    let mut rounds: Vec<Vec<Live>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 0..args.rounds {
        for (server, rounds) in servers.iter().zip(&mut rounds) {
            rounds.push(measure_live(args, server, origin, round)?);
        }
    }
    type Look = fn(&Live) -> f64;
    // A server grows with its first viewers.
    let figures: [(&str, &'static str, usize, Look); 5] = [
        ("CPU", "% of a core", args.rounds, |live| live.cpu_percent),
        ("99th percentile", "ms", args.rounds, |live| live.p99_ms),
        ("resident memory", "MB", args.rounds, |live| {
            live.resident_mb
        }),
        ("growth of it for each viewer", "KB", 1, |live| {
            live.growth_kb
        }),
        (
            "requests to the origin for a segment",
            "",
            args.rounds,
            |live| live.copies,
        ),
    ];
    let name = |what: &str| format!("{} viewers poll: {what}", args.viewers);
    for (what, unit, rounds_max, look) in figures {
        let values = rounds
            .iter()
            .map(|rounds| median(rounds.iter().take(rounds_max).map(look)))
            .collect();
        add(report, name(what), unit, Better::Less, servers, values);
    }
    let signing = median(rounds[0].iter().map(|live| live.signing_percent));
    let what = name("signing, % of a core");
    report.add(what, "%", Better::Less, signing, &[]);
    Ok(())
}

fn measure_live(args: &Args, server: &Server, origin: &Origin, round: usize) -> Result<Live> {
    let length = Duration::from_secs(args.live_seconds);
    let percent = |spent_s: f64| spent_s / length.as_secs_f64() * 100.0;
    let address = server.address(Version::Http1);
    first_byte(address, OBJECTS[0].1, Version::Http1)?;
    let signed_s = sign_cpu_s(server)?;
    let empty_bytes = server.resident_bytes()? as f64;
    // Each round has a stream of its own: what is kept of the last one would save requests.
    let stream = format!("{}-{round}", server.name);
    let mut audience = Audience::connect(address, &stream, args.viewers)?;
    let before_s = server.cpu_s()?;
    let polled = audience
        .poll(length)
        .with_context(|| format!("viewers of {}", server.name))?;
    let spent_s = server.cpu_s()? - before_s;
    let full_bytes = server.resident_bytes()? as f64;
    eprintln!(
        "{stream}: {} viewers, {} requests, {} too late",
        args.viewers, polled.requests, polled.late
    );
    let p99_us = polled.times_us.get(polled.times_us.len() * 99 / 100);
    Ok(Live {
        cpu_percent: percent(spent_s),
        signing_percent: percent(sign_cpu_s(server)? - signed_s),
        p99_ms: p99_us.map_or(f64::NAN, |us| *us as f64 / 1e3),
        resident_mb: full_bytes / 1e6,
        growth_kb: (full_bytes - empty_bytes) / args.viewers as f64 / 1e3,
        copies: origin.asked_per_segment(&stream),
    })
}

/// CPU time that our proxy has spent hashing and signing; none for others, who sign nothing.
fn sign_cpu_s(server: &Server) -> Result<f64> {
    if server.name != servers::OURS {
        return Ok(0.0);
    }
    let metrics = get_text(server.address(Version::Http1), "/metrics")?;
    let name = "shoal_proxy_sign_cpu_microseconds_total ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    Ok(line
        .context("no metric of signing")?
        .trim()
        .parse::<f64>()?
        / 1e6)
}

/// The first server is ours.
fn add(
    report: &mut Report,
    name: String,
    unit: &'static str,
    better: Better,
    servers: &[Server],
    values: Vec<f64>,
) {
    let others: Vec<(&str, f64)> = servers
        .iter()
        .zip(&values)
        .skip(1)
        .map(|(server, value)| (server.name, *value))
        .collect();
    report.add(name, unit, better, values[0], &others);
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
