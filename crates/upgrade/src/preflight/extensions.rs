//! Whether the target's installation has the source's extensions, and can bring each to its own version.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    path::{Path, PathBuf},
};

use pgleap_local::Installation;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note, warning},
    finding::{counted, has, listed},
    source::Entered,
};
use crate::pg::{PgError, ident};

const COLUMNS: &str = include_str!("sql/list_columns_of_extensions.sql");
const USERS: &str = include_str!("sql/list_users_of_members.sql");

const INSTALLED: &str = "SELECT extname::text, extversion FROM pg_catalog.pg_extension ORDER BY 1";

/// The source's own scripts; an extension whose files are gone cannot be asked for.
const REACHED: &str = "
    WITH available AS MATERIALIZED (
        SELECT e.extname, e.extversion
          FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_available_extensions AS a ON a.name = e.extname
         WHERE e.extname = ANY ($1::text[])
    )
    SELECT a.extname::text, p.target
      FROM available AS a CROSS JOIN LATERAL pg_catalog.pg_extension_update_paths(a.extname) AS p
     WHERE p.source = a.extversion AND p.path IS NOT NULL";

/// From 18 on extensions may be in several places, by a setting that is carried to the target.
const PATH: &str = "SELECT pg_catalog.current_setting('extension_control_path', true)";

pub(super) const ABOUT: About = About {
    check: "extensions",
    topic: Topic::Objects,
    reads: "installed extensions against the control files and update scripts of the target's installation",
    why: "pg_upgrade takes an extension over as it is, in its old version, with the library of the new major. pgleap then runs \
          ALTER EXTENSION … UPDATE on the target, which takes scripts that lead from one version to the other. Without them it \
          stays old, and without its files a dump of the target cannot be restored. Values of an extension's types come to the \
          target twice over: stored, by the copy, and as text, by the stream; both have to mean the same to the other version.",
    findings: &[
        warning("extension.not_on_target", Applied::ByHand("packages of this host are its administrator's.")),
        warning(
            "extension.kept_back",
            Applied::ByHand("it is done on the target, with views that are the application's."),
        ),
        warning("extension.no_update_path", Applied::ByHand("packages of this host are its administrator's.")),
        note("extension.older", Applied::ByHand("`pgleap run` does it on the target.")),
        note("extension.types_differ", Applied::ByHand("rows are compared once the target is in sync.")),
    ],
};

pub(super) async fn check(database: &Entered) -> Answer {
    // programs that are not here are a finding of their own, and a directory that is not found says nothing
    let Some(share) = database.programs.target.as_ref().and_then(share) else { return Ok(Vec::new()) };
    let row = database.session.query_one(PATH, &[]).await?;
    let given = database.target_settings.iter().find(|(name, _)| name == "extension_control_path");
    let path = given.map(|(_, value)| value.clone()).or_else(|| row.get(0));
    let places = places(path.as_deref(), &share);
    let rows = database.session.query(INSTALLED, &[]).await?;
    let (mut absent, mut stuck, mut older, mut differing) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
    let mut dropped = Vec::new();
    for row in &rows {
        let (name, version): (&str, &str) = (row.get(0), row.get(1));
        let Some(offered) = Offered::find(name, &places, &share) else {
            absent.push((name.to_owned(), version.to_owned()));
            continue;
        };
        let step = format!("{name} {version} → {}", offered.version);
        if offered.version == version {
            continue;
        }
        differing.insert(name.to_owned(), step.clone());
        if let Some(path) = offered.path_from(version) {
            dropped.extend(offered.drops(name, &path).into_iter().map(|member| (name.to_owned(), member)));
            older.push((name.to_owned(), step));
        } else {
            let by = offered.updatable_from().into_iter().map(str::to_owned).collect();
            stuck.push(Stuck { name: name.to_owned(), step, by, next: None });
        }
    }
    lead_on(database, &mut stuck).await?;
    let kept_back = kept_back(database, &dropped, &mut older).await?;
    let mut findings = findings(database, &absent, &stuck, older);
    findings.extend(kept_back);
    findings.extend(types(database, &differing).await?);
    Ok(findings)
}

