//! PgBouncer's configuration files: entries moved from one server to another, everything else left to the letter.
//!
//! They are read as PgBouncer reads them: an `%include` is followed where it stands, relative to the directory that the
//! process was started in; the section goes on across files; and of several entries of one name the last counts.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use super::trial::is_trial;

/// Where an entry leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Address {
    /// Host, or the directory of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A configuration cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IniError {
    /// A file of it cannot be.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Files include each other, or more deeply than PgBouncer follows.
    #[error("`{path}` includes `{include}` more than {DEEPEST} files deep")]
    TooDeep {
        /// The file.
        path: PathBuf,
        /// What it includes.
        include: String,
    },
    /// A path is relative to a directory that is not known.
    #[error("`{path}` includes `{include}`, relative to the directory that PgBouncer was started in")]
    Relative {
        /// The file.
        path: PathBuf,
        /// What it includes.
        include: String,
    },
}

/// How deeply PgBouncer follows `%include`.
const DEEPEST: usize = 10;

/// A configuration: the file that PgBouncer was started with, and those that it includes.
#[derive(Debug, Clone)]
pub struct Ini {
    files: Vec<File>,
    /// In the order in which PgBouncer comes to them.
    entries: Vec<Line>,
}

#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    text: String,
    lines: Vec<String>,
}

/// A line that makes an entry.
#[derive(Debug, Clone)]
struct Line {
    name: String,
    file: usize,
    line: usize,
}

/// A file as it was read, and as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub old: String,
    /// Its text with entries moved; the same if none was.
    pub new: String,
}

impl Ini {
    /// Reads a configuration. `started_in` is PgBouncer's working directory, which relative paths need.
    ///
    /// # Errors
    /// [`IniError`].
    pub fn read(main: &Path, started_in: Option<&Path>) -> Result<Self, IniError> {
        let mut ini = Self { files: Vec::new(), entries: Vec::new() };
        ini.follow(main, 0, &mut String::new(), started_in)?;
        Ok(ini)
    }

    fn follow(
        &mut self,
        path: &Path,
        depth: usize,
        section: &mut String,
        started_in: Option<&Path>,
    ) -> Result<(), IniError> {
        let file = self.open(path)?;
        for line in 0..self.files[file].lines.len() {
            let text = self.files[file].lines[line].trim().to_owned();
            if let Some(include) = text.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t'])) {
                let (path, include) = (path.to_owned(), include.trim().to_owned());
                if depth >= DEEPEST {
                    return Err(IniError::TooDeep { path, include });
                }
                let included = match started_in {
                    Some(directory) => directory.join(&include),
                    None if Path::new(&include).is_absolute() => PathBuf::from(&include),
                    None => return Err(IniError::Relative { path, include }),
                };
                self.follow(&included, depth + 1, section, started_in)?;
            } else if let Some(rest) = text.strip_prefix('[') {
                *section = rest.split(']').next().unwrap_or_default().to_owned();
            } else if section == "databases"
                && !text.starts_with([';', '#', '%'])
                && let Some((key, _)) = text.split_once('=')
            {
                let name = key.trim().trim_matches(['"', '\'']).to_owned();
                // it goes in a moment
                if !is_trial(&name) {
                    self.entries.push(Line { name, file, line });
                }
            }
        }
        Ok(())
    }

    /// Returns which of the files it is; one that is included twice is one file.
    fn open(&mut self, path: &Path) -> Result<usize, IniError> {
        let failed = |source| IniError::Read { path: path.to_owned(), source };
        // a link stays one: what it leads to is the file
        let path = path.canonicalize().map_err(failed)?;
        if let Some(known) = self.files.iter().position(|file| file.path == path) {
            return Ok(known);
        }
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        let lines = text.split_inclusive('\n').map(str::to_owned).collect();
        self.files.push(File { path, text, lines });
        Ok(self.files.len() - 1)
    }

    /// Returns the text of every file, as it would be written.
    pub fn texts(&self) -> Vec<(PathBuf, String)> {
        self.files.iter().map(|file| (file.path.clone(), file.lines.concat())).collect()
    }

    /// Returns every file that holds an entry; the main file is always the first.
    pub fn files(&self) -> Vec<Rewritten> {
        let holds = |n: usize| n == 0 || self.entries.iter().any(|entry| entry.file == n);
        let files = self.files.iter().enumerate().filter(|(n, _)| holds(*n));
        files
            .map(|(_, File { path, text, lines })| Rewritten {
                path: path.clone(),
                old: text.clone(),
                new: lines.concat(),
            })
            .collect()
    }

    /// Returns what the entry `name` says, behind its `=`.
    pub fn settings_of(&self, name: &str) -> Option<&str> {
        let entry = self.entries.iter().rfind(|entry| entry.name == name)?;
        Some(self.files[entry.file].lines[entry.line].split_once('=')?.1.trim())
    }

    /// Returns the entries that lead to `address`.
    pub fn leading_to(&self, address: &Address) -> Vec<&str> {
        let counts = |n: usize| !self.entries[n + 1..].iter().any(|later| later.name == self.entries[n].name);
        let names = self.entries.iter().enumerate().filter(|(n, _)| counts(*n)).map(|(_, entry)| entry.name.as_str());
        names
            .filter(|name| self.settings_of(name).is_some_and(|text| redirect(text, address, address).is_some()))
            .collect()
    }

    /// Leads those entries that `moves` names and that lead to `from` to `to`; comments, order and spacing are kept. Entries of
    /// the same name that do not count are led too: they would count as soon as the other is removed.
    pub fn repoint(&mut self, from: &Address, to: &Address, moves: impl Fn(&str) -> bool) {
        for entry in self.entries.iter().filter(|entry| moves(&entry.name)) {
            let line = &mut self.files[entry.file].lines[entry.line];
            let moved =
                line.split_once('=').and_then(|(key, text)| Some(format!("{key}={}", redirect(text, from, to)?)));
            if let Some(moved) = moved {
                *line = moved;
            }
        }
    }
}

