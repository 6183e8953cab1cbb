//! Certificates, which are read again when their files change.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{Error, config::TlsConfig};

/// The certificate that is in force.
#[derive(Debug)]
pub(crate) struct Certificates {
    certificate_file: PathBuf,
    key_file: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

impl Certificates {
    /// Reads the files that `config` names.
    pub(crate) fn open(config: &TlsConfig) -> Result<Arc<Self>, Error> {
        let named = config.certificate_file.clone().zip(config.key_file.clone());
        let Some((certificate_file, key_file)) = named else {
            let text = "tls needs tls.certificate_file and tls.key_file";
            return Err(Error::Config(text.into()));
        };
        let current = ArcSwap::from_pointee(read(&certificate_file, &key_file)?);
        Ok(Arc::new(Self {
            certificate_file,
            key_file,
            current,
        }))
    }

    /// The settings of connections that speak one of `protocols`. Viewers get tickets to come back with, as many as
    /// there are viewers; a restart makes them worthless (RFC 8446 section 4.6.1).
    pub(crate) fn server_config(
        self: &Arc<Self>,
        protocols: &[&[u8]],
    ) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.ticketer = rustls::crypto::ring::Ticketer::new()
            .map_err(|error| Error::Environment(format!("tls: {error}")))?;
        Ok(config)
    }

    /// Looks at the files every `pause` and reads them when they have changed. What cannot be used is
    /// told, and leaves the certificate as it was.
    pub(crate) async fn watch(&self, pause: Duration) {
        let mut seen = self.changed();
        loop {
            tokio::time::sleep(pause).await;
            let now = self.changed();
            if now == seen {
                continue;
            }
            match read(&self.certificate_file, &self.key_file) {
                Ok(certificate) => {
                    self.current.store(Arc::new(certificate));
                    tracing::info!("certificate is read again");
                    seen = now;
                }
                // The other file may be about to change as well: look again.
                Err(error) => tracing::warn!(%error, "certificate stays as it was"),
            }
        }
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate_file, &self.key_file].map(|file| {
            let meta = std::fs::metadata(file).ok();
            meta.and_then(|meta| meta.modified().ok())
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(certificate_file: &PathBuf, key_file: &PathBuf) -> Result<CertifiedKey, Error> {
    let wrong =
        |file: &PathBuf, error: String| Error::Config(format!("tls: {}: {error}", file.display()));
    let chain = CertificateDer::pem_file_iter(certificate_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(certificate_file, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| wrong(key_file, error.to_string()))?;
    let provider = rustls::crypto::ring::default_provider();
    // Refuses a key that is not the certificate's.
    CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| wrong(certificate_file, error.to_string()))
}
