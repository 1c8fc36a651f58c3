//! What belongs to no database and no stream carries: databases themselves, roles, their passwords and memberships.

use std::collections::BTreeMap;

use crate::{
    config::Databases,
    pg::{PgError, Session, Side},
    provision::prepare_databases::all_databases,
    world::{Database, World},
};

const MAY_READ_PASSWORDS: &str = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')";

/// `{password}` is its digest, or NULL where this role may not read it: no password leaves the server.
const ROLES: &str = "
    SELECT r.rolname::text,
           pg_catalog.concat_ws(' ', CASE WHEN r.rolcanlogin THEN 'LOGIN' END, CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
                                CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
                                CASE WHEN r.rolinherit THEN 'INHERIT' END, CASE WHEN r.rolreplication THEN 'REPLICATION' END,
                                CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                                'VALID UNTIL ' || coalesce(
                                    pg_catalog.to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
                                    CASE WHEN r.rolvaliduntil IS NOT NULL THEN 'infinity' END)),
           {password},
           ARRAY(SELECT DISTINCT g.rolname::text FROM pg_catalog.pg_auth_members AS m
                   JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1)
      FROM {roles} AS r ORDER BY 1";

const DIGEST: &str = "pg_catalog.sha256(pg_catalog.convert_to(coalesce(r.rolpassword, ''), 'UTF8'))";

/// Names that one line holds.
const NAMED: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Role {
    attributes: String,
    /// None where it may not be read.
    password: Option<Vec<u8>>,
    member_of: Vec<String>,
}

impl Role {
    fn can_login(&self) -> bool {
        self.attributes.split(' ').next() == Some("LOGIN")
    }
}

/// initdb makes it, so the target has it though the source may not.
const OF_INITDB: &str = "postgres";

/// Whether a role is left out of sight: one that `source.transient_roles` names, or that came with the server.
fn passes(name: &str, transient: &[String]) -> bool {
    name.starts_with("pg_")
        || transient.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        })
}

async fn roles(session: &Session, passwords: bool) -> Result<BTreeMap<String, Role>, PgError> {
    let (password, catalog) = match passwords {
        true => (DIGEST, "pg_catalog.pg_authid"),
        false => ("NULL::bytea", "pg_catalog.pg_roles"),
    };
    let rows = session.query(&ROLES.replace("{password}", password).replace("{roles}", catalog), &[]).await?;
    let role = |row: &tokio_postgres::Row| Role { attributes: row.get(1), password: row.get(2), member_of: row.get(3) };
    Ok(rows.iter().map(|row| (row.get(0), role(row))).collect())
}

/// Returns what clients of `from` would miss on the other side, a line each: databases that are not of the upgrade, though all
/// should be, and roles that are not there, or not the same.
///
/// # Errors
/// [`PgError`], if a side does not say.
pub async fn missing(world: &World, from: Side, names: &[String]) -> Result<Vec<String>, PgError> {
    let database = &world.config.source.database;
    let (here, there) = (world.cluster(from).db(database).await?, world.cluster(from.other()).db(database).await?);
    let mut lines = Vec::new();
    if matches!(world.config.source.databases, Databases::All) {
        for Database { name, .. } in all_databases(&here).await? {
            if names.contains(&name) || from == Side::Target && name == OF_INITDB {
                continue;
            }
            lines.push(format!(
                "database `{name}` of the {from} is not of this upgrade, as it was made after it began: drop it, or name those that are \
                 in `source.databases`, and it stays where it is"
            ));
        }
    }
    let mut passwords = true;
    for session in [&here, &there] {
        passwords = passwords && session.query_one(MAY_READ_PASSWORDS, &[]).await?.get(0);
    }
    let transient = &world.config.source.transient_roles;
    lines.extend(differences(from, &roles(&here, passwords).await?, &roles(&there, passwords).await?, transient));
    Ok(lines)
}

