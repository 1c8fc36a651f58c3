//! What clients will see of a switchover, and whether a route's own program does what it must.

use pgleap_saga::StepError;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, note},
};
use crate::{
    config::RouteKind,
    guard::Ward,
    pg::Side,
    route::{Clients, command::Program},
    world::World,
};

pub(super) const ABOUT: About = About {
    check: "route",
    topic: Topic::Route,
    reads: "`route` in the configuration; a route's own program is asked for its `status`, and to `check` the way to the target",
    why: "A route that cannot let clients wait shows them errors, which somebody should know before. A program that \
          does not answer now will not answer in the write pause.",
    findings: &[
        note("route.clients_see_errors", Applied::ByHand("what stands before the servers is the operator's choice.")),
        blocker("route.program_fails", Applied::ByHand("the program is the operator's.")),
        blocker("route.leads_elsewhere", Applied::ByHand("the program is the operator's.")),
        blocker("route.paused", Applied::ByHand("somebody may have paused it for a reason.")),
    ],
};

pub(super) async fn check(world: &World) -> Answer {
    let mut findings = Vec::new();
    let capabilities = world.route.capabilities;
    if capabilities.clients != Clients::Wait {
        let budget = world.config.budgets.write_pause.as_secs_f64();
        let more = match world.config.route.kind {
            RouteKind::MultiHost => {
                "; libpq's for a moment longer, until the old side lets them in to see that it is read-only"
            }
            _ => "",
        };
        findings.push(
            Finding::note(
                "route.clients_see_errors",
                format!("at a switchover {}, for at most {budget} s, the write budget{more}", capabilities.told()),
            )
            .number("write_pause_s", budget)
            .because("this route cannot let transactions wait: clients must connect and try again by themselves")
            .fix("`pgleap rehearse` foretells for about how long, once the target follows"),
        );
    }
    for member in world.route.members() {
        if let Ward::Program(program) = &member.ward {
            findings.extend(of_program(world, program).await);
        }
    }
    Ok(findings)
}

async fn of_program(world: &World, program: &Program) -> Vec<Finding> {
    let hint = "mend the program; `pgleap route-check` tries it, and docs/command-route.md says what it must do";
    let fails = |error: StepError| {
        let finding = Finding::blocker("route.program_fails", error.message);
        match error.cause {
            Some(cause) => finding.because(cause),
            None => finding,
        }
        .fix(hint)
    };
    let state = match program.status().await {
        Ok(state) => state,
        Err(error) => return vec![fails(error)],
    };
    let mut findings = Vec::new();
    if state.leads_to != Side::Source {
        findings.push(
            Finding::blocker("route.leads_elsewhere", format!("{program} leads clients to the {}", state.leads_to))
                .because("before the upgrade everybody is served by the source")
                .fix("lead them to the source, or mend what the program answers"),
        );
    }
    if state.paused {
        findings.push(
            Finding::blocker("route.paused", format!("{program} keeps clients waiting"))
                .because("somebody else paused it, or what it answers is wrong")
                .fix("let them go on, then check again"),
        );
    }
    let target = &world.target.endpoint;
    let to = crate::pgbouncer::ini::Address { host: target.host.clone(), port: target.port };
    findings.extend(program.check(&to).await.err().map(fails));
    findings
}
