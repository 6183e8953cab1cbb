//! A live source and a proxy with TLS before it, for clients that are programs.

use std::net::UdpSocket;

use live_source::{Faults, LiveSource};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot};

use crate::part::{Part, listen};

/// Source and proxy, running.
#[derive(Debug)]
pub struct Edge {
    source: Part,
    faults: Faults,
    proxy: Part,
    secure_port: u16,
    folder: TempDir,
}

impl Edge {
    /// Starts both. The proxy signs, and speaks every version of HTTP.
    pub async fn start(source: live_source::Config) -> Self {
        Self::start_with(source, |_| {}).await
    }

    /// The same with other settings of the proxy.
    pub async fn start_with(
        source: live_source::Config,
        change: impl FnOnce(&mut origin_proxy::Config),
    ) -> Self {
        let live = LiveSource::new(source).expect("the clip can be published");
        let faults = live.faults();
        let source = Part::start(listen().await, |listener, stopped| async move {
            let stopped = async { _ = stopped.await };
            live.run(listener, stopped)
                .await
                .expect("the clip never fails");
        });
        let folder = tempfile::tempdir().expect("a folder for the certificate");
        let (secret, _) = origin_proxy::keygen().expect("the system has randomness");
        let mut config = origin_proxy::Config {
            origin: format!("http://{}", source.addr),
            signing_key: Some(secret),
            ..origin_proxy::Config::default()
        };
        config.tls.certificate_file = Some(folder.path().join("certificate.pem"));
        config.tls.key_file = Some(folder.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()])
            .expect("a certificate can be made");
        for (name, text) in [
            ("certificate.pem", made.cert.pem()),
            ("key.pem", made.signing_key.serialize_pem()),
        ] {
            std::fs::write(folder.path().join(name), text).expect("the folder can be written to");
        }
        change(&mut config);
        let (tls, quic) = same_port().await;
        let secure_port = tls
            .local_addr()
            .expect("a bound listener has an address")
            .port();
        let start = |plain, stopped: oneshot::Receiver<()>| async move {
            let listeners = origin_proxy::Listeners {
                plain: Some(plain),
                tls: Some(tls),
                quic: Some(quic),
            };
            let stopped = async { _ = stopped.await };
            origin_proxy::run_on(listeners, config, stopped)
                .await
                .expect("the proxy runs");
        };
        let proxy = Part::start(listen().await, start);
        Self {
            source,
            faults,
            proxy,
            secure_port,
            folder,
        }
    }

    /// `path` at the source itself.
    pub fn at_origin(&self, path: &str) -> String {
        format!("http://{}{path}", self.source.addr)
    }

    /// How the source misbehaves.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// `path` at the proxy, without TLS.
    pub fn plain(&self, path: &str) -> String {
        format!("http://{}{path}", self.proxy.addr)
    }

    /// `path` at the proxy, with TLS.
    pub fn secure(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.secure_port)
    }

    /// The file with the certificate that vouches for [`Self::secure`].
    pub fn certificate(&self) -> String {
        let path = self.folder.path().join("certificate.pem");
        path.to_string_lossy().into_owned()
    }

    /// Stops both.
    pub async fn stop(self) {
        self.proxy.stop().await;
        self.source.stop().await;
    }
}

/// A TCP and a UDP socket with the same number.
async fn same_port() -> (TcpListener, UdpSocket) {
    for _ in 0..50 {
        let tcp = listen().await;
        let addr = tcp.local_addr().expect("a bound listener has an address");
        if let Ok(udp) = UdpSocket::bind(addr) {
            return (tcp, udp);
        }
    }
    panic!("no number is free for both");
}
