//! Timeouts that would end the workers that apply changes.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::listed,
    source::Source,
};
use crate::{pg::ident, world::World};

/// pgleap's own sessions have values of their own, so what a worker gets is read where it is given. A worker has the settings
/// of its database and of the subscription's owner, who is pgleap's role.
const GIVEN: &str = "
    SELECT name, setting, 'postgresql.conf' AS place, NULL::text AS owner
      FROM pg_catalog.pg_file_settings WHERE applied AND name = ANY($1::text[])
    UNION ALL
    SELECT pg_catalog.split_part(c, '=', 1), pg_catalog.split_part(c, '=', 2),
           pg_catalog.concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname),
           pg_catalog.concat_ws(' IN ', 'ROLE ' || pg_catalog.quote_ident(r.rolname),
                                'DATABASE ' || pg_catalog.quote_ident(d.datname))
      FROM pg_catalog.pg_db_role_setting AS s CROSS JOIN LATERAL unnest(s.setconfig) AS c
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
      LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
     WHERE pg_catalog.split_part(c, '=', 1) = ANY($1::text[])
       AND (s.setrole = 0 OR r.rolname = $2) AND (s.setdatabase = 0 OR d.datname = ANY($3::text[]))
     ORDER BY 1, 3";

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
    let user = &world.source.endpoint.user;
    let rows = source.session.query(GIVEN, &[&names, user, &source.names()]).await?;
    let given =
        rows.iter().map(|row| Given { name: row.get(0), value: row.get(1), place: row.get(2), owner: row.get(3) });
    Ok(judge(user, &given.collect::<Vec<_>>()).into_iter().collect())
}

struct Given {
    name: String,
    value: String,
    place: String,
    owner: Option<String>,
}

fn judge(user: &str, given: &[Given]) -> Option<Finding> {
    // pgleap's role with none of its own overrides what the file says
    let none = |value: &str| value.trim_end_matches(|c: char| c.is_alphabetic() || c == ' ') == "0";
    let own = |given: &Given| given.place == format!("role {user}");
    let overridden = |name: &str| given.iter().any(|given| given.name == name && own(given) && none(&given.value));
    let found: Vec<_> = given.iter().filter(|given| !none(&given.value) && !overridden(&given.name)).collect();
    if found.is_empty() {
        return None;
    }
    let names: Vec<_> =
        found.iter().map(|given| format!("{} = {} ({})", given.name, given.value, given.place)).collect();
    let remedy = found.iter().map(|given| match &given.owner {
        Some(owner) => format!("ALTER {owner} RESET {};", given.name),
        None => format!("ALTER ROLE {} SET {} = 0;", ident::quote(user), given.name),
    });
    let mut remedy: Vec<_> = remedy.collect();
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

    fn given(value: &str, place: &str, owner: Option<&str>) -> Given {
        Given { name: "lock_timeout".into(), value: value.into(), place: place.into(), owner: owner.map(str::to_owned) }
    }

    #[test]
    fn timeout_of_the_file_is_set_aside_for_pgleaps_role_alone() {
        let finding = judge("admin", &[given("5s", "postgresql.conf", None)]).unwrap();
        assert_eq!(finding.remedy.unwrap(), "ALTER ROLE \"admin\" SET lock_timeout = 0;");
        let both = [given("5s", "postgresql.conf", None), given("0", "role admin", Some("ROLE admin"))];
        assert_eq!(judge("admin", &both), None);
        assert_eq!(judge("admin", &[given("0ms", "postgresql.conf", None)]), None);
    }
}
