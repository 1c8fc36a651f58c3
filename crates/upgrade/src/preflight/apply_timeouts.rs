//! Timeouts that would end the workers that apply changes.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::listed,
    source::{Given, Source},
};
use crate::{pg::ident, world::World};

/// pgleap's own sessions have values of their own, so what a worker gets is read where it is given.
const IN_FILES: &str = "
    SELECT name, setting FROM pg_catalog.pg_file_settings WHERE applied AND name = ANY($1::text[]) ORDER BY 1";

/// Seen to end an apply worker on 18; `statement_timeout` and those of idle sessions do not.
const ENDING: [&str; 2] = ["lock_timeout", "transaction_timeout"];

pub(super) const ABOUT: About = About {
    check: "apply_timeouts",
    topic: Topic::Replication,
    reads: "`lock_timeout` and `transaction_timeout` in files, of pgleap's role and of the databases",
    why: "They hold for the workers that apply changes too: one that waits for a lock, or applies a large transaction, is ended \
          and begins again, and a transaction that takes longer than that is never applied. The target gets the source's \
          settings, and for the way back the source has them itself.",
    findings: &[blocker(
        "timeout.ends_apply",
        Applied::ByHand("what the limits guard against is the operator's to say."),
    )],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let names: Vec<_> = ENDING.iter().map(|name| (*name).to_owned()).collect();
    let rows = source.session.query(IN_FILES, &[&names]).await?;
    let in_files: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    // a worker has the settings of its database and of the subscription's owner, who is pgleap's role
    let (user, databases) = (&world.source.endpoint.user, source.names());
    let concerns = |given: &&Given| {
        ENDING.contains(&given.name.as_str())
            && given.role.as_ref().is_none_or(|role| role == user)
            && given.database.as_ref().is_none_or(|database| databases.contains(database))
    };
    let given: Vec<_> = source.given.iter().filter(concerns).cloned().collect();
    Ok(judge(user, &in_files, &given).into_iter().collect())
}

fn judge(user: &str, in_files: &[(String, String)], given: &[Given]) -> Option<Finding> {
    let none = |value: &str| value.trim_end_matches(|c: char| c.is_alphabetic() || c == ' ') == "0";
    // pgleap's role with none of its own overrides what the file says, and what a database or every role has
    let own = |given: &Given| given.role.as_deref() == Some(user) && given.database.is_none();
    let overridden = |name: &str| given.iter().any(|given| given.name == name && own(given) && none(&given.value));
    let (mut names, mut remedy) = (Vec::new(), Vec::new());
    for (name, value) in in_files.iter().filter(|(name, value)| !none(value) && !overridden(name)) {
        names.push(format!("{name} = {value} (postgresql.conf)"));
        remedy.push(format!("ALTER ROLE {} SET {name} = 0;", ident::quote(user)));
    }
    for given in given.iter().filter(|given| !none(&given.value) && !overridden(&given.name)) {
        names.push(format!("{} = {} ({})", given.name, given.value, given.place()));
        remedy.push(format!("ALTER {} RESET {};", given.owner(), given.name));
    }
    if names.is_empty() {
        return None;
    }
    remedy.dedup();
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

    fn given(value: &str, role: Option<&str>, database: Option<&str>) -> Given {
        let (role, database) = (role.map(str::to_owned), database.map(str::to_owned));
        Given { name: "lock_timeout".into(), value: value.into(), role, database }
    }

    #[test]
    fn timeout_of_the_file_is_set_aside_for_pgleaps_role_alone() {
        let file = |value: &str| [("lock_timeout".to_owned(), value.to_owned())];
        let finding = judge("admin", &file("5s"), &[]).unwrap();
        assert_eq!(finding.remedy.unwrap(), "ALTER ROLE \"admin\" SET lock_timeout = 0;");
        assert_eq!(judge("admin", &file("5s"), &[given("0", Some("admin"), None)]), None);
        assert_eq!(judge("admin", &file("0ms"), &[]), None);
    }

    #[test]
    fn timeout_is_taken_from_whom_it_was_given() {
        let remedy = |role, database| judge("admin", &[], &[given("5s", role, database)]).unwrap().remedy.unwrap();
        assert_eq!(remedy(None, None), "ALTER ROLE ALL RESET lock_timeout;");
        assert_eq!(remedy(None, Some("app")), "ALTER DATABASE \"app\" RESET lock_timeout;");
        assert_eq!(remedy(Some("admin"), Some("app")), "ALTER ROLE \"admin\" IN DATABASE \"app\" RESET lock_timeout;");
    }
}
