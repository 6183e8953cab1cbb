//! The servers that are measured: ours, and those of others.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::{ClientConfig, RootCertStore};

use crate::shell;

/// The versions that are measured.
const AQUATIC: &str = "aquatic_ws@0.9.0";
const BITTORRENT_TRACKER: &str = "bittorrent-tracker@11.2.3";
/// For a server to listen.
const START_TIME_MAX: Duration = Duration::from_secs(20);
/// Ticks of `/proc/PID/stat` in a second, on every Linux that we know.
const TICKS_PER_S: f64 = 100.0;

/// No quota is in the way of a load that comes from one address.
const SHOAL_CONFIG: &str = "
fake_networks = true
public_api = true
stun.listen = '127.0.0.1:0'
[swarm]
introductions_burst = 65535
introductions_per_hour = 4000000000
[limits]
connections_per_address_max = 1000000
joins_burst = 4000000
requests_max = 1000000
requests_per_address_max = 1000000
joins_per_s = 4000000
messages_burst = 4000000
messages_per_s = 4000000
bytes_burst = 4000000000
bytes_per_s = 4000000000
bytes_per_address_burst = 4000000000
bytes_per_address_per_s = 4000000000
join_ms = 600000
[webtorrent]
announces_per_s = 4000000000
";

/// What the server's certificate is for.
pub(crate) const NAME: &str = "localhost";
/// Files of certificate and key, beside the configuration.
const SECURED: &str = "[tls]\ncertificate = 'certificate.pem'\nkey = 'key.pem'\n";

/// Pairs are not remembered and nobody has ever enough, so that every announcement costs the same
/// work as it does with the others, however often it comes.
const FORGETFUL: &str = "met_s = 0\npartners_max = 255\npending_max = 255\n";

const BITTORRENT_TRACKER_SERVER: &str = "import Server from 'bittorrent-tracker/server'\n\
    const server = new Server({ udp: false, http: false, ws: true, stats: false })\n\
    server.on('warning', () => {})\n\
    server.listen(Number(process.argv[2]), '127.0.0.1')\n";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Shoal,
    BittorrentTracker,
    Aquatic,
}

/// How ours is set up. The others have one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    Usual,
    /// Pairs are not remembered.
    Forgetful,
    /// With TLS.
    Secured,
}

/// A server that runs, until it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// How to speak TLS with it; `None` where it does not.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    _folder: tempfile::TempDir,
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) rss_kib: f64,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Shoal => "shoal",
            Self::BittorrentTracker => "bittorrent-tracker 11.2.3",
            Self::Aquatic => "aquatic_ws 0.9.0",
        }
    }

    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Shoal => "/announce",
            Self::BittorrentTracker | Self::Aquatic => "/",
        }
    }

    /// Whether it replies to answers too.
    pub(crate) const fn replies_to_answers(self) -> bool {
        matches!(self, Self::Aquatic)
    }
}

/// Where the servers' programs are.
pub(crate) struct Bench {
    shoal: PathBuf,
    cache: PathBuf,
}

impl Bench {
    /// Takes `shoal` as ours, or builds it.
    pub(crate) fn new(shoal: Option<&Path>) -> Result<Self> {
        let shoal = match shoal {
            Some(path) => path
                .canonicalize()
                .with_context(|| format!("no {}", path.display()))?,
            None => {
                let build = ["build", "--release", "--quiet", "-p", "shoal"];
                shell::run(shell::cargo().args(build))?;
                shell::root().join("target/release/shoal")
            }
        };
        let cache = cache()?;
        Ok(Self { shoal, cache })
    }

