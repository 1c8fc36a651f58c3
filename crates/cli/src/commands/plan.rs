//! `pgleap plan`: how the upgrade would be done, how long it takes, what it costs, what is in the way, and every step.

use std::time::Duration;

use futures::future::join;
use pgleap_upgrade::{
    plan::{self, Facts, Method, Prices, Saved, SavedFinding, history},
    preflight,
};

use super::rehearse;
use crate::{
    args,
    errors::CommandError,
    exit::Exit,
    out::Out,
    planning::{self, Dossier, Inputs},
    site::{self, Site},
};

pub(super) async fn run(args: &args::Plan, site: &Site, out: Out) -> Result<Exit, CommandError> {
    // what is wrong with the command line is said before anybody is asked
    let form = args.runbook.as_deref().map(planning::runbook_form).transpose()?;
    let pinned = args.method.as_deref().map(method).transpose()?;
    let journal = site.read()?;
    let facts = match (&args.facts, args.steps) {
        (_, true) => None,
        (Some(path), false) => Some(saved(path)?),
        (None, false) => Some(ask(args, site, out).await?),
    };
    let config = &site.config;
    let prices = match &config.plan.prices {
        Some(path) => Prices::load(path).map_err(|error| CommandError::of(Exit::Usage, &error))?,
        None => Prices::bundled(),
    };
    let dossier = Dossier::of(Inputs {
        config,
        facts,
        history: &history::read(&site.history()),
        prices: &prices,
        rehearsal: journal.as_ref().and_then(|journal| rehearse::told(journal, config.route.capabilities())),
        pinned,
        journal: journal.as_ref().map(|journal| journal.plans()).transpose()?.unwrap_or_default(),
    });
    match (out.is_json(), args.steps) {
        (true, _) => out.json(&dossier),
        (false, true) => out.data(&planning::steps_only(&dossier, out.data_paint())),
        (false, false) => out.data(&planning::render(&dossier, out.data_paint())),
    }
    if let Some((form, path)) = form.zip(args.runbook.as_deref()) {
        planning::write_runbook(&dossier, args.begin, form, path)?;
        out.say(&format!("wrote `{}`", path.display()));
    }
    let possible = dossier.decision.as_ref().is_none_or(|decision| decision.recommended.is_some());
    Ok(if possible { Exit::Done } else { Exit::Blocker })
}

fn method(name: &str) -> Result<Method, CommandError> {
    Method::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
        CommandError::new(Exit::Usage, format!("there is no method `{name}`"))
            .hint(format!("it must be one of {}", names.join(", ")))
    })
}

/// Reads what `pgleap check --format json` said, here or elsewhere, now or weeks ago.
fn saved(path: &std::path::Path) -> Result<(Facts, Vec<SavedFinding>), CommandError> {
    let failed = |why: String| {
        CommandError::new(Exit::Usage, format!("cannot plan from `{}`", path.display()))
            .because(why)
            .hint("save it by `pgleap check --format json > FILE`")
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    Saved::read(&text).map_err(|error| failed(error.to_string()))
}

/// Asks the live cluster; changes nothing.
async fn ask(args: &args::Plan, site: &Site, out: Out) -> Result<(Facts, Vec<SavedFinding>), CommandError> {
    let id = match site.read()? {
        Some(journal) => site::known_id(&journal)?,
        None => None,
    };
    let world = site.world(id.unwrap_or_else(site::new_id)).await?;
    let window = Duration::from_secs(args.window.into());
    if args.window > 5 {
        out.say(&format!("measuring rates for {} s", args.window));
    }
    let (report, facts) = join(preflight::check(&world), plan::collect(&world, window)).await;
    let facts = facts.map_err(|error| {
        let blocker = report.blockers().next();
        let asked = CommandError::of(Exit::Usage, &error);
        let asked = blocker.map_or(asked.clone(), |finding| asked.because(finding.message.clone()));
        asked.state("nothing was changed").hint(
            "`pgleap check` says what is in the way; `pgleap plan --facts FILE` plans from what was saved, \
             `pgleap plan --steps` prints the steps alone",
        )
    })?;
    Ok((facts, report.findings.iter().map(SavedFinding::from).collect()))
}
