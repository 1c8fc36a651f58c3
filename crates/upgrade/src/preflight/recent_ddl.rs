//! DDL of late: who makes it must stop while the upgrade is under way.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::{counted, listed},
    source::Entered,
};

/// With `track_commit_timestamp` the last day is seen, else what is younger than the last checkpoint, whose next transaction
/// id is known. A database that is all new was just made, which says nothing of habits. Temporary tables do not count.
const CHANGED: &str = "
    WITH checkpoint AS (
        SELECT pg_catalog.split_part(next_xid, ':', 2)::pg_catalog.xid AS next, checkpoint_time AS time
          FROM pg_catalog.pg_control_checkpoint()
    ), relations AS (
        SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, c.xmin, pg_catalog.age(c.xmin) AS age
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
    ), changed AS (
        SELECT r.name, CASE WHEN pg_catalog.current_setting('track_commit_timestamp') = 'on'
                            THEN pg_catalog.pg_xact_commit_timestamp(r.xmin) > now() - interval '1 day'
                            ELSE r.age < pg_catalog.age(k.next) OR r.xmin = k.next END AS is_new
          FROM relations AS r CROSS JOIN checkpoint AS k WHERE r.age >= 0 AND r.age < 2000000000
    )
    SELECT coalesce(array_agg(name ORDER BY name) FILTER (WHERE is_new), '{}'),
           (SELECT count(*) FROM relations),
           CASE WHEN pg_catalog.current_setting('track_commit_timestamp') = 'on' THEN 'in the last 24 hours'
                ELSE 'since the checkpoint at ' || (SELECT pg_catalog.to_char(time, 'HH24:MI:SS') FROM checkpoint) END
      FROM changed";

pub(super) const ABOUT: About = About {
    check: "recent_ddl",
    topic: Topic::Activity,
    reads: "the transactions that last wrote the catalog's rows of tables and views",
    why: "DDL is not replicated: from the slots' creation until `pgleap finalize` a new column or table on one side stops \
          replication or is lost on the other. Who made some lately, a deployment or a job, is likely to make more.",
    findings: &[note("ddl.recent", Applied::ByHand("deployments are their owners'."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let row = database.session.query_one(CHANGED, &[]).await?;
    let (names, all, since): (Vec<String>, i64, &str) = (row.get(0), row.get(1), row.get(2));
    if names.is_empty() || i64::try_from(names.len()).is_ok_and(|count| count == all) {
        return Ok(Vec::new());
    }
    let count = counted(names.len(), "table or view").replace("table or views", "tables or views");
    let message =
        format!("{count} of database `{}` made, altered or emptied {since}: {}", database.name, listed(&names));
    Ok(vec![
        Finding::note("ddl.recent", message)
            .because("DDL does not reach the target: who makes it waits from `pgleap run` to `pgleap finalize`")
            .objects(names),
    ])
}
