//! Tables that keep transaction ids or WAL positions, which mean nothing on another server.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    finding::{counted, listed},
    source::Entered,
};

/// A default is read as the server keeps it, by the oids of what it calls; what a trigger's function calls, by its text.
const KEPT: &str = r"
    WITH asking AS (
        SELECT ':funcid (' || pg_catalog.string_agg(oid::text, '|') || ') ' AS pattern FROM pg_catalog.pg_proc
         WHERE pronamespace = 'pg_catalog'::pg_catalog.regnamespace
           AND proname ~ '^(txid_current|pg_current_xact_id|pg_current_snapshot|pg_current_wal_(insert_|flush_)?lsn$)'
    ), tables AS (
        SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' AND c.oid >= 16384
           AND n.nspname <> 'pgleap'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
    )
    SELECT t.name || '.' || pg_catalog.quote_ident(a.attname)
      FROM tables AS t JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE a.atttypid = ANY('{xid8,txid_snapshot,pg_snapshot,pg_lsn}'::pg_catalog.regtype[]::oid[])
     UNION
    SELECT t.name || '.' || pg_catalog.quote_ident(a.attname)
      FROM asking CROSS JOIN tables AS t JOIN pg_catalog.pg_attrdef AS f ON f.adrelid = t.oid
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
     WHERE f.adbin::text ~ asking.pattern
     UNION
    SELECT t.name || ' by ' || p.oid::pg_catalog.regprocedure::text
      FROM tables AS t JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = t.oid AND NOT g.tgisinternal
      JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
     WHERE p.prosrc ~* '\m(txid_current|pg_current_xact_id|pg_current_wal_(insert_|flush_)?lsn)\M'
     ORDER BY 1";

pub(super) const ABOUT: About = About {
    check: "transaction_ids",
    topic: Topic::Tables,
    reads: "columns of types for transaction ids, snapshots and WAL positions, defaults that ask for the present one, and triggers \
            whose function does",
    why: "The target counts transactions and WAL by itself, and begins where the copy ended. Rows that came from the source hold \
          larger ids than the first that are written after the switchover: who polls for \"greater than the last that I saw\", as \
          many outboxes do, misses those, without an error. Who asks for `xmin` itself is not seen here.",
    findings: &[warning(
        "transaction_id.kept",
        Applied::ByHand("who reads them, and from where they begin anew, is the application's to say."),
    )],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let names: Vec<String> = database.session.query(KEPT, &[]).await?.iter().map(|row| row.get(0)).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let message = format!(
        "{} of database `{}` {} transaction ids or WAL positions: {}",
        counted(names.len(), "place"),
        database.name,
        if names.len() == 1 { "keeps" } else { "keep" },
        listed(&names)
    );
    Ok(vec![
        Finding::warning("transaction_id.kept", message)
            .because(
                "those of the target are others: new rows may hold smaller ones than rows that are there, and who polls for greater \
                 ones misses them",
            )
            .objects(names)
            .fix("let consumers read everything up to the switchover, then begin anew by a key or a sequence"),
    ])
}
