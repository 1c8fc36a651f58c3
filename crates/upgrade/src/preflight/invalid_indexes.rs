//! Indexes that a failed CREATE INDEX CONCURRENTLY left behind.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::{counted, listed},
    source::Entered,
};

/// Those that are being built are not among them; of a partitioned index its partitions count.
const INVALID: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname <> 'pg_toast'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index AS p
                        WHERE i.indexrelid = p.index_relid OR i.indrelid = p.relid)
     ORDER BY 1";

pub(super) const ABOUT: About = About {
    check: "invalid_indexes",
    topic: Topic::Objects,
    reads: "indexes that are not valid, those under construction apart",
    why: "They are kept up with every write on both sides and used by no query, and one that is meant to be unique is not.",
    findings: &[note("index.invalid", Applied::ByHand("whether an index is wanted is the application's to say."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let names: Vec<String> = database.session.query(INVALID, &[]).await?.iter().map(|row| row.get(0)).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let message =
        format!("database `{}` has {} not valid: {}", database.name, counted(names.len(), "index"), listed(&names));
    let remedy: Vec<_> =
        names.iter().map(|name| format!("REINDEX INDEX CONCURRENTLY {name};  -- or DROP INDEX")).collect();
    Ok(vec![
        Finding::note("index.invalid", message)
            .because("it costs every write and helps no query; the target has it too")
            .objects(names)
            .fix(remedy.join("\n")),
    ])
}
