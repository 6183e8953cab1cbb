//! NATS servers as operators run them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// Waits until two nodes with this configuration, and viewers of both, have met.
async fn two_meet(config: &Config, text: &str) {
    let nodes = start_nodes(config, 2).await;
    let viewers = two_each(&nodes).await;
    one_group(&nodes, 4).await;
    all_signal(&refs(&viewers), text.as_bytes()).await;
    assert_eq!(
        nodes[0].api("/api/nodes").await[0]["alone_because"],
        Value::Null
    );
}

/// Waits until a node with this configuration says that it is alone, and why; it serves its viewers
/// meanwhile.
async fn is_told(config: &Config, why: &str) {
    let node = Node::start(config.clone());
    eventually(why, async || {
        let nodes = node.api("/api/nodes").await;
        let told = nodes[0]["alone_because"].as_str().unwrap_or_default();
        assert!(!told.contains("secret"), "{told}");
        told.contains(why)
    })
    .await;
    let viewers = [
        Roamer::join(&node, None).await,
        Roamer::join(&node, None).await,
    ];
    all_signal(&refs(&viewers), b"alone").await;
}

/// Starts a tracker that must not start, and says why it did not.
async fn refused(config: Config) -> String {
    let tracker = start(config).await;
    let ended = timeout(PATIENCE, tracker.task).await.expect("it ends");
    ended.unwrap().expect_err("it does not start").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_meet_at_a_server_that_asks_who_they_are() {
    for (options, who) in [
        (
            &["--user", "tracker", "--pass", "a secret"][..],
            "tracker:a%20secret@",
        ),
        (&["--auth", "a-token"], "a-token@"),
    ] {
        let nats = Nats::start_with(options).await;
        let stranger = async_nats::connect(nats.url()).await;
        assert!(stranger.is_err(), "it asks");
        let mut config = node_config(&nats);
        config.cluster.servers = vec![nats.url_of(who)];
        two_meet(&config, "let in").await;
        let wrong = who.replace("a%20", "another%20").replace("a-", "a-secret-");
        config.cluster.servers = vec![nats.url_of(&wrong)];
        is_told(&config, "authorization violation").await;
    }
}

/// A server that asks for credentials, those of a user, and those of one whom it does not know.
async fn server_with_accounts(folder: &Path) -> (Nats, [PathBuf; 2]) {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let unlimited = |more: Value| {
        let mut limits = serde_json::json!({ "subs": -1, "data": -1, "payload": -1 });
        let all = limits.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        limits
    };
    let of_operator = serde_json::json!({ "type": "operator" });
    let of_account = serde_json::json!({ "type": "account", "limits": unlimited(serde_json::json!({
        "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "wildcards": true,
    })) });
    let of_user = unlimited(serde_json::json!({ "type": "user" }));
    let settings = format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {} }}\n",
        jwt(&operator, &operator, &of_operator),
        account.public_key(),
        jwt(&account, &operator, &of_account),
    );
    let file = folder.join("nats.conf");
    fs::write(&file, settings).unwrap();
    let nats = Nats::start_with(&["-c", file.to_str().unwrap()]).await;
    let stranger = KeyPair::new_account();
    let files = [("known", &account), ("unknown", &stranger)].map(|(name, issuer)| {
        let user = KeyPair::new_user();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(&user, issuer, &of_user),
            user.seed().unwrap(),
        );
        let file = folder.join(name);
        fs::write(&file, text).unwrap();
        file
    });
    (nats, files)
}

