//! A server's configuration files: quoting, adding, replacing.
//!
//! Survives: a crash while writing (files are replaced as a whole), quotes and backslashes in values.

use std::io;
use std::path::Path;

use crate::Server;
use crate::owned_files::at;

/// Quotes a value for `postgresql.conf`: `it's` becomes `'it''s'`, backslashes are doubled.
///
/// Source: PostgreSQL manual, "Parameter Interaction via the Configuration File"; `guc-file.l` reads escapes.
pub fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', "''"))
}

impl Server {
    /// Adds lines to the end of `postgresql.conf`, where they win over what stands above.
    ///
    /// # Errors
    /// What the system says; the file is then as it was.
    pub fn append_conf(&self, lines: &str) -> io::Result<()> {
        let path = self.data_dir.join("postgresql.conf");
        let mut contents = match std::fs::read_to_string(&path) {
            Ok(contents) => contents,
            // The configuration may live elsewhere (Debian), the data directory then has none of its own.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(at(&path, error)),
        };
        if !contents.is_empty() && !contents.ends_with('\n') {
            contents.push('\n');
        }
        contents.push_str(lines);
        contents.push('\n');
        self.write_in_data_dir("postgresql.conf", &contents)
    }

    /// Replaces `postgresql.conf`.
    ///
    /// # Errors
    /// As for [`Server::append_conf`].
    pub fn write_conf(&self, contents: &str) -> io::Result<()> {
        self.write_in_data_dir("postgresql.conf", contents)
    }

    /// Replaces `pg_hba.conf`.
    ///
    /// # Errors
    /// As for [`Server::append_conf`].
    pub fn write_hba(&self, contents: &str) -> io::Result<()> {
        self.write_in_data_dir("pg_hba.conf", contents)
    }

    /// Replaces a file in the data directory, such as `postgresql.auto.conf` or `standby.signal`; mode 0600, or 0640
    /// where the data directory lets its group read.
    ///
    /// # Errors
    /// As for [`Server::append_conf`].
    pub fn write_in_data_dir(&self, name: &str, contents: &str) -> io::Result<()> {
        self.account.write_file(self.data_dir.join(name), contents, mode_in(&self.data_dir))
    }
}

fn mode_in(data_dir: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    let group_may_read = std::fs::metadata(data_dir).is_ok_and(|metadata| metadata.mode() & 0o040 != 0);
    if group_may_read { 0o640 } else { 0o600 }
}

/// Quotes a word for the shell that `pg_ctl` starts the server through.
pub(crate) fn quote_for_shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_the_server_reads_them() {
        assert_eq!(quote("plain"), "'plain'");
        assert_eq!(quote(r"it's C:\dir"), r"'it''s C:\\dir'");
    }

    #[test]
    fn words_for_the_shell_keep_their_quotes_and_dollars() {
        assert_eq!(quote_for_shell("a='$b'"), r"'a='\''$b'\'''");
    }
}
