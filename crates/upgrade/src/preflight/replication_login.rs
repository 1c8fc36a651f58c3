//! Whether the source lets pgleap's role in for replication, which lines of `pg_hba.conf` say apart from databases.

use std::time::Duration;

use pgleap_local::{CommandError, run};

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    source::Source,
};
use crate::{pg::ident, world::World};

pub(super) const ABOUT: About = About {
    check: "replication_login",
    topic: Topic::Replication,
    reads: "the source's answer to a login for replication, by the servers' user and with its password, as the base backup will",
    why: "`all` in a line of `pg_hba.conf` means every database and not replication. A base backup that is refused shows only \
          after the slots have begun to keep WAL.",
    findings: &[blocker("replication.refused", Applied::ByHand("who may log in is the administrator's decision."))],
};

/// A server answers within milliseconds.
const BUDGET: Duration = Duration::from_secs(5);

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    // no programs, and a role that may do less, are findings of their own; an adopted standby is no backup, a standby no source
    let Some(programs) = source.programs.target.as_ref().filter(|programs| programs.tool("psql").is_file()) else {
        return Ok(Vec::new());
    };
    if world.config.provider.standby.is_some() || source.in_recovery || !source.is_superuser {
        return Ok(Vec::new());
    }
    let endpoint = &world.source.endpoint;
    let conninfo = endpoint.conninfo(None, None, &world.source.application_name);
    let mut command = world.account.command(programs.tool("psql"));
    command.args(["--no-psqlrc", "--no-password", "--command", "IDENTIFY_SYSTEM", "--dbname"]);
    command.arg(format!("{conninfo} replication=true connect_timeout={}", BUDGET.as_secs()));
    if let Some(password) = &endpoint.password {
        command.env("PGPASSWORD", password.reveal());
    }
    let said = match run(command, BUDGET + Duration::from_secs(1)).await {
        Ok(_) => return Ok(Vec::new()),
        Err(CommandError::Failed { output, .. }) => output.stderr,
        Err(error) => error.to_string(),
    };
    let cause = said.lines().find_map(|line| line.split_once("FATAL:")).map_or(said.trim(), |(_, cause)| cause.trim());
    let user = &endpoint.user;
    let line = match endpoint.host.starts_with('/') {
        true => format!("local replication {} peer", ident::quote(user)),
        // the base backup is taken from the source's own host
        false => format!("host replication {} samehost scram-sha-256", ident::quote(user)),
    };
    let message = format!("the source does not let role `{user}` in for replication");
    let finding = Finding::blocker("replication.refused", message).because(cause.to_owned());
    Ok(vec![match cause.contains("pg_hba.conf") {
        true => finding.fix(format!(
            "{line}  # in the source's pg_hba.conf, or as your rules have it; then SELECT pg_reload_conf();"
        )),
        false => finding,
    }])
}
