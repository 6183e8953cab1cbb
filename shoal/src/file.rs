//! Configuration files.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::Failure;

/// Settings from a TOML file, or the defaults where none is named.
pub(crate) fn settings<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, Failure> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let text = read(path)?;
    toml::from_str(&text)
        .map_err(|error| Failure::misuse(format!("configuration file {}: {error}", path.display())))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracker.toml");
        std::fs::write(&path, "lisen = 1").unwrap();
        let error = settings::<tracker::Config>(Some(&path))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tracker.toml") && error.contains("lisen"),
            "{error}"
        );
        let missing = folder.path().join("none.toml");
        assert!(
            read(&missing)
                .unwrap_err()
                .to_string()
                .contains("none.toml")
        );
    }
}
