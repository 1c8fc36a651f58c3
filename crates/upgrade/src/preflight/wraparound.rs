//! Whether transaction ids have room for days in which old rows stay.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    source::Source,
};
use crate::pg::ident;

const AGES: &str = "
    SELECT datname::text, pg_catalog.age(datfrozenxid)::bigint, pg_catalog.mxid_age(datminmxid)::bigint
      FROM pg_catalog.pg_database ORDER BY datname";

/// Half of what there is.
const OLD: i64 = 1_000_000_000;

pub(super) const ABOUT: About = About {
    check: "wraparound",
    topic: Topic::Activity,
    reads: "the age of the oldest transaction id and multixact id of every database",
    why: "The slots hold the catalog's old rows for as long as the upgrade takes, so they cannot be frozen: a cluster that is \
          close to the end of its transaction ids has no days to spare.",
    findings: &[warning("wraparound.near", Applied::ByHand("when tables are vacuumed is the operator's to say."))],
};

pub(super) async fn check(source: &Source) -> Answer {
    let rows = source.session.query(AGES, &[]).await?;
    let old = |row: &tokio_postgres::Row| too_old(row.get(0), row.get(1), row.get(2));
    Ok(rows.iter().filter_map(old).collect())
}

fn too_old(database: &str, xids: i64, multixacts: i64) -> Option<Finding> {
    let (age, what) = if xids >= multixacts { (xids, "transaction") } else { (multixacts, "multixact") };
    (age > OLD).then(|| {
        let message = format!("the oldest {what} id of database `{database}` is {} million ids old", age / 1_000_000);
        Finding::warning("wraparound.near", message)
            .because(
                "at 2000 million the server takes no writes any more, and the slots keep the catalog from being frozen",
            )
            .number("age", age)
            .in_database(database)
            .fix(format!("\\c {}\nVACUUM FREEZE;", ident::quote(database)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_past_half_of_its_ids_is_a_warning() {
        assert_eq!(too_old("app", OLD, OLD), None);
        assert!(
            too_old("app", OLD + 1, 0).unwrap().message.contains("transaction id of database `app` is 1000 million")
        );
        assert!(too_old("app", 0, OLD + 1).unwrap().message.contains("multixact"));
    }
}
