//! PgBouncer's configuration file: entries moved from one server to another, everything else left to the letter.

/// Where an entry leads.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// A configuration text with entries moved.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The new text.
    pub text: String,
    /// The entries whose address was changed.
    pub moved: Vec<String>,
}

/// Returns `text` with those entries of `[databases]` that `moves` names and that lead to `from` leading to `to`; comments,
/// order and spacing are kept.
///
/// An entry that names no port leads to 5432, as PgBouncer takes it; one that names no host leads to a Unix socket and is
/// moved only if `from` is one.
pub fn repoint(text: &str, from: &Address, to: &Address, moves: impl Fn(&str) -> bool) -> Rewritten {
    let mut section = String::new();
    let mut moved = Vec::new();
    let mut lines = Vec::new();
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            section = trimmed.trim_matches(|c| c == '[' || c == ']').trim().to_ascii_lowercase();
        }
        let is_entry = section == "databases" && !trimmed.starts_with([';', '#', '[', '%']);
        match line.split_once('=').filter(|_| is_entry) {
            Some((key, settings)) => {
                let name = key.trim().trim_matches('"');
                match repoint_settings(settings, from, to).filter(|_| moves(name)) {
                    Some(new) => {
                        moved.push(name.to_owned());
                        lines.push(format!("{key}={new}"));
                    }
                    None => lines.push(line.to_owned()),
                }
            }
            None => lines.push(line.to_owned()),
        }
    }
    Rewritten { text: lines.concat(), moved }
}

/// A `key=value` of an entry: where key and value stand in the text, and the value without its quotes.
struct Setting {
    key: String,
    value: String,
    span: std::ops::Range<usize>,
}

fn repoint_settings(text: &str, from: &Address, to: &Address) -> Option<String> {
    let settings = settings(text);
    let find = |key: &str| settings.iter().find(|setting| setting.key == key);
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

fn quote(value: &str) -> String {
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

    const INI: &str = "; host=127.0.0.1 port=5432 in a comment\n[databases]\napp = host=127.0.0.1 port=5432 dbname=app password='a b''c=d' ; not a comment\nother=host=10.0.0.9 port=5432\n\"odd name\" = dbname=x   host=127.0.0.1\nbare = dbname=y\n\n[pgbouncer]\nhost=127.0.0.1 port=5432\n%include more.ini\n";

    #[test]
    fn repoint_moves_matching_entries_and_leaves_the_rest_to_the_letter() {
        let new = repoint(INI, &address("127.0.0.1", 5432), &address("127.0.0.1", 6000), |_| true);
        assert_eq!(new.moved, ["app", "odd name"]);
        let expected = INI
            .replace("app = host=127.0.0.1 port=5432", "app = host=127.0.0.1 port=6000")
            .replace("host=127.0.0.1\nbare", "host=127.0.0.1 port=6000\nbare");
        assert_eq!(new.text, expected);
    }

    #[test]
    fn repoint_there_and_back_leads_where_it_led() {
        let (old, new) = (address("127.0.0.1", 5432), address("db2", 6000));
        let there = repoint(INI, &old, &new, |_| true);
        let back = repoint(&there.text, &new, &old, |_| true);
        assert_eq!(back.moved, there.moved);
        assert_eq!(repoint(&back.text, &old, &new, |_| true), there);
    }

    #[test]
    fn entries_that_nobody_paused_stay_where_they_are() {
        let new = repoint(INI, &address("127.0.0.1", 5432), &address("127.0.0.1", 6000), |name| name == "app");
        assert_eq!(new.moved, ["app"]);
        assert!(new.text.contains("\"odd name\" = dbname=x   host=127.0.0.1\n"), "{}", new.text);
    }

    #[test]
    fn entries_without_a_host_belong_to_a_socket_directory() {
        let new = repoint("[databases]\nbare = dbname=y", &address("/run/a", 5432), &address("/run/b", 5433), |_| true);
        assert_eq!(new.text, "[databases]\nbare = dbname=y host=/run/b port=5433");
    }
}
