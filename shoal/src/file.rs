//! Configuration files.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::{Failure, commands::print};

/// What the commands that run servers take.
#[derive(Debug, clap::Args)]
pub(crate) struct FileArgs {
    /// Settings, a TOML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the default settings with their documentation, and end.
    #[arg(long)]
    pub(crate) print_config: bool,
}

impl FileArgs {
    /// The settings of a server: those of the file, with what `change` has from the command line, if `check`
    /// finds them right. None if the defaults were to be printed, which is done then.
    pub(crate) fn load<T: DeserializeOwned + Default, E: Into<Failure>>(
        self,
        default: &str,
        change: impl FnOnce(&mut T),
        check: impl FnOnce(&T) -> Result<(), E>,
    ) -> Result<Option<T>, Failure> {
        if self.print_config {
            print(default);
            return Ok(None);
        }
        let path = self.config.as_deref();
        let mut config: T = settings(path)?;
        change(&mut config);
        let checked = check(&config).map_err(Into::into);
        checked.map_err(|failure| match path {
            Some(path) => blame(path, &failure),
            None => failure,
        })?;
        Ok(Some(config))
    }
}

/// Settings from a TOML file, or the defaults where none is named.
pub(crate) fn settings<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, Failure> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let text = read(path)?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| line_of(&text, span.start));
        Failure::misuse(format!("{}: {}", place(path, line), error.message()))
    })
}

/// The text of a configuration file.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::misuse(format!(
            "configuration file {} cannot be read: {error}",
            path.display()
        ))
    })
}

/// Puts `value` in the place of `setting` where the command line has one.
pub(crate) fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}

/// `failure` with the file, and with the line of the first setting that it names, if the file has it.
fn blame(path: &Path, failure: &Failure) -> Failure {
    let complaint = failure.to_string();
    let text = read(path).unwrap_or_default();
    let words = complaint.split_whitespace();
    let mut words = words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    let line = DeTable::parse(&text).ok().and_then(|table| {
        words.find_map(|word| offset_of(table.get_ref(), word).map(|at| line_of(&text, at)))
    });
    Failure::misuse(format!("{}: {complaint}", place(path, line)))
}

fn place(path: &Path, line: Option<usize>) -> String {
    let line = line.map_or_else(String::new, |line| format!(", line {line}"));
    format!("configuration file {}{line}", path.display())
}

/// Where `table` has the setting with this dotted name. Of several tables of one name it is not known which
/// one is meant.
fn offset_of(table: &DeTable<'_>, name: &str) -> Option<usize> {
    let (first, rest) = match name.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    let is_it = |key: &&toml::Spanned<_>| -> bool { AsRef::<str>::as_ref(key.get_ref()) == first };
    let key = table.keys().find(is_it)?;
    let value = table.get(key)?.get_ref();
    match (value, rest) {
        (_, None) => Some(key.span().start),
        (DeValue::Table(table), Some(rest)) => offset_of(table, rest),
        (DeValue::Array(values), Some(rest)) if values.len() == 1 => {
            offset_of(values.iter().next()?.get_ref().as_table()?, rest)
        }
        _ => None,
    }
}

/// The number of the line that has the byte at `offset`, counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file with this text.
    fn complaint(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, text).unwrap();
        let args = FileArgs {
            config: Some(path),
            print_config: false,
        };
        let loaded = args.load(
            "",
            |_: &mut origin_proxy::Config| {},
            origin_proxy::Config::check,
        );
        loaded.unwrap_err().to_string()
    }

    #[test]
    fn file_and_line_of_what_is_wrong_are_named() {
        for (text, line, what) in [
            ("\norign = \"x\"\n", 2, "orign"),
            ("[limits]\n\nflights_max = \"many\"\n", 3, "expected usize"),
            ("listen = \n", 1, ""),
            (
                "# 1\n[limits]\nheader_bytes_max = 1\n",
                3,
                "header_bytes_max must be",
            ),
            (
                "[[streams]]\nname = \"\"\nprefix = \"/\"\n",
                2,
                "streams.name must not",
            ),
            (
                "signing_key = \"a\"\nsigning_key_file = \"b\"\n",
                1,
                "not both",
            ),
        ] {
            let said = complaint(text);
            let place = format!("proxy.toml, line {line}: ");
            assert!(said.contains(&place) && said.contains(what), "{said}");
            assert!(!said.trim_end().contains('\n'), "one line: {said}");
        }
        let stream = |name| format!("[[streams]]\nname = \"{name}\"\nprefix = \"/\"\n");
        let said = complaint(&(stream("a") + &stream("")));
        assert!(
            said.contains("proxy.toml: ") && said.contains("streams.name"),
            "{said}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named_and_the_command_line_wins() {
        let missing = settings::<tracker::Config>(Some(Path::new("/none.toml")));
        assert!(missing.unwrap_err().to_string().contains("/none.toml"));
        let args = FileArgs {
            config: None,
            print_config: false,
        };
        let change = |config: &mut tracker::Config| config.listen.set_port(1);
        let config = args.load("", change, tracker::Config::check).unwrap();
        assert_eq!(config.unwrap().listen.port(), 1);
    }
}