/// A `key=value` of an entry: where key and value stand in the text, and the value without its quotes.
struct Setting {
    key: String,
    value: String,
    span: Range<usize>,
}

/// Returns an entry's settings that lead to `from` with `to` in their place.
///
/// An entry that names no port leads to 5432, as PgBouncer takes it; one that names no host leads to a Unix socket and is
/// led elsewhere only if `from` is one.
pub fn redirect(text: &str, from: &Address, to: &Address) -> Option<String> {
    let settings = settings(text);
    let find = |key: &str| settings.iter().rfind(|setting| setting.key == key);
    let host = find("host").map_or("", |setting| setting.value.as_str());
    let port = find("port").map_or(Some(5432), |setting| setting.value.parse().ok())?;
    let same_host = host == from.host || (host.is_empty() && from.host.starts_with('/'));
    if !same_host || port != from.port {
        return None;
    }
    let mut out = String::new();
    let mut copied = 0;
    for setting in &settings {
        let new = match setting.key.as_str() {
            "host" => format!("host={}", quote(&to.host)),
            "port" => format!("port={}", to.port),
            _ => continue,
        };
        out.push_str(&text[copied..setting.span.start]);
        out.push_str(&new);
        copied = setting.span.end;
    }
    let rest = &text[copied..];
    let body = rest.trim_end();
    out.push_str(body);
    if find("host").is_none() && to.host != from.host {
        out.push_str(&format!(" host={}", quote(&to.host)));
    }
    if find("port").is_none() {
        out.push_str(&format!(" port={}", to.port));
    }
    out.push_str(&rest[body.len()..]);
    Some(out)
}

/// Returns the value of `key` among an entry's settings.
pub fn setting(text: &str, key: &str) -> Option<String> {
    settings(text).into_iter().rfind(|setting| setting.key == key).map(|setting| setting.value)
}

/// Returns `value` as a setting of an entry takes it.
pub fn quote(value: &str) -> String {
    if value.contains([' ', '\'', '=']) { format!("'{}'", value.replace('\'', "''")) } else { value.to_owned() }
}

