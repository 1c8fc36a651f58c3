//! A new, empty cluster: `initdb` with everything said, nothing taken from the environment.

use std::fmt;
use std::time::Duration;

use crate::command::run;
use crate::{Server, ServerError};

/// initdb takes a second or two; on a slow disk under load, perhaps a minute.
const DEADLINE: Duration = Duration::from_secs(300);

/// How a new cluster is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// The bootstrap superuser's name; pg_upgrade wants the same on both sides.
    pub superuser: String,
    /// The encoding of the template databases; `None` lets initdb derive it from the locale.
    pub encoding: Option<String>,
    /// The locale; `None` is `C`.
    pub locale: Option<LocaleOptions>,
    /// Whether data pages carry checksums; said explicitly, as the default changed with 18.
    pub checksums: bool,
    /// The size of a WAL segment in MiB; `None` is initdb's own default of 16.
    pub wal_segment_mb: Option<u32>,
    /// What the first `pg_hba.conf` asks of everybody.
    pub auth: Auth,
    /// Whether the group may read the data directory.
    pub allow_group_access: bool,
}

impl Default for InitOptions {
    /// `postgres`, UTF8, locale C, with checksums, trusting everybody.
    fn default() -> InitOptions {
        InitOptions {
            superuser: "postgres".into(),
            encoding: Some("UTF8".into()),
            locale: None,
            checksums: true,
            wal_segment_mb: None,
            auth: Auth::Trust,
            allow_group_access: false,
        }
    }
}

/// The locale of the template databases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocaleOptions {
    /// `LC_COLLATE`; `None` is `C`.
    pub lc_collate: Option<String>,
    /// `LC_CTYPE`; `None` is `C`.
    pub lc_ctype: Option<String>,
    /// Who compares text; `None` is libc, as in every major.
    pub provider: Option<LocaleProvider>,
    /// ICU's or the builtin provider's own locale.
    pub provider_locale: Option<String>,
    /// ICU's tailoring rules (16 and later).
    pub icu_rules: Option<String>,
}

/// Who compares text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocaleProvider {
    /// The operating system.
    Libc,
    /// The ICU library; for whole clusters 15 and later.
    Icu,
    /// PostgreSQL itself; 17 and later.
    Builtin,
}

/// What the first `pg_hba.conf` asks of everybody.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing: for clusters only this machine's account can reach.
    Trust,
    /// Being the operating system account of the same name.
    Peer,
    /// The superuser's password.
    ScramSha256 {
        /// It goes to initdb in a file, never as an argument.
        password: String,
    },
}

impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.method())
    }
}

impl Auth {
    fn method(&self) -> &'static str {
        match self {
            Auth::Trust => "trust",
            Auth::Peer => "peer",
            Auth::ScramSha256 { .. } => "scram-sha-256",
        }
    }
}

impl Server {
    /// Makes a new cluster in the data directory, which must be empty or absent.
    ///
    /// # Errors
    /// [`ServerError::Unsupported`] if this major lacks an option, [`ServerError::Init`] with initdb's last words.
    pub async fn init(&self, options: &InitOptions) -> Result<(), ServerError> {
        let arguments = arguments(self.installation.major, options)?;
        let parent = self.data_dir.parent().unwrap_or(&self.data_dir);
        // initdb takes an empty directory, and could not make one where only root may write.
        self.account.create_dir(&self.data_dir, 0o700).map_err(|source| self.io("make the directory", source))?;
        self.check_reachable()?;
        let mut command = self.account.command(self.installation.tool("initdb"));
        command.arg("-D").arg(&self.data_dir).args(arguments);
        let password_file = parent.join(format!(".initdb-{}.pw", std::process::id()));
        if let Auth::ScramSha256 { password } = &options.auth {
            let written = self.account.write_file(&password_file, format!("{password}\n"), 0o600);
            written.map_err(|source| self.io("pass the password to initdb for", source))?;
            command.arg("--pwfile").arg(&password_file);
        }
        let result = run(command, DEADLINE).await;
        if matches!(options.auth, Auth::ScramSha256 { .. }) {
            std::fs::remove_file(&password_file)
                .map_err(|source| self.io("remove initdb's password file for", source))?;
        }
        result.map(|_| ()).map_err(|source| ServerError::Init { data_dir: self.data_dir.clone(), source })
    }
}

