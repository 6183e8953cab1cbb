//! Tokens of viewers that are a part of paths (`/live/<token>/main.m3u8`, `/hdntl=exp=…~hmac=…/live/main.m3u8`).
//!
//! What is below such a token is one object for all viewers, so keys and names are made of the path with
//! [`PLACEHOLDER`] in the token's place. Whoever is to get the object must have a token that the origin takes: it is
//! asked, by a `HEAD` request with the viewer's own path, before the viewer gets anything that is kept. A token that
//! it takes for an object counts for the whole folder for a while.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, request};
use moka::{future, sync};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use swarm_core::{id::StreamId, timeline::tags::StreamTag};

use crate::{
    Error,
    client::Response,
    config::PathTokenConfig,
    error::Failure,
    proxy::Proxy,
    recent,
    target::{Site, Target},
};

/// What stands for a token in keys, names, logs and the prefixes of settings.
pub(crate) const PLACEHOLDER: &str = "~";
/// Tokens and folders that are remembered; who is forgotten is asked for again.
const TAKEN_MAX: u64 = 262_144;

/// Where tokens are, in the order in which the operator says so.
#[derive(Default)]
pub(crate) struct PathTokens(Vec<Place>);

/// Where one kind of token is.
struct Place {
    prefix: String,
    begins: Vec<String>,
    encoded_slashes: bool,
    /// None if nobody is to be asked.
    taken: Option<Taken>,
}

/// What the origin has taken.
struct Taken {
    fresh: Duration,
    /// When it did so last, for as long as that may count.
    when: sync::Cache<Question, Instant>,
    /// Those who want to know the same wait for one answer.
    asked: future::Cache<Question, ()>,
}

/// A digest of host, token and folder.
type Question = [u8; 32];

/// A token, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    text: String,
    /// Where in the path the placeholder is, in bytes.
    at: usize,
    /// Which of the [`PathTokens`] it is.
    place: usize,
}

impl PathTokens {
    /// Reads what `config` has. Where an origin fails, what it has taken counts for `stale_s` more.
    pub(crate) fn read(config: &[PathTokenConfig], stale_s: u64) -> Result<Self, Error> {
        let read = |one| Place::read(one, stale_s);
        config.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// `path` with a placeholder for the token that is in it; none if there is none.
    pub(crate) fn split(&self, path: &str) -> Option<(String, Token)> {
        let mut places = self.0.iter().enumerate();
        let (place, (at, end)) =
            places.find_map(|(index, place)| Some((index, place.find(path)?)))?;
        let text = path[at..end].to_owned();
        let path = [&path[..at], PLACEHOLDER, &path[end..]].concat();
        Some((path, Token { text, at, place }))
    }

    /// `path` as it may be seen by those who look after the proxy.
    pub(crate) fn hide<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let hidden = self.split(path).map(|(path, _)| Cow::Owned(path));
        hidden.unwrap_or(Cow::Borrowed(path))
    }

    /// Whether the origin is asked if it takes `token`.
    pub(crate) fn is_checked(&self, token: &Token) -> bool {
        self.taken(token).is_some()
    }

    fn taken(&self, token: &Token) -> Option<&Taken> {
        self.0.get(token.place)?.taken.as_ref()
    }
}

impl Place {
    fn read(config: &PathTokenConfig, stale_s: u64) -> Result<Self, Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        if !config.prefix.starts_with('/') || !config.prefix.ends_with('/') {
            return wrong("path_tokens.prefix must begin and end with /");
        }
        let is_wrong = |text: &String| text.is_empty() || text.contains('/');
        if config.begins.iter().any(is_wrong) {
            return wrong("path_tokens.begins must not be empty texts, nor have / in them");
        }
        let fresh = Duration::from_secs(config.accepted_s);
        let last = Duration::from_secs(config.accepted_s.saturating_add(stale_s));
        if last > LASTING_MAX {
            return wrong("path_tokens.accepted_s must be below a year");
        }
        let taken = || Taken {
            fresh,
            when: recent::builder(TAKEN_MAX).time_to_live(last).build(),
            asked: future::Cache::builder()
                .max_capacity(TAKEN_MAX)
                .time_to_live(fresh)
                .build(),
        };
        Ok(Self {
            prefix: config.prefix.clone(),
            begins: config.begins.clone(),
            encoded_slashes: config.encoded_slashes,
            taken: config.check.then(taken),
        })
    }

    /// From where to where in `path` the token is. One that is all the rest is none: it leads to no object.
    fn find(&self, path: &str) -> Option<(usize, usize)> {
        let mut at = self.prefix.len();
        let mut rest = path.strip_prefix(&self.prefix)?;
        loop {
            let (first, further) = rest.split_once('/')?;
            // What stands for a token is one, or playlists would be read otherwise than their viewers' requests.
            let begins = || self.begins.iter().any(|begin| first.starts_with(begin));
            let is_it = match self.begins.is_empty() {
                true => !first.is_empty(),
                false => first == PLACEHOLDER || begins(),
            };
            if is_it {
                let end = at + first.len();
                return (self.encoded_slashes || !has_slash(first)).then_some((at, end));
            }
            if self.begins.is_empty() {
                return None;
            }
            at += first.len() + 1;
            rest = further;
        }
    }
}

