//! Reads a TOML table key by key, and remembers every problem instead of stopping at the first.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{Table, Value};

use super::{Databases, GuardAddress};
use crate::pg::secret::PasswordFrom;

/// A table that is being read: keys are taken out, and what is left at the end is unknown.
pub(super) struct Reader {
    path: String,
    table: Table,
    base: PathBuf,
    known: Vec<&'static str>,
    problems: Vec<String>,
}

/// The parts of a connection string that name a server and a role.
pub(super) struct Dsn {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
}

impl Reader {
    pub fn new(path: &str, table: Table, base: &Path) -> Self {
        Self { path: path.to_owned(), table, base: base.to_owned(), known: Vec::new(), problems: Vec::new() }
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes what is wrong with `key`.
    pub fn problem(&mut self, key: &str, what: impl AsRef<str>) {
        self.problems.push(format!("`{}` {}", self.name(key), what.as_ref()));
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Takes over a sub-table's problems, and reports the keys of it that nobody asked for.
    pub fn absorb(&mut self, part: Reader) {
        self.problems.extend(part.finish());
    }

    /// Returns every problem, unknown keys last.
    pub fn finish(self) -> Vec<String> {
        let mut problems = self.problems;
        for key in self.table.keys() {
            let name = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let hint = match self.known.iter().min_by_key(|known| distance(known, key)) {
                Some(known) if distance(known, key) <= 2 => format!("; did you mean `{known}`?"),
                _ => String::new(),
            };
            problems.push(format!("`{name}` is not a key{hint}"));
        }
        problems
    }

    pub fn table(&mut self, key: &'static str) -> Reader {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.optional_table(key)
    }

    pub fn optional_table(&mut self, key: &'static str) -> Reader {
        let name = self.name(key);
        let table = match self.take(key) {
            Some(Value::Table(table)) => table,
            None => Table::new(),
            Some(_) => {
                self.problem(key, "must be a table");
                Table::new()
            }
        };
        Reader::new(&name, table, &self.base)
    }

    pub fn tables(&mut self, key: &'static str) -> Vec<Reader> {
        let name = self.name(key);
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let mut readers = Vec::new();
                for (index, item) in items.into_iter().enumerate() {
                    match item {
                        Value::Table(table) => {
                            readers.push(Reader::new(&format!("{name}[{index}]"), table, &self.base));
                        }
                        _ => self.problem(key, "must be tables, each under [[…]]"),
                    }
                }
                readers
            }
            Some(_) => {
                self.problem(key, "must be tables, each under [[…]]");
                Vec::new()
            }
        }
    }

    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.problem(key, "must be a text that is not empty");
                None
            }
        }
    }

    /// Whether the key is there, and was not read yet.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reads `host:port`.
    pub fn guard(&mut self, key: &'static str) -> Option<GuardAddress> {
        let text = self.text(key)?;
        let split = text.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        match split {
            Some((host, port)) if !host.is_empty() && port > 0 => Some(GuardAddress { host, port }),
            _ => {
                self.problem(key, format!("is `{text}`; it must be a host and a port, such as \"pool1:7432\""));
                None
            }
        }
    }

    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        // by its parts: a slash at the end would make another directory of what is added to a name
        self.text(key).map(|text| self.base.join(text).components().collect())
    }

    /// Returns the path of a program: one without a slash is looked for where programs are.
    pub fn based(&self, program: &str) -> String {
        if program.contains('/') { self.base.join(program).to_string_lossy().into_owned() } else { program.to_owned() }
    }

    pub fn required_path(&mut self, key: &'static str) -> PathBuf {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.path(key).unwrap_or_default()
    }

    pub fn paths(&mut self, key: &'static str) -> Vec<PathBuf> {
        self.texts(key).into_iter().map(|text| self.base.join(text)).collect()
    }

    pub fn texts(&mut self, key: &'static str) -> Vec<String> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) if items.iter().all(Value::is_str) => {
                items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            Some(_) => {
                self.problem(key, "must be a list of texts");
                Vec::new()
            }
        }
    }

    fn integer(&mut self, key: &'static str, least: i64, most: i64) -> Option<i64> {
        match self.take(key)? {
            Value::Integer(n) if (least..=most).contains(&n) => Some(n),
            other => {
                self.problem(key, format!("is {other}; it must be a whole number from {least} to {most}"));
                None
            }
        }
    }

    pub fn count(&mut self, key: &'static str, default: u32, least: u32, most: u32) -> u32 {
        self.integer(key, least.into(), most.into()).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
    }

    pub fn port(&mut self, key: &'static str) -> u16 {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.integer(key, 1, 65535).and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
    }

    pub fn major(&mut self, key: &'static str) -> u16 {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.integer(key, 14, 19).and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
    }

    /// Reads `kind`; `None` if it is none of `supported`.
    pub fn kind(&mut self, supported: &[&str], planned: &[&str]) -> Option<String> {
        match self.text("kind") {
            Some(kind) if supported.contains(&kind.as_str()) => return Some(kind),
            Some(kind) if planned.contains(&kind.as_str()) => {
                self.problem("kind", format!("is `{kind}`, which this version cannot do yet; it can: {supported:?}"));
            }
            Some(kind) => self.problem("kind", format!("is `{kind}`; it must be one of {supported:?}")),
            None => self.problem("kind", format!("is missing; it must be one of {supported:?}")),
        }
        None
    }

    pub fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        let Some(text) = self.text(key) else { return default };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => *value,
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                self.problem(key, format!("is `{text}`; it must be one of {names:?}"));
                default
            }
        }
    }

    pub fn duration(&mut self, key: &'static str, default: &str, least: &str, most: &str) -> Duration {
        let default = parse_duration(default).unwrap_or_default();
        self.optional_duration(key, least, most).unwrap_or(default)
    }

    pub fn optional_duration(&mut self, key: &'static str, least: &str, most: &str) -> Option<Duration> {
        let text = self.text(key)?;
        let range = parse_duration(least).unwrap_or_default()..=parse_duration(most).unwrap_or_default();
        match parse_duration(&text) {
            Some(duration) if range.contains(&duration) => return Some(duration),
            Some(_) => self.problem(key, format!("is `{text}`; it must be from {least} to {most}")),
            None => self.problem(key, format!("is `{text}`; it must be a duration such as `500ms`, `2s` or `5min`")),
        }
        None
    }

    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(flag) => Some(flag),
            _ => {
                self.problem(key, "must be true or false");
                None
            }
        }
    }

    pub fn optional_bytes(&mut self, key: &'static str) -> Option<u64> {
        // read and judged as any other size; absent stays absent
        self.table.contains_key(key).then(|| self.bytes(key, "0B")).or_else(|| {
            self.known.push(key);
            None
        })
    }

    pub fn bytes(&mut self, key: &'static str, default: &str) -> u64 {
        let default = parse_bytes(default).unwrap_or_default();
        let Some(text) = self.text(key) else { return default };
        parse_bytes(&text).unwrap_or_else(|| {
            self.problem(key, format!("is `{text}`; it must be a size such as `16MiB` or `200GiB`"));
            default
        })
    }

    pub fn password(&mut self) -> Option<PasswordFrom> {
        let value = self.take("password")?;
        let password = value.clone().try_into::<PasswordFrom>().ok();
        match password {
            Some(PasswordFrom::Passfile(path)) => Some(PasswordFrom::Passfile(self.base.join(path))),
            Some(PasswordFrom::Command(words)) if words.is_empty() => {
                self.problem("password", "has an empty `command`");
                None
            }
            Some(password) => Some(password),
            // the value itself may be a password in the wrong place: it is not repeated
            None => {
                self.problem(
                    "password",
                    "must be one of { env = \"NAME\" }, { passfile = \"PATH\" }, { command = [\"PROGRAM\", …] }",
                );
                None
            }
        }
    }

    pub fn databases(&mut self, key: &'static str) -> Databases {
        match self.table.get(key) {
            None => {
                self.known.push(key);
                Databases::All
            }
            Some(Value::String(text)) if text == "all" => {
                self.take(key);
                Databases::All
            }
            Some(Value::Array(items)) if !items.is_empty() => Databases::Only(self.texts(key)),
            Some(_) => {
                self.take(key);
                self.problem(key, "must be \"all\" or a list of names");
                Databases::All
            }
        }
    }

    pub fn settings(&mut self, key: &'static str) -> Vec<(String, String)> {
        let table = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.problem(key, "must be a table of settings");
                return Vec::new();
            }
        };
        table
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => (name, text),
                other => (name, other.to_string()),
            })
            .collect()
    }

    /// Reads a connection string of keywords; a password in it is refused, and not repeated.
    pub fn dsn(&mut self, key: &'static str, example: &str) -> Dsn {
        let nothing = Dsn { host: String::new(), port: 0, user: String::new(), database: "postgres".to_owned() };
        if !self.table.contains_key(key) {
            self.problem(key, format!("is missing: for example \"{example}\""));
            return nothing;
        }
        let Some(text) = self.text(key) else { return nothing };
        let mut dsn = Dsn { host: "127.0.0.1".to_owned(), port: 5432, user: "postgres".to_owned(), ..nothing };
        for (keyword, value) in keywords(&text) {
            match keyword.as_str() {
                "host" | "hostaddr" => dsn.host = value,
                "user" => dsn.user = value,
                "dbname" => dsn.database = value,
                "port" => match value.parse() {
                    Ok(port) if port > 0 => dsn.port = port,
                    _ => self.problem(key, format!("has the port `{value}`; it must be from 1 to 65535")),
                },
                "sslmode" if matches!(value.as_str(), "disable" | "allow" | "prefer") => {}
                "sslmode" => self.problem(key, format!("asks for sslmode `{value}`, which this version cannot do yet")),
                "password" => self.problem(key, "must not hold a password: use `password = { env = \"NAME\" }`"),
                _ => self.problem(key, format!("has the unknown keyword `{keyword}`")),
            }
        }
        dsn
    }
}