/// Reads `key=value key='quoted value' …`; quotes are doubled inside quotes.
fn settings(text: &str) -> Vec<Setting> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at].is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let start = at;
        while at < bytes.len() && bytes[at] != b'=' && !bytes[at].is_ascii_whitespace() {
            at += 1;
        }
        let key = text[start..at].to_ascii_lowercase();
        while at < bytes.len() && bytes[at].is_ascii_whitespace() {
            at += 1;
        }
        let mut value = Vec::new();
        if bytes.get(at) == Some(&b'=') {
            at += 1;
            while at < bytes.len() && (bytes[at] == b' ' || bytes[at] == b'\t') {
                at += 1;
            }
            if bytes.get(at) == Some(&b'\'') {
                at += 1;
                loop {
                    match (bytes.get(at), bytes.get(at + 1)) {
                        (Some(b'\''), Some(b'\'')) => {
                            value.push(b'\'');
                            at += 2;
                        }
                        (Some(b'\''), _) => {
                            at += 1;
                            break;
                        }
                        (Some(byte), _) => {
                            value.push(*byte);
                            at += 1;
                        }
                        (None, _) => break,
                    }
                }
            } else {
                while at < bytes.len() && !bytes[at].is_ascii_whitespace() {
                    value.push(bytes[at]);
                    at += 1;
                }
            }
        }
        found.push(Setting { key, value: String::from_utf8_lossy(&value).into_owned(), span: start..at });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    /// Writes files into a directory of their own, the main one first.
    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    /// Leads every entry from the one to the other, and returns the files.
    fn led(dir: &tempfile::TempDir, main: &str, from: &Address, to: &Address) -> Vec<Rewritten> {
        let mut ini = Ini::read(&dir.path().join(main), Some(dir.path())).unwrap();
        ini.repoint(from, to, |_| true);
        ini.files()
    }

    const INI: &str = "; host=127.0.0.1 port=5432 in a comment\n[databases]\napp = host=127.0.0.1 port=5432 dbname=app password='a b''c=d' ; not a comment\nother=host=10.0.0.9 port=5432\n\"odd name\" = dbname=x   host=127.0.0.1\nbare = dbname=y\n\n[pgbouncer]\nhost=127.0.0.1 port=5432\n";

    #[test]
    fn entries_that_lead_there_are_moved_and_the_rest_is_left_to_the_letter() {
        let dir = written(&[("i", INI)]);
        let (old, new) = (address("127.0.0.1", 5432), address("127.0.0.1", 6000));
        let ini = Ini::read(&dir.path().join("i"), None).unwrap();
        assert_eq!(ini.leading_to(&old), ["app", "odd name"]);
        let expected = INI
            .replace("app = host=127.0.0.1 port=5432", "app = host=127.0.0.1 port=6000")
            .replace("host=127.0.0.1\nbare", "host=127.0.0.1 port=6000\nbare");
        let files = led(&dir, "i", &old, &new);
        assert_eq!((files[0].old.as_str(), files[0].new.as_str()), (INI, expected.as_str()));
    }

    #[test]
    fn there_and_back_leads_where_it_led() {
        let (old, new) = (address("127.0.0.1", 5432), address("db2", 6000));
        let dir = written(&[("i", INI)]);
        let there = led(&dir, "i", &old, &new).remove(0).new;
        std::fs::write(dir.path().join("i"), &there).unwrap();
        let back = led(&dir, "i", &new, &old).remove(0).new;
        std::fs::write(dir.path().join("i"), back).unwrap();
        assert_eq!(Ini::read(&dir.path().join("i"), None).unwrap().leading_to(&old), ["app", "odd name"]);
        assert_eq!(led(&dir, "i", &old, &new).remove(0).new, there);
    }

    #[test]
    fn entries_that_nobody_paused_stay_where_they_are() {
        let dir = written(&[("i", INI)]);
        let mut ini = Ini::read(&dir.path().join("i"), None).unwrap();
        ini.repoint(&address("127.0.0.1", 5432), &address("127.0.0.1", 6000), |name| name == "app");
        let text = ini.files().remove(0).new;
        assert!(text.contains("port=6000 dbname=app") && text.contains("= dbname=x   host=127.0.0.1\n"), "{text}");
    }

    #[test]
    fn entries_without_a_host_belong_to_a_socket_directory() {
        let dir = written(&[("i", "[databases]\nbare = dbname=y")]);
        let files = led(&dir, "i", &address("/run/a", 5432), &address("/run/b", 5433));
        assert_eq!(files[0].new, "[databases]\nbare = dbname=y host=/run/b port=5433");
    }

    #[test]
    fn includes_are_followed_where_they_stand_and_the_section_goes_on_across_files() {
        let dir = written(&[
            (
                "main.ini",
                "[databases]\n%include d/one.ini\n a = host=h port=1\n%include d/settings.ini\nport = host=h port=1\n",
            ),
            // without a heading of its own; relative to where PgBouncer runs, not to this file
            ("d/one.ini", "one = host=h port=1\n  %include\td/two.ini  \n"),
            ("d/two.ini", "two = host=h port=1\none = host=elsewhere port=1\n"),
            // leaves another section behind
            ("d/settings.ini", "[pgbouncer]\npool_mode = transaction\n"),
        ]);
        let (old, new) = (address("h", 1), address("h", 2));
        let ini = Ini::read(&dir.path().join("main.ini"), Some(dir.path())).unwrap();
        assert_eq!(ini.leading_to(&old), ["two", "a"], "the last `one` leads elsewhere");
        assert_eq!(ini.settings_of("one"), Some("host=elsewhere port=1"));
        assert_eq!(ini.settings_of("port"), None, "that is in another section");
        let files = led(&dir, "main.ini", &old, &new);
        let names: Vec<_> = files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["main.ini", "one.ini", "two.ini"], "only those that hold entries");
        assert!(files[0].new.contains(" a = host=h port=2\n") && files[0].new.ends_with("port = host=h port=1\n"));
        assert!(files[1].new.starts_with("one = host=h port=2\n"), "led too, though it does not count");
        assert_eq!(files[2].new, "two = host=h port=2\none = host=elsewhere port=1\n");
    }

    #[test]
    fn includes_that_cannot_be_followed_are_told() {
        let dir = written(&[("a", "%include b\n"), ("b", "%include a\n"), ("c", "%include /nowhere/at/all\n")]);
        let read = |name: &str, started_in| Ini::read(&dir.path().join(name), started_in).unwrap_err();
        assert!(matches!(read("a", None), IniError::Relative { include, .. } if include == "b"));
        assert!(matches!(read("a", Some(dir.path())), IniError::TooDeep { .. }));
        assert!(read("c", None).to_string().contains("`/nowhere/at/all`"));
    }
}
