//! Whether pgleap's role may do what the upgrade takes, on a server that can be written to.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    source::Source,
};
use crate::{pg::ident, world::World};

pub(super) const ABOUT: About = About {
    check: "role",
    topic: Topic::Privileges,
    reads: "`is_superuser` and `pg_is_in_recovery()`",
    why: "A superuser is needed to publish all tables, to move replication origins, to make subscriptions for every \
          owner's tables, and to read the access rules that the target takes over. Slots and publications are made \
          on a primary alone.",
    findings: &[
        blocker("role.not_superuser", Applied::ByHand("a role cannot raise itself.")),
        blocker("source.in_recovery", Applied::ByHand("the source's address is said in `pgleap.toml`.")),
    ],
};

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
