//! Passwords: where they come from, and that they go nowhere else.

use std::{fmt, path::PathBuf, process::Stdio, time::Duration};

use serde::Deserialize;

/// A password. Its `Debug` form says nothing, and it can be neither printed nor serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the password itself; for the connection, and for a passfile, alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a password comes from.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PasswordFrom {
    /// An environment variable's name.
    Env(String),
    /// A file of `host:port:database:user:password` lines, as libpq reads it.
    Passfile(PathBuf),
    /// A program and its arguments; the first line that it prints.
    Command(Vec<String>),
}

/// A password could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment has no such variable.
    #[error("environment variable `{0}` holds no password")]
    Env(String),
    /// The passfile could not be read.
    #[error("cannot read passfile `{path}`")]
    Passfile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Nothing in the passfile is for this server and user.
    #[error("passfile `{path}` has no line for {host}:{port}, user `{user}`")]
    NoLine {
        /// The file.
        path: PathBuf,
        /// The server's host.
        host: String,
        /// The server's port.
        port: u16,
        /// The role.
        user: String,
    },
    /// The command failed or printed nothing in time.
    #[error("password command `{program}` {problem}")]
    Command {
        /// The program; never its arguments.
        program: String,
        /// What went wrong with it.
        problem: String,
    },
}

const COMMAND_BUDGET: Duration = Duration::from_secs(15);

impl PasswordFrom {
    /// Returns the password for `user` at `host:port`.
    ///
    /// # Errors
    /// [`SecretError`], which names the source of the password and never holds any of it.
    pub async fn fetch(&self, host: &str, port: u16, user: &str) -> Result<Secret, SecretError> {
        match self {
            Self::Env(name) => std::env::var(name).map(Secret::new).map_err(|_| SecretError::Env(name.clone())),
            Self::Passfile(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| SecretError::Passfile { path: path.clone(), source })?;
                find_in_passfile(&text, host, port, user).ok_or_else(|| SecretError::NoLine {
                    path: path.clone(),
                    host: host.to_owned(),
                    port,
                    user: user.to_owned(),
                })
            }
            Self::Command(words) => run_command(words).await,
        }
    }
}

async fn run_command(words: &[String]) -> Result<Secret, SecretError> {
    let program = words.first().cloned().unwrap_or_default();
    let failed = |problem: String| SecretError::Command { program: program.clone(), problem };
    let output = tokio::process::Command::new(&program)
        .args(words.iter().skip(1))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(COMMAND_BUDGET, output)
        .await
        .map_err(|_| failed(format!("printed nothing within {} s", COMMAND_BUDGET.as_secs())))?
        .map_err(|e| failed(format!("cannot be run: {e}")))?;
    if !output.status.success() {
        return Err(failed(format!("failed: {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line)),
        _ => Err(failed("printed nothing".to_owned())),
    }
}

/// Returns the password of the first line that matches; any database, as pgleap connects to all of them.
///
/// Source: PostgreSQL manual, "The Password File": `*` matches everything, `\:` and `\\` escape.
fn find_in_passfile(text: &str, host: &str, port: u16, user: &str) -> Option<Secret> {
    // libpq looks a socket directory up as `localhost`
    let host = if host.starts_with('/') { "localhost" } else { host };
    let port = port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split_passfile_line(line);
        let [h, p, _database, u, password] = fields.as_slice() else { return None };
        let fits = |field: &str, value: &str| field == "*" || field == value;
        (fits(h, host) && fits(p, &port) && fits(u, user)).then(|| Secret::new(password.clone()))
    })
}

fn split_passfile_line(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        match c {
            '\\' => fields[last].extend(chars.next()),
            // the password is the rest of the line, colons and all, once four fields are there
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => fields[last].push(c),
        }
    }
    fields
}

/// Returns a passfile line that gives `password` to `user` at `host:port`, for every database.
pub fn passfile_line(host: &str, port: u16, user: &str, password: &Secret) -> String {
    let host = if host.starts_with('/') { "localhost" } else { host };
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    format!("{}:{}:*:{}:{}\n", escape(host), port, escape(user), escape(password.reveal()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passfile_gives_back_what_was_written() {
        let line = passfile_line("db", 5432, "a:b", &Secret::new(r"p:w\d"));
        let text = format!("# a comment\nother:5432:*:x:no\n{line}*:*:*:*:last");
        assert_eq!(find_in_passfile(&text, "db", 5432, "a:b").unwrap().reveal(), r"p:w\d");
        assert_eq!(find_in_passfile(&text, "else", 1, "y").unwrap().reveal(), "last");
        assert!(find_in_passfile("db:5432:*:x:no", "db", 5433, "x").is_none());
    }

    #[test]
    fn socket_directories_are_localhost_in_a_passfile() {
        let line = passfile_line("/run/postgresql", 5432, "u", &Secret::new("p"));
        assert!(line.starts_with("localhost:5432:"));
        assert!(find_in_passfile(&line, "/run/postgresql", 5432, "u").is_some());
    }

    #[test]
    fn debug_form_of_a_secret_says_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[tokio::test]
    async fn password_command_that_fails_is_named_without_its_arguments() {
        let from = PasswordFrom::Command(vec!["false".into(), "topsecret".into()]);
        let error = from.fetch("h", 1, "u").await.unwrap_err().to_string();
        assert!(error.contains("`false`") && !error.contains("topsecret"), "{error}");
    }
}
