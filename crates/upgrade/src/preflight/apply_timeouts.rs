//! Timeouts that would end the workers that apply changes.

use std::collections::BTreeSet;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::listed,
    source::{Given, Source},
};
use crate::{pg::ident, world::World};

/// Seen on 18: either ends an apply worker, and the second the sender of a large transaction too; `statement_timeout` and those of
/// idle sessions end neither.
const ENDING: [&str; 2] = ["lock_timeout", "transaction_timeout"];

pub(super) const ABOUT: About = About {
    check: "apply_timeouts",
    topic: Topic::Replication,
    reads: "`lock_timeout` and `transaction_timeout` in files and under `target.settings`, of pgleap's role and of the databases",
    why: "They hold for the workers that apply changes too: one that waits for a lock, or applies a large transaction, is ended \
          and begins again, and a transaction that takes longer than that is never applied. `transaction_timeout` ends those who \
          send such a transaction as well, and pgleap's own long looks. The target gets the source's settings, and for the way \
          back the source has them itself. Limits of statements and of idle sessions do no harm here.",
    findings: &[blocker(
        "timeout.ends_apply",
        Applied::ByHand("what the limits guard against is the operator's to say."),
    )],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let of_files = source.in_files(&ENDING).await?.into_iter();
    let of_files = of_files.map(|in_file| Limit::of_all(in_file.name, in_file.value, "postgresql.conf"));
    let is_ending = |name: &str| ENDING.contains(&name);
    let of_target = world.config.target.settings.iter().filter(|(name, _)| is_ending(name));
    let of_target = of_target.map(|(name, value)| Limit::of_all(name.clone(), value.clone(), "target.settings"));
    let given = source.given.iter().filter(|given| is_ending(&given.name));
    let limits: Vec<_> = of_files.chain(of_target).chain(given.map(Limit::given)).collect();
    Ok(judge(&world.source.endpoint.user, &source.names(), &limits).into_iter().collect())
}

/// A limit, and for whom it is.
#[derive(Debug)]
struct Limit {
    given: Given,
    place: String,
    is_given: bool,
}

impl Limit {
    fn of_all(name: String, value: String, place: &str) -> Self {
        let given = Given { name, value, role: None, database: None };
        Self { given, place: place.to_owned(), is_given: false }
    }

    fn given(given: &Given) -> Self {
        Self { given: given.clone(), place: given.place(), is_given: true }
    }

    /// What counts more is higher: a role in a database, the role, the database, every role, the files.
    fn rank(&self) -> (bool, bool, bool) {
        (self.given.role.is_some(), self.given.database.is_some(), self.is_given)
    }

    fn concerns(&self, user: &str, database: &str) -> bool {
        self.given.role.as_deref().is_none_or(|role| role == user)
            && self.given.database.as_deref().is_none_or(|of| of == database)
    }

    fn is_none(&self) -> bool {
        self.given.value.trim_end_matches(|c: char| c.is_alphabetic() || c == ' ') == "0"
    }
}

/// Workers and senders have the settings of their database and of pgleap's role, which owns the subscriptions.
fn judge(user: &str, databases: &[String], limits: &[Limit]) -> Option<Finding> {
    let (mut names, mut remedy) = (Vec::new(), Vec::new());
    for name in ENDING {
        for database in databases {
            let concerns = limits.iter().filter(|limit| limit.given.name == name && limit.concerns(user, database));
            let highest = concerns.clone().map(Limit::rank).max();
            for limit in concerns.filter(|limit| Some(limit.rank()) == highest && !limit.is_none()) {
                names.push(format!("{name} = {} ({})", limit.given.value, limit.place));
                // the role's own value goes before all but one for it in this database
                remedy.push(match (&limit.given.role, &limit.given.database) {
                    (Some(_), Some(_)) => format!("ALTER {} SET {name} = 0;", limit.given.owner()),
                    _ => format!("ALTER ROLE {} SET {name} = 0;", ident::quote(user)),
                });
            }
        }
    }
    let unique = |all: Vec<String>| -> Vec<String> { all.into_iter().collect::<BTreeSet<_>>().into_iter().collect() };
    let (names, remedy) = (unique(names), unique(remedy));
    if names.is_empty() {
        return None;
    }
    let message = format!("workers that apply changes would be ended by {}", listed(&names));
    Some(
        Finding::blocker("timeout.ends_apply", message)
            .because("a change that waits longer for a lock, or a transaction that takes longer, is never applied")
            .objects(names)
            .fix(remedy.join("\n")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(value: &str, role: Option<&str>, database: Option<&str>) -> Limit {
        let (role, database) = (role.map(str::to_owned), database.map(str::to_owned));
        Limit::given(&Given { name: "lock_timeout".into(), value: value.into(), role, database })
    }

    fn remedy(limits: &[Limit]) -> Option<String> {
        judge("admin", &["app".into(), "other".into()], limits).map(|finding| finding.remedy.unwrap())
    }

    #[test]
    fn limit_is_set_aside_for_pgleaps_role_alone() {
        let file = |value: &str| Limit::of_all("lock_timeout".into(), value.into(), "postgresql.conf");
        let set_aside = Some("ALTER ROLE \"admin\" SET lock_timeout = 0;".to_owned());
        assert_eq!(remedy(&[file("5s")]), set_aside);
        assert_eq!(remedy(&[given("5s", None, None)]), set_aside);
        assert_eq!(remedy(&[given("5s", None, Some("app"))]), set_aside);
        assert_eq!(remedy(&[file("5s"), given("5s", None, Some("app")), given("0", Some("admin"), None)]), None);
        assert_eq!(remedy(&[file("0ms"), given("5s", Some("clerk"), None), given("5s", None, Some("x"))]), None);
    }

    #[test]
    fn what_counts_is_what_the_server_would_take() {
        let of_both = || given("5s", Some("admin"), Some("app"));
        let in_app = Some("ALTER ROLE \"admin\" IN DATABASE \"app\" SET lock_timeout = 0;".to_owned());
        assert_eq!(remedy(&[given("0", Some("admin"), None), of_both()]), in_app);
        let elsewhere = given("0", Some("admin"), Some("app"));
        let names = judge("admin", &["app".into()], &[given("5s", Some("admin"), None), elsewhere]);
        assert_eq!(names, None, "the value for both goes before that of the role");
    }
}