    /// Installs or builds it where it is missing.
    pub(crate) fn prepare(&self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Shoal => Ok(()),
            Kind::BittorrentTracker => {
                let folder = self.cache.join("npm");
                if folder.join("node_modules/bittorrent-tracker").exists() {
                    return Ok(());
                }
                fs::create_dir_all(&folder)?;
                fs::write(
                    folder.join("package.json"),
                    "{\"private\": true, \"type\": \"module\"}\n",
                )?;
                // Its WebRTC client needs a compiler; the server does not need the client.
                let install = [
                    "install",
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                    BITTORRENT_TRACKER,
                ];
                shell::run(shell::command("npm").current_dir(folder).args(install))
            }
            Kind::Aquatic => {
                if self.cache.join("aquatic/bin/aquatic_ws").exists() {
                    return Ok(());
                }
                // Its lock file names crates that today's compilers refuse: not `--locked`.
                let root = self.cache.join("aquatic");
                shell::run(
                    shell::cargo()
                        .args(["install", AQUATIC, "--root"])
                        .arg(root),
                )
            }
        }
    }

    /// Starts it on the first core alone.
    pub(crate) fn start(&self, kind: Kind, setup: Setup) -> Result<Server> {
        let folder = tempfile::tempdir()?;
        let tls = match setup {
            Setup::Secured => Some(certify(folder.path())?),
            Setup::Usual | Setup::Forgetful => None,
        };
        let port = free_port()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = self.command(kind, folder.path(), address, setup)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", kind.name()))?;
        let mut server = Server {
            child,
            address,
            tls,
            _folder: folder,
        };
        server
            .wait()
            .with_context(|| format!("{} does not start", kind.name()))?;
        Ok(server)
    }

    fn command(
        &self,
        kind: Kind,
        folder: &Path,
        address: SocketAddr,
        setup: Setup,
    ) -> Result<Command> {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).current_dir(folder);
        match kind {
            Kind::Shoal => {
                let config = folder.join("tracker.toml");
                let more = match setup {
                    Setup::Usual => "",
                    Setup::Forgetful => FORGETFUL,
                    Setup::Secured => SECURED,
                };
                fs::write(&config, [SHOAL_CONFIG, more].concat())?;
                command.arg(&self.shoal);
                command
                    .args(["tracker", "--listen", &address.to_string(), "--config"])
                    .arg(config);
            }
            Kind::BittorrentTracker => {
                let npm = self.cache.join("npm");
                let script = npm.join("server.mjs");
                fs::write(&script, BITTORRENT_TRACKER_SERVER)?;
                command
                    .arg("node")
                    .arg(script)
                    .arg(address.port().to_string());
            }
            Kind::Aquatic => {
                let config = folder.join("aquatic.toml");
                fs::write(&config, format!("[network]\naddress = \"{address}\"\n"))?;
                command
                    .arg(self.cache.join("aquatic/bin/aquatic_ws"))
                    .arg("-c")
                    .arg(config);
            }
        }
        Ok(command)
    }
}

impl Server {
    fn wait(&mut self) -> Result<()> {
        let until = Instant::now() + START_TIME_MAX;
        while TcpStream::connect(self.address).is_err() {
            ensure!(Instant::now() < until, "it does not listen");
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What the process has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.child.id()));
        let stat = read("stat")?;
        let (_, fields) = stat.rsplit_once(')').context("stat has a name")?;
        // Fields 14 and 15 of all, utime and stime; the name was the second.
        let ticks: Vec<f64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .flat_map(str::parse)
            .collect();
        let status = read("status")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Ok(Usage {
            cpu_s: ticks.iter().sum::<f64>() / TICKS_PER_S,
            rss_kib: rss.context("status has VmRSS")?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a certificate and its key into `folder`. How to speak with the server that has them.
fn certify(folder: &Path) -> Result<Arc<ClientConfig>> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    fs::write(folder.join("certificate.pem"), made.cert.pem())?;
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Puts this process on the last core, away from the server.
pub(crate) fn step_aside() -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(
        cores > 1,
        "the benchmark needs two cores: one for the server, one for the load"
    );
    let pid = std::process::id().to_string();
    let last = (cores - 1).to_string();
    let status = Command::new("taskset")
        .args(["-cp", &last, &pid])
        .stdout(Stdio::null())
        .status();
    ensure!(
        status.is_ok_and(|status| status.success()),
        "taskset failed"
    );
    Ok(())
}

/// Where the others' servers are kept.
fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("shoal-bench"))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
