//! Whether the databases of the configuration are there, and what happens to the others.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    finding::listed,
    source::Source,
};
use crate::{config::Databases, pg::ident, world::World};

const ALL: &str = "
    SELECT datname::text, datallowconn, datistemplate FROM pg_catalog.pg_database
     WHERE datname <> 'template0' ORDER BY datname";

struct Seen {
    name: String,
    open: bool,
    template: bool,
}

pub(super) const ABOUT: About = About {
    check: "databases",
    topic: Topic::Objects,
    reads: "`pg_database`",
    why: "The copy holds the whole cluster, but only the databases of the upgrade are kept up to date; and \
          pg_upgrade enters every database, so it refuses one that takes no connections.",
    findings: &[
        blocker("database.closed", Applied::ByHand("somebody closed it for a reason.")),
        blocker("database.unknown", Applied::ByHand("the list of databases is in `pgleap.toml`.")),
        blocker("database.template", Applied::ByHand("a template may be needed as one.")),
        warning("database.not_kept_up", Applied::ByHand("the list of databases is in `pgleap.toml`.")),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let rows = source.session.query(ALL, &[]).await?;
    let seen: Vec<_> =
        rows.iter().map(|row| Seen { name: row.get(0), open: row.get(1), template: row.get(2) }).collect();
    let mut findings = Vec::new();
    for database in seen.iter().filter(|database| !database.open) {
        let name = &database.name;
        findings.push(
            Finding::blocker("database.closed", format!("database `{name}` takes no connections"))
                .because("pg_upgrade refuses a cluster with such a database, template0 apart")
                .in_database(name)
                .fix(format!("ALTER DATABASE {} ALLOW_CONNECTIONS true;", ident::quote(name))),
        );
    }
    if let Databases::Only(wanted) = &world.config.source.databases {
        findings.extend(compare(wanted, &seen));
    }
    Ok(findings)
}

fn compare(wanted: &[String], seen: &[Seen]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in wanted {
        match seen.iter().find(|database| database.name == *name) {
            None => findings.push(
                Finding::blocker("database.unknown", format!("the source has no database `{name}`"))
                    .objects([name])
                    .fix("correct the list under `source.databases`; names are case sensitive"),
            ),
            Some(database) if database.template => findings.push(
                Finding::blocker(
                    "database.template",
                    format!("database `{name}` is a template, and is not replicated"),
                )
                .in_database(name)
                .fix(format!("ALTER DATABASE {} IS_TEMPLATE false;", ident::quote(name))),
            ),
            Some(_) => {}
        }
    }
    let others = seen.iter().filter(|database| database.open && !database.template && !wanted.contains(&database.name));
    let others: Vec<_> = others.map(|database| database.name.as_str()).collect();
    if !others.is_empty() {
        let message = format!("not in `source.databases`: {}", listed(&others));
        findings.push(
            Finding::warning("database.not_kept_up", message)
                .because("they are in the copy as of its moment, and later writes to them do not reach the target")
                .objects(others)
                .fix("databases = \"all\"  # under [source]"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_compared_by_their_exact_names() {
        let seen = |name: &str, open, template| Seen { name: name.into(), open, template };
        let seen = [seen("app", true, false), seen("other", true, false), seen("template1", true, true)];
        let wanted = ["app", "App", "template1"].map(str::to_owned);
        let ids: Vec<_> = compare(&wanted, &seen).into_iter().map(|finding| (finding.id, finding.message)).collect();
        assert_eq!(
            ids,
            [
                ("database.unknown", "the source has no database `App`".to_owned()),
                ("database.template", "database `template1` is a template, and is not replicated".to_owned()),
                ("database.not_kept_up", "not in `source.databases`: `other`".to_owned()),
            ]
        );
    }
}
