//! Reads documents: their blocks, and the commands in them.

use std::path::{Path, PathBuf};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// Returns every document, as a path below the root.
pub fn documents() -> Vec<String> {
    let mut found = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    let mut folders = vec!["docs".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            match entry.path() {
                place if place.is_dir() => folders.push(path),
                place if place.extension().is_some_and(|extension| extension == "md") => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Returns the fenced blocks: language, number of the line before the first, and text.
pub fn blocks(text: &str) -> Vec<(String, usize, String)> {
    let mut blocks: Vec<(String, usize, String)> = Vec::new();
    let mut inside = false;
    for (nth, line) in text.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(language) => {
                inside = true;
                blocks.push((language.trim().to_owned(), nth + 1, String::new()));
            }
            None if inside => {
                if let Some((_, _, block)) = blocks.last_mut() {
                    block.push_str(line);
                    block.push('\n');
                }
            }
            None => {}
        }
    }
    assert!(!inside, "a block is not closed");
    blocks
}

/// A command in a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Document and line.
    pub place: String,
    /// Without its comment.
    pub command: String,
    /// How it ends.
    pub exit: i32,
}

impl Line {
    pub fn program(&self) -> &str {
        self.command.split_whitespace().next().unwrap_or_default()
    }

    pub fn is(&self, verb: &str) -> bool {
        self.command.split_whitespace().nth(1) == Some(verb)
    }

    pub fn has(&self, option: &str) -> bool {
        self.command.split_whitespace().any(|word| word == option)
    }
}

pub fn commands(document: &str, text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (language, above, block) in blocks(text) {
        for (nth, line) in block.lines().enumerate() {
            let line = match language.as_str() {
                "sh" => line,
                "console" => line.strip_prefix("$ ").unwrap_or_default(),
                _ => continue,
            };
            let (command, comment) = line.split_once(" #").unwrap_or((line, ""));
            let exit = comment.trim().strip_prefix("exit ").map_or(0, |said| {
                let digits: String = said.chars().take_while(char::is_ascii_digit).collect();
                digits.parse().unwrap_or_else(|_| panic!("{document}: no exit code in `{comment}`"))
            });
            let command = command.trim().to_owned();
            if !command.is_empty() && !command.starts_with('#') {
                lines.push(Line { place: format!("{document}:{}", above + nth + 1), command, exit });
            }
        }
    }
    lines
}

pub fn commands_of(document: &str) -> Vec<Line> {
    commands(document, &read(document))
}

pub fn configuration() -> String {
    let found = blocks(&read("README.md")).into_iter().find(|(language, ..)| language == "toml");
    found.unwrap_or_else(|| panic!("README.md has no toml block")).2
}

pub fn ours(document: &str) -> Vec<Line> {
    commands_of(document).into_iter().filter(|line| line.program() == "pgleap").collect()
}

/// `#key = value` is a line that may be switched on; `# words` is a comment.
pub fn uncommented(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()))
}