/// On the way back only what keeps clients out counts: who goes back may be in a hurry.
fn differences(
    from: Side,
    here: &BTreeMap<String, Role>,
    there: &BTreeMap<String, Role>,
    transient: &[String],
) -> Vec<String> {
    let to = from.other();
    let all = from == Side::Source;
    let here = || here.iter().filter(|(name, role)| !passes(name, transient) && (all || role.can_login()));
    let absent = here().filter(|(name, _)| !there.contains_key(*name)).map(|(name, _)| format!("`{name}`"));
    let both = || here().filter_map(|(name, role)| Some((name, role, there.get(name)?)));
    let password =
        both().filter(|(_, role, other)| role.password != other.password).map(|(name, ..)| format!("`{name}`"));
    let differ = |role: &Role, other: &Role| match all {
        true => role.attributes != other.attributes,
        false => !other.can_login(),
    };
    let attributes = both().filter(|(_, role, other)| differ(role, other));
    let attributes =
        attributes.map(|(name, role, other)| format!("`{name}` ({}; there {})", role.attributes, other.attributes));
    let memberships = both().filter(|_| all).flat_map(|(name, role, other)| {
        let lost = role.member_of.iter().filter(|group| there.contains_key(*group) && !other.member_of.contains(group));
        lost.map(move |group| format!("`{name}` of `{group}`"))
    });
    let told = |what: String, names: Vec<String>, cure: &str| {
        let more = names.len().saturating_sub(NAMED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("{what}: {named}{more}: {cure}"))
    };
    let kinds = [
        told(
            format!("roles of the {from} that the {to} does not have"),
            absent.collect(),
            "make them there, or name those that come and go in `source.transient_roles`",
        ),
        told(
            format!("roles with another password on the {to}"),
            password.collect(),
            "give them the same there, or clients are refused",
        ),
        told(format!("roles with other attributes on the {to}"), attributes.collect(), "alter them there"),
        told(format!("memberships that the {to} does not have"), memberships.collect(), "grant them there"),
    ];
    kinds.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(attributes: &str, password: Option<&[u8]>, member_of: &[&str]) -> Role {
        let member_of = member_of.iter().map(|name| (*name).to_owned()).collect();
        Role { attributes: attributes.into(), password: password.map(<[u8]>::to_vec), member_of }
    }

    #[test]
    fn each_kind_of_difference_is_a_line_and_what_only_the_other_side_has_is_none() {
        let map =
            |roles: &[(&str, Role)]| roles.iter().map(|(name, role)| ((*name).to_owned(), role.clone())).collect();
        let here: BTreeMap<_, _> = map(&[
            ("app", role("LOGIN", Some(b"1"), &["pg_monitor", "pg_newer", "readers"])),
            ("late", role("LOGIN", Some(b"1"), &[])),
            ("readers", role("", None, &[])),
            ("pg_monitor", role("", None, &[])),
            ("v-app-1", role("LOGIN VALID UNTIL 2026-01-01 00:00:00", None, &[])),
        ]);
        let there = map(&[
            ("app", role("LOGIN CREATEDB", Some(b"2"), &[])),
            ("more", role("LOGIN", None, &[])),
            ("readers", role("", None, &[])),
            ("pg_monitor", role("", None, &[])),
        ]);
        let transient = ["v-*".to_owned()];
        assert_eq!(
            differences(Side::Source, &here, &there, &transient),
            [
                "roles of the source that the target does not have: `late`: make them there, or name those that come and go in \
                 `source.transient_roles`",
                "roles with another password on the target: `app`: give them the same there, or clients are refused",
                "roles with other attributes on the target: `app` (LOGIN; there LOGIN CREATEDB): alter them there",
                "memberships that the target does not have: `app` of `pg_monitor`, `app` of `readers`: grant them there",
            ]
        );
        assert!(differences(Side::Source, &here, &here, &[]).is_empty());
        // the way back waits for what keeps clients out
        assert_eq!(
            differences(Side::Target, &here, &there, &[]),
            [
                "roles of the target that the source does not have: `late`, `v-app-1`: make them there, or name those that come and go \
                 in `source.transient_roles`",
                "roles with another password on the source: `app`: give them the same there, or clients are refused",
            ]
        );
    }
}
