//! Signing keys as text.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;

use crate::{Config, Error, config::AdminConfig};

/// A new signing key: secret and public half, each 43 characters of base64url.
///
/// # Errors
/// [`Error::Environment`] if the system has no randomness to give.
pub fn keygen() -> Result<(String, String), Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| Error::Environment(error.to_string()))?;
    let key = SigningKey::from_bytes(&secret);
    Ok((URL_SAFE_NO_PAD.encode(secret), public_text(&key)))
}

/// The public half of a secret key, both as [`keygen`] writes them.
///
/// # Errors
/// [`Error::Key`] if `secret` is not such a key.
pub fn public_key(secret: &str) -> Result<String, Error> {
    Ok(public_text(&parse(secret)?))
}

pub(crate) fn public_text(key: &SigningKey) -> String {
    URL_SAFE_NO_PAD.encode(key.verifying_key().to_bytes())
}

/// The key that `config` names, if any.
pub(crate) fn load(config: &Config) -> Result<Option<SigningKey>, Error> {
    match (&config.signing_key, &config.signing_key_file) {
        (Some(text), _) => parse(text).map(Some),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Error::Key(format!("{}: {error}", file.display())))?;
            parse(&text).map(Some)
        }
        (None, None) => Ok(None),
    }
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

fn parse(text: &str) -> Result<SigningKey, Error> {
    let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok();
    let secret: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    let secret = secret.ok_or_else(|| Error::Key("not 43 characters of base64url".into()))?;
    Ok(SigningKey::from_bytes(&secret))
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