/// Tables whose columns are of types that the target has in another version.
async fn types(database: &Entered, differing: &BTreeMap<String, String>) -> Result<Option<Finding>, PgError> {
    if differing.is_empty() {
        return Ok(None);
    }
    let names: Vec<_> = differing.keys().cloned().collect();
    let rows = database.session.query(COLUMNS, &[&names]).await?;
    let mut columns: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in &rows {
        columns.entry(row.get(0)).or_default().push(row.get(1));
    }
    if columns.is_empty() {
        return Ok(None);
    }
    let each = columns.iter().map(|(extension, columns)| {
        let (first, others) = (columns[0], columns.len() - 1);
        let more = if others == 0 { String::new() } else { format!(" and {}", counted(others, "other")) };
        format!("{} in {first}{more}", differing[*extension])
    });
    let each: Vec<_> = each.collect();
    let count = counted(rows.len(), "column");
    let message = format!(
        "{count} of database `{}` of extensions' types that change their version: {}",
        database.name,
        listed(&each)
    );
    Ok(Some(
        Finding::note("extension.types_differ", message)
            .because("what one version writes, stored or as text, the other has to read as the same value")
            .number("columns", rows.len())
            .objects(rows.iter().map(|row| row.get::<_, String>(1)))
            .fix("pgleap verify  # before the switchover: every row is compared by its text"),
    ))
}

/// Returns the statement that brings an extension to the version of its installation.
fn update(name: &str) -> String {
    format!("ALTER EXTENSION {} UPDATE;", ident::quote(name))
}

/// Extensions whose update would drop what something else uses; they are taken out of `older`.
async fn kept_back(
    database: &Entered,
    dropped: &[(String, String)],
    older: &mut Vec<(String, String)>,
) -> Result<Option<Finding>, PgError> {
    if dropped.is_empty() {
        return Ok(None);
    }
    let (names, members): (Vec<_>, Vec<_>) = dropped.iter().map(|(name, member)| (&**name, &**member)).unzip();
    let rows = database.session.query(USERS, &[&names, &members]).await?;
    let users: Vec<(&str, &str)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    if users.is_empty() {
        return Ok(None);
    }
    let (kept, free) =
        std::mem::take(older).into_iter().partition(|(name, _)| users.iter().any(|(user, _)| user == name));
    *older = free;
    let kept: BTreeMap<String, String> = kept.into_iter().collect();
    let each: Vec<_> = users.iter().map(|(name, user)| format!("{user}, {}", kept[*name])).collect();
    let message = format!(
        "{} of database `{}` would have to be dropped for an update of extensions: {}",
        counted(users.len(), "object"),
        database.name,
        listed(&each)
    );
    let of_rows = |column: usize| rows.iter().filter_map(move |row| row.get::<_, Option<String>>(column));
    let other = rows.iter().filter(|row| row.get::<_, Option<&str>>(2).is_none()).map(|row| row.get::<_, &str>(1));
    let lines = std::iter::once(format!("-- on the target\n\\c {}\nBEGIN;", ident::quote(&database.name)))
        .chain(other.map(|user| format!("-- drop {user}, and make it again below")))
        .chain(of_rows(2))
        .chain(kept.keys().map(|name| update(name)))
        .chain(of_rows(3))
        .chain(["COMMIT;".to_owned()]);
    Ok(Some(
        Finding::warning("extension.kept_back", message)
            .because(
                "the update drops what they use and makes it anew, so it fails: the extension stays in its old version",
            )
            .objects(users.iter().map(|(_, user)| *user))
            .fix(lines.collect::<Vec<_>>().join("\n")),
    ))
}

/// An extension in a version that no script of the target leads on from.
struct Stuck {
    name: String,
    /// `hstore 1.0 → 1.8`.
    step: String,
    /// Versions that the target's scripts lead on from.
    by: Vec<String>,
    /// The one of them that the source can bring it to.
    next: Option<String>,
}

