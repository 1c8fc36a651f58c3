//! Whether pgleap's role may do what the upgrade takes, on a server that can be written to.

use super::{Answer, Finding, source::Source};
use crate::{pg::ident, world::World};

/// Reads `is_superuser` and `pg_is_in_recovery()`.
///
/// A superuser is needed to publish all tables, to move replication origins, to make subscriptions for every owner's
/// tables, and to read the access rules that the target takes over. Slots and publications are made on a primary alone.
pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let mut findings = Vec::new();
    if !source.is_superuser {
        let user = &world.source.endpoint.user;
        findings.push(
            Finding::blocker("role.not_superuser", format!("role `{user}` is not a superuser of the source"))
                .because(
                    "publishing FOR ALL TABLES, moving replication origins and reading pg_hba.conf are for superusers alone",
                )
                .fix(format!("ALTER ROLE {} SUPERUSER;", ident::quote(user))),
        );
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