/// Splits `host=a user='b c'` as libpq does; a text without `=` gives one keyword with an empty value.
fn keywords(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return pairs;
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            keyword.push(c);
        }
        let mut value = String::new();
        if chars.next_if_eq(&'=').is_some() {
            let quoted = chars.next_if_eq(&'\'').is_some();
            while let Some(c) = chars.next_if(|c| if quoted { *c != '\'' } else { !c.is_whitespace() }) {
                value.extend(if c == '\\' { chars.next() } else { Some(c) });
            }
            if quoted {
                chars.next();
            }
        }
        pairs.push((keyword, value));
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let days_are_24_hours = jiff::SpanRelativeTo::days_are_24_hours();
    Duration::try_from(text.parse::<jiff::Span>().ok()?.to_duration(days_are_24_hours).ok()?).ok()
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Returns how many letters must be added, dropped or exchanged to make `a` from `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let exchanged = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_split_as_libpq_splits_them() {
        let pairs = keywords(r"host=/run/pg  user='a b\'c' port=5432 bare");
        let expected = [("host", "/run/pg"), ("user", "a b'c"), ("port", "5432"), ("bare", "")];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(parse_bytes("16MiB"), Some(16 << 20));
        assert_eq!(parse_bytes("16 MB"), Some(16_000_000));
        assert_eq!(parse_bytes("16 parsecs"), None);
        assert_eq!(parse_bytes("99999999999TiB"), None);
    }

    #[test]
    fn distance_counts_single_letter_edits() {
        assert_eq!(distance("max_lag", "max_lagg"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
