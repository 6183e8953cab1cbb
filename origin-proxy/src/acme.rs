//! Certificates from an authority that speaks ACME (RFC 8555), proved by http-01.
//!
//! What is obtained goes into a file, from which [`crate::tls`] reads it like any other.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::Uri;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Error, config::AcmeConfig, metrics::Metrics};

/// What the authority asks for, and what to tell it: key authorisations by token.
#[derive(Default)]
pub(crate) struct Challenges(RwLock<HashMap<String, String>>);

/// Where it asks (RFC 8555 section 8.3).
const PATH: &str = "/.well-known/acme-challenge/";
/// How often the certificate's age is looked at.
const CHECK_PAUSE: Duration = Duration::from_secs(3600);
/// After a failure: the first pause, doubled with each further one. Authorities count failures.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);
/// One order takes no longer.
const ORDER_PATIENCE: Duration = Duration::from_secs(300);
/// The authority is asked how an order does at growing intervals for so long.
const POLL_PATIENCE: Duration = Duration::from_secs(90);
/// A certificate is renewed when less than this share of its lifetime is left: a third.
const RENEWAL_SHARE: u64 = 3;

impl Challenges {
    /// What to answer, if `uri` is a question of the authority.
    pub(crate) fn answer(&self, uri: &Uri) -> Option<String> {
        let token = uri.path().strip_prefix(PATH)?;
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(token).cloned()
    }

    fn set(&self, token: &str, authorization: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(token.into(), authorization.into());
    }

    fn clear(&self) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }
}

/// The file of certificate and key, PEM. If there is none yet, it is one that nobody trusts, for connections
/// until there is.
pub(crate) fn open(config: &AcmeConfig) -> Result<PathBuf, Error> {
    let folder = config.state_folder.as_ref();
    let folder =
        folder.ok_or_else(|| Error::Config("acme.names needs acme.state_folder".into()))?;
    let file = folder.join("certificate.pem");
    let blame = |error: String| Error::Environment(format!("{}: {error}", file.display()));
    fs::create_dir_all(folder).map_err(|error| blame(error.to_string()))?;
    if !file.exists() {
        let own = rcgen::generate_simple_self_signed(config.names.clone())
            .map_err(|error| Error::Config(format!("acme.names: {error}")))?;
        let text = own.cert.pem() + &own.signing_key.serialize_pem();
        write(&file, text.as_bytes()).map_err(|error| blame(error.to_string()))?;
    }
    Ok(file)
}