/// Whether an origin may take `text` for more than one word of a path, and the rest of it for part of the object's.
fn has_slash(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["%2f", "%5c"].iter().any(|slash| text.contains(slash))
}

/// Longer than any token lives, and no more than caches can count.
const LASTING_MAX: Duration = Duration::from_secs(366 * 86_400);

impl Token {
    /// `path`, which has a placeholder for it, as the viewer has sent it.
    pub(crate) fn put_back(&self, path: &str) -> String {
        let (before, after) = path.split_at(self.at);
        let after = after.strip_prefix(PLACEHOLDER).unwrap_or(after);
        [before, &self.text, after].concat()
    }

    /// Itself, if it is one; `other`, if it only stands for one that is at the same place.
    pub(crate) fn or(self, other: Option<&Self>) -> Self {
        match other.filter(|other| other.at == self.at) {
            Some(other) if self.text == PLACEHOLDER => other.clone(),
            _ => self,
        }
    }

    /// Whether `bytes` have it in them: they are for its viewer alone.
    pub(crate) fn is_in(&self, bytes: &[u8]) -> bool {
        if self.text == PLACEHOLDER {
            return false;
        }
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let text = String::from_utf8_lossy(bytes);
        text.contains(&self.text) || plain(&text).contains(&plain(&self.text))
    }

    /// Whether a header has it in it.
    pub(crate) fn is_in_head(&self, head: &HeaderMap) -> bool {
        head.values().any(|value| self.is_in(value.as_bytes()))
    }
}

impl Target {
    /// What viewers are told of a playlist of `stream` here: where in its path their token is, which names leave out.
    pub(crate) fn tag(&self, stream: StreamId) -> StreamTag {
        let word = |token: &Token| {
            self.path
                .get(..token.at)
                .map(|before| before.matches('/').count())
        };
        let word = self.token.as_ref().and_then(word);
        StreamTag {
            stream,
            token_word: word.and_then(|word| u8::try_from(word).ok()),
        }
    }

    /// What is to be known of a viewer who wants this with `token`.
    fn question(&self, token: &Token) -> Question {
        let folder = self.path.rfind('/').map_or("", |end| &self.path[..=end]);
        let (site, place) = (self.site as u64, token.place as u64);
        let mut hash = Sha256::new();
        hash.update(site.to_be_bytes());
        hash.update(place.to_be_bytes());
        hash.update((token.text.len() as u64).to_be_bytes());
        hash.update(&token.text);
        hash.update(folder);
        hash.finalize().into()
    }
}

impl Proxy {
    /// The path of a request as the log may have it: with a token only where it has those of queries, too.
    pub(crate) fn path_to_log<'a>(&self, site: &Site, head: &'a request::Parts) -> Cow<'a, str> {
        let path = head.uri.path();
        match self.config.log.access_query {
            true => Cow::Borrowed(path),
            false => site.tokens.hide(path),
        }
    }

    /// Lets a viewer on who has no token in its path, or one that the origin takes.
    ///
    /// # Errors
    /// The viewer's: the origin does not take its token, and has this status for it. The origin's, if it cannot
    /// say, and has not taken the token before.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        target: &Target,
        viewer: &HeaderMap,
    ) -> Result<(), Failure> {
        let Some(token) = &target.token else {
            return Ok(());
        };
        let site = self.site_of(target);
        let Some(taken) = site.tokens.taken(token) else {
            return Ok(());
        };
        let question = target.question(token);
        let when = taken.when.get(&question);
        if when.is_some_and(|when| when.elapsed() < taken.fresh) {
            return Ok(());
        }
        let ask = async {
            self.ask_for_token(target, viewer).await?;
            taken.when.insert(question, Instant::now());
            Ok(())
        };
        let asked = Box::pin(taken.asked.try_get_with(question, ask)).await;
        match asked.map_err(|failure| Failure::clone(&failure)) {
            Err(failure) if failure.status().is_server_error() && when.is_some() => Ok(()),
            asked => asked,
        }
    }

    /// Asks the origin whether it takes the token of `target`.
    async fn ask_for_token(&self, target: &Target, viewer: &HeaderMap) -> Result<(), Failure> {
        let _permit = self.permit()?;
        // Nothing is to be waited for.
        let target = self.site_of(target).without_directives(target);
        let headers = self.upstream.headers_for_whole(viewer);
        let asked = self.ask(&target, Method::HEAD, headers, Bytes::new());
        verdict(&asked.await?)
    }
}

