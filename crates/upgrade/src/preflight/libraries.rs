//! Libraries that the target's installation lacks.

use std::path::{Path, PathBuf};

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::{counted, listed},
    source::Entered,
};

const NEEDED: &str = "
    SELECT p.probin, pg_catalog.string_agg(DISTINCT coalesce(e.extname::text, 'a function of its own'), ', ')
      FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
      LEFT JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
                                         AND d.deptype = 'e'
      LEFT JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
     WHERE l.lanname = 'c' AND p.probin IS NOT NULL AND p.oid >= 16384 GROUP BY 1 ORDER BY 1";

pub(super) const ABOUT: About = About {
    check: "libraries",
    topic: Topic::Objects,
    reads: "the libraries of extensions and of functions against the target's installation",
    why: "pg_upgrade refuses a cluster for one function whose library is not there, which shows only after the copy is made.",
    findings: &[blocker("library.missing", Applied::ByHand("packages of this host are its administrator's."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    // programs that are not here are a finding of their own, and a directory that is not found says nothing
    let installation = database.programs.target.as_ref();
    let Some(directory) = installation.and_then(|found| directory(&found.bindir)) else { return Ok(Vec::new()) };
    let rows = database.session.query(NEEDED, &[]).await?;
    let needed = rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, String>(1)));
    let missing: Vec<_> = needed.filter(|(library, _)| is_missing(library, &directory)).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let (to, name) = (database.to, &database.name);
    let names: Vec<_> = missing.iter().map(|(library, by)| format!("{library} ({by})")).collect();
    let count = counted(names.len(), "library").replace("librarys", "libraries");
    let message = format!("PostgreSQL {to} on this host lacks {count} of database `{name}`: {}", listed(&names));
    Ok(vec![
        Finding::blocker("library.missing", message)
            .because(format!("pg_upgrade refuses it; looked in {}", directory.display()))
            .objects(missing.into_iter().map(|(library, _)| library))
            .fix(format!(
                "install the packages of these extensions for PostgreSQL {to}, or DROP EXTENSION; a function that names a path: \
                 CREATE OR REPLACE FUNCTION … AS '$libdir/…'"
            )),
    ])
}

/// Returns where that installation has its libraries, by one that each has.
pub(super) fn directory(bindir: &Path) -> Option<PathBuf> {
    let below = ["../lib", "../lib/postgresql", "../lib64", "../lib64/postgresql"];
    below.iter().map(|dir| bindir.join(dir)).find(|dir| there(&dir.join("plpgsql")))
}

fn there(library: &Path) -> bool {
    let with = |extension: &str| library.with_file_name(format!("{}{extension}", name(library))).exists();
    library.is_file() || with(".so") || with(".dylib")
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A library is made for one major: one that is named by its path is the source's, whatever is there.
pub(super) fn is_missing(library: &str, directory: &Path) -> bool {
    let own = library.strip_prefix("$libdir/").unwrap_or(library);
    own.starts_with('/') || !there(&directory.join(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_is_looked_for_as_the_server_would() {
        let root = tempfile::tempdir().unwrap();
        let lib = root.path().join("lib");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::create_dir_all(root.path().join("bin")).unwrap();
        assert_eq!(directory(&root.path().join("bin")), None);
        std::fs::write(lib.join("plpgsql.so"), "").unwrap();
        let found = directory(&root.path().join("bin")).unwrap();
        assert!(!is_missing("$libdir/plpgsql", &found) && !is_missing("plpgsql.so", &found));
        assert!(
            is_missing("$libdir/postgis-3", &found) && is_missing(&lib.join("plpgsql.so").to_string_lossy(), &found)
        );
    }
}
