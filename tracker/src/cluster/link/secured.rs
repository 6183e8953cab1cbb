//! What proves to NATS servers who this node is, and to this node who they are.

use std::path::Path;

use async_nats::{ConnectOptions, ServerAddr};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::wrong;
use crate::{Error, cluster::config::ClusterConfig, tls};

/// Adds the credentials and the certificates. The client reads certificates again for each connection;
/// what it could not use then is said here.
pub(super) async fn secure(
    mut options: ConnectOptions,
    config: &ClusterConfig,
    servers: &[ServerAddr],
) -> Result<ConnectOptions, Error> {
    // An error means that somebody has done it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(path) = &config.credentials {
        let read = options.credentials_file(path).await;
        options = read.map_err(|error| wrong("credentials", &in_file(path, &error)))?;
    }
    if let Some(path) = &config.authorities {
        check_authorities(path).map_err(|error| wrong("authorities", &in_file(path, &error)))?;
        options = options.add_root_certificates(path.clone());
    }
    let own = config.certificate.as_ref().zip(config.key.as_ref());
    if let Some((chain, key)) = own {
        tls::read("cluster", chain, key)?;
        options = options.add_client_certificate(chain.clone(), key.clone());
    }
    // Servers name each other without a scheme: what is asked of one holds for all.
    let named = servers.iter().any(ServerAddr::tls_required);
    Ok(options.require_tls(named || config.authorities.is_some() || own.is_some()))
}

fn check_authorities(path: &Path) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    let read = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    for certificate in read {
        let certificate = certificate.map_err(|error| error.to_string())?;
        let added = store.add(certificate);
        added.map_err(|error| error.to_string())?;
    }
    match store.is_empty() {
        true => Err("no certificate in it".into()),
        false => Ok(()),
    }
}

fn in_file(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
