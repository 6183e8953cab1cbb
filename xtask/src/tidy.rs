//! `cargo xtask tidy`: the house rules that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::scan::{self, Language};
use crate::{deps, shell};

/// Longest function, in lines from its head to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest source file, in lines.
const FILE_LINES_MAX: usize = 600;
/// Folders that hold nothing written by hand.
const SKIPPED_FOLDERS: [&str; 4] = ["target", "node_modules", "dist", ".git"];

/// Checks every source file and the direction of dependencies; an error lists what is wrong.
pub(crate) fn run() -> Result<()> {
    let root = shell::root();
    let mut problems = Vec::new();
    let mut files = Vec::new();
    list_sources(&root, &mut files)?;
    for (path, language) in &files {
        let source =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let shown = path
            .strip_prefix(&root)
            .unwrap_or(path)
            .display()
            .to_string();
        problems.extend(
            check_source(&source, *language)
                .iter()
                .map(|p| format!("{shown}{p}")),
        );
    }
    problems.extend(deps::check()?);
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy: {} problems", problems.len());
    }
    println!("tidy: {} source files are fine", files.len());
    Ok(())
}

/// What is wrong in one file, each as `:line: message` or `: message`.
fn check_source(source: &str, language: Language) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX && !is_exempt(source, "long-file") {
        problems.push(format!(": {lines} lines, at most {FILE_LINES_MAX}"));
    }
    let blanked = scan::blank(source, language);
    if !is_exempt(source, "long-fn") {
        for function in scan::functions(&blanked, language) {
            if function.lines > FUNCTION_LINES_MAX {
                problems.push(format!(
                    ":{}: `{}` has {} lines, at most {FUNCTION_LINES_MAX}",
                    function.line, function.name, function.lines
                ));
            }
        }
    }
    for (number, line) in source.lines().enumerate() {
        for marker in leftover_markers() {
            if holds_word(line, &marker) {
                problems.push(format!(":{}: `{marker}` left over", number + 1));
            }
        }
    }
    problems
}

/// A file may be longer than the rule with `// tidy: <rule>: <reason>` on a line of its own.
fn is_exempt(source: &str, rule: &str) -> bool {
    let head = format!("// tidy: {rule}: ");
    source.lines().any(|line| {
        line.trim()
            .strip_prefix(&head)
            .is_some_and(|why| !why.is_empty())
    })
}

/// Put together at run time, so that this file does not contain them.
fn leftover_markers() -> [String; 4] {
    [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["to", "do!"],
        ["unimple", "mented!"],
    ]
    .map(|parts| parts.concat())
}

fn holds_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && (word.ends_with('!') || !after.is_some_and(is_word))
    })
}

fn list_sources(folder: &Path, files: &mut Vec<(PathBuf, Language)>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !path.is_symlink() {
            if !SKIPPED_FOLDERS.contains(&name.as_str()) {
                list_sources(&path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push((path, Language::Rust));
        } else if name.ends_with(".ts") {
            files.push((path, Language::TypeScript));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(source: &str) -> Vec<String> {
        check_source(source, Language::Rust)
    }

    #[test]
    fn long_functions_are_errors_unless_excused() {
        let long = format!(
            "fn f() {{\n{}}}\n",
            "    x();\n".repeat(FUNCTION_LINES_MAX - 1)
        );
        assert_eq!(rust(&long), [":1: `f` has 71 lines, at most 70"]);
        assert_eq!(
            rust(&format!("// tidy: long-fn: one flat table\n{long}")),
            [""; 0]
        );
        assert_eq!(rust(&format!("// tidy: long-fn: \n{long}")).len(), 1);
        let fits = format!(
            "fn f() {{\n{}}}\n",
            "    x();\n".repeat(FUNCTION_LINES_MAX - 2)
        );
        assert_eq!(rust(&fits), [""; 0]);
    }

    #[test]
    fn long_files_are_errors_unless_excused() {
        let long = "const X: u8 = 0;\n".repeat(FILE_LINES_MAX + 1);
        assert_eq!(rust(&long), [": 601 lines, at most 600"]);
        assert_eq!(
            rust(&format!("// tidy: long-file: a generated table\n{long}")),
            [""; 0]
        );
    }

    #[test]
    fn leftover_markers_are_found_as_whole_words() {
        let [mark, fix, stop, missing] = leftover_markers();
        assert_eq!(
            rust(&format!("// {mark}: later\n")),
            [format!(":1: `{mark}` left over")]
        );
        assert_eq!(rust(&format!("//({fix})\n")).len(), 1);
        assert_eq!(
            rust(&format!(
                "fn f() {{\n    {stop}();\n    {missing}(\"x\")\n}}\n"
            ))
            .len(),
            2
        );
        assert_eq!(
            rust(&format!("// {mark}S in MAS{mark}N and auto_{stop}\n")),
            [""; 0]
        );
    }
}