fn arguments(major: u16, options: &InitOptions) -> Result<Vec<String>, ServerError> {
    let needs = |least: u16, what: &str| {
        if major >= least { Ok(()) } else { Err(ServerError::Unsupported { what: what.to_string(), major }) }
    };
    let mut arguments = vec![format!("--username={}", options.superuser), format!("--auth={}", options.auth.method())];
    if let Some(encoding) = &options.encoding {
        arguments.push(format!("--encoding={encoding}"));
    }
    arguments.push("--locale=C".into());
    if let Some(locale) = &options.locale {
        arguments.extend(locale.lc_collate.iter().map(|value| format!("--lc-collate={value}")));
        arguments.extend(locale.lc_ctype.iter().map(|value| format!("--lc-ctype={value}")));
        match locale.provider {
            None => {}
            // Before 15 there was no other, and no option to say so.
            Some(LocaleProvider::Libc) if major < 15 => {}
            Some(LocaleProvider::Libc) => arguments.push("--locale-provider=libc".into()),
            Some(LocaleProvider::Icu) => {
                needs(15, "the locale provider `icu`")?;
                arguments.push("--locale-provider=icu".into());
                arguments.extend(locale.provider_locale.iter().map(|value| format!("--icu-locale={value}")));
            }
            Some(LocaleProvider::Builtin) => {
                needs(17, "the locale provider `builtin`")?;
                arguments.push("--locale-provider=builtin".into());
                arguments.extend(locale.provider_locale.iter().map(|value| format!("--builtin-locale={value}")));
            }
        }
        if let Some(rules) = &locale.icu_rules {
            needs(16, "ICU rules")?;
            arguments.push(format!("--icu-rules={rules}"));
        }
    }
    match (options.checksums, major) {
        (true, _) => arguments.push("--data-checksums".into()),
        (false, 18..) => arguments.push("--no-data-checksums".into()),
        (false, _) => {}
    }
    arguments.extend(options.wal_segment_mb.map(|size| format!("--wal-segsize={size}")));
    if options.allow_group_access {
        arguments.push("--allow-group-access".into());
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_said_explicitly_on_both_sides_of_18() {
        let off = InitOptions { checksums: false, ..InitOptions::default() };
        assert!(!arguments(17, &off).unwrap().iter().any(|argument| argument.contains("checksums")));
        assert!(arguments(18, &off).unwrap().contains(&"--no-data-checksums".to_string()));
        assert!(arguments(18, &InitOptions::default()).unwrap().contains(&"--data-checksums".to_string()));
    }

    #[test]
    fn a_provider_the_major_does_not_know_is_refused_before_initdb_runs() {
        let with = |provider| InitOptions {
            locale: Some(LocaleOptions { provider: Some(provider), ..LocaleOptions::default() }),
            ..InitOptions::default()
        };
        let error = arguments(14, &with(LocaleProvider::Icu)).unwrap_err();
        assert_eq!(error.to_string(), "PostgreSQL 14 does not know the locale provider `icu`");
        assert!(arguments(16, &with(LocaleProvider::Builtin)).is_err());
        assert!(arguments(17, &with(LocaleProvider::Builtin)).is_ok());
    }

    #[test]
    fn a_password_is_neither_printed_nor_an_argument() {
        let auth = Auth::ScramSha256 { password: "hunter2".into() };
        let options = InitOptions { auth, ..InitOptions::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(!arguments(17, &options).unwrap().concat().contains("hunter2"));
    }
}
