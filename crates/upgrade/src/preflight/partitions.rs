//! Tables partitioned by time that run out of partitions while the target follows.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    finding::{counted, listed},
    source::Entered,
};
use crate::pg::ident;

const ENDING: &str = include_str!("sql/list_ending_partitions.sql");

/// An upgrade is begun, watched, switched over and finished within this.
const SOON_DAYS: i32 = 14;

pub(super) const ABOUT: About = About {
    check: "partitions",
    topic: Topic::Tables,
    reads: "tables partitioned by ranges of a date or a time without a default partition, and where their newest partition ends",
    why: "Whoever makes the next partition, a job or a person, does DDL, which no publication carries: the first row for it stops \
          replication, in either direction, until the other side has it too. Partitions that are made before the copy is taken are \
          on both sides. `scheduled_jobs` tells of pg_partman.",
    findings: &[warning(
        "partition.ends_soon",
        Applied::ByHand("names, storage and rights of partitions are the application's to say."),
    )],
};

struct Ending {
    table: String,
    owner: String,
    partitions: i64,
    ends: String,
    /// Statements that make further ones.
    more: Vec<String>,
}

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(ENDING, &[&SOON_DAYS]).await?;
    let read = |row: &tokio_postgres::Row| Ending {
        table: row.get("table_name"),
        owner: row.get("owner"),
        partitions: row.get("partitions"),
        ends: row.get("ends"),
        more: row.get("more"),
    };
    Ok(judge(&database.name, &rows.iter().map(read).collect::<Vec<_>>()).into_iter().collect())
}

fn judge(database: &str, tables: &[Ending]) -> Option<Finding> {
    let first = tables.first()?;
    let named = |table: &Ending| {
        let partitions = counted(usize::try_from(table.partitions).unwrap_or_default(), "partition");
        format!("{} ({partitions}, up to {})", table.table, table.ends)
    };
    let names: Vec<_> = tables.iter().map(named).collect();
    let message = format!(
        "{} of database `{database}` without a partition for {SOON_DAYS} days from now: {}",
        counted(tables.len(), "table"),
        listed(&names)
    );
    let remedy = tables.iter().map(|Ending { table, owner, ends, more, .. }| {
        let more = match more.as_slice() {
            [] => format!("CREATE TABLE … PARTITION OF {table} FOR VALUES FROM ('{ends}') TO (…);"),
            more => more.join("\n"),
        };
        format!("SET ROLE {};\n{more}", ident::quote(owner))
    });
    Some(
        Finding::warning("partition.ends_soon", message)
            .because(format!(
                "a row after {} has no partition; whoever makes one while the target follows does DDL, which is not replicated: make \
                 it ahead",
                first.ends
            ))
            .number("tables", tables.len())
            .objects(tables.iter().map(|table| table.table.clone()))
            .fix(format!(
                "-- before `pgleap run`; later, on both sides. Each takes the table for a moment: nobody waits long behind it\n\
                 \\c {}\nSET lock_timeout = '300ms';\n{}\nRESET ROLE;",
                ident::quote(database),
                remedy.collect::<Vec<_>>().join("\n")
            )),
    )
}