/// What an answer says of the token in its request.
fn verdict(response: &Response) -> Result<(), Failure> {
    let status = response.status();
    // Many are sent to a page that everybody may have.
    let is_elsewhere = status.is_redirection() || !response.hops.heads().is_empty();
    if status.is_success() && !is_elsewhere {
        return Ok(());
    }
    if status.is_server_error() || status == StatusCode::METHOD_NOT_ALLOWED {
        let what = format!("it answers {status} to HEAD, by which path_tokens are checked");
        return Err(Failure::Origin(what));
    }
    let status = match status.is_client_error() && !is_elsewhere {
        true => status,
        false => StatusCode::FORBIDDEN,
    };
    let what = "a path with a token that the origin does not take";
    Err(Failure::Client(what, status))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(prefix: &str, begins: &[&str]) -> PathTokens {
        let config = PathTokenConfig {
            prefix: prefix.into(),
            begins: begins.iter().map(|&text| text.into()).collect(),
            ..PathTokenConfig::default()
        };
        PathTokens::read(&[config], 0).unwrap()
    }

    #[test]
    fn a_token_is_the_first_word_below_its_prefix_or_one_that_begins_as_tokens_do() {
        let (first, akamai) = (tokens("/live/", &[]), tokens("/", &["hdntl=", "token="]));
        for (tokens, path, expected) in [
            (
                &first,
                "/live/abc/v/1.m4s",
                Some(("/live/~/v/1.m4s", "abc")),
            ),
            (&first, "/live/~/v/1.m4s", Some(("/live/~/v/1.m4s", "~"))),
            (&first, "/live/main.m3u8", None),
            (&first, "/live//main.m3u8", None),
            (&first, "/vod/abc/main.m3u8", None),
            (&first, "/live/abc%2Fvod/1.m4s", None),
            (&first, "/live/abc%5cvod/1.m4s", None),
            (
                &akamai,
                "/hdntl=exp=1~hmac=2/live/i.m3u8",
                Some(("/~/live/i.m3u8", "hdntl=exp=1~hmac=2")),
            ),
            (
                &akamai,
                "/live/token=é/i.m3u8",
                Some(("/live/~/i.m3u8", "token=é")),
            ),
            (
                &akamai,
                "/~/token=a/i.m3u8",
                Some(("/~/token=a/i.m3u8", "~")),
            ),
            (&akamai, "/live/v/hdntl=1", None),
            (&akamai, "/live/a-token=1/i.m3u8", None),
        ] {
            let split = tokens.split(path);
            let found = split
                .as_ref()
                .map(|(path, token)| (path.as_str(), token.text.as_str()));
            assert_eq!(found, expected, "{path}");
            if let Some((bare, token)) = split {
                assert_eq!(token.put_back(&bare), path);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_out_is_put_back(path in "/(live/|token=|[a~é]{1,3}|%2F|/){0,12}") {
            for tokens in [tokens("/live/", &[]), tokens("/", &["token="]), tokens("/", &[])] {
                if let Some((bare, token)) = tokens.split(&path) {
                    prop_assert_eq!(token.put_back(&bare), path.as_str());
                    prop_assert_eq!(tokens.hide(&bare), bare.as_str());
                }
            }
        }
    }

    #[test]
    fn a_token_is_found_however_it_is_written() {
        let (_, token) = tokens("/live/", &[]).split("/live/a=b~c/i.m3u8").unwrap();
        for (text, is_in) in [
            ("/live/a=b~c/1.m4s", true),
            ("u?next=%2Flive%2Fa%3Db~c%2F1.m4s", true),
            ("1.m4s", false),
        ] {
            assert_eq!(token.is_in(text.as_bytes()), is_in, "{text}");
        }
    }

    #[test]
    fn only_a_placeholder_gives_way_to_a_token() {
        let tokens = tokens("/live/", &[]);
        let token = |path: &str| tokens.split(path).unwrap().1;
        let (a, b, none) = (token("/live/a/x"), token("/live/b/x"), token("/live/~/x"));
        assert_eq!(none.clone().or(Some(&a)), a);
        assert_eq!(b.clone().or(Some(&a)), b);
        assert_eq!(none.clone().or(None), none);
    }
}
