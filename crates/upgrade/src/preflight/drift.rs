//! What changes in the source while somebody gets ready, or while an upgrade is under way: looked at again and again.
//!
//! DDL is what is newer than a baseline: while an upgrade is under way, the transaction that made its publication; else the
//! moment at which the watch began. Reads only, by sessions that cannot
//! write. Does not see what was made and dropped between two looks.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    About, Applied, Entered, Finding, OF_DATABASE, OF_SOURCE, PATIENCE, Severity, Topic,
    about::{note, warning},
    answered,
    ddl::{Changed, roles_after},
    finding::{counted, listed},
    source::Source,
};
use crate::{config::Databases, pg::PgError, provision::prepare_databases::all_databases, world::World};

pub(super) const ABOUT: About = About {
    check: "drift",
    topic: Topic::Objects,
    reads: "in `pgleap check --watch`, the catalog rows that DDL changed since the upgrade began, or since the watch did",
    why: "Replication carries rows and no DDL. A table that is made while an upgrade is under way is not on the target, and its \
          rows are lost to it; a changed column stops replication; everything else is missing there, databases, roles and their \
          passwords too.",
    findings: &[
        warning(
            "ddl.database_made",
            Applied::ByHand("whether the database is needed on the target is its owner's to say."),
        ),
        warning("ddl.role_changed", Applied::ByHand("the target needs the same change, passwords too.")),
        warning("ddl.table_made", Applied::ByHand("whether the table is needed on the target is its owner's to say.")),
        warning("ddl.table_changed", Applied::ByHand("the target needs the same change, at the right moment.")),
        warning("ddl.table_dropped", Applied::ByHand("the target has it still, which is its owner's to judge.")),
        note("ddl.object_changed", Applied::ByHand("the target needs the same change.")),
    ],
};

/// Checks that are asked again, besides DDL: what a new table or a new object can bring.
const AGAIN: [&str; 6] = [
    "event_triggers",
    "foreign_tables",
    "materialized_views",
    "replica_identity",
    "replica_triggers",
    "unlogged_tables",
];

/// Checks of the source as a whole that are asked again: what would hold slots and the pause up comes and goes.
const AGAIN_OF_SOURCE: [&str; 2] = ["long_transactions", "prepared_transactions"];

const BASELINE: &str = "
    SELECT p.xmin::text, true FROM pg_catalog.pg_publication AS p WHERE p.pubname = $1
     UNION ALL
    SELECT ((pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint - 1) % 4294967296)::text, false
     ORDER BY 2 DESC LIMIT 1";

const TABLES: &str = "
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384 AND n.nspname <> 'pgleap'";

/// Follows what DDL changes on the source, in every database of the upgrade.
pub struct Drift {
    source: Source,
    databases: Vec<Followed>,
}

struct Followed {
    database: Entered,
    /// The transaction id that what is new has above it.
    baseline: String,
    /// An upgrade is under way.
    under_way: bool,
    /// The tables at the beginning.
    tables: BTreeMap<u32, String>,
}

impl Drift {
    /// Enters the source and each of its databases, and remembers what is there.
    ///
    /// # Errors
    /// The finding that says why one of them cannot be entered.
    pub async fn begin(world: &World) -> Result<Self, Finding> {
        let source = Source::open(world).await?;
        let mut databases = Vec::new();
        for name in source.names() {
            let followed = follow(world, &source, &name).await;
            databases.push(followed.map_err(|error| unreachable(&name, &error))?);
        }
        Ok(Self { source, databases })
    }

    /// Enters everything anew, where a connection was lost; what is compared with stays.
    ///
    /// # Errors
    /// The finding that says why a database cannot be entered.
    pub async fn enter_again(&mut self, world: &World) -> Result<(), Finding> {
        self.source = Source::open(world).await?;
        for followed in &mut self.databases {
            let name = followed.database.name.clone();
            let session = world.source.look(&name, PATIENCE).await;
            followed.database.session = Arc::new(session.map_err(|error| unreachable(&name, &error))?);
        }
        Ok(())
    }

    /// Whether an upgrade is under way, since whose beginning DDL is told.
    pub fn under_way(&self) -> bool {
        self.databases.iter().any(|followed| followed.under_way)
    }

