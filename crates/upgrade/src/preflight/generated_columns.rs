//! Generated columns that rows would be found by.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::{counted, has, listed},
    source::Entered,
};

const IDENTITIES: &str = include_str!("sql/list_generated_identities.sql");

/// From here on a publisher refuses UPDATE and DELETE where an identity holds what is not published.
const REFUSED_SINCE: u16 = 18;

pub(super) const ABOUT: About = About {
    check: "generated_columns",
    topic: Topic::Tables,
    reads: "stored generated columns in primary keys, in identity indexes, and under REPLICA IDENTITY FULL",
    why: "They are not sent. Up to 17 the other side waits in vain for its key and replication stops; from 18 on UPDATE and \
          DELETE fail at once where the table is published: on the source at the start, or on the target when it serves, as it \
          publishes the way back.",
    findings: &[blocker("replica_identity.generated", Applied::ByHand("which key a table gets is the application's."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(IDENTITIES, &[]).await?;
    let tables = rows.iter().map(|row| Table { name: row.get(0), generated: row.get(1), is_full: row.get(2) });
    Ok(judge(database, &tables.collect::<Vec<_>>()).into_iter().collect())
}

struct Table {
    name: String,
    generated: Vec<String>,
    is_full: bool,
}

fn judge(database: &Entered, tables: &[Table]) -> Option<Finding> {
    let refused = database.to >= REFUSED_SINCE;
    // without the generated ones, all other columns find the row up to 17
    let tables: Vec<_> = tables.iter().filter(|table| refused || !table.is_full).collect();
    if tables.is_empty() {
        return None;
    }
    let named = |table: &&Table| format!("{} ({})", table.name, table.generated.join(", "));
    let names: Vec<_> = tables.iter().map(named).collect();
    let (count, name) = (tables.len(), &database.name);
    let message = format!(
        "{} of database `{name}` {} a generated column in the replica identity: {}",
        counted(count, "table"),
        has(count),
        listed(&names)
    );
    let cause = match (database.from >= REFUSED_SINCE, refused) {
        (true, _) => "once they are published, UPDATE and DELETE on them fail on the source",
        (false, true) => {
            "the target publishes the way back, and from 18 on UPDATE and DELETE on such tables fail there"
        }
        (false, false) => {
            "the column is not sent, so an UPDATE or DELETE cannot find its row and replication stops there"
        }
    };
    let remedy = tables.iter().map(|table| {
        format!(
            "CREATE UNIQUE INDEX … ON {0} (…);  -- of columns that are not null and not generated, then:\n\
             ALTER TABLE {0} REPLICA IDENTITY USING INDEX …;",
            table.name
        )
    });
    let finding = Finding::blocker("replica_identity.generated", message).because(cause).number("tables", count);
    Some(finding.fix(remedy.collect::<Vec<_>>().join("\n")).objects(tables.iter().map(|table| table.name.clone())))
}
