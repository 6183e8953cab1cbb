//! `cargo xtask tidy`: the house rules that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::scan::{self, Language};
use crate::{deps, docs, shell};

/// Longest function, in lines from its head to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest source file, in lines.
const FILE_LINES_MAX: usize = 600;
/// Folders that hold nothing written by hand.
const SKIPPED_FOLDERS: [&str; 4] = ["target", "node_modules", "dist", ".git"];

/// Checks every source file, what pages point at and the direction of dependencies; an error lists what is
/// wrong.
pub(crate) fn run() -> Result<()> {
    let root = shell::root();
    let mut problems = Vec::new();
    let mut files = Vec::new();
    list_files(&root, Path::new(""), &mut files)?;
    let mut sources = 0;
    for file in &files {
        let Some(language) = language_of(file) else {
            continue;
        };
        let source = fs::read_to_string(root.join(file))
            .with_context(|| format!("cannot read {}", file.display()))?;
        let wrong = check_source(&source, language);
        problems.extend(wrong.iter().map(|p| format!("{}{p}", file.display())));
        sources += 1;
    }
    problems.extend(docs::check(&root, &files)?);
    problems.extend(deps::check()?);
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy: {} problems", problems.len());
    }
    let pages = files.iter().filter(|file| docs::is_page(file)).count();
    println!("tidy: {sources} source files and {pages} pages are fine");
    Ok(())
}

fn language_of(file: &Path) -> Option<Language> {
    match file.extension()?.to_str()? {
        "rs" => Some(Language::Rust),
        "ts" => Some(Language::TypeScript),
        _ => None,
    }
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

/// Every file in `folder` and below, relative to `root`, in order.
fn list_files(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(root.join(folder))
        .with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names: Vec<_> = entries
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let whole = root.join(&path);
        if !whole.is_dir() || whole.is_symlink() {
            files.push(path);
        } else if !SKIPPED_FOLDERS.iter().any(|skipped| name == *skipped) {
            list_files(root, &path, files)?;
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
