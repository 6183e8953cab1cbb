//! Certificates, which are read again when their files change.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use metrics::Gauge;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Error, config::TlsConfig, metrics::Metrics};

/// The certificates that are in force.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The first one is for viewers who ask for none of the names.
    all: Vec<Files>,
    expiry: Gauge,
}

/// One certificate.
#[derive(Debug)]
struct Files {
    certificate_file: PathBuf,
    key_file: PathBuf,
    current: ArcSwap<Certificate>,
}

#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    /// In lower case; `*.` at the beginning stands for one label.
    names: Vec<String>,
    /// In seconds of Unix time.
    expiry_s: i64,
}

impl Certificates {
    /// Reads the files that `config` names.
    pub(crate) fn open(config: &TlsConfig, metrics: &Metrics) -> Result<Arc<Self>, Error> {
        let named = config.certificate_file.clone().zip(config.key_file.clone());
        let Some(first) = named else {
            let text = "tls needs tls.certificate_file and tls.key_file";
            return Err(Error::Config(text.into()));
        };
        let further = config.certificates.iter();
        let further = further.map(|one| (one.certificate_file.clone(), one.key_file.clone()));
        let all = std::iter::once(first).chain(further);
        let certificates = Self {
            all: all.map(Files::open).collect::<Result<_, _>>()?,
            expiry: metrics.certificate_expiry.clone(),
        };
        certificates.note_expiry();
        Ok(Arc::new(certificates))
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
        let mut seen: Vec<_> = self.all.iter().map(Files::changed).collect();
        loop {
            tokio::time::sleep(pause).await;
            for (files, seen) in self.all.iter().zip(&mut seen) {
                let now = files.changed();
                if now == *seen {
                    continue;
                }
                match read(&files.certificate_file, &files.key_file) {
                    Ok(certificate) => {
                        files.current.store(Arc::new(certificate));
                        tracing::info!("certificate is read again");
                        *seen = now;
                    }
                    // The other file may be about to change as well: look again.
                    Err(error) => tracing::warn!(%error, "certificate stays as it was"),
                }
            }
            self.note_expiry();
        }
    }

    fn note_expiry(&self) {
        let expiries = self.all.iter().map(|files| files.current.load().expiry_s);
        self.expiry.set(expiries.min().unwrap_or(0) as f64);
    }

    /// The certificate for viewers who ask for `name`.
    fn of_name(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let is_it = |files: &&Files| name.is_some_and(|name| files.current.load().is_for(name));
        let found = self.all.iter().find(is_it).or(self.all.first())?;
        Some(found.current.load().key.clone())
    }
}

impl Files {
    fn open((certificate_file, key_file): (PathBuf, PathBuf)) -> Result<Self, Error> {
        let current = ArcSwap::from_pointee(read(&certificate_file, &key_file)?);
        Ok(Self {
            certificate_file,
            key_file,
            current,
        })
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate_file, &self.key_file].map(|file| {
            let meta = std::fs::metadata(file).ok();
            meta.and_then(|meta| meta.modified().ok())
        })
    }
}

impl Certificate {
    /// Whether it has `name` (RFC 9525 section 6.3).
    fn is_for(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let is_it = |own: &String| match own.strip_prefix("*.") {
            Some(rest) => parent == Some(rest),
            None => *own == name,
        };
        self.names.iter().any(is_it)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of_name(hello.server_name())
    }
}

fn read(certificate_file: &PathBuf, key_file: &PathBuf) -> Result<Certificate, Error> {
    let wrong =
        |file: &PathBuf, error: String| Error::Config(format!("tls: {}: {error}", file.display()));
    let chain = CertificateDer::pem_file_iter(certificate_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(certificate_file, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| wrong(key_file, error.to_string()))?;
    let provider = rustls::crypto::ring::default_provider();
    // What is read of it besides is for choosing and for figures: rustls says whether it can be used.
    let first = chain
        .first()
        .and_then(|der| X509Certificate::from_der(der).ok());
    let names = first.as_ref().map(|(_, certificate)| names_of(certificate));
    let expiry_s = first
        .as_ref()
        .map(|(_, certificate)| certificate.validity().not_after);
    let (names, expiry_s) = (
        names.unwrap_or_default(),
        expiry_s.map_or(0, |time| time.timestamp()),
    );
    // Refuses a key that is not the certificate's.
    let key = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| wrong(certificate_file, error.to_string()))?;
    Ok(Certificate {
        key: Arc::new(key),
        names,
        expiry_s,
    })
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives
        .iter()
        .flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}
