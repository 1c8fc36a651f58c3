//! Jobs that the database runs by itself, which the target would run too.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, note, warning},
    finding::{counted, listed},
    source::Entered,
};

/// By the tables that extensions keep their jobs in: a schema that nobody may look into is none of pgleap's role.
const KEEPERS: &str = "
    SELECT n.nspname::text, c.relname::text, pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND ((n.nspname = 'cron' AND c.relname = 'job') OR c.relname = 'part_config')
       AND EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid
                      AND a.attname IN ('active', 'automatic_maintenance') AND NOT a.attisdropped)
     ORDER BY 1, 2";

pub(super) const ABOUT: About = About {
    check: "scheduled_jobs",
    topic: Topic::Activity,
    reads: "active jobs of pg_cron, and the tables that pg_partman makes partitions for",
    why: "The target has the same jobs from its first start on, while it still follows: they run twice, and with pg_cron's \
          default they even run twice on the source, as a job names its port. Partitions that a job makes are DDL, which no \
          publication carries: the first row for one stops replication.",
    findings: &[
        blocker("job.runs_twice", Applied::ByHand("the target's settings are in `pgleap.toml`.")),
        note("job.off_on_target", Applied::ByHand("jobs are switched on again when the target serves.")),
        warning(
            "partition.made_by_job",
            Applied::ByHand("how far ahead partitions are made is the operator's to say."),
        ),
    ],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let mut findings = Vec::new();
    for row in database.session.query(KEEPERS, &[]).await? {
        let (table, place): (&str, &str) = (row.get(1), row.get(2));
        findings.extend(match table {
            "job" => cron(database, place).await?,
            _ => partman(database, place).await?,
        });
    }
    Ok(findings)
}

async fn cron(database: &Entered, place: &str) -> Result<Option<Finding>, crate::pg::PgError> {
    let jobs = format!("SELECT pg_catalog.left(command, 60) FROM {place} WHERE active ORDER BY jobid");
    let jobs: Vec<String> = database.session.query(&jobs, &[]).await?.iter().map(|row| row.get(0)).collect();
    if jobs.is_empty() {
        return Ok(None);
    }
    let message =
        format!("database `{}` has {} of pg_cron: {}", database.name, counted(jobs.len(), "active job"), listed(&jobs));
    let off = |(name, value): &(String, String)| {
        (name == "cron.launch_active_jobs" && matches!(value.as_str(), "off" | "false" | "no" | "0"))
            || (name == "shared_preload_libraries" && !value.contains("pg_cron"))
    };
    if database.target_settings.iter().any(off) {
        let finding = Finding::note("job.off_on_target", message).objects(jobs);
        let because = "they do not run on the target: switch them on there when it serves, and off on the source";
        return Ok(Some(finding.because(because)));
    }
    let because =
        "the target runs them too while it follows, and each job connects to the port that it names, the source's";
    Ok(Some(Finding::blocker("job.runs_twice", message).because(because).objects(jobs).fix(format!(
        "settings = {{ \"cron.launch_active_jobs\" = \"off\" }}  # under [target]\n\
             -- when the target serves, there: UPDATE {place} SET nodeport = pg_catalog.inet_server_port();\n\
             -- then ALTER SYSTEM SET cron.launch_active_jobs = on; SELECT pg_catalog.pg_reload_conf();"
    ))))
}

async fn partman(database: &Entered, place: &str) -> Result<Option<Finding>, crate::pg::PgError> {
    let tables = format!("SELECT parent_table::text FROM {place} WHERE automatic_maintenance = 'on' ORDER BY 1");
    let tables: Vec<String> = database.session.query(&tables, &[]).await?.iter().map(|row| row.get(0)).collect();
    if tables.is_empty() {
        return Ok(None);
    }
    let (name, count) = (&database.name, counted(tables.len(), "table"));
    let message = format!("pg_partman makes partitions for {count} of database `{name}`: {}", listed(&tables));
    Ok(Some(
        Finding::warning("partition.made_by_job", message)
            .because("a partition that is made while the target follows is not there: the first row in it stops replication")
            .objects(tables)
            .fix(format!(
                "UPDATE {place} SET premake = premake + 30;  -- enough for the whole upgrade; then run its maintenance once\n\
                 UPDATE {place} SET automatic_maintenance = 'off' WHERE automatic_maintenance = 'on';  -- until `pgleap finalize`"
            )),
    ))
}
