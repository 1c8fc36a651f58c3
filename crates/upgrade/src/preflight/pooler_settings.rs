//! Whether a pooler's settings let clients wait through the write pause.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, note, warning},
    finding::listed,
    pooler::Console,
};
use crate::{pgbouncer::inspect::PATIENCE, route::Clients, switchover::hot::lease, world::World};

pub(super) const ABOUT: About = About {
    check: "pooler_settings",
    topic: Topic::Poolers,
    reads: "SHOW CONFIG and the pool mode of each entry",
    why: "Clients wait in the pooler during the pause: one that gives up before the write budget ends turns a pause \
          into errors. In session pooling a pool drains only when its clients leave. Statements that clients prepare by name \
          are prepared anew on new connections if `max_prepared_statements` is above 0; with 0, which is the default below \
          1.24, they are unknown on the target, and nothing counts them. In session pooling each goes with its client's \
          connection, whatever the setting.",
    findings: &[
        blocker("pooler.query_wait_timeout", Applied::ByHand("the pooler's configuration is its owner's.")),
        blocker("pooler.query_timeout", Applied::ByHand("the pooler's configuration is its owner's.")),
        warning("pooler.client_login_timeout", Applied::ByHand("the pooler's configuration is its owner's.")),
        warning("pooler.server_login_retry", Applied::ByHand("the pooler's configuration is its owner's.")),
        warning(
            "pooler.session_pooling",
            Applied::ByHand("whether transactions may be pooled depends on the application."),
        ),
        warning("pooler.cut_for_nothing", Applied::ByHand("`pgleap.toml` is its owner's.")),
        note("pooler.prepared_statements", Applied::ByHand("the pooler's configuration is its owner's.")),
    ],
};

pub(super) async fn check(world: &World, console: &Console<'_>) -> Answer {
    let pooler = console.pooler();
    let mut findings = Vec::new();
    let lease = lease(world);
    let lease_s = lease.as_secs_f64();
    let ini = console.ini().display();
    for (id, setting) in ["pooler.query_wait_timeout", "pooler.query_timeout"].into_iter().zip(PATIENCE) {
        let Some(patience) = console.seen.gives_up(setting, lease) else { continue };
        let message = format!(
            "PgBouncer {pooler} sends waiting clients away after {patience} s (`{setting}`); the write budget and a guard's lease are \
             {lease_s} s"
        );
        findings.push(
            Finding::blocker(id, message)
                .number("patience_s", patience)
                .number("lease_s", lease_s)
                .because("clients wait in the pooler during the write pause")
                .fix(format!("{setting} = 120  ; in {ini}, then RELOAD")),
        );
    }
    if let Some(patience) = console.seen.gives_up("client_login_timeout", lease) {
        let message = format!("PgBouncer {pooler} sends clients away that cannot log in within {patience} s");
        findings.push(
            Finding::warning("pooler.client_login_timeout", message)
                .number("patience_s", patience)
                .number("lease_s", lease_s)
                .because("the first client of a pool logs in when a server does, and in the write pause none does")
                .fix(format!("client_login_timeout = 60  ; in {ini}, then RELOAD")),
        );
    }
    let retry: f64 = console.setting("server_login_retry").and_then(|value| value.parse().ok()).unwrap_or(0.0);
    if retry > lease_s {
        let message = format!("PgBouncer {pooler} refuses clients for {retry} s after a server login that failed");
        findings.push(
            Finding::warning("pooler.server_login_retry", message)
                .number("retry_s", retry)
                .because(
                    "a server connection that logs in just when a pause begins counts as one that failed, and a server that \
                     dies in the pause as well",
                )
                .fix(format!("server_login_retry = 1  ; in {ini}, then RELOAD")),
        );
    }
    let leading = console.entries_to_source(world, None);
    let by_session: Vec<_> =
        leading.iter().filter(|entry| console.mode(entry) == "session").map(|entry| entry.name.as_str()).collect();
    let waits = world.route.capabilities.clients == Clients::Wait;
    if waits && !by_session.is_empty() {
        let message = format!("entries of PgBouncer {pooler} pool by session: {}", listed(&by_session));
        findings.push(
            Finding::warning("pooler.session_pooling", message)
                .objects(by_session)
                .because("a pause waits until every client has left, so the switchover is held while any is connected")
                .fix(format!(
                    "clients = \"reconnect\"  # in pgleap.toml under [route]: idle sessions are cut, and clients that \
                     connect anew wait; or, if the application allows, pool_mode = transaction  ; in {}, then RELOAD",
                    console.ini().display()
                )),
        );
    } else if !waits && by_session.is_empty() && !leading.is_empty() {
        let message =
            format!("no entry of PgBouncer {pooler} pools by session, and connections would be cut all the same");
        findings.push(
            Finding::warning("pooler.cut_for_nothing", message)
                .because(
                    "`route.clients` is \"reconnect\", which pools need from which clients do not leave by themselves",
                )
                .fix("clients = \"wait\"  # in pgleap.toml under [route]"),
        );
    }
    if waits && console.pools_transactions(world) && console.setting("max_prepared_statements") == Some("0") {
        let message = format!(
            "PgBouncer {pooler} does not keep track of statements that clients prepare by name (`max_prepared_statements` is 0)"
        );
        findings.push(
            Finding::note("pooler.prepared_statements", message)
                .because(
                    "its connections to the target know none of them: a client that has any gets \"prepared statement … does not \
                     exist\" after the switchover, until it connects anew",
                )
                .fix(format!("max_prepared_statements = 200  ; in {ini}, then RELOAD, unless no client prepares by name")),
        );
    }
    Ok(findings)
}
