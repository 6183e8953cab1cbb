//! Names of what playlists list, where a word of paths is the viewer's own.

use alloc::{borrow::Cow, string::String};

use crate::id::{Name, canonical_path};

/// What stands in names for a viewer's token.
const PLACEHOLDER: &str = "~";

/// Makes names. Where a word of the playlist's path is its viewer's token, a [`PLACEHOLDER`] is in its place in the
/// names of all that has the same word at the same place, so that viewers with other tokens agree.
#[derive(Clone, Debug, Default)]
pub(super) struct Namer {
    /// Which word of the path, counted from 1 on, and the word.
    token: Option<(usize, String)>,
}

impl Namer {
    /// For what the playlist at `url` lists, of whose path the origin-proxy says that `word` is a token.
    pub(super) fn new(url: &str, word: Option<u8>) -> Self {
        let at = word.map(usize::from).filter(|word| *word > 0);
        let words = canonical_path(url).split('/');
        let token = at.and_then(|at| Some((at, words.clone().nth(at)?.into())));
        Self { token }
    }

    /// The name of the object at `url`, or of a range of it (first byte and length).
    pub(super) fn name_of(&self, url: &str, range: Option<(u64, u64)>) -> Name {
        let path = self.path_of(url);
        match range {
            Some((first, len)) => Name::of_range(&path, first, len),
            None => Name::of_url(&path),
        }
    }

    /// The path of `url` as it is in names.
    pub(super) fn path_of<'a>(&self, url: &'a str) -> Cow<'a, str> {
        let path = canonical_path(url);
        let Some((at, token)) = &self.token else {
            return path.into();
        };
        let mut words = path.split('/');
        if words.clone().nth(*at) != Some(token) {
            return path.into();
        }
        let before: usize = words.by_ref().take(*at).map(|word| word.len() + 1).sum();
        let after = &path[before + token.len()..];
        [&path[..before], PLACEHOLDER, after].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_path_does_not_count_where_the_proxy_says_it_is() {
        let namer = Namer::new("https://a.example/live/abc/v/i.m3u8?x=1", Some(2));
        let name = Name::of("/live/~/v/seg-1.m4s");
        assert_eq!(
            namer.name_of("https://b.example/live/abc/v/seg-1.m4s?y", None),
            name
        );
        let range = Name::of_range("/live/~/all.mp4", 10, 5);
        assert_eq!(namer.name_of("/live/abc/all.mp4", Some((10, 5))), range);
        for other in ["/live/abd/v/seg-1.m4s", "/abc/live/abc", "/abc", ""] {
            assert_eq!(namer.path_of(other), other);
        }
    }

    #[test]
    fn without_one_names_are_those_of_paths() {
        let url = "https://a.example/live/abc/v/i.m3u8";
        for word in [None, Some(0), Some(9)] {
            let namer = Namer::new(url, word);
            assert_eq!(namer.name_of(url, None), Name::of_url(url), "{word:?}");
        }
    }
}
