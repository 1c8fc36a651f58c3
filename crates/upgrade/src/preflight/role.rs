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
                       FROM pg_catalog.pg_roles WHERE rolname = 'rds_superuser'), false),
           pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')
           AND pg_catalog.has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')
           AND pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')
           AND pg_catalog.has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')";

pub(super) const ABOUT: About = About {
    check: "role",
    topic: Topic::Privileges,
    reads: "what pgleap's role may do, whether the server is RDS or Aurora, and `pg_is_in_recovery()`",
    why: "A superuser is needed to publish all tables, to move replication origins, to make subscriptions for every \
          owner's tables, past their row-level security, and to read the access rules that the target takes over. Slots and \
          publications are made on a primary alone. To look, weeks before, takes less: the remedy of `role.sees_little` is all of \
          it, where no job of pg_cron and no pg_partman is, whose tables take USAGE on their schema and SELECT. Who looks so is \
          not told of md5 passwords and refused `clientcert` lines, which only a superuser may read. On RDS and Aurora nobody is a \
          superuser: rds_superuser publishes all tables, makes slots and subscriptions and has pg_monitor, but does not read \
          files, so settings in files and pg_hba.conf are not looked at there.",
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
        let rights = Rights { monitor: row.get(0), on_rds: row.get(1), rds_superuser: row.get(2), files: row.get(3) };
        findings.extend(missing(&world.source.endpoint.user, &world.config.source.database, &rights));
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
    /// It may read what the files of settings and of access rules say.
    files: bool,
}

fn missing(user: &str, database: &str, rights: &Rights) -> Vec<Finding> {
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
    let (mut lacks, mut grants) = (Vec::new(), vec![format!("\\c {}", ident::quote(database))]);
    if !rights.monitor {
        lacks.push("is not in `pg_monitor`");
        grants.push(format!("GRANT pg_monitor TO {role};"));
    }
    if !rights.files && !rights.on_rds {
        lacks.push("may not read what files of settings and pg_hba.conf say");
        grants.push(format!("GRANT SELECT ON pg_catalog.pg_file_settings, pg_catalog.pg_hba_file_rules TO {role};"));
        grants.push(format!(
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_show_all_file_settings(), pg_catalog.pg_hba_file_rules() TO {role};"
        ));
    }
    if !lacks.is_empty() {
        grants.push("-- enough to look, weeks before; to upgrade takes more".to_owned());
        findings.push(
            Finding::warning("role.sees_little", format!("role `{user}` {}", lacks.join(" and ")))
                .because("what is hidden from it, such as settings, sessions and sizes of others, is not found")
                .fix(grants.join("\n")),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_is_told_the_least_that_it_lacks() {
        let rights = |monitor, on_rds, rds_superuser| Rights { monitor, on_rds, rds_superuser, files: monitor };
        let ids = |rights| missing("app", "postgres", &rights).iter().map(|finding| finding.id).collect::<Vec<_>>();
        assert_eq!(ids(rights(false, false, false)), ["role.not_superuser", "role.sees_little"]);
        assert_eq!(ids(rights(true, false, false)), ["role.not_superuser"]);
        assert_eq!(
            ids(Rights { files: false, ..rights(true, true, true) }),
            ["role.not_superuser"],
            "nobody has it there"
        );
        let remedy = |rights| missing("app", "postgres", &rights).remove(0).remedy.unwrap_or_default();
        assert!(remedy(rights(true, true, false)).starts_with("GRANT rds_superuser, rds_replication TO \"app\""));
        assert_eq!(remedy(rights(true, true, true)), "", "there is no more to be had");
    }
}