/// Sees to it that the certificate in `file` is valid. Never ends.
pub(crate) async fn keep(
    config: AcmeConfig,
    file: PathBuf,
    challenges: Arc<Challenges>,
    metrics: Arc<Metrics>,
) {
    let mut pause = RETRY_PAUSE;
    loop {
        let names: BTreeSet<&str> = config.names.iter().map(String::as_str).collect();
        if !is_due(&file, &names, now_s()) {
            tokio::time::sleep(CHECK_PAUSE).await;
            continue;
        }
        let obtained = tokio::time::timeout(ORDER_PATIENCE, obtain(&config, &file, &challenges));
        let obtained = obtained.await.unwrap_or_else(|_| Err(Trouble::Late));
        challenges.clear();
        match obtained {
            Ok(()) => {
                metrics.certificates_obtained.increment(1);
                tracing::info!(names = ?config.names, "certificate obtained");
                pause = RETRY_PAUSE;
            }
            Err(trouble) => {
                metrics.certificate_failures.increment(1);
                tracing::warn!(names = ?config.names, %trouble, "no certificate");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("authority: {0}")]
    Authority(#[from] instant_acme::Error),
    #[error("authority offers no http-01 for {0}")]
    NoChallenge(String),
    #[error("authority does not accept the proof: the order is {0:?}")]
    Refused(OrderStatus),
    #[error("authority did not answer in time")]
    Late,
    #[error("environment: {0}")]
    Environment(#[from] io::Error),
    #[error("environment: the account's file makes no sense: {0}")]
    Account(#[from] serde_json::Error),
    #[error("misuse: acme.names: {0}")]
    Names(#[from] rcgen::Error),
}

async fn obtain(config: &AcmeConfig, file: &Path, challenges: &Challenges) -> Result<(), Trouble> {
    let account = account(config, &file.with_file_name("account.json")).await?;
    let names = config.names.iter().cloned().map(Identifier::Dns);
    let names: Vec<Identifier> = names.collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let challenge = authorization.challenge(ChallengeType::Http01);
        let mut challenge = challenge.ok_or(Trouble::NoChallenge(name))?;
        challenges.set(&challenge.token, challenge.key_authorization().as_str());
        challenge.set_ready().await?;
    }
    let retries = RetryPolicy::default().timeout(POLL_PATIENCE);
    let status = order.poll_ready(&retries).await?;
    if status != OrderStatus::Ready {
        return Err(Trouble::Refused(status));
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(config.names.clone())?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&retries).await?;
    write(file, (chain + &key.serialize_pem()).as_bytes())?;
    Ok(())
}

/// The account in `file`, or a new one, which goes there.
async fn account(config: &AcmeConfig, file: &Path) -> Result<Account, Trouble> {
    let builder = || match &config.root_file {
        Some(root) => Account::builder_with_root(root),
        None => Account::builder(),
    };
    match fs::read(file) {
        Ok(text) => {
            let credentials: AccountCredentials = serde_json::from_slice(&text)?;
            return Ok(builder()?.from_credentials(credentials).await?);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let contact: Vec<&str> = config.contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let directory = config.directory.clone();
    let (account, credentials) = builder()?.create(&new, directory, None).await?;
    write(file, &serde_json::to_vec(&credentials)?)?;
    Ok(account)
}

/// Replaces `file` at once. Only its owner may read it.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = file.with_extension("part");
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut out = options.open(&unfinished)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(unfinished, file)
}

/// Whether another certificate must take the place of the one in `file`: it is none, our own, for other
/// names, or near its end.
fn is_due(file: &Path, names: &BTreeSet<&str>, now_s: u64) -> bool {
    let Ok(der) = CertificateDer::from_pem_file(file) else {
        return true;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
        return true;
    };
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let from_s = seconds(certificate.validity().not_before);
    let to_s = seconds(certificate.validity().not_after);
    let is_old = to_s.saturating_sub(now_s) < to_s.saturating_sub(from_s) / RENEWAL_SHARE;
    let is_own = certificate.issuer() == certificate.subject();
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let certified: BTreeSet<&str> = alternatives
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    is_old || is_own || certified != *names
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertifiedIssuer, IsCa};

    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_its_last_third_or_when_names_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("certificate.pem");
        let names = BTreeSet::from(["a.example", "b.example"]);
        assert!(is_due(&file, &names, 0), "there is none");
        let config = AcmeConfig {
            names: names.iter().map(|name| (*name).into()).collect(),
            state_folder: Some(folder.path().into()),
            ..AcmeConfig::default()
        };
        assert_eq!(open(&config).unwrap(), file);
        assert!(is_due(&file, &names, now_s()), "it is our own");

        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(config.names.clone()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &authority).unwrap();
        write(&file, signed.pem().as_bytes()).unwrap();
        let from_s = params.not_before.unix_timestamp() as u64;
        for (day, due) in [(0, false), (59, false), (61, true), (91, true)] {
            assert_eq!(
                is_due(&file, &names, from_s + day * 86_400),
                due,
                "day {day}"
            );
        }
        assert!(is_due(&file, &BTreeSet::from(["a.example"]), from_s));
        assert_eq!(open(&config).unwrap(), file);
        assert_eq!(fs::read(&file).unwrap(), signed.pem().as_bytes());
    }

    #[test]
    fn only_known_tokens_are_answered() {
        let challenges = Challenges::default();
        challenges.set("token", "token.print");
        let ask = |path: &str| challenges.answer(&path.parse().unwrap());
        assert_eq!(
            ask("/.well-known/acme-challenge/token").as_deref(),
            Some("token.print")
        );
        assert_eq!(ask("/.well-known/acme-challenge/other"), None);
        assert_eq!(ask("/live/token"), None);
        challenges.clear();
        assert_eq!(ask("/.well-known/acme-challenge/token"), None);
    }
}
