//! TLS by rustls: the certificate, read again when it changes, and connections.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod records;
mod stream;

pub(crate) use stream::TlsStream;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    Error,
    reload::{Live, Reloader},
};

/// Certificate and key; without both there is no TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The certificate and those that lead to its authority, PEM.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
}

/// Accepts TLS connections.
#[derive(Clone)]
pub(crate) struct Acceptor {
    config: Arc<ServerConfig>,
    certificate: Arc<Live<CertifiedKey>>,
}

#[derive(Debug)]
struct Certificate(Arc<Live<CertifiedKey>>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.get()))
    }
}

impl Acceptor {
    /// `None` where no certificate is set.
    pub(crate) fn open(config: &TlsConfig, reloader: &mut Reloader) -> Result<Option<Self>, Error> {
        let (Some(chain), Some(key)) = (config.certificate.clone(), config.key.clone()) else {
            return match (&config.certificate, &config.key) {
                (None, None) => Ok(None),
                _ => Err(Error::Config(
                    "tls: set certificate and key, or neither".into(),
                )),
            };
        };
        let files = vec![chain.clone(), key.clone()];
        let live = Live::open("TLS certificate", files, move || read("tls", &chain, &key))?;
        let live = Arc::new(live);
        reloader.add(Arc::clone(&live) as _);
        let broken = |error: rustls::Error| Error::Config(format!("tls: {error}"));
        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Certificate(Arc::clone(&live))));
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Viewers that come back resume by ticket, which costs no memory here. Not after a restart: what
        // tickets are sealed with is random, and goes with the process.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.ticketer = ring::Ticketer::new().map_err(broken)?;
        server.send_tls13_tickets = 1;
        // After the handshake connections of TLS 1.3 go on with these alone: `records`.
        server.enable_secret_extraction = true;
        Ok(Some(Self {
            config: Arc::new(server),
            certificate: live,
        }))
    }

    /// When the certificate ends, in seconds since 1970; `None` where it cannot be read.
    pub(crate) fn certificate_end_s(&self) -> Option<u64> {
        let key = self.certificate.get();
        let (_, certificate) = X509Certificate::from_der(key.end_entity_cert().ok()?).ok()?;
        u64::try_from(certificate.validity().not_after.timestamp()).ok()
    }

    /// Does the handshake; `early` is what was read of the connection already.
    pub(crate) async fn accept(
        &self,
        tcp: TcpStream,
        early: Vec<u8>,
    ) -> std::io::Result<Box<TlsStream>> {
        TlsStream::accept(tcp, early, Arc::clone(&self.config)).await
    }
}

/// A certificate chain and its key; `section` is what errors call them.
pub(crate) fn read(section: &str, chain: &Path, key: &Path) -> Result<CertifiedKey, Error> {
    let wrong = |path: &Path, why: String| {
        let path = path.display();
        Error::Config(format!("{section}: {path}: {why}"))
    };
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(chain, error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong(chain, "no certificate in it".into()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, e.to_string()))?;
    CertifiedKey::from_der(certificates, secret, &ring::default_provider())
        .map_err(|error| wrong(key, error.to_string()))
}
