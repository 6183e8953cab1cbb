//! Lists of what is served: in the settings, and in a file that is read again when it changes.

use std::{
    collections::HashMap,
    fs,
    hash::Hash,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Error,
    reload::{Live, Reloader},
};

/// Longest name that an entry may have, in bytes.
const NAME_LEN_MAX: usize = 100;

/// What is on the list, and what the operator calls it; empty where it has no name.
type Entries<K> = HashMap<K, String>;

/// The settings' list and the file's. Without either everything is served.
#[derive(Debug)]
pub(crate) struct Listed<K> {
    listed: Entries<K>,
    file: Option<Arc<Live<Entries<K>>>>,
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Listed<K> {
    /// `read` makes an entry of its text; `what` names the list in logs and errors.
    ///
    /// # Errors
    /// [`Error::Config`] names the entry or the file that cannot be used.
    pub(crate) fn open(
        what: &'static str,
        lines: &[String],
        file: Option<&PathBuf>,
        read: fn(&str) -> Option<K>,
        reloader: &mut Reloader,
    ) -> Result<Self, Error> {
        let listed = entries(lines.iter().map(String::as_str), read)
            .map_err(|why| Error::Config(format!("{what}: {why}")))?;
        let live = |path: &PathBuf| {
            let file = path.clone();
            let load = move || read_file(&file, read);
            let live = Arc::new(Live::open(what, vec![path.clone()], load)?);
            reloader.add(Arc::clone(&live) as _);
            Ok(live)
        };
        let file = file.map(live).transpose()?;
        Ok(Self { listed, file })
    }

    /// Whether it is served.
    pub(crate) fn contains(&self, key: &K) -> bool {
        if self.listed.contains_key(key) {
            return true;
        }
        match &self.file {
            Some(file) => file.get().contains_key(key),
            None => self.listed.is_empty(),
        }
    }

    /// What the operator calls it; empty if nothing.
    pub(crate) fn name_of(&self, key: &K) -> String {
        let filed = |key| self.file.as_ref()?.get().get(key).cloned();
        let name = self.listed.get(key).cloned().or_else(|| filed(key));
        name.unwrap_or_default()
    }
}

fn read_file<K: Eq + Hash>(path: &Path, read: fn(&str) -> Option<K>) -> Result<Entries<K>, Error> {
    let wrong = |why: String| Error::Config(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    entries(text.lines(), read).map_err(wrong)
}

/// One entry a line: what it is, and behind a space what it is called.
fn entries<'a, K: Eq + Hash>(
    lines: impl Iterator<Item = &'a str>,
    read: fn(&str) -> Option<K>,
) -> Result<Entries<K>, String> {
    let lines = lines.map(str::trim);
    let said = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    said.map(|line| {
        // Swarms may be called by twenty characters of any kind.
        if let Some(key) = read(line) {
            return Ok((key, own_name(line).to_owned()));
        }
        let (text, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let name = name.trim();
        match read(text) {
            Some(_) if name.len() > NAME_LEN_MAX => Err(format!("the name of {text} is too long")),
            Some(key) => Ok((key, name.to_owned())),
            None => Err(format!("{line:?} cannot be read")),
        }
    })
    .collect()
}

/// What an entry without a name is called: a stream that is given as `KEY/NAME` has one.
fn own_name(text: &str) -> &str {
    let name = text.split_once('/').map_or("", |(_, name)| name);
    if name.len() > NAME_LEN_MAX { "" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Option<u32> {
        text.parse().ok()
    }

    fn open(lines: &[&str], file: Option<&PathBuf>) -> Result<(Listed<u32>, Reloader), Error> {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let mut reloader = Reloader::default();
        let listed = Listed::open("numbers", &lines, file, number, &mut reloader)?;
        Ok((listed, reloader))
    }

    #[test]
    fn without_lists_all_are_served() {
        let (listed, _) = open(&[], None).unwrap();
        assert!(listed.contains(&7) && listed.name_of(&7).is_empty());
    }

    #[test]
    fn lists_add_up_have_names_and_the_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        fs::write(&path, "# numbers\n2 the second one\n").unwrap();
        let (listed, reloader) = open(&["1"], Some(&path)).unwrap();
        assert!(listed.contains(&1) && listed.contains(&2) && !listed.contains(&3));
        assert_eq!(
            (listed.name_of(&1), listed.name_of(&2)),
            (String::new(), "the second one".into())
        );
        fs::write(&path, "3\n\n").unwrap();
        assert_eq!(reloader.refresh(), 0);
        assert!(listed.contains(&1) && !listed.contains(&2) && listed.contains(&3));
        fs::write(&path, "nonsense").unwrap();
        assert_eq!(reloader.refresh(), 1, "told to those who look after it");
        assert!(listed.contains(&3), "the old list stays");
    }

    #[test]
    fn an_empty_file_serves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        fs::write(&path, "").unwrap();
        let (listed, _reloader) = open(&[], Some(&path)).unwrap();
        assert!(!listed.contains(&1));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let missing = PathBuf::from("missing.txt");
        for (lines, file, named) in [
            (&[][..], Some(&missing), "missing.txt"),
            (&["x"][..], None, "\"x\""),
        ] {
            let error = open(lines, file).map(drop).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
