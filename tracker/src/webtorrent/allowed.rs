//! Which swarms are served.

use std::{
    collections::HashSet,
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use super::{config::WebTorrentConfig, messages::InfoHash};
use crate::Error;

/// The settings' list, and the file's as it was read last.
#[derive(Debug)]
pub(super) struct Allowed {
    listed: HashSet<InfoHash>,
    file: Option<PathBuf>,
    /// Without a file: `None`.
    filed: RwLock<Option<HashSet<InfoHash>>>,
    read_at: Mutex<Option<SystemTime>>,
}

impl Allowed {
    pub(super) fn open(config: &WebTorrentConfig) -> Result<Self, Error> {
        let hashes = config.info_hashes.iter();
        let allowed = Self {
            listed: hashes
                .filter_map(|text| InfoHash::from_text(text))
                .collect(),
            file: config.info_hashes_file.clone(),
            filed: RwLock::new(None),
            read_at: Mutex::new(None),
        };
        match allowed.read() {
            Some(Err(why)) => Err(Error::Config(why)),
            _ => Ok(allowed),
        }
    }

    pub(super) fn contains(&self, hash: InfoHash) -> bool {
        if self.listed.contains(&hash) {
            return true;
        }
        let filed = self.filed.read().unwrap_or_else(PoisonError::into_inner);
        match &*filed {
            Some(filed) => filed.contains(&hash),
            None => self.listed.is_empty(),
        }
    }

    /// Reads the file again if it has changed. While it cannot be read the old list counts.
    pub(super) fn reload(&self) {
        match self.read() {
            Some(Ok(count)) => tracing::info!(count, "read the list of swarms again"),
            Some(Err(why)) => tracing::warn!(why, "the old list of swarms stays in force"),
            None => {}
        }
    }

    /// `None` if there is nothing new.
    fn read(&self) -> Option<Result<usize, String>> {
        let path = self.file.as_ref()?;
        let wrong = |what: &dyn std::fmt::Display| {
            Some(Err(format!(
                "webtorrent.info_hashes_file {}: {what}",
                path.display()
            )))
        };
        let mut read_at = self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        let changed_at = match fs::metadata(path).and_then(|meta| meta.modified()) {
            Ok(changed_at) => changed_at,
            Err(error) => return wrong(&error),
        };
        if *read_at == Some(changed_at) {
            return None;
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return wrong(&error),
        };
        *read_at = Some(changed_at);
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let hashes: Option<HashSet<_>> = lines.map(InfoHash::from_text).collect();
        let Some(hashes) = hashes else {
            return wrong(&"each line must be 40 hexadecimal digits, 20 characters, or a comment");
        };
        let count = hashes.len();
        *self.filed.write().unwrap_or_else(PoisonError::into_inner) = Some(hashes);
        Some(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> InfoHash {
        InfoHash::from_text(text).unwrap()
    }

    #[test]
    fn without_lists_all_are_served() {
        let allowed = Allowed::open(&WebTorrentConfig::default()).unwrap();
        assert!(allowed.contains(hash("aaaaaaaaaaaaaaaaaaaa")));
    }

    #[test]
    fn lists_in_both_spellings_add_up_and_the_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hashes");
        fs::write(&path, "# swarms\nbbbbbbbbbbbbbbbbbbbb\n").unwrap();
        let config = WebTorrentConfig {
            info_hashes: vec!["6161616161616161616161616161616161616161".into()],
            info_hashes_file: Some(path.clone()),
            ..WebTorrentConfig::default()
        };
        let allowed = Allowed::open(&config).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|letter| hash(&letter.repeat(20)));
        assert!(allowed.contains(a) && allowed.contains(b) && !allowed.contains(c));
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let rewrite = |text: &str, at| {
            fs::write(&path, text).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(at).unwrap();
            allowed.reload();
        };
        rewrite("cccccccccccccccccccc", later);
        assert!(allowed.contains(a) && !allowed.contains(b) && allowed.contains(c));
        rewrite("too short", later + std::time::Duration::from_secs(5));
        assert!(allowed.contains(c), "the old list stays");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let config = WebTorrentConfig {
            info_hashes_file: Some("missing.txt".into()),
            ..WebTorrentConfig::default()
        };
        let error = Allowed::open(&config).unwrap_err().to_string();
        assert!(error.contains("missing.txt"), "{error}");
    }
}
