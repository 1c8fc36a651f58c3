//! Triggers that fire where changes are applied.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, warning},
    finding::{counted, listed},
    fix::TriggerMode,
    source::Entered,
    table_owners::BY_OWNERS_SINCE,
};
use crate::pg::ident;

/// Applying fires row triggers, and those of TRUNCATE; other triggers of statements, and rules, it never comes by. A
/// partition's trigger is named by its parent's, where that fires too.
const FIRING: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(t.tgname), t.tgenabled = 'A'
      FROM pg_catalog.pg_trigger AS t
      JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_trigger AS parent ON parent.oid = t.tgparentid
     WHERE t.tgenabled IN ('A', 'R')
       AND (NOT t.tgisinternal OR t.tgconstraint = 0)  -- up to 14 a partition's trigger counts as internal
       AND (t.tgtype & 1 <> 0 OR t.tgtype & 32 <> 0)  -- TRIGGER_TYPE_ROW, TRIGGER_TYPE_TRUNCATE
       AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
       AND parent.tgenabled IS DISTINCT FROM 'A' AND parent.tgenabled IS DISTINCT FROM 'R'
     ORDER BY 1, 2";

pub(super) const ABOUT: About = About {
    check: "replica_triggers",
    topic: Topic::Tables,
    reads: "triggers that are enabled ALWAYS or for REPLICA",
    why: "The apply worker works with `session_replication_role = replica`. What such a trigger writes on the side \
          that serves is carried like any row, and it writes it on the other side again. What sees to deferrable constraints, unique \
          ones and exclusions, are triggers that do not fire there, and need not: what is applied has passed them. Others are looked \
          at row by row, as they were.",
    findings: &[warning("trigger.fires_on_apply", Applied::ByPgleap)],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(FIRING, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let (mut names, mut fixes) = (Vec::new(), Vec::new());
    let mut remedy = vec![format!("\\c {}", ident::quote(&database.name))];
    for row in &rows {
        let (table, trigger, always): (&str, &str, bool) = (row.get(0), row.get(1), row.get(2));
        // on the source, neither changes what happens for ordinary sessions
        let (was, mode) = if always { ("ALWAYS", TriggerMode::Enable) } else { ("REPLICA", TriggerMode::Disable) };
        names.push(format!("{table}.{trigger} ({was})"));
        let database = database.name.clone();
        let fix = Fix::Trigger { database, table: table.to_owned(), trigger: trigger.to_owned(), mode };
        remedy.push(format!("{}  -- after `pgleap finalize`: ENABLE {was} TRIGGER", fix.sql()));
        fixes.push(fix);
    }
    let message = format!(
        "database `{}` has {} enabled for replicas: {}",
        database.name,
        counted(names.len(), "trigger"),
        listed(&names)
    );
    let rights = if database.to >= BY_OWNERS_SINCE && !database.run_as_owner {
        "; unless SECURITY DEFINER, they run there with the rights of the table's owner"
    } else {
        ""
    };
    Ok(vec![
        Finding::warning("trigger.fires_on_apply", message)
            .because(format!(
                "where changes are applied they fire again: rows that they write come twice and can stop replication, and \
                 what they do outside of the database is done twice{rights}",
            ))
            .fix(remedy.join("\n"))
            .fixes(fixes)
            .number("triggers", names.len())
            .objects(names),
    ])
}
