//! `cargo xtask bench proxy`: the origin-proxy next to nginx and Varnish.
//!
//! Each server has one core to itself and the load generator another. What a server can do is told by
//! the CPU time that its processes take for a request: wall-clock rates are reported, too, but suffer
//! from whatever else runs on the machine. Servers take turns in every round, and medians count.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::proxy_load::{Audience, Load, Loaded, Version, first_byte, get_text, load_http3};
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
    /// For how many seconds they do.
    #[arg(long, default_value_t = 20)]
    live_seconds: u64,
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
/// Objects that no cache has, for the time to the first byte.
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
    let servers = servers::start_all(origin.address(), &programs)?;
    let mut report = Report::new("proxy");
    for (label, path, len, pace) in OBJECTS {
        for version in [Version::Http1, Version::Http2] {
            let load = Load {
                path,
                version,
                seconds: args.seconds,
                connections: args.connections,
                pace,
            };
            let rounds = measure(args, &servers, &load)?;
            let name = format!("{label}, {}", version.name());
            let latency = format!("99th percentile at {pace}/s a connection");
            report_load(&mut report, &name, len, &servers, &rounds, &latency);
        }
    }
    report_http3(args, &mut report, &servers[0], &programs)?;
    report_cold(args, &mut report, &servers)?;
    // What they have kept so far is no part of what viewers of a live stream cost.
    drop(servers);
    let servers = servers::start_all(origin.address(), &programs)?;
    report_live(args, &mut report, &servers, &origin)?;
    Ok(report)
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

fn report_live(
    args: &Args,
    report: &mut Report,
    servers: &[Server],
    origin: &Origin,
) -> Result<()> {
    let mut cpu = Vec::new();
    let mut memory = Vec::new();
    let mut growth = Vec::new();
    let mut copies = Vec::new();
    let mut signing = 0.0;
    for (index, server) in servers.iter().enumerate() {
        let seconds = Duration::from_secs(args.live_seconds);
        let address = server.address(Version::Http1);
        first_byte(address, OBJECTS[0].1, Version::Http1)?;
        let empty_bytes = server.resident_bytes()?;
        let mut audience = Audience::connect(address, server.name, args.viewers)?;
        let before_s = server.cpu_s()?;
        let polled = audience.poll(seconds)?;
        let spent_s = server.cpu_s()? - before_s;
        let full_bytes = server.resident_bytes()?;
        memory.push(full_bytes as f64 / 1e6);
        growth.push((full_bytes as f64 - empty_bytes as f64) / args.viewers as f64 / 1e3);
        if index == 0 {
            signing = sign_cpu_s(server)? / spent_s * 100.0;
        }
        cpu.push(spent_s / seconds.as_secs_f64() * 100.0);
        copies.push(origin.asked_per_segment(server.name));
        eprintln!(
            "{}: {} viewers made {} requests, {} of them too late",
            server.name, args.viewers, polled.requests, polled.late
        );
    }
    let name = |what: &str| format!("{} viewers poll: {what}", args.viewers);
    add(
        report,
        name("CPU"),
        "% of a core",
        Better::Less,
        servers,
        cpu,
    );
    add(
        report,
        name("resident memory"),
        "MB",
        Better::Less,
        servers,
        memory,
    );
    add(
        report,
        name("growth of it for each viewer"),
        "KB",
        Better::Less,
        servers,
        growth,
    );
    add(
        report,
        name("requests to the origin for a segment"),
        "",
        Better::Less,
        servers,
        copies,
    );
    let what = name("share of signing in CPU");
    report.add(what, "%", Better::Less, signing, &[]);
    Ok(())
}

/// CPU time that our proxy has spent hashing and signing.
fn sign_cpu_s(server: &Server) -> Result<f64> {
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