/// What NATS calls a JWT: one key's word on another.
fn jwt(subject: &KeyPair, issuer: &KeyPair, about: &Value) -> String {
    let mut about = about.clone();
    about["version"] = 2.into();
    let header = serde_json::json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = serde_json::json!({
        "jti": "of a test", "iat": 1_700_000_000, "iss": issuer.public_key(),
        "sub": subject.public_key(), "name": "test", "nats": about,
    });
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let [header, claims] = [header, claims].map(|part| encoded(part.to_string().as_bytes()));
    let text = format!("{header}.{claims}");
    let signature = encoded(&issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_meet_by_a_credentials_file() {
    let folder = tempfile::tempdir().unwrap();
    let (nats, [known, unknown]) = server_with_accounts(folder.path()).await;
    let mut config = node_config(&nats);
    config.cluster.credentials = Some(known);
    two_meet(&config, "by credentials").await;
    for wrong in [Some(unknown), None] {
        config.cluster.credentials = wrong;
        is_told(&config, "authorization violation").await;
    }
    let broken = folder.path().join("nats.conf");
    for file in [broken, folder.path().join("nowhere")] {
        config.cluster.credentials = Some(file.clone());
        let why = refused(config.clone()).await;
        assert!(why.contains("cluster.credentials"), "{why}");
        assert!(why.contains(file.to_str().unwrap()), "{why}");
    }
}

/// Certificates of an authority of the operator's own, in files: `ca.pem`, and `server` and `node` with
/// `.pem` and `-key.pem`.
fn certify() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = CertifiedIssuer::self_signed(params, key).unwrap();
    fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "node"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let file = |end: &str| folder.path().join(format!("{name}{end}"));
        fs::write(file(".pem"), certificate.pem()).unwrap();
        fs::write(file("-key.pem"), key.serialize_pem()).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_meet_over_tls_and_know_the_server_as_it_knows_them() {
    let (folder, other) = (certify(), certify());
    let file = |name: &str| folder.path().join(name);
    let [server, key, authority] = ["server.pem", "server-key.pem", "ca.pem"].map(file);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let [server, key, trusted] = [server, key, authority.clone()].map(|path| text(&path));
    let options = [
        "--tls",
        "--tlsverify",
        "--tlscert",
        &server,
        "--tlskey",
        &key,
        "--tlscacert",
        &trusted,
    ];
    let nats = Nats::start_with(&options).await;
    let mut config = node_config(&nats);
    let cluster = &mut config.cluster;
    cluster.servers = vec![nats.url().replace("nats://", "tls://")];
    cluster.authorities = Some(authority);
    (cluster.certificate, cluster.key) = (Some(file("node.pem")), Some(file("node-key.pem")));
    two_meet(&config, "behind TLS").await;
    // The address need not say it.
    config.cluster.servers = vec![nats.url()];
    two_meet(&config, "behind TLS").await;

    let mut nobody = config.clone();
    (nobody.cluster.certificate, nobody.cluster.key) = (None, None);
    is_told(&nobody, "Certificate").await;
    for authorities in [Some(other.path().join("ca.pem")), None] {
        let mut stranger = config.clone();
        stranger.cluster.authorities = authorities;
        is_told(&stranger, "invalid peer certificate").await;
    }
    // What cannot be used at all is no reason to try.
    let mut broken = config.clone();
    broken.cluster.authorities = Some(file("node-key.pem"));
    let why = refused(broken).await;
    assert!(
        why.contains("cluster.authorities") && why.contains("node-key.pem"),
        "{why}"
    );
    let mut mixed = config.clone();
    mixed.cluster.key = Some(file("server-key.pem"));
    let why = refused(mixed).await;
    assert!(
        why.contains("cluster") && why.contains("server-key.pem"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_told_no_password_where_tls_is_meant() {
    let nats = Nats::start_with(&["--user", "tracker", "--pass", "a secret"]).await;
    let mut config = node_config(&nats);
    let url = nats.url_of("tracker:a%20secret@");
    config.cluster.servers = vec![url.replace("nats://", "tls://")];
    is_told(&config, "IO error").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_nats_servers_may_be_lost() {
    let ports = [nodes::free_port(), nodes::free_port()];
    let routes = ports.map(|port| format!("nats://127.0.0.1:{port}"));
    let mut servers = Vec::new();
    for (own, other) in [(0, 1), (1, 0)] {
        let (own, other) = (&routes[own], &routes[other]);
        let options = [
            "--cluster_name",
            "test",
            "--cluster",
            own,
            "--routes",
            other,
        ];
        servers.push(Nats::start_with(&options).await);
    }
    let mut config = node_config(&servers[0]);
    config.cluster.servers = servers.iter().map(Nats::url).collect();
    let nodes = start_nodes(&config, 3).await;
    let viewers = two_each(&nodes).await;
    one_group(&nodes, 6).await;
    // First one is lost, then the other: each node was connected to one of them.
    for (lost, text) in [(0, "by the second"), (1, "by the first")] {
        servers[lost].kill();
        all_meet(&nodes, 3).await;
        one_group(&nodes, 6).await;
        all_signal(&refs(&viewers), text.as_bytes()).await;
        servers[lost].revive().await;
    }
    assert!(viewers.iter().all(|viewer| !viewer.heard().closed));
}
