//! The proxies that are measured: ours, nginx and Varnish as Debian has them, on one core.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::proxy_load::Version;
use crate::shell;

/// The name of our own.
pub(crate) const OURS: &str = "shoal";
/// The core of the servers; the load generator has [`LOAD_CORE`].
const SERVER_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";
/// Where the address of HTTP/3 is noted.
const HTTP3_FILE: &str = "http3";
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A running proxy. It stops when dropped.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    http1: SocketAddr,
    http2: SocketAddr,
    process: Child,
    folder: TempDir,
}

impl Server {
    pub(crate) fn address(&self, version: Version) -> SocketAddr {
        match version {
            Version::Http1 => self.http1,
            Version::Http2 => self.http2,
        }
    }

    /// The address of HTTP/3, and the file with the certificate that is used there.
    pub(crate) fn http3(&self) -> Result<(SocketAddr, PathBuf)> {
        let address = fs::read_to_string(self.folder.path().join(HTTP3_FILE))?;
        let certificate = self.folder.path().join("certificate.pem");
        Ok((address.parse()?, certificate))
    }

    /// CPU time that the server's processes have taken.
    pub(crate) fn cpu_s(&self) -> Result<f64> {
        let ticks: u64 = family(self.process.id())?
            .iter()
            .map(|process| process.ticks)
            .sum();
        Ok(ticks as f64 / TICKS_PER_S)
    }

    /// Memory of the server's processes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let pages: u64 = family(self.process.id())?
            .iter()
            .map(|process| process.resident_pages)
            .sum();
        Ok(pages * PAGE_LEN)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gently: nginx and Varnish take their workers with them.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.process.wait();
    }
}

/// Linux has told programs so since 2.6, whatever its own clock is.
const TICKS_PER_S: f64 = 100.0;
const PAGE_LEN: u64 = 4096;

struct Process {
    pid: u32,
    parent: u32,
    ticks: u64,
    resident_pages: u64,
}

/// A process and all that descend from it.
fn family(root: u32) -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").context("environment: no /proc")? {
        let path = entry?.path();
        // Others may end while we look.
        if let Ok(text) = fs::read_to_string(path.join("stat")) {
            all.extend(read_stat(&text));
        }
    }
    let mut family: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        let is_one = |process: &mut Process| process.pid == root || process.parent == parent;
        for process in all.extract_if(.., is_one) {
            parents.push(process.pid);
            family.push(process);
        }
    }
    Ok(family)
}

/// See `man 5 proc_pid_stat`: the name, in brackets, may have blanks in it.
fn read_stat(text: &str) -> Option<Process> {
    let (before, after) = text.rsplit_once(')')?;
    let pid = before.split(' ').next()?.parse().ok()?;
    let fields: Vec<u64> = after
        .split_ascii_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    Some(Process {
        pid,
        parent: u32::try_from(*fields.get(1)?).ok()?,
        ticks: fields.get(11)? + fields.get(12)?,
        resident_pages: *fields.get(21)?,
    })
}

/// Ours first, and those that are installed.
pub(crate) fn start_all(origin: SocketAddr, programs: &Path) -> Result<Vec<Server>> {
    let mut servers = vec![start_ours(origin, programs)?];
    for (program, start) in [
        ("nginx", start_nginx as fn(SocketAddr) -> Result<Server>),
        ("varnishd", start_varnish),
    ] {
        if find(program).is_some() {
            match start(origin) {
                Ok(server) => servers.push(server),
                Err(error) => eprintln!("skipped: {program}: {error:#}"),
            }
        } else {
            eprintln!("skipped: {program} is not installed (`apt-get install nginx varnish`)");
        }
    }
    Ok(servers)
}

fn find(program: &str) -> Option<String> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .into_iter()
        .map(|folder| format!("{folder}/{program}"))
        .find(|path| Path::new(path).exists())
}

/// Builds our proxy as it is delivered, and the load generator for HTTP/3 beside it. Returns their folder.
pub(crate) fn build_ours() -> Result<PathBuf> {
    let build = ["build", "--release", "-p", "origin-proxy", "--examples"];
    shell::run(shell::cargo().args(build))?;
    Ok(shell::root().join("target/release/examples"))
}

