//! Signing keys as text.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;

use crate::{Error, config::AdminConfig};

/// A new signing key: secret and public half, each 43 characters of base64url.
///
/// # Errors
/// [`Error::Environment`] if the system has no randomness to give.
pub fn keygen() -> Result<(String, String), Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| Error::Environment(error.to_string()))?;
    let key = SigningKey::from_bytes(&secret);
    Ok((URL_SAFE_NO_PAD.encode(secret), public_text(&public(&key))))
}

/// The public half of a secret key, both as [`keygen`] writes them.
///
/// # Errors
/// [`Error::Key`] if `secret` is not such a key.
pub fn public_key(secret: &str) -> Result<String, Error> {
    Ok(public_text(&public(&parse(secret)?)))
}

/// A public key as [`keygen`] writes it.
pub(crate) fn public_text(key: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

fn public(key: &SigningKey) -> [u8; 32] {
    key.verifying_key().to_bytes()
}

/// The secret of the operator's requests, if `config` names one.
pub(crate) fn admin_token(config: &AdminConfig) -> Result<Option<String>, Error> {
    let token = match (&config.token, &config.token_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map_err(|error| Error::Environment(format!("{}: {error}", file.display())))?,
        (None, None) => return Ok(None),
    };
    let token = token.trim();
    if token.is_empty() {
        return Err(Error::Config("admin.token must not be empty".into()));
    }
    Ok(Some(token.into()))
}

/// Reads a secret key.
pub(crate) fn parse(text: &str) -> Result<SigningKey, Error> {
    Ok(SigningKey::from_bytes(&parse_public(text)?))
}

/// Reads 32 bytes: secret and public keys look alike.
pub(crate) fn parse_public(text: &str) -> Result<[u8; 32], Error> {
    let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok();
    let key: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    key.ok_or_else(|| Error::Key("not 43 characters of base64url".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_bad_ones_are_refused() {
        let (secret, public) = keygen().unwrap();
        assert_eq!(secret.len(), 43);
        assert_eq!(public_key(&secret).unwrap(), public);
        assert!(public_key("short").is_err());
    }
}
