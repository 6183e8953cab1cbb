//! The command line.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::{Failure, commands, demo, logging, shutdown};

/// Peer-assisted delivery of live HLS and DASH.
///
/// Exit codes: 0 done, 1 the environment or a remote side failed, 2 the command line or a
/// configuration file is wrong.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 100)]
struct Cli {
    /// Write logs as JSON, one object a line. What is logged: the variable RUST_LOG, such as
    /// `RUST_LOG=info,peer_agent=debug`.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on this machine: a live stream, viewers that share it, a page to watch them.
    Demo(demo::Args),
    /// Publish the built-in clip, a file or an ffmpeg input as a live HLS and DASH origin.
    Publish(commands::publish::Args),
    /// The caching proxy before an origin, which signs segments so that viewers can share them.
    OriginProxy(commands::origin_proxy::Args),
    /// The service at which viewers of a stream meet.
    Tracker(commands::tracker::Args),
    /// Watch a stream natively, and offer it to players on this machine.
    Peer(commands::peer::Args),
    /// Simulate a large audience with the real machines, in virtual time.
    Simulate(commands::simulate::Args),
    /// Make a key for the origin-proxy to sign with.
    Keygen(commands::keygen::Args),
    /// Sign a token that lets a viewer join, or make the keys for it.
    Token(commands::token::Args),
}

/// Runs the command that `args` (the program's name first) say, until it ends or a signal comes.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no failure.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let quiet = matches!(cli.command, Command::Demo(_));
    logging::init(cli.log_json, if quiet { "warn" } else { "info" });
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shoal: {failure}");
            failure.exit_code()
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    // No runtime, which would take signals that should end it at once.
    if let Command::Simulate(args) = &command {
        return commands::simulate::run(args);
    }
    // An error means that somebody has done it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::environment(format!("cannot start threads: {error}")))?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        shutdown::on_signal(&stop)?;
        match command {
            Command::Demo(args) => commands::demo::run(args, stop).await,
            Command::Publish(args) => commands::publish::run(args, stop).await,
            Command::OriginProxy(args) => commands::origin_proxy::run(args, stop).await,
            Command::Tracker(args) => commands::tracker::run(args, stop).await,
            Command::Peer(args) => commands::peer::run(args, stop).await,
            Command::Keygen(args) => commands::keygen::run(&args),
            Command::Token(args) => commands::token::run(&args),
            Command::Simulate(args) => commands::simulate::run(&args),
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn contract_commands_parse() {
        let lines = [
            "shoal demo --headless --viewers 5 --seconds 30 --json -",
            "shoal demo --listen 127.0.0.1:0 --segment-s 4",
            "shoal publish --listen 127.0.0.1:0 --hls --dash",
            "shoal publish show.mp4 --listen 127.0.0.1:0",
            "shoal origin-proxy --config proxy.toml",
            "shoal origin-proxy --print-config --log-json",
            "shoal tracker --config tracker.toml",
            "shoal tracker --print-config",
            "shoal peer --tracker ws://t/ --stream http://c/a.m3u8 --listen 127.0.0.1:0",
            "shoal peer --stream http://c/a.m3u8 --headless --seconds 5 --json - --p2p false",
            "shoal keygen",
            // One key of 64 begins so.
            "shoal keygen --public-of -HVMkhPQRd_YytIWJETTDmnCqiqSNGqkQpeGSMVrNIs",
            "shoal peer --stream http://c/a.m3u8 --key -HVMkhPQRd_YytIWJETTDmnCqiqSNGqkQpeGSMVrNIs",
            "shoal token --key a.key --stream -HVMkhPQRd_YytIWJETTDmnCqiqSNGqkQpeGSMVrNIs/news",
            "shoal token --new-key a.key --es256",
            "shoal token --key a.key --stream * --seconds 60 --address 192.0.2.1 --leech",
            "shoal simulate --viewers 9 --bitrate-mbps 5 --segment-s 4 --latency-s 10 --minutes 2 --seed 3 --json -",
            "shoal simulate --scenario hostile --html report.html --seeds 10 --set access.loss=0.1",
            "shoal simulate --list",
        ];
        for line in lines {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn mistakes_are_refused() {
        let lines = [
            "shoal",
            "shoal demo --viewers 1000",
            "shoal demo --viewers none",
            "shoal demo --headless --json file.json",
            "shoal peer --leech maybe",
            "shoal tracker --listen nowhere",
            "shoal simulate --seeds 0",
        ];
        for line in lines {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
