//! Which swarms are served.

use super::{config::WebTorrentConfig, messages::InfoHash};
use crate::{Error, listed::Listed, reload::Reloader};

/// The settings' list and the file's.
pub(super) type Allowed = Listed<InfoHash>;

pub(super) fn open(config: &WebTorrentConfig, reloader: &mut Reloader) -> Result<Allowed, Error> {
    let (listed, file) = (&config.info_hashes, config.info_hashes_file.as_ref());
    let what = "webtorrent.info_hashes";
    Listed::open(what, listed, file, InfoHash::from_text, reloader)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn hash(text: &str) -> InfoHash {
        InfoHash::from_text(text).unwrap()
    }

    #[test]
    fn a_sign_is_no_digit_of_a_hash() {
        assert!(InfoHash::from_text(&"+1".repeat(20)).is_none());
        assert!(InfoHash::from_text(&"A1".repeat(20)).is_some());
    }

    #[test]
    fn without_lists_all_are_served() {
        let allowed = open(&WebTorrentConfig::default(), &mut Reloader::default()).unwrap();
        assert!(allowed.contains(&hash("aaaaaaaaaaaaaaaaaaaa")));
    }

    #[test]
    fn lists_in_both_spellings_add_up_and_the_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hashes");
        fs::write(
            &path,
            "# swarms\nbbbbbbbbbbbbbbbbbbbb\na name with spaces 1\n",
        )
        .unwrap();
        let config = WebTorrentConfig {
            info_hashes: vec!["6161616161616161616161616161616161616161".into()],
            info_hashes_file: Some(path.clone()),
            ..WebTorrentConfig::default()
        };
        let mut reloader = Reloader::default();
        let allowed = open(&config, &mut reloader).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|letter| hash(&letter.repeat(20)));
        assert!(allowed.contains(&a) && allowed.contains(&b) && !allowed.contains(&c));
        assert!(allowed.contains(&hash("a name with spaces 1")));
        fs::write(&path, "cccccccccccccccccccc").unwrap();
        reloader.refresh();
        assert!(allowed.contains(&a) && !allowed.contains(&b) && allowed.contains(&c));
        fs::write(&path, "too short").unwrap();
        reloader.refresh();
        assert!(allowed.contains(&c), "the old list stays");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let config = WebTorrentConfig {
            info_hashes_file: Some("missing.txt".into()),
            ..WebTorrentConfig::default()
        };
        let opened = open(&config, &mut Reloader::default());
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("missing.txt"), "{error}");
    }
}
