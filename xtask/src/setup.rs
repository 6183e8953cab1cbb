//! `cargo xtask setup`: from a machine with Rust and Node to one that builds and tests everything.
//!
//! What is already there is only looked at, so that running it again costs nothing.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;
use crate::wasm::Toolchain;

/// Folders with a package-lock.json of their own.
const NPM_FOLDERS: [&str; 4] = [
    "player-shim/js",
    "tests/browser",
    "tests/networks",
    "tests/webtorrent",
];
/// Names under which a Chromium may already be installed.
const CHROMIUM_NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];
/// The viewers' programs that tests run, what makes certificates for them, and what makes networks with NATs, each with
/// its Debian packages.
const MEDIA_PROGRAMS: [(&str, &[&str]); 8] = [
    ("ffmpeg", &["ffmpeg"]),
    ("mpv", &["mpv"]),
    ("cvlc", &["vlc-bin", "vlc-plugin-base"]),
    ("curl", &["curl"]),
    ("h2load", &["nghttp2-client"]),
    ("openssl", &["openssl"]),
    ("ip", &["iproute2"]),
    ("nft", &["nftables"]),
];
/// What trackers of one cluster talk through; the program and its Debian package. Tests start their
/// own on loopback.
const NATS_SERVER: &str = "nats-server";
/// What relays links where there is no direct way; the program and its Debian package. Tests start
/// their own on loopback.
const TURN_SERVER: (&str, &str) = ("turnserver", "coturn");
/// An authority that speaks ACME; the program and its Debian package. Tests start their own on loopback.
const ACME_SERVER: &str = "pebble";
/// What compiles for wasm32 where rustup cannot fetch that target.
const DEBIAN_WASM_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "lld-19"];
/// The packages of `player-shim/js` and `tests/browser` are tested from this Node.js on.
const NODE_MAJOR_MIN: u32 = 20;

#[derive(clap::Args, Clone, Copy, Default)]
pub(crate) struct Args {
    /// Also Chromium, for the tests in real browsers.
    #[arg(long)]
    pub(crate) browsers: bool,
    /// Also ffmpeg, mpv and VLC, for the tests with real players, and curl, h2load, openssl, ip and nft.
    #[arg(long)]
    pub(crate) media: bool,
}

/// Installs what is missing; an error lists all that could not be installed, and how to fix it.
pub(crate) fn run(args: Args) -> Result<()> {
    let apt = Apt::default();
    let mut missing = Vec::new();
    let mut note = |what: &str, outcome: Result<String>| match outcome {
        Ok(found) => println!("setup: {what}: {found}"),
        Err(problem) => {
            println!("setup: {what}: MISSING");
            missing.push(format!("{what}: {problem:#}"));
        }
    };
    note("wasm32 target", ensure_wasm(&apt));
    note("node", check_node());
    for folder in NPM_FOLDERS {
        if shell::root()
            .join(folder)
            .join("package-lock.json")
            .is_file()
        {
            note(
                &format!("npm packages of {folder}"),
                ensure_npm_packages(folder),
            );
        }
    }
    let nats = ensure_program(&apt, NATS_SERVER, &[NATS_SERVER]);
    note(NATS_SERVER, nats);
    let (turn, package) = TURN_SERVER;
    note(turn, ensure_program(&apt, turn, &[package]));
    let authority = ensure_program(&apt, ACME_SERVER, &[ACME_SERVER]);
    note(ACME_SERVER, authority);
    if args.browsers {
        note("chromium", ensure_chromium(&apt));
    }
    if args.media {
        for (program, packages) in MEDIA_PROGRAMS {
            note(program, ensure_program(&apt, program, packages));
        }
    }
    if !missing.is_empty() {
        bail!(
            "setup could not install everything:\n- {}",
            missing.join("\n- ")
        );
    }
    Ok(())
}

/// The Chromium that browser tests start.
pub(crate) fn find_chromium() -> Option<std::path::PathBuf> {
    CHROMIUM_NAMES
        .iter()
        .find_map(|name| shell::find_program(name))
}