/// Asks the source which versions its own scripts lead to.
async fn lead_on(database: &Entered, stuck: &mut [Stuck]) -> Result<(), PgError> {
    let names: Vec<_> = stuck.iter().filter(|stuck| !stuck.by.is_empty()).map(|stuck| stuck.name.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let rows = database.session.query(REACHED, &[&names]).await?;
    let reached: HashSet<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for stuck in stuck {
        let newest = stuck.by.iter().rev().find(|by| reached.contains(&(stuck.name.clone(), (*by).clone())));
        stuck.next = newest.cloned();
    }
    Ok(())
}

/// Returns the command that brings packages of the source's extensions to this host: for the target's major, or newer ones of their
/// own. Which package a file is of, the host's own package manager knows.
fn packages(database: &Entered, names: &[&str], newer: bool) -> String {
    let (from, to) = (database.from, database.to);
    let share = database.programs.source.as_ref().and_then(share).unwrap_or_else(|| Path::new("…").to_owned());
    let share = std::fs::canonicalize(&share).unwrap_or(share);
    let files: Vec<_> = names.iter().map(|name| format!("{}/extension/{name}.control", share.display())).collect();
    let (files, has_dpkg) = (files.join(" "), Path::new("/usr/bin/dpkg").exists());
    let careful = "# look first at what this replaces: with the source's server in it, it restarts that\n";
    match (has_dpkg, newer) {
        (true, true) => format!("{careful}apt-get install --only-upgrade $(dpkg -S {files} | cut -d: -f1 | sort -u)"),
        (true, false) => format!("apt-get install $(dpkg -S {files} | cut -d: -f1 | sort -u | sed s/{from}/{to}/)"),
        (false, true) => format!("{careful}dnf upgrade $(rpm -qf --qf '%{{NAME}}\\n' {files} | sort -u)"),
        (false, false) => format!("dnf install $(rpm -qf --qf '%{{NAME}}\\n' {files} | sort -u | sed s/{from}/{to}/)"),
    }
}

fn findings(
    database: &Entered,
    absent: &[(String, String)],
    stuck: &[Stuck],
    older: Vec<(String, String)>,
) -> Vec<Finding> {
    let (to, name) = (database.to, &database.name);
    let entered = format!("\\c {}", ident::quote(name));
    let mut findings = Vec::new();
    if !absent.is_empty() {
        let names: Vec<_> = absent.iter().map(|(name, _)| name.as_str()).collect();
        let dropped: Vec<_> = names.iter().map(|name| format!("DROP EXTENSION {};", ident::quote(name))).collect();
        let absent: Vec<_> = absent.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let message = format!(
            "PostgreSQL {to} on this host does not have {} of database `{name}`: {}",
            counted(absent.len(), "extension"),
            listed(&absent)
        );
        findings.push(
            Finding::warning("extension.not_on_target", message)
                .because("pg_upgrade carries what they made, but they can be neither updated nor dumped and restored")
                .objects(absent)
                .fix(format!(
                    "{}  # on this host\n-- or on the source, where nothing needs them:\n{entered}\n{}",
                    packages(database, &names, false),
                    dropped.join("\n")
                )),
        );
    }
    if !stuck.is_empty() {
        let count = stuck.len();
        let steps: Vec<_> = stuck.iter().map(|stuck| stuck.step.as_str()).collect();
        let message = format!(
            "{} of database `{name}` {} no way to the version of PostgreSQL {to}: {}",
            counted(count, "extension"),
            has(count),
            listed(&steps)
        );
        findings.push(
            Finding::warning("extension.no_update_path", message)
                .because("it stays in its old version on the target, with the new library, which need not know it")
                .objects(steps)
                .fix(remedy(database, stuck)),
        );
    }
    if !older.is_empty() {
        let count = older.len();
        let (names, steps): (Vec<_>, Vec<_>) = older.into_iter().unzip();
        let statements: Vec<_> = names.iter().map(|name| update(name)).collect();
        let message = format!(
            "{} of database `{name}` {} a newer version in PostgreSQL {to}: {}",
            counted(count, "extension"),
            has(count),
            listed(&steps)
        );
        findings.push(
            Finding::note("extension.older", message)
                .because("pgleap updates them on the target, before anybody works there")
                .objects(steps)
                .fix(format!("{entered}\n{}  -- on the target, by hand", statements.join("\n"))),
        );
    }
    findings
}

/// First what leads on by the source's own scripts, then what newer scripts are needed for.
fn remedy(database: &Entered, stuck: &[Stuck]) -> String {
    let (to, mut lines) = (database.to, Vec::new());
    let (ways, none): (Vec<_>, Vec<_>) = stuck.iter().partition(|stuck| stuck.next.is_some());
    if !ways.is_empty() {
        lines.push(format!("\\c {}", ident::quote(&database.name)));
    }
    for Stuck { name, next, .. } in ways {
        let next = next.as_deref().map(ident::literal).unwrap_or_default();
        let name = ident::quote(name);
        lines.push(format!(
            "ALTER EXTENSION {name} UPDATE TO {next};  -- on the source: PostgreSQL {to} leads on from there"
        ));
    }
    if !none.is_empty() {
        let names: Vec<_> = none.iter().map(|stuck| stuck.name.as_str()).collect();
        lines.push(format!("{}  # on this host, then look again", packages(database, &names, true)));
    }
    for Stuck { name, by, .. } in none {
        let by = if by.is_empty() { "no other version".to_owned() } else { listed(by) };
        lines.push(format!(
            "-- {name}: PostgreSQL {to} has scripts from {by}, and the source's own lead to none of them"
        ));
    }
    lines.join("\n")
}

/// Returns where an installation keeps what does not depend on the machine, by an extension that each has.
fn share(installation: &Installation) -> Option<PathBuf> {
    // what lies beside the real programs, as the server would look for it
    let bindir = std::fs::canonicalize(&installation.bindir).ok()?;
    let debian = format!("../../../../share/postgresql/{}", installation.major);
    let homebrew = format!("../share/postgresql@{}", installation.major);
    let below = ["../share/postgresql", "../share", "../share/pgsql", &debian, &homebrew];
    below.iter().map(|dir| bindir.join(dir)).find(|dir| dir.join("extension/plpgsql.control").is_file())
}

/// Returns the directories of control files, first to last.
fn places(path: Option<&str>, share: &Path) -> Vec<PathBuf> {
    let own = share.join("extension");
    let place = |part: &str| if part == "$system" { own.clone() } else { Path::new(part).join("extension") };
    match path.filter(|path| !path.is_empty()) {
        Some(path) => path.split(':').map(place).collect(),
        None => vec![own],
    }
}

/// An extension as an installation has it.
struct Offered {
    /// The version that it would be made in.
    version: String,
    /// Scripts that lead from one version to another, in order.
    scripts: BTreeSet<(String, String)>,
    /// Where they are.
    place: PathBuf,
}

impl Offered {
    fn find(name: &str, places: &[PathBuf], share: &Path) -> Option<Self> {
        let control = format!("{name}.control");
        let place = places.iter().find(|place| place.join(&control).is_file())?;
        let text = std::fs::read_to_string(place.join(control)).ok()?;
        let place = value(&text, "directory").map_or_else(|| place.clone(), |directory| share.join(directory));
        let names = std::fs::read_dir(&place).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let scripts = names.filter_map(|file| update_of(name, &file)).collect();
        Some(Self { version: value(&text, "default_version")?, scripts, place })
    }

    /// Returns the fewest scripts that lead from `version` to its own; `None` if none do.
    fn path_from(&self, version: &str) -> Option<Vec<(&str, &str)>> {
        let mut reached = HashSet::from([version]);
        let mut next = VecDeque::from([(version, Vec::new())]);
        while let Some((version, path)) = next.pop_front() {
            if version == self.version {
                return Some(path);
            }
            for (from, to) in self.scripts.iter().filter(|(from, _)| from == version) {
                if reached.insert(to) {
                    next.push_back((to, [&*path, &[(&**from, &**to)]].concat()));
                }
            }
        }
        None
    }

    /// Returns the names of what these scripts drop.
    fn drops(&self, name: &str, path: &[(&str, &str)]) -> BTreeSet<String> {
        let scripts = path.iter().map(|(from, to)| self.place.join(format!("{name}--{from}--{to}.sql")));
        scripts.flat_map(|script| dropped(&std::fs::read_to_string(script).unwrap_or_default())).collect()
    }

    /// Returns the versions from which scripts lead to its own.
    fn updatable_from(&self) -> Vec<&str> {
        let all: BTreeSet<&str> = self.scripts.iter().map(|(from, _)| from.as_str()).collect();
        all.into_iter().filter(|version| *version != self.version && self.path_from(version).is_some()).collect()
    }
}

/// Returns the versions of `name--from--to.sql`.
fn update_of(name: &str, file: &str) -> Option<(String, String)> {
    let versions = file.strip_prefix(name)?.strip_prefix("--")?.strip_suffix(".sql")?;
    let (from, to) = versions.split_once("--")?;
    Some((from.to_owned(), to.to_owned()))
}

/// Returns the names of relations, functions and types that a script drops, without their schemas.
fn dropped(script: &str) -> BTreeSet<String> {
    let code = script.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let mut words = code.split(|c: char| c.is_whitespace() || "();,".contains(c)).filter(|word| !word.is_empty());
    let kinds = ["view", "function", "procedure", "aggregate", "type", "domain", "table"];
    let mut names = BTreeSet::new();
    while let Some(word) = words.next() {
        if !word.eq_ignore_ascii_case("drop")
            || !words.next().is_some_and(|kind| kinds.contains(&&*kind.to_lowercase()))
        {
            continue;
        }
        let name = words.find(|word| !["if", "exists"].contains(&&*word.to_lowercase())).unwrap_or_default();
        let name = name.rsplit('.').next().unwrap_or_default().trim_matches('"');
        names.insert(name.to_owned());
    }
    names
}

/// Returns a value of a control file: `key = 'value'  # comment`.
fn value(control: &str, key: &str) -> Option<String> {
    let of_key = |line: &&str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    let (_, value) = control.lines().find(of_key)?.split_once('=')?;
    let value = value.trim();
    Some(match value.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next()?.to_owned(),
        None => value.split('#').next()?.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn way_to_the_new_version_may_lead_over_others() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("extension");
        std::fs::create_dir(&place).unwrap();
        let files = ["x--1.0.sql", "x--1.0--1.1.sql", "x--1.1--1.2.sql", "x--0.8--0.9.sql", "xy--0.8--1.2.sql"];
        files.iter().for_each(|file| std::fs::write(place.join(file), "").unwrap());
        std::fs::write(place.join("x.control"), "# x\ncomment = 'a = b'\ndefault_version = '1.2'  # newest\n").unwrap();
        let offered = Offered::find("x", std::slice::from_ref(&place), root.path()).unwrap();
        assert_eq!(offered.version, "1.2");
        assert_eq!(offered.path_from("1.0").unwrap(), [("1.0", "1.1"), ("1.1", "1.2")]);
        assert!(offered.path_from("1.2").is_some_and(|path| path.is_empty()) && offered.path_from("0.8").is_none());
        assert_eq!(offered.updatable_from(), ["1.0", "1.1"]);
        assert!(Offered::find("y", &[place], root.path()).is_none());
    }

    #[test]
    fn what_a_script_drops_is_read_without_schemas_and_comments() {
        let script = "/* x */\nALTER EXTENSION x DROP VIEW seen;\n-- DROP VIEW not_this;\nDROP VIEW IF EXISTS s.seen;\n\
                      drop function counted(\n  bool);\nDROP OPERATOR CLASS y USING gist; DROP CAST (a AS b);";
        assert_eq!(dropped(script), ["counted", "seen"].map(str::to_owned).into());
    }

    #[test]
    fn places_are_those_of_the_setting_in_its_order() {
        let share = Path::new("/s");
        assert_eq!(places(None, share), [Path::new("/s/extension")]);
        assert_eq!(places(Some("/mine:$system"), share), [Path::new("/mine/extension"), Path::new("/s/extension")]);
    }
}
