//! `pgleap route-check`: tries the program of a route against its contract.

use pgleap_upgrade::{
    guard::Ward,
    route::conformance::{Trial, conform},
};

use crate::{
    args,
    display::text,
    errors::CommandError,
    exit::Exit,
    out::{Out, Paint, SCHEMA},
    site::{self, Site},
};

pub(super) async fn run(args: &args::RouteCheck, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let world = site.world(site::new_id()).await?;
    let program = world.route.members().iter().find_map(|member| match &member.ward {
        Ward::Program(program) => Some(program),
        Ward::PgBouncer(..) => None,
    });
    let Some(program) = program else {
        return Err(CommandError::new(Exit::Usage, "the route has no program of its own")
            .because("only `route.kind = \"command\"` names one; `pgleap check` looks at the others"));
    };
    if let Some(pid) = site.writer() {
        return Err(CommandError::new(Exit::Locked, "another process works on this upgrade")
            .because(format!("process {pid} may need the route at any moment")));
    }
    let moves = if args.and_move { ", leads them to the other side and back," } else { "" };
    out.confirm(&format!(
        "This lets clients wait at the route{moves} and go on, several times, for as long as {program} takes for it. At the\n\
         end they are led to where they are led now."
    ))?;
    let trials = conform(program, args.and_move).await;
    let well = trials.iter().all(|trial| trial.failure.is_none());
    match out.is_json() {
        true => out.json(&serde_json::json!({ "schema": SCHEMA, "conforms": well, "trials": trials })),
        false => out.data(&render(&trials, out.data_paint())),
    }
    Ok(if well { Exit::Done } else { Exit::Blocker })
}

fn render(trials: &[Trial], paint: Paint) -> String {
    let mut lines = Vec::new();
    for trial in trials {
        let word = if trial.failure.is_some() { paint.red("fails") } else { paint.green("does ") };
        lines.push(format!("{word}  {:>8}  {}", text::millis(trial.took_ms), trial.must));
        if let Some(error) = &trial.failure {
            lines.push(format!("                 {}", error.message));
            lines.extend(error.cause.iter().map(|cause| format!("                 cause: {cause}")));
        }
    }
    let failures = trials.iter().filter(|trial| trial.failure.is_some()).count();
    lines.push(match failures {
        0 => paint.green("the program keeps the contract, as far as it was tried"),
        _ => paint.red(&format!("the program does not keep the contract: {}", text::plural(failures, "failure"))),
    });
    lines.join("\n")
}