    /// Databases that are not followed, though all are wanted, and roles that changed.
    async fn look_at_globals(&self, world: &World) -> Result<Vec<Finding>, PgError> {
        let session = &self.source.session;
        let since = if self.under_way() { "since the upgrade began" } else { "since the watch began" };
        let mut findings = Vec::new();
        if world.config.source.databases == Databases::All {
            // without a publication, it is not of the upgrade
            let known = |name: &String| {
                let of = self.databases.iter().find(|followed| followed.database.name == *name);
                of.is_some_and(|followed| followed.under_way == self.under_way())
            };
            let now = all_databases(session).await?.into_iter().map(|database| database.name);
            let made: Vec<String> = now.filter(|name| !known(name)).collect();
            if !made.is_empty() {
                let message = format!("{} made {since}: {}", counted(made.len(), "database"), listed(&made));
                let why = "a target that was made before it does not have it: a switchover is held until it is dropped, or left out on purpose";
                findings.push(Finding::warning("ddl.database_made", message).because(why).objects(made));
            }
        }
        let first = self.databases.iter().find(|followed| followed.under_way).or(self.databases.first());
        if let Some(followed) = first {
            let roles = roles_after(session, &followed.baseline).await?;
            if !roles.is_empty() {
                let message = format!("roles made or altered {since}: {}", listed(&roles));
                let why = "roles are not replicated: a switchover to a target that was made before is held until it has the same, passwords too";
                findings.push(Finding::warning("ddl.role_changed", message).because(why).objects(roles));
            }
        }
        Ok(findings)
    }

    /// Returns what there is now: DDL since the baseline, what the checks find that a new object can concern, and who is in a
    /// transaction for long.
    pub async fn look(&self, world: &World) -> Vec<Finding> {
        let globals = self.look_at_globals(world).await;
        let mut findings = answered(&ABOUT, Some(&self.source), globals.map_err(Into::into));
        for (about, ask) in OF_SOURCE.iter().filter(|(about, _)| AGAIN_OF_SOURCE.contains(&about.check)) {
            findings.extend(answered(about, Some(&self.source), ask(world, &self.source).await));
        }
        for followed in &self.databases {
            let mut of_database = answered(&ABOUT, Some(&self.source), followed.look().await.map_err(Into::into));
            for (about, ask) in OF_DATABASE.iter().filter(|(about, _)| AGAIN.contains(&about.check)) {
                of_database.extend(answered(about, Some(&self.source), ask(&followed.database).await));
            }
            findings.extend(of_database.into_iter().map(|finding| finding.in_database(&followed.database.name)));
        }
        super::unanswered_once(findings)
    }
}

fn unreachable(database: &str, error: &PgError) -> Finding {
    let finding = Finding::blocker("database.unreachable", format!("cannot follow database `{database}`"));
    finding.because(error.reason().unwrap_or_else(|| error.to_string())).in_database(database)
}

async fn follow(world: &World, source: &Source, name: &str) -> Result<Followed, PgError> {
    let database = Entered::enter(world, source, name.to_owned()).await?;
    let row = database.session.query_one(BASELINE, &[&world.publication()]).await?;
    let (baseline, under_way) = (row.get(0), row.get(1));
    let tables = tables(&database.session).await?;
    Ok(Followed { database, baseline, under_way, tables })
}

async fn tables(session: &crate::pg::Session) -> Result<BTreeMap<u32, String>, PgError> {
    Ok(session.query(TABLES, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

impl Followed {
    async fn look(&self) -> Result<Vec<Finding>, PgError> {
        let session = &self.database.session;
        let now = tables(session).await?;
        let dropped = self.tables.iter().filter(|(oid, _)| !now.contains_key(oid)).map(|(_, name)| name.clone());
        let dropped: Vec<String> = dropped.collect();
        let Changed { made, altered, others } = Changed::after(session, &self.baseline).await?;
        let since = if self.under_way { "since the upgrade began" } else { "since the watch began" };
        let (lost, stays) = ("its rows are not carried to a target that was made before it", "the target has it still");
        let stops = "where a column came, went or has another type, replication stops at the first row that the target cannot take";
        let missing = "replication carries rows and no DDL: the target does not have it";
        let kinds = [
            (Severity::Warning, "ddl.table_made", made, "table", "made", lost),
            (Severity::Warning, "ddl.table_changed", altered, "table", "changed", stops),
            (Severity::Warning, "ddl.table_dropped", dropped, "table", "dropped", stays),
            (Severity::Note, "ddl.object_changed", others, "object", "made or changed", missing),
        ];
        let findings = kinds.into_iter().filter(|(_, _, names, ..)| !names.is_empty());
        let findings = findings.map(|(severity, id, names, noun, verb, why)| {
            let message = format!("{} {verb} {since}: {}", counted(names.len(), noun), listed(&names));
            Finding::of(severity, id, message).because(why).objects(names)
        });
        Ok(findings.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_again_is_a_check() {
        let known: Vec<_> = OF_DATABASE.iter().map(|(about, _)| about.check).collect();
        assert!(AGAIN.iter().all(|check| known.contains(check)), "{known:?}");
        let known: Vec<_> = OF_SOURCE.iter().map(|(about, _)| about.check).collect();
        assert!(AGAIN_OF_SOURCE.iter().all(|check| known.contains(check)), "{known:?}");
    }
}
