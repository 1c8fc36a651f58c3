//! Whether pgleap's role may do what the upgrade takes, on a server that can be written to.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    source::Source,
};
use crate::{pg::ident, world::World};

/// Managed services have a role that stands for the superuser, who is theirs.
const RIGHTS: &str = "
    SELECT pg_catalog.pg_has_role(current_user, 'pg_monitor', 'MEMBER'),
           EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_superuser'),
           coalesce((SELECT pg_catalog.bool_or(pg_catalog.pg_has_role(current_user, oid, 'MEMBER'))
                       FROM pg_catalog.pg_roles WHERE rolname = 'rds_superuser'), false)";

pub(super) const ABOUT: About = About {
    check: "role",
    topic: Topic::Privileges,
    reads: "what pgleap's role may do, whether the server is RDS or Aurora, and `pg_is_in_recovery()`",
    why: "A superuser is needed to publish all tables, to move replication origins, to make subscriptions for every \
          owner's tables, and to read the access rules that the target takes over. Slots and publications are made \
          on a primary alone.",
    findings: &[
        blocker("role.not_superuser", Applied::ByHand("a role cannot raise itself.")),
        warning("role.sees_little", Applied::ByHand("a role cannot raise itself.")),
        blocker("source.in_recovery", Applied::ByHand("the source's address is said in `pgleap.toml`.")),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let mut findings = Vec::new();
    if !source.is_superuser {
        let row = source.session.query_one(RIGHTS, &[]).await?;
        let rights = Rights { monitor: row.get(0), on_rds: row.get(1), rds_superuser: row.get(2) };
        findings.extend(missing(&world.source.endpoint.user, &rights));
    }
    if source.in_recovery {
        findings.push(
            Finding::blocker("source.in_recovery", "the source is a standby")
                .because("its primary takes the writes; publications and slots are made there")
                .fix("name the primary in `source.dsn`"),
        );
    }
    Ok(findings)
}

/// What a role that is no superuser may do.
struct Rights {
    /// Statistics and settings of others are shown to it.
    monitor: bool,
    /// The server is RDS or Aurora, where nobody is a superuser.
    on_rds: bool,
    rds_superuser: bool,
}

fn missing(user: &str, rights: &Rights) -> Vec<Finding> {
    let role = ident::quote(user);
    let finding = Finding::blocker("role.not_superuser", format!("role `{user}` is not a superuser of the source"));
    let mut findings = vec![if rights.on_rds {
        let because = "this is RDS or Aurora: rds_superuser publishes all tables and makes slots there, but nobody takes a base \
                       backup, reads pg_hba.conf or changes settings by ALTER SYSTEM, as provider `self_managed` does";
        let finding = finding.because(because);
        if rights.rds_superuser {
            finding
        } else {
            finding.fix(format!("GRANT rds_superuser, rds_replication TO {role};  -- for another provider"))
        }
    } else {
        let because =
            "publishing FOR ALL TABLES, moving replication origins and reading pg_hba.conf are for superusers alone";
        finding.because(because).fix(format!("ALTER ROLE {role} SUPERUSER;"))
    }];
    if !rights.monitor {
        findings.push(
            Finding::warning("role.sees_little", format!("role `{user}` is not in `pg_monitor`"))
                .because("settings, sessions and sizes of others are hidden from it, and what is hidden is not found")
                .fix(format!("GRANT pg_monitor TO {role};  -- enough to look, weeks before; to upgrade takes more")),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_is_told_the_least_that_it_lacks() {
        let rights = |monitor, on_rds, rds_superuser| Rights { monitor, on_rds, rds_superuser };
        let ids = |rights| missing("app", &rights).iter().map(|finding| finding.id).collect::<Vec<_>>();
        assert_eq!(ids(rights(false, false, false)), ["role.not_superuser", "role.sees_little"]);
        assert_eq!(ids(rights(true, false, false)), ["role.not_superuser"]);
        let remedy = |rights| missing("app", &rights).remove(0).remedy.unwrap_or_default();
        assert!(remedy(rights(true, true, false)).starts_with("GRANT rds_superuser, rds_replication TO \"app\""));
        assert_eq!(remedy(rights(true, true, true)), "", "there is no more to be had");
    }
}
