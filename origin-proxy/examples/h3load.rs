//! As many HTTP/3 requests for one object as go, for `cargo xtask bench proxy`: what h2load does where it
//! is built with HTTP/3, which distributions seldom do.
//!
//! `h3load ADDRESS PATH CERTIFICATE SECONDS CONNECTIONS STREAMS` prints a line with the number of requests
//! and the 99th percentile of their times in milliseconds. CERTIFICATE is the file of a root (PEM) that
//! vouches for `localhost`.

use std::{
    env,
    error::Error,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{CertificateDer, pem::PemObject};

type Failure = Box<dyn Error + Send + Sync>;
type Requests = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, path, certificate, seconds, connections, streams] = arguments.as_slice() else {
        return Err("usage: h3load ADDRESS PATH CERTIFICATE SECONDS CONNECTIONS STREAMS".into());
    };
    let address: SocketAddr = address.parse()?;
    let url: http::Uri = format!("https://localhost:{}{path}", address.port()).parse()?;
    let endpoint = endpoint(certificate)?;
    let mut workers = Vec::new();
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    for _ in 0..connections.parse::<usize>()? {
        let connection = endpoint.connect(address, "localhost")?.await?;
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
        tokio::spawn(async move { driver.wait_idle().await });
        for _ in 0..streams.parse::<usize>()? {
            workers.push(tokio::spawn(ask(requests.clone(), url.clone(), end)));
        }
    }
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await??);
    }
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).ok_or("no answers")?;
    println!("{} {:.3}", times.len(), p99.as_secs_f64() * 1000.0);
    Ok(())
}

fn endpoint(certificate: &str) -> Result<quinn::Endpoint, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls)?;
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    Ok(endpoint)
}

/// Asks for one object after the other until `end`. Returns how long each took.
async fn ask(
    mut requests: Requests,
    url: http::Uri,
    end: Instant,
) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        let request = http::Request::get(url.clone()).body(())?;
        let mut stream = requests.send_request(request).await?;
        stream.finish().await?;
        let response = stream.recv_response().await?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("answered {}", response.status()).into());
        }
        while let Some(mut chunk) = stream.recv_data().await? {
            chunk.advance(chunk.remaining());
        }
        times.push(started.elapsed());
    }
    Ok(times)
}
