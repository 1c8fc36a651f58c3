//! Settings by which the read-only side would look writable, or the writable one read-only.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    source::{Given, Source},
};
use crate::{config::RouteKind, world::World};

const SETTING: &str = "default_transaction_read_only";

pub(super) const ABOUT: About = About {
    check: "read_only_defaults",
    topic: Topic::Route,
    reads: "`pg_db_role_setting`, for the route `multi_host`",
    why: "Clients with several hosts look at `default_transaction_read_only` to find the side that takes writes, and pgleap \
          sets it for each database. One that is set for a role goes before that: such a client takes the side that \
          follows for the one that serves, and is refused at every write.",
    findings: &[blocker("read_only_default.set", Applied::ByHand("why it was set has to be known first."))],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    if !matches!(world.config.route.kind, RouteKind::MultiHost) {
        return Ok(Vec::new());
    }
    let names = source.names();
    let concerns = |given: &&Given| {
        given.name == SETTING && given.database.as_ref().is_none_or(|database| names.contains(database))
    };
    let finding = |given: &Given| {
        let message = format!("`{SETTING}` is `{}` for {}", given.value, given.place());
        Finding::blocker("read_only_default.set", message)
            .objects(given.role.as_ref().or(given.database.as_ref()))
            .because("clients with several hosts find the side that takes writes by this setting")
            .fix(format!("ALTER {} RESET {SETTING};", given.owner()))
    };
    Ok(source.given.iter().filter(concerns).map(finding).collect())
}
