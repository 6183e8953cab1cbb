//! Certificates from pebble, the test server of RFC 8555's authors (Debian package `pebble`).

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use origin_proxy::{Config, Listeners};
use tokio::{net::TcpListener, sync::oneshot};

use crate::support::Origin;

const NAME: &str = "edge.example.test";

/// An authority and the name server that it asks. They end when dropped.
struct Authority {
    processes: Vec<Child>,
    directory: String,
    management: String,
}

impl Drop for Authority {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

impl Authority {
    /// Starts one that looks for proofs at `http_port` of this machine, whatever the name.
    async fn start(folder: &Path, http_port: u16) -> Self {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        fs::write(file("root.pem"), own.cert.pem()).unwrap();
        fs::write(file("authority.pem"), own.signing_key.serialize_pem()).unwrap();
        let [api, management, dns, names] = [
            free_port().await,
            free_port().await,
            free_port().await,
            free_port().await,
        ];
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{api}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": file("root.pem"),
            "privateKey": file("authority.pem"),
            "httpPort": http_port,
            "tlsPort": 1,
        }});
        fs::write(file("pebble.json"), config.to_string()).unwrap();
        let start = |command: &mut Command| {
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            quiet.spawn().unwrap()
        };
        let names_server = start(Command::new("pebble-challtestsrv").args([
            "-defaultIPv4",
            "127.0.0.1",
            "-defaultIPv6",
            "",
            "-dns01",
            &format!("127.0.0.1:{dns}"),
            "-management",
            &format!("127.0.0.1:{names}"),
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
        ]));
        let authority = start(
            Command::new("pebble")
                .args(["-config", &file("pebble.json")])
                .args(["-dnsserver", &format!("127.0.0.1:{dns}")])
                .env("PEBBLE_VA_NOSLEEP", "1"),
        );
        let it = Self {
            processes: vec![names_server, authority],
            directory: format!("https://localhost:{api}/dir"),
            management: format!("https://localhost:{management}"),
        };
        it.get(folder, "/roots/0").await;
        it
    }

    /// What its management says, once it is there.
    async fn get(&self, folder: &Path, path: &str) -> Vec<u8> {
        let root = fs::read(folder.join("root.pem")).unwrap();
        let root = reqwest::Certificate::from_pem(&root).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([root])
            .build()
            .unwrap();
        let asked = async {
            loop {
                let url = format!("{}{path}", self.management);
                if let Ok(answer) = client.get(url).send().await {
                    return answer.bytes().await.unwrap().to_vec();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, asked).await.unwrap()
    }
}

/// A viewer who trusts `root` alone gets an answer, in the end.
async fn until_trusted(root: &[u8], tls: std::net::SocketAddr) {
    let root = reqwest::Certificate::from_pem(root).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([root])
        .resolve(NAME, tls);
    let client = client.build().unwrap();
    let url = format!("https://{NAME}:{}/vod/a", tls.port());
    let trusted = async {
        loop {
            match client.get(&url).send().await {
                Ok(answer) => return answer.text().await.unwrap(),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let patience = Duration::from_secs(60);
    assert_eq!(tokio::time::timeout(patience, trusted).await.unwrap(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_obtained_kept_and_used_after_a_restart() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::default();
    origin.put("/vod/a", &[], "a");
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = Authority::start(folder.path(), plain.local_addr().unwrap().port()).await;
    let root = authority.get(folder.path(), "/roots/0").await;
    let state = folder.path().join("state");
    let mut config = Config {
        origin: format!("http://{}", origin.clone().serve().await),
        ..Config::default()
    };
    config.acme.names = vec![NAME.into()];
    config.acme.directory = authority.directory.clone();
    config.acme.root_file = Some(folder.path().join("root.pem"));
    config.acme.state_folder = Some(state.clone());
    config.tls.reload_ms = 20;
    let start = async |plain: Option<TcpListener>| {
        let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tls.local_addr().unwrap();
        let listeners = Listeners {
            plain,
            tls: Some(tls),
            quic: None,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let config = config.clone();
        let running = tokio::spawn(async move {
            origin_proxy::run_on(listeners, config, shutdown)
                .await
                .unwrap();
        });
        (address, stop, running)
    };
    let (address, stop, running) = start(Some(plain)).await;
    until_trusted(&root, address).await;
    drop(stop);
    running.await.unwrap();
    let before = fs::read(state.join("certificate.pem")).unwrap();
    // With the authority gone, what is there is enough.
    drop(authority);
    let (address, _stop, _running) = start(None).await;
    until_trusted(&root, address).await;
    assert_eq!(fs::read(state.join("certificate.pem")).unwrap(), before);
    assert!(state.join("account.json").exists());
}
