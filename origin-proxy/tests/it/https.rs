//! Origins with TLS: their authority, and the version of HTTP that they choose.

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Origin, Proxy};

/// Starts an origin that speaks one of `protocols` and tells which, with a certificate of an authority of its
/// own, whose root is written to `root`.
async fn origin(protocols: &[&str], root: &Path) -> SocketAddr {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&key).unwrap();
    std::fs::write(root, certificate.pem()).unwrap();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap();
    let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], secret)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(socket) = acceptor.accept(socket).await else {
                    return;
                };
                let answer = service_fn(async |request: hyper::Request<_>| {
                    let _: &hyper::body::Incoming = request.body();
                    let body = format!("{:?} {}", request.version(), request.uri().path());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_origin_with_tls_chooses_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    // What the operator says of plain connections is nothing to it.
    for is_http2_plain in [false, true] {
        for (protocols, version) in [
            (&["h2", "http/1.1"][..], "HTTP/2.0"),
            (&["http/1.1"][..], "HTTP/1.1"),
            (&[][..], "HTTP/1.1"),
        ] {
            let url = format!("https://{}", origin(protocols, &root).await);
            let proxy = Proxy::before(Origin::default(), &url, |config| {
                config.upstream.root_file = Some(root.clone());
                config.upstream.http2_prior_knowledge = is_http2_plain;
            })
            .await;
            assert_eq!(proxy.text("/vod/a").await, format!("{version} /vod/a"));
        }
    }
}

#[tokio::test]
async fn an_origin_is_spoken_to_in_http1_if_the_operator_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    let url = format!("https://{}", origin(&["h2", "http/1.1"], &root).await);
    let proxy = Proxy::before(Origin::default(), &url, |config| {
        config.upstream.root_file = Some(root.clone());
        config.upstream.http1_only = true;
    })
    .await;
    assert_eq!(proxy.text("/vod/a").await, "HTTP/1.1 /vod/a");
}

#[tokio::test]
async fn an_origin_that_nobody_vouches_for_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let [root, other] = ["root.pem", "other.pem"].map(|name| folder.path().join(name));
    let url = format!("https://{}", origin(&["h2"], &root).await);
    origin(&["h2"], &other).await;
    for root_file in [None, Some(other)] {
        let proxy = Proxy::before(Origin::default(), &url, |config| {
            config.upstream.root_file = root_file;
        })
        .await;
        let answer = proxy.get("/vod/a").await;
        assert_eq!(answer.status(), 502);
        let text = answer.text().await.unwrap();
        assert!(text.starts_with("origin failed: "), "{text}");
    }
}

#[tokio::test]
async fn roots_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("root.pem");
    let start = async || {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = origin_proxy::Config::default();
        config.upstream.root_file = Some(file.clone());
        let error = origin_proxy::run(listener, config, async {}).await;
        error.expect_err("no roots").to_string()
    };
    let missing = start().await;
    std::fs::write(&file, "no certificate").unwrap();
    for error in [missing, start().await] {
        assert!(error.contains("upstream.root_file"), "{error}");
        assert!(error.contains("root.pem"), "{error}");
    }
}