fn ensure_wasm(apt: &Apt) -> Result<String> {
    if let Some(toolchain) = Toolchain::find() {
        return Ok(format!("present ({})", toolchain.describe()));
    }
    let mut rustup = shell::command("rustup");
    let by_rustup = shell::run(rustup.args(["target", "add", "wasm32-unknown-unknown"]));
    if let Err(problem) = &by_rustup {
        println!("setup: rustup cannot add the target ({problem}); trying Debian's compiler");
        apt.install(&DEBIAN_WASM_PACKAGES).context(
            "neither `rustup target add wasm32-unknown-unknown` nor Debian's rustc-web, \
             rust-web-src and lld-19 could be installed; do one of them by hand",
        )?;
    }
    let toolchain = Toolchain::find().context("installed, yet no compiler for wasm32 is found")?;
    Ok(format!("installed ({})", toolchain.describe()))
}

fn check_node() -> Result<String> {
    let version = shell::query(shell::command("node").arg("--version"))
        .context("install Node.js 20 or later with npm, from your system or nodejs.org")?;
    let major = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .unwrap_or_default();
    if major
        .parse::<u32>()
        .is_ok_and(|major| major < NODE_MAJOR_MIN)
    {
        bail!("found {version}, but {NODE_MAJOR_MIN} or later is needed");
    }
    Ok(format!("present ({version})"))
}

fn ensure_npm_packages(folder: &str) -> Result<String> {
    let folder_path = shell::root().join(folder);
    let lock = folder_path.join("package-lock.json");
    if is_as_new_as(&folder_path.join("node_modules/.package-lock.json"), &lock) {
        return Ok("present".to_owned());
    }
    let mut npm = shell::command("npm");
    shell::run(
        npm.current_dir(&folder_path)
            .args(["ci", "--no-fund", "--no-audit"]),
    )
    .context("npm could not install them; is the npm registry reachable?")?;
    Ok("installed".to_owned())
}

fn is_as_new_as(file: &Path, reference: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    matches!((modified(file), modified(reference)), (Ok(a), Ok(b)) if a >= b)
}

fn ensure_chromium(apt: &Apt) -> Result<String> {
    if let Some(path) = find_chromium() {
        return Ok(format!("present ({})", path.display()));
    }
    apt.install(&["chromium"])
        .context("install Chromium or Chrome from your system")?;
    Ok("installed".to_owned())
}

fn ensure_program(apt: &Apt, program: &str, packages: &[&str]) -> Result<String> {
    if let Some(path) = shell::find_program(program) {
        return Ok(format!("present ({})", path.display()));
    }
    apt.install(packages)
        .with_context(|| format!("install {program} from your system"))?;
    Ok("installed".to_owned())
}

/// Debian's package manager, or the reason why it cannot be used.
#[derive(Default)]
struct Apt {
    lists_updated: Cell<bool>,
}

impl Apt {
    /// Installs the packages; refreshes the package lists once if the first try fails.
    fn install(&self, packages: &[&str]) -> Result<()> {
        let first = self.try_install(packages);
        if first.is_ok() || self.lists_updated.replace(true) {
            return first;
        }
        shell::run(self.apt_get()?.arg("update")).context("the package lists cannot be fetched")?;
        self.try_install(packages)
    }

    fn try_install(&self, packages: &[&str]) -> Result<()> {
        let mut command = self.apt_get()?;
        shell::run(
            command
                .args(["install", "-y", "--no-install-recommends"])
                .args(packages),
        )
    }

    fn apt_get(&self) -> Result<Command> {
        if shell::find_program("apt-get").is_none() {
            bail!("this machine has no apt-get");
        }
        let is_root = shell::query(shell::command("id").arg("-u")).as_deref() == Some("0");
        let mut command = if is_root {
            shell::command("env")
        } else if shell::query(shell::command("sudo").args(["-n", "true"])).is_some() {
            let mut sudo = shell::command("sudo");
            sudo.args(["-n", "env"]);
            sudo
        } else {
            bail!("apt-get needs root and `sudo -n` is refused; run this as root, or install it");
        };
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
        // Another installation may hold the lock, for instance on a machine that just started.
        command.args(["-o", "DPkg::Lock::Timeout=600"]);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn npm_packages_are_stale_when_the_lock_file_is_newer_or_they_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (installed, lock) = (folder.path().join("installed"), folder.path().join("lock"));
        fs::write(&lock, "").unwrap();
        assert!(!is_as_new_as(&installed, &lock));
        let file = fs::File::create(&installed).unwrap();
        assert!(is_as_new_as(&installed, &lock));
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .unwrap();
        assert!(!is_as_new_as(&installed, &lock));
    }
}
