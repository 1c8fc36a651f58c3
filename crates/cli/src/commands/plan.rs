//! `pgleap plan`: every step that would be taken, from the configuration alone.

use pgleap_saga::{Reversal, StepDescription};
use pgleap_upgrade::{chain::upgrade_plan, finalize, pg::Side, route::Capabilities, switchover};
use serde::Serialize;

use super::rehearse;
use crate::{
    display::text,
    errors::CommandError,
    exit::Exit,
    out::{Out, Paint, SCHEMA},
    site::Site,
};

/// A plan as it is printed.
#[derive(Serialize)]
struct Part {
    command: &'static str,
    what: &'static str,
    steps: Vec<StepDescription>,
}

#[derive(Serialize)]
struct Plans {
    schema: u32,
    source: String,
    target: String,
    target_version: u16,
    /// What the route can do, and what clients see because of it.
    route: Capabilities,
    /// What the newest rehearsal foretells, if there was one.
    foretold: Option<String>,
    plans: Vec<Part>,
}

pub(super) fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    let config = &site.config;
    let plans = Plans {
        schema: SCHEMA,
        source: format!("{}:{}", config.source.host, config.source.port),
        target: format!("{}:{}", config.target.host, config.target.port),
        target_version: config.target.version,
        route: config.route.capabilities(),
        foretold: site.read()?.as_ref().and_then(rehearse::quote),
        plans: vec![
            Part {
                command: "pgleap run",
                what: "make the target and bring it in sync; the source serves throughout",
                steps: upgrade_plan("upgrade-1".into(), config).describe(),
            },
            Part {
                command: "pgleap switchover",
                what: "move writes to the target; `pgleap rollback` is the same with the sides exchanged",
                steps: switchover::plan("switchover-1".into(), Side::Source, config).describe(),
            },
            Part {
                command: "pgleap finalize",
                what: "give up the way back, and remove everything of pgleap's",
                steps: finalize::plan("finalize-1".into(), config).describe(),
            },
        ],
    };
    match out.is_json() {
        true => out.json(&plans),
        false => out.data(&render(&plans, out.data_paint())),
    }
    Ok(Exit::Done)
}

fn render(plans: &Plans, paint: Paint) -> String {
    let mut lines = vec![format!(
        "{} → {}  PostgreSQL {}",
        paint.bold(&plans.source),
        paint.bold(&plans.target),
        plans.target_version
    )];
    let names = plans.plans.iter().flat_map(|part| &part.steps).map(|step| step.name.len());
    let width = names.max().unwrap_or(0);
    for part in &plans.plans {
        lines.push(format!("\n{}  {}", paint.bold(part.command), paint.dim(part.what)));
        let (mut phase, mut section) = ("", None);
        for step in &part.steps {
            if step.phase != phase {
                phase = &step.phase;
                lines.push(format!("  {}", paint.bold(phase)));
            }
            if step.section != section
                && let Some(name) = &step.section
            {
                #[expect(clippy::cast_precision_loss, reason = "a budget for people")]
                let budget = text::millis(step.budget_ms.unwrap_or_default() as f64);
                lines.push(format!(
                    "       {}",
                    paint.yellow(&format!("┌ {name}: {}, at most {budget}", plans.route.told()))
                ));
            }
            section.clone_from(&step.section);
            let rail = if section.is_some() { paint.yellow("│") } else { " ".to_owned() };
            lines.push(format!("  {:>3}  {rail} {:width$}  {}", step.number, step.name, step.summary));
            if step.reversal == Reversal::PointOfNoReturn {
                let back = match part.command {
                    "pgleap switchover" => "point of no return: from here back is `pgleap rollback`",
                    _ => "point of no return",
                };
                lines.push(format!("       {rail} {:width$}  {}", "", paint.red(back)));
            }
        }
    }
    lines.extend(plans.foretold.iter().map(|foretold| format!("\n{}  {foretold}", paint.bold("foretold"))));
    lines.join("\n")
}
