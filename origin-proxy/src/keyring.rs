//! The keys of a proxy's streams: the one that signs, those that viewers may trust besides, and the one
//! that made the streams' ids. They can change while the proxy runs.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use ed25519_dalek::SigningKey;

use crate::{
    Config, Error,
    key::{parse, parse_public, public_text},
    proxy::Proxy,
};

/// The keys that are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyring {
    /// The one that signs.
    pub(crate) signs: SigningKey,
    /// Others whose records viewers may trust: the one that signed before, or will sign next.
    pub(crate) valid: Vec<[u8; 32]>,
    /// The public key that, with its name, makes a stream's id.
    pub(crate) names: [u8; 32],
}

/// The keys of all streams of a proxy.
pub(crate) type Keys = Arc<ArcSwap<Keyring>>;

/// Keys that are valid besides the one that signs.
const VALID_MAX: usize = 7;

impl Keyring {
    /// A key that signs, and nothing else.
    pub(crate) fn of(signs: SigningKey) -> Self {
        Self {
            names: signs.verifying_key().to_bytes(),
            valid: Vec::new(),
            signs,
        }
    }

    /// Reads a key file: a line with the secret key that signs, and any with `valid` or `names` and a
    /// public key. Empty lines and those that begin with `#` say nothing.
    pub(crate) fn read(text: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Err(Error::Key(what.into()));
        let (mut signs, mut names, mut valid) = (None, None, Vec::new());
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(' ') {
                None if signs.is_some() => return wrong("two keys that sign"),
                None => signs = Some(parse(line)?),
                Some(("valid", key)) => valid.push(parse_public(key)?),
                Some(("names", _)) if names.is_some() => return wrong("two keys that name"),
                Some(("names", key)) => names = Some(parse_public(key)?),
                Some(_) => return wrong("a line that is neither a key nor `valid` or `names`"),
            }
        }
        if valid.len() > VALID_MAX {
            return wrong("more than 7 valid keys");
        }
        let Some(signs) = signs else {
            return wrong("no key that signs");
        };
        let own = Self::of(signs);
        Ok(Self {
            names: names.unwrap_or(own.names),
            valid,
            ..own
        })
    }

    /// The public half of the key that signs.
    pub(crate) fn public(&self) -> [u8; 32] {
        self.signs.verifying_key().to_bytes()
    }

    /// All keys whose records viewers may trust, the one that signs first, as text.
    pub(crate) fn trusted(&self) -> Vec<String> {
        let own = self.public();
        let others = self.valid.iter().filter(|key| **key != own);
        std::iter::once(&own)
            .chain(others)
            .map(public_text)
            .collect()
    }
}

/// The keys that `config` names, if any.
pub(crate) fn load(config: &Config) -> Result<Option<Keyring>, Error> {
    match (&config.signing_key, &config.signing_key_file) {
        (Some(text), _) => Ok(Some(Keyring::of(parse(text)?))),
        (None, Some(file)) => load_file(file).map(Some),
        (None, None) => Ok(None),
    }
}

fn load_file(file: &Path) -> Result<Keyring, Error> {
    let blame = |error: String| Error::Key(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| blame(error.to_string()))?;
    Keyring::read(&text).map_err(|error| blame(error.to_string()))
}

/// What a key file that has been read again means.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing has changed.
    Keep,
    /// The keys change; the streams stay.
    Roll,
    /// The streams would get other ids, and viewers would be parted.
    Refuse,
}

fn plan_roll(now: &Keyring, next: &Keyring) -> Plan {
    match () {
        () if now == next => Plan::Keep,
        () if now.names == next.names => Plan::Roll,
        () => Plan::Refuse,
    }
}

/// Reads the key file every `pause`, and takes what is in it. What cannot be used is told, and leaves
/// the keys as they were.
pub(crate) async fn watch(proxy: Arc<Proxy>, keys: Keys, pause: Duration) {
    let Some(file) = proxy.config.signing_key_file.clone() else {
        return;
    };
    let mut told = String::new();
    loop {
        tokio::time::sleep(pause).await;
        let of = file.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || load_file(&of)).await else {
            return;
        };
        let now = keys.load_full();
        let refused = match loaded.map(|next| (plan_roll(&now, &next), next)) {
            Ok((Plan::Keep, _)) => String::new(),
            Ok((Plan::Roll, next)) => {
                roll(&proxy, &keys, next).await;
                String::new()
            }
            Ok((Plan::Refuse, _)) => format!(
                "streams would get other ids: add the line `names {}` to {}, or restart",
                public_text(&now.names),
                file.display()
            ),
            Err(error) => error.to_string(),
        };
        // Once, not at every look.
        if !refused.is_empty() && refused != told {
            tracing::warn!(refused, "keys stay as they were");
        }
        told = refused;
    }
}

/// Takes `next`, and signs again what has been signed with another key: records that are kept count
/// as long as viewers trust the key that signed them, and that may soon be this one alone.
async fn roll(proxy: &Arc<Proxy>, keys: &Keys, next: Keyring) {
    let public_key = public_text(&next.public());
    keys.store(Arc::new(next));
    let proxy = proxy.clone();
    let work = move || {
        let started = Instant::now();
        let resigned: usize = proxy.streams.iter().map(|stream| stream.resign()).sum();
        for (_, object) in &proxy.cache {
            object.renew_records(|record| {
                let mut streams = proxy.streams.iter();
                let stream = streams.find(|stream| stream.id == record.stream)?;
                stream.signed(record.name)
            });
        }
        proxy.metrics.keys_rolled.increment(1);
        proxy.metrics.records_resigned.increment(resigned as u64);
        (resigned, started.elapsed())
    };
    if let Ok((resigned, took)) = tokio::task::spawn_blocking(work).await {
        tracing::info!(public_key, resigned, ?took, "keys are read again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keygen, public_key};

    #[test]
    fn a_file_has_one_key_that_signs_and_others_that_count() {
        let (secret, public) = keygen().unwrap();
        let (_, old) = keygen().unwrap();
        let bare = Keyring::read(&format!("{secret}\n")).unwrap();
        assert_eq!(public_text(&bare.names), public);
        assert_eq!(bare.trusted(), std::slice::from_ref(&public));
        let text = format!("# new\n{secret}\n\nnames {old}\nvalid {old}\nvalid {public}\n");
        let rolled = Keyring::read(&text).unwrap();
        assert_eq!(public_text(&rolled.names), old);
        assert_eq!(rolled.trusted(), [public, old]);
    }

    #[test]
    fn mistakes_in_a_file_are_named() {
        let (secret, public) = keygen().unwrap();
        let many = format!("{secret}\n{}", format!("valid {public}\n").repeat(8));
        for (text, named) in [
            (String::new(), "no key that signs"),
            (format!("{secret}\n{secret}"), "two keys that sign"),
            (format!("{secret}\nvalide {public}"), "neither"),
            (format!("{secret}\nvalid ?"), "43 characters"),
            (format!("{secret}\nnames {public}\nnames {public}"), "name"),
            (many, "more than 7"),
        ] {
            let error = Keyring::read(&text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_roll_never_changes_the_ids_of_streams() {
        let (old, old_public) = keygen().unwrap();
        let (new, _) = keygen().unwrap();
        let now = Keyring::read(&old).unwrap();
        let next = |text: &str| plan_roll(&now, &Keyring::read(text).unwrap());
        assert_eq!(next(&old), Plan::Keep);
        assert_eq!(next(&new), Plan::Refuse);
        assert_eq!(next(&format!("{new}\nnames {old_public}")), Plan::Roll);
        assert_eq!(public_key(&old).unwrap(), old_public);
    }
}
