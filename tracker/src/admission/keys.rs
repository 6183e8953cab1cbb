//! Keys that tokens are signed with: reading, making.

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};

use crate::{Error, names};

/// What precedes the seed in an Ed25519 private key (PKCS #8 version 1: older OpenSSL reads no
/// other), and the key in a public one (RFC 8410).
const ED25519_PRIVATE: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const ED25519_PUBLIC: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// What precedes the point in a P-256 public key (RFC 5480).
const P256_PUBLIC: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";

/// What tokens are signed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// `EdDSA` over Ed25519: the one to take where nothing speaks against it.
    #[default]
    Ed25519,
    /// `ES256`, over P-256: for back ends and key stores without Ed25519.
    P256,
}

/// A new pair of keys as PEM.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// For whoever mints tokens; secret.
    pub private_pem: String,
    /// For the tracker.
    pub public_pem: String,
}

/// Makes a pair of keys.
///
/// # Errors
/// [`Error::Environment`] if the system gives no random bytes.
pub fn new_key_pair(kind: KeyKind) -> Result<KeyPair, Error> {
    let broken = |what| Error::Environment {
        what: "making a key",
        source: std::io::Error::other(what),
    };
    let (private, public) = match kind {
        KeyKind::Ed25519 => {
            let mut seed = [0; 32];
            names::fill(&mut seed)?;
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| broken("seed"))?;
            let public = [ED25519_PUBLIC, pair.public_key().as_ref()].concat();
            ([ED25519_PRIVATE, &seed].concat(), public)
        }
        KeyKind::P256 => {
            let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random)
                .map_err(|_| broken("random bytes"))?;
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random)
                .map_err(|_| broken("the new key"))?;
            let public = [P256_PUBLIC, pair.public_key().as_ref()].concat();
            (document.as_ref().to_vec(), public)
        }
    };
    Ok(KeyPair {
        private_pem: pem("PRIVATE KEY", &private),
        public_pem: pem("PUBLIC KEY", &public),
    })
}

/// Reads a public key; its kind says which signatures it checks.
pub(super) fn read_public(pem: &[u8]) -> Option<(Algorithm, DecodingKey)> {
    let ed25519 = DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key));
    ed25519
        .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)))
        .ok()
}

/// Reads a private key (PKCS #8).
pub(super) fn read_private(pem: &[u8]) -> Option<(Algorithm, EncodingKey)> {
    let ed25519 = EncodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key));
    ed25519
        .or_else(|_| EncodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)))
        .ok()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
