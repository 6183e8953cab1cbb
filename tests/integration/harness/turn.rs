//! A real TURN server: Debian's coturn, on loopback.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// What it shares with trackers.
pub const TURN_SECRET: &str = "known to the tracker and the relay";

/// A running TURN server that takes credentials made from [`TURN_SECRET`].
#[derive(Debug)]
pub struct TurnServer {
    port: u16,
    process: Child,
    folder: TempDir,
}

impl TurnServer {
    /// Starts it, and waits until it listens.
    pub async fn start() -> Self {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let port = free.local_addr().expect("a bound socket").port();
        drop(free);
        let folder = tempfile::tempdir().expect("a folder for its log");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let process = Command::new("turnserver")
            .args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp"])
            .args(["--no-tcp-relay", "--allow-loopback-peers", "--fingerprint"])
            .args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"])
            .args(["--listening-port", &port.to_string(), "--realm", "shoal"])
            .args(["--use-auth-secret", "--static-auth-secret", TURN_SECRET])
            .args(["--userdb", &path("users"), "--pidfile", &path("pid")])
            .args(["--log-file", &path("log"), "--simple-log", "--verbose"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("coturn starts; `cargo xtask setup` installs it");
        let server = Self {
            port,
            process,
            folder,
        };
        for _ in 0..200 {
            if server.is_listening() {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("coturn does not listen: {}", server.log());
    }

    /// Its address, as viewers are told.
    pub fn url(&self) -> String {
        format!("turn:127.0.0.1:{}", self.port)
    }

    /// Bytes that it has taken from viewers, by its own word at the end of each allocation.
    pub fn bytes_relayed(&self) -> u64 {
        let log = self.log();
        let usage = log.lines().filter(|line| line.contains(": usage: realm="));
        let received = usage.filter_map(|line| line.split("rb=").nth(1)?.split(',').next());
        received.filter_map(|count| count.parse::<u64>().ok()).sum()
    }

    /// A second socket on its port is refused once it has it.
    fn is_listening(&self) -> bool {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, self.port)).is_err()
    }

    fn log(&self) -> String {
        let path: PathBuf = self.folder.path().join("log");
        fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
