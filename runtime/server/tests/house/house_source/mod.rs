//! The workspace's own files, as the house's rules see them.

use std::fs;
use std::path::{Path, PathBuf};

/// Endings of the files that the rules are about.
const ENDINGS: &[&str] = &["rs", "proto", "md", "toml"];
/// Folders at any depth that are made by tools or by others.
const FOREIGN: &[&str] = &["target", "third_party", "node_modules", ".git", ".jj"];
/// Folders beside the workspace's manifest that a running server makes.
const MADE: &[&str] = &["data"];

/// A file.
pub(crate) struct Source {
    /// From the workspace's folder, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text, where it is Rust without comments and literals: blanks are in
    /// their place, so that lines stay the same.
    pub(crate) code: String,
    /// The first line, from 1, of an inline module of tests.
    tests_from: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { code_of(text) } else { text.to_owned() };
        let lines: Vec<&str> = code.lines().collect();
        let opens_tests = |at: &usize| {
            let next =
                lines.get(at + 1).is_some_and(|next| next.trim_start().starts_with("mod ") && next.contains('{'));
            lines.get(*at).is_some_and(|line| line.trim() == "#[cfg(test)]") && next
        };
        let tests_from = (0..lines.len()).find(opens_tests).map_or(usize::MAX, |at| at + 1);
        Self { path: path.to_owned(), text: text.to_owned(), code, tests_from }
    }

    /// Whether a line, from 1, is built for tests alone.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.path.split('/').any(|part| part == "tests") || line >= self.tests_from
    }
}

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace's folder")
}

/// All files of the workspace, sorted by path.
pub(crate) fn tree() -> Vec<Source> {
    let root = root();
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of ours") {
            let entry = entry.expect("a file of ours");
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_made = folder == root && MADE.contains(&name.as_str());
            let kind = entry.file_type().expect("a file of ours");
            if kind.is_dir() && !FOREIGN.contains(&name.as_str()) && !is_made {
                folders.push(entry.path());
            } else if kind.is_file() && name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending)) {
                let path = entry.path();
                // An editor's or another test's file may be gone by now.
                let Ok(text) = fs::read_to_string(&path) else { continue };
                let path = path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
                sources.push(Source::new(&path, &text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Rust text with blanks in place of comments, strings and characters.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_inside_name = code.chars().next_back().is_some_and(is_name);
        let bytes = blank_bytes(rest, is_inside_name);
        if bytes == 0 {
            code.push(first);
            rest = rest.split_at(first.len_utf8()).1;
        } else {
            let (blank, after) = rest.split_at(bytes);
            code.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// Length of the comment or literal that the text starts with, in bytes; zero
/// where it starts with neither.
fn blank_bytes(text: &str, is_inside_name: bool) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_bytes(text);
    }
    let prefix =
        if is_inside_name { "" } else { ["br", "cr", "r"].into_iter().find(|p| text.starts_with(p)).unwrap_or("") };
    let raw = text.split_at(prefix.len()).1;
    let hashes = raw.bytes().take_while(|b| *b == b'#').count();
    if !prefix.is_empty() && raw.split_at(hashes).1.starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let opened = prefix.len() + hashes + 1;
        let body = text.split_at(opened).1;
        return body.find(&end).map_or(text.len(), |at| opened + at + end.len());
    }
    if text.starts_with('"') {
        return quoted_bytes(text, '"');
    }
    let mut after = text.chars().skip(1);
    match (text.starts_with('\''), after.next(), after.next()) {
        (true, Some('\\'), _) | (true, Some(_), Some('\'')) => quoted_bytes(text, '\''),
        _ => 0,
    }
}

fn quoted_bytes(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if c == '\\' {
            is_escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

fn block_comment_bytes(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let step = rest.chars().next().map_or(1, char::len_utf8);
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += step;
        }
    }
    text.len()
}

/// Whether a character can be part of a name.
pub(crate) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a line has the text as a whole word, where it begins or ends as one.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let begins = word.chars().next().is_some_and(is_name);
    let ends = word.chars().next_back().is_some_and(is_name);
    line.match_indices(word).any(|(at, _)| {
        let (before, from) = line.split_at(at);
        let after = from.split_at(word.len()).1;
        let goes_on_before = begins && before.chars().next_back().is_some_and(is_name);
        let goes_on_after = ends && after.chars().next().is_some_and(is_name);
        !goes_on_before && !goes_on_after
    })
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// From 1.
    pub(crate) line: usize,
    /// From `fn` to the closing brace.
    pub(crate) lines: usize,
}

/// The functions of code that has no comments and literals.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let (before, from) = code.split_at(at);
        let name: String = from.chars().skip("fn ".len()).take_while(|c| is_name(*c)).collect();
        if name.is_empty() || before.chars().next_back().is_some_and(is_name) {
            continue;
        }
        let Some(end) = body_end(from) else { continue };
        let line = before.matches('\n').count() + 1;
        found.push(Function { name, line, lines: from.split_at(end).0.matches('\n').count() + 1 });
    }
    found
}

/// Where the body ends that follows a signature; nothing, where none does.
fn body_end(from: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0_usize, 0_usize);
    for (at, c) in from.char_indices() {
        match c {
            '(' | '[' if braces == 0 => brackets += 1,
            ')' | ']' if braces == 0 => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' if brackets == 0 || braces > 0 => braces += 1,
            '}' if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}
