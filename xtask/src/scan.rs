//! Finding functions and their lengths in Rust and TypeScript sources, without a full parser.
//!
//! Strings and comments are blanked first, so that braces in them do not count.

/// The language of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Rust,
    TypeScript,
}

/// A function with a body: its name (or the head's last word), first line (from 1) and length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Every function with a body in `blanked`, the output of [`blank`].
pub(crate) fn functions(blanked: &str, language: Language) -> Vec<Function> {
    let text: Vec<char> = blanked.chars().collect();
    let bodies = match language {
        Language::Rust => rust_bodies(&text),
        Language::TypeScript => typescript_bodies(&text),
    };
    let line_of = |at: usize| text[..at].iter().filter(|c| **c == '\n').count() + 1;
    let mut found = Vec::new();
    for (name, start, open) in bodies {
        let Some(close) = matching(&text, open) else {
            continue;
        };
        let line = line_of(start);
        found.push(Function {
            name,
            line,
            lines: line_of(close) + 1 - line,
        });
    }
    found
}

/// The source with the content of comments, strings and regular expressions turned to spaces;
/// every line stays where it is.
pub(crate) fn blank(source: &str, language: Language) -> String {
    let text: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < text.len() {
        let end = literal_end(&text, at, language);
        if end == at {
            out.push(text[at]);
            at += 1;
            continue;
        }
        let end = end.min(text.len());
        out.extend(
            text[at..end]
                .iter()
                .map(|c| if *c == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_end(text: &[char], at: usize, language: Language) -> usize {
    let next = text.get(at + 1).copied().unwrap_or(' ');
    match (text[at], next, language) {
        ('/', '/', _) => find(text, at, '\n'),
        ('/', '*', _) => block_comment_end(text, at, language),
        ('"', _, _) | ('\'', _, Language::TypeScript) => quoted_end(text, at),
        ('\'', _, Language::Rust) => character_end(text, at),
        ('r', '"' | '#', Language::Rust) if !after_word(text, at) => raw_string_end(text, at),
        ('`', _, Language::TypeScript) => template_end(text, at),
        ('/', _, Language::TypeScript) if regex_may_start(text, at) => regex_end(text, at),
        _ => at,
    }
}

fn find(text: &[char], from: usize, wanted: char) -> usize {
    (from..text.len())
        .find(|at| text[*at] == wanted)
        .unwrap_or(text.len())
}

fn block_comment_end(text: &[char], start: usize, language: Language) -> usize {
    let mut depth = 1;
    let mut at = start + 2;
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            ('*', '/') => depth -= 1,
            ('/', '*') if language == Language::Rust => depth += 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted_end(text: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != text[start] {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Tells a character literal from a lifetime.
fn character_end(text: &[char], at: usize) -> usize {
    match (text.get(at + 1), text.get(at + 2)) {
        (Some('\\'), _) => quoted_end(text, at),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

fn raw_string_end(text: &[char], start: usize) -> usize {
    let hashes = text[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if text.get(open) != Some(&'"') {
        return start;
    }
    let mut at = open + 1;
    while at < text.len() {
        let closes = text[at] == '"'
            && text[at + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes;
        if closes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    text.len()
}

fn template_end(text: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != '`' {
        if text[at] == '$' && text.get(at + 1) == Some(&'{') {
            at = expression_end(text, at + 1);
        } else {
            at += if text[at] == '\\' { 2 } else { 1 };
        }
    }
    at + 1
}

/// The end of the `{...}` at `open`, which may hold strings and templates of its own.
fn expression_end(text: &[char], open: usize) -> usize {
    let mut depth = 0;
    let mut at = open;
    while at < text.len() {
        match text[at] {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
        at = literal_end(text, at, Language::TypeScript).max(at + 1);
    }
    text.len()
}

/// A slash starts a regular expression where a value is expected, else it divides.
fn regex_may_start(text: &[char], at: usize) -> bool {
    let before = text[..at].iter().rposition(|c| !c.is_whitespace());
    let Some(before) = before else { return true };
    "(,=:[!&|?{};+>".contains(text[before]) || word_ending_at(text, before) == "return"
}

fn regex_end(text: &[char], start: usize) -> usize {
    let mut in_class = false;
    let mut at = start + 1;
    while at < text.len() && text[at] != '\n' {
        match text[at] {
            '\\' => at += 1,
            '[' => in_class = true,
            ']' => in_class = false,
            '/' if !in_class => return at + 1,
            _ => {}
        }
        at += 1;
    }
    start
}

/// Name, start and position of the opening brace of every `fn` with a body.
fn rust_bodies(text: &[char]) -> Vec<(String, usize, usize)> {
    let mut bodies = Vec::new();
    for at in 0..text.len().saturating_sub(3) {
        let keyword = text[at] == 'f' && text[at + 1] == 'n' && text[at + 2].is_whitespace();
        if !keyword || after_word(text, at) {
            continue;
        }
        let name: String = text[at + 3..]
            .iter()
            .skip_while(|c| c.is_whitespace())
            .take_while(is_word)
            .collect();
        if let Some(open) = first_open_brace(text, at).filter(|_| !name.is_empty()) {
            bodies.push((name, at, open));
        }
    }
    bodies
}

/// The first `{` outside parentheses and brackets, unless a `;` comes first.
fn first_open_brace(text: &[char], from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, c) in text.iter().enumerate().skip(from) {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Name, start and position of the opening brace of every function, method and arrow function.
fn typescript_bodies(text: &[char]) -> Vec<(String, usize, usize)> {
    let mut bodies = Vec::new();
    for at in 0..text.len() {
        if text[at] == '(' {
            bodies.extend(method_body(text, at));
        } else if text[at] == '=' && text.get(at + 1) == Some(&'>') {
            let open = skip_spaces(text, at + 2);
            if text.get(open) == Some(&'{') && !is_suite_line(text, at) {
                bodies.push(("=>".to_owned(), at, open));
            }
        }
    }
    bodies
}

/// `name(...) {` or `name(...): Type {`, but not `if (...) {` and its like.
fn method_body(text: &[char], open: usize) -> Option<(String, usize, usize)> {
    let before = text[..open].iter().rposition(|c| !c.is_whitespace())?;
    let name = word_ending_at(text, before);
    if matches!(
        name.as_str(),
        "if" | "for" | "while" | "switch" | "catch" | "with" | "await"
    ) {
        return None;
    }
    let after = skip_spaces(text, matching(text, open)? + 1);
    match text.get(after)? {
        '{' => Some((name, open, after)),
        ':' => Some((name, open, brace_after_type(text, after + 1)?)),
        _ => None,
    }
}

/// The body's brace after a return type, which may itself hold braces.
fn brace_after_type(text: &[char], from: usize) -> Option<usize> {
    let mut angles = 0_i32;
    let mut type_seen = false;
    let mut at = from;
    while at < text.len() {
        match text[at] {
            '{' if type_seen && angles == 0 => return Some(at),
            '{' | '[' | '(' => {
                at = matching(text, at)?;
                type_seen = true;
            }
            '<' => angles += 1,
            '>' => angles -= 1,
            '|' | '&' => type_seen = false,
            ';' | '=' | '?' | ',' | ')' | '}' | ']' if angles == 0 => return None,
            c if !c.is_whitespace() => type_seen = true,
            _ => {}
        }
        at += 1;
    }
    None
}

/// A test suite's callback holds functions rather than being one.
fn is_suite_line(text: &[char], at: usize) -> bool {
    let start = text[..at]
        .iter()
        .rposition(|c| *c == '\n')
        .map_or(0, |newline| newline + 1);
    let line: String = text[start..at].iter().collect();
    let line = line.trim_start();
    ["describe(", "suite(", "test.describe("]
        .iter()
        .any(|head| line.starts_with(head))
}

fn matching(text: &[char], open: usize) -> Option<usize> {
    let close = match text[open] {
        '(' => ')',
        '[' => ']',
        _ => '}',
    };
    let mut depth = 0;
    for (at, c) in text.iter().enumerate().skip(open) {
        if *c == text[open] {
            depth += 1;
        } else if *c == close {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

fn skip_spaces(text: &[char], from: usize) -> usize {
    (from..text.len())
        .find(|at| !text[*at].is_whitespace())
        .unwrap_or(text.len())
}

/// True where the character before `at` belongs to a word, so that no new word starts at `at`.
/// The prefixes of byte and C raw strings do not count.
fn after_word(text: &[char], at: usize) -> bool {
    let Some(before) = at.checked_sub(1) else {
        return false;
    };
    let prefix = matches!(text[before], 'b' | 'c')
        && text[at] == 'r'
        && !(before > 0 && is_word(&&text[before - 1]));
    is_word(&&text[before]) && !prefix
}

fn word_ending_at(text: &[char], last: usize) -> String {
    let start = text[..=last]
        .iter()
        .rposition(|c| !is_word(&c))
        .map_or(0, |at| at + 1);
    text[start..=last].iter().collect()
}

fn is_word(c: &&char) -> bool {
    c.is_alphanumeric() || **c == '_' || **c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(source: &str, language: Language) -> Vec<(String, usize, usize)> {
        functions(&blank(source, language), language)
            .into_iter()
            .map(|function| (function.name, function.line, function.lines))
            .collect()
    }

    fn named(list: &[(&str, usize, usize)]) -> Vec<(String, usize, usize)> {
        list.iter()
            .map(|(name, line, lines)| ((*name).to_owned(), *line, *lines))
            .collect()
    }

    #[test]
    fn rust_functions_are_measured_from_head_to_brace() {
        let source = "fn one() {}\n\
            pub(crate) async fn two<T>(\n    a: [u8; 4],\n) -> [T; 2]\nwhere\n    T: Copy,\n{\n    x\n}\n\
            trait A {\n    fn declared(&self);\n    fn given(&self) {\n    }\n}\n\
            type P = fn(u8) -> u8;\n";
        let expected = named(&[("one", 1, 1), ("two", 2, 8), ("given", 12, 2)]);
        assert_eq!(scan(source, Language::Rust), expected);
    }

    #[test]
    fn braces_in_rust_literals_and_comments_do_not_count() {
        let source = "fn f<'a>(s: &'a str) {\n    // }\n    /* } /* } */ } */\n    let _ = \"}\\\"}\";\n    \
            let _ = ('}', '\\'', b'}', '\\u{7d}');\n    let _ = r#\"}\"}\"#;\n    let _ = br\"}\\\";\n}\n";
        assert_eq!(scan(source, Language::Rust), named(&[("f", 1, 8)]));
    }

    #[test]
    fn typescript_functions_methods_and_arrows_are_found() {
        let source = "export async function load(a: string): Promise<{ x: number }> {\n  if (a) {\n  }\n}\n\
            class A {\n  constructor() {\n  }\n  get(): { a: number } | null {\n    return null;\n  }\n}\n\
            const f = async (x: number): Promise<void> => {\n  await x;\n};\n";
        let expected = named(&[
            ("load", 1, 4),
            ("constructor", 6, 2),
            ("get", 8, 3),
            ("=>", 12, 3),
        ]);
        assert_eq!(scan(source, Language::TypeScript), expected);
    }

    #[test]
    fn braces_in_typescript_literals_do_not_count() {
        let source = "function f() {\n  const a = '}' + \"}\" + `}${g({ b: `}` })}}`;\n  \
            const r = /[/}]}/g;\n  const d = a / 2; // }\n}\n";
        assert_eq!(scan(source, Language::TypeScript), named(&[("f", 1, 5)]));
    }

    #[test]
    fn conditional_expressions_are_not_functions() {
        let source = "const a = b ? c(d) : { e: 1 };\nfor (const x of y) {\n}\n";
        assert_eq!(scan(source, Language::TypeScript), named(&[]));
    }

    #[test]
    fn a_suite_is_not_a_function_but_its_tests_are() {
        let source = "describe('x', () => {\n  test('y', () => {\n  });\n});\n";
        assert_eq!(scan(source, Language::TypeScript), named(&[("=>", 2, 2)]));
    }

    #[test]
    fn blanking_keeps_lines_and_survives_unclosed_literals() {
        for source in ["\"abc\nd", "/* a\n", "r#\"x\n", "'", "`a${", "\\", "/a"] {
            for language in [Language::Rust, Language::TypeScript] {
                let blanked = blank(source, language);
                assert_eq!(blanked.matches('\n').count(), source.matches('\n').count());
            }
        }
    }
}
