//! Pages that name what is not there: links, headings, and the map's folders and files.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// The page whose tables say where things live.
const MAP: &str = "docs/ARCHITECTURE.md";

/// What is wrong in the pages among `files`, which are all that there are, relative to `root`: each as
/// `page:line: message`.
pub(crate) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for page in files.iter().filter(|file| is_page(file)) {
        let text = read(&root.join(page))?;
        for (number, line) in prose(&text) {
            let mut wrong = wrong_links(root, page, line)?;
            if page == Path::new(MAP) {
                wrong.extend(wrong_places(files, line));
            }
            let at = format!("{}:{number}", page.display());
            problems.extend(wrong.into_iter().map(|what| format!("{at}: {what}")));
        }
    }
    Ok(problems)
}

pub(crate) fn is_page(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "md")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The lines outside of code blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        (!in_code && !is_fence).then_some((index + 1, line))
    })
}

/// Links of a line to files or headings that are not there. Those to other hosts are not looked at.
fn wrong_links(root: &Path, page: &Path, line: &str) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for rest in line.split("](").skip(1) {
        let link = rest.split(')').next().unwrap_or_default();
        if link.contains("://") {
            continue;
        }
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = match file {
            "" => page.to_path_buf(),
            _ => plain(&page.parent().unwrap_or(root).join(file)),
        };
        let target = root.join(target);
        if !target.exists() {
            wrong.push(format!("`{link}` leads to nothing"));
        } else if !heading.is_empty() && !has_heading(&read(&target)?, heading) {
            wrong.push(format!("`{link}` names no heading of that page"));
        }
    }
    Ok(wrong)
}

/// `a/../b` is `b`, though `a` may not be there.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            _ => plain.push(part),
        }
    }
    plain
}

fn has_heading(text: &str, anchor: &str) -> bool {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .any(|(_, line)| anchor_of(line.trim_start_matches('#')) == anchor)
}

/// What a heading is linked by: its letters and digits in lower case, hyphens for spaces.
fn anchor_of(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Of a row of the map, whose first cell is a folder: files and folders that are neither somewhere in it nor
/// at the root.
fn wrong_places(files: &[PathBuf], row: &str) -> Vec<String> {
    let mut words = row.split('`').skip(1).step_by(2);
    let is_row = row.starts_with("| `");
    let Some(folder) = words.next().filter(|word| is_row && word.ends_with('/')) else {
        return Vec::new();
    };
    if !files.iter().any(|file| file.starts_with(folder)) {
        return vec![format!("there is no folder `{folder}`")];
    }
    let is_there = |word: &str| {
        files.iter().any(|file| {
            let inside = file.strip_prefix(folder).unwrap_or(Path::new(""));
            file.starts_with(word) || inside.ancestors().any(|path| path.ends_with(word))
        })
    };
    words
        .filter(|word| word.ends_with('/') || Path::new(word).extension().is_some())
        .filter(|word| !is_there(word))
        .map(|word| format!("`{folder}` has no `{word}`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a page of `text` beside one that has a heading and a code block.
    fn problems(name: &str, text: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let other = "# Who `may` join, and when\n\n```\n# no heading\n```\n";
        let files = [
            (name, text),
            ("docs/other.md", other),
            ("brain/src/lib.rs", ""),
        ];
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        check(root.path(), &files.map(|(path, _)| PathBuf::from(path))).unwrap()
    }

    #[test]
    fn links_must_lead_to_files_and_headings() {
        let text = "[a](docs/other.md) [b](docs/../docs/other.md#who-may-join-and-when)\n\
            [c](https://example.org/) [d](docs/gone.md)\n\
            # Here\n[e](#here) [f](docs/other.md#no-heading) [g](#there)\n";
        assert_eq!(
            problems("README.md", text),
            [
                "README.md:2: `docs/gone.md` leads to nothing",
                "README.md:4: `docs/other.md#no-heading` names no heading of that page",
                "README.md:4: `#there` names no heading of that page",
            ]
        );
    }

    #[test]
    fn links_are_relative_to_their_page_and_code_has_none() {
        let text = "[a](other.md)\n```\n[b](nowhere.md)\n```\n[c](docs/other.md)\n";
        assert_eq!(
            problems("docs/page.md", text),
            ["docs/page.md:5: `docs/other.md` leads to nothing"]
        );
    }

    #[test]
    fn the_map_names_folders_and_files_that_are_there() {
        let text = "| folder | what it is |\n\
            | `brain/` | `lib.rs`, `src/`, `handle`, `docs/other.md`, `mind.rs` |\n\
            | `heart/` | `lib.rs` |\n";
        assert_eq!(
            problems(MAP, text),
            [
                "docs/ARCHITECTURE.md:2: `brain/` has no `mind.rs`",
                "docs/ARCHITECTURE.md:3: there is no folder `heart/`",
            ]
        );
    }
}