fn start_ours(origin: SocketAddr, programs: &Path) -> Result<Server> {
    let program = programs.join("edge").to_string_lossy().into_owned();
    let folder = tempfile::tempdir()?;
    let (address, tls) = (free()?, free()?);
    fs::write(folder.path().join(HTTP3_FILE), tls.to_string())?;
    let mut certificate = shell::command(&program);
    certificate.arg("--certificate").arg(folder.path());
    shell::run(&mut certificate)?;
    // Signed, as in earnest.
    let (is_done, printed) = shell::run_recorded(shell::command(&program).arg("--keygen"))?;
    let key = printed.lines().find(|line| line.starts_with("signing_key"));
    let key = key
        .filter(|_| is_done)
        .context("`edge --keygen` prints no key")?;
    let config = format!(
        "listen = \"{address}\"\norigin = \"http://{origin}/\"\n{key}\n\
         [[streams]]\nname = \"bench\"\nprefix = \"/live/\"\n\
         [tls]\nlisten = \"{tls}\"\ncertificate_file = \"{at}/certificate.pem\"\n\
         key_file = \"{at}/key.pem\"\n",
        at = folder.path().display()
    );
    let file = folder.path().join("proxy.toml");
    fs::write(&file, config)?;
    let mut command = pinned(&program);
    command.current_dir(shell::root());
    command.arg(&file);
    start(OURS, command, address, address, folder)
}

fn start_nginx(origin: SocketAddr) -> Result<Server> {
    let folder = tempfile::tempdir()?;
    let (http1, http2) = (free()?, free()?);
    let at = folder.path().display();
    let config = format!(
        "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n\
           access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;\n\
           keepalive_requests 100000000; keepalive_timeout 600;\n\
           client_body_temp_path {at}/body; proxy_temp_path {at}/temp; fastcgi_temp_path {at}/f;\n\
           uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
           open_file_cache max=10000;\n\
           proxy_cache_path {at}/cache levels=1:2 keys_zone=bench:64m max_size=4g inactive=60m;\n\
           upstream origin {{ server {origin}; keepalive 64; }}\n\
           server {{\n\
             listen {http1} backlog=4096; listen {http2} http2 backlog=4096;\n\
             location / {{\n\
               proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection '';\n\
               proxy_cache bench; proxy_cache_lock on; proxy_cache_revalidate on;\n\
               proxy_cache_use_stale updating; proxy_cache_background_update on;\n\
             }}\n\
           }}\n\
         }}\n"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = pinned(&find("nginx").context("no nginx")?);
    command.arg("-c").arg(&file).arg("-p").arg(folder.path());
    // As root its workers would change to a user who cannot read the folder.
    command.args(["-g", "user root;"]);
    start("nginx", command, http1, http2, folder)
}

fn start_varnish(origin: SocketAddr) -> Result<Server> {
    let folder = tempfile::tempdir()?;
    let address = free()?;
    let mut command = pinned(&find("varnishd").context("no varnishd")?);
    command
        .args(["-F", "-j", "none", "-a", &format!("{address},HTTP")])
        .args(["-b", &origin.to_string(), "-s", "malloc,1g"])
        .args(["-p", "feature=+http2", "-p", "thread_pools=1"])
        .args(["-p", "timeout_idle=60"])
        // It hangs up on viewers for whom it has no thread, unless they may wait.
        .args(["-p", "thread_queue_limit=20000"])
        .arg("-n")
        .arg(folder.path());
    start("varnish", command, address, address, folder)
}

/// Leaves the servers' core to them: this process and all its threads move to the other one.
pub(crate) fn make_way() -> Result<()> {
    let pid = std::process::id().to_string();
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", LOAD_CORE, &pid])
        .output();
    let output = output.context("environment: cannot start taskset")?;
    ensure!(output.status.success(), "environment: taskset failed");
    Ok(())
}

/// A program that runs as the servers do, on the load generator's core.
pub(crate) fn on_load_core(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", LOAD_CORE]).arg(program);
    command
}

fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CORE, program]);
    command
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn start(
    name: &'static str,
    mut command: Command,
    http1: SocketAddr,
    http2: SocketAddr,
    folder: TempDir,
) -> Result<Server> {
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("environment: cannot start {name}"))?;
    let server = Server {
        name,
        http1,
        http2,
        process,
        folder,
    };
    let started = Instant::now();
    while TcpStream::connect(http1).is_err() || TcpStream::connect(http2).is_err() {
        if started.elapsed() > START_PATIENCE {
            bail!("{name} does not listen");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let text = format!("17 (a b) c) S {}\n", fields.join(" "));
        let process = read_stat(&text).unwrap();
        assert_eq!((process.pid, process.parent), (17, 4));
        assert_eq!((process.ticks, process.resident_pages), (14 + 15, 24));
    }
}
