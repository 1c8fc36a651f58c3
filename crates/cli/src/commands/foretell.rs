//! What a run is foretold to take, kept in the journal when it begins; and what it took, kept for the next.

use std::path::Path;

use pgleap_saga::{Journal, PlanState, StepStatus};
use pgleap_upgrade::plan::{Facts, Measured, Method, Prediction, Rates, history, time};

use crate::{out::Out, planning, site::Site};

/// Where the journal keeps what was foretold.
const PREDICTION: &str = "prediction";

/// Keeps what a run is foretold to take. Nothing depends on it: what fails here is passed over.
pub(super) fn keep(site: &Site, journal: &Journal, facts: &Facts) {
    let rates = Rates::default().sharpened(&history::read(&site.history()));
    let config = &site.config;
    let stages = time::stages(Method::CloneLogical, planning::basis(config, facts, &rates));
    let prediction = Prediction::new(Method::CloneLogical, stages, facts, config.provider.standby.is_some());
    drop(serde_json::to_string(&prediction).map(|text| journal.set_meta(PREDICTION, &text)));
}

/// Returns what was foretold when the run began.
pub fn kept(journal: &Journal) -> Option<Prediction> {
    serde_json::from_str(&journal.meta(PREDICTION).ok()??).ok()
}

/// Returns how long each step of a plan took, as far as it is done.
pub fn took(plan: &PlanState) -> Vec<(String, f64)> {
    let done = plan.steps.iter().filter(|step| step.status == StepStatus::Done);
    let seconds = done.filter_map(|step| {
        let took = step.ended_at?.duration_since(step.started_at?);
        Some((step.name.clone(), took.as_secs_f64()))
    });
    seconds.collect()
}

/// Adds what a twin took to the history: the copy and the upgrade are those of a run.
pub(super) fn learn_from_twin(site: &Site, facts: &Facts, plan: &PlanState, out: Out) {
    if plan.steps.iter().any(|step| step.attempts > 1) {
        return;
    }
    let rates = Rates::default();
    let stages = time::stages(Method::CloneLogical, planning::basis(&site.config, facts, &rates));
    // a twin is always copied
    let prediction = Prediction::new(Method::CloneLogical, stages, facts, false);
    remember(&site.history(), &prediction.measured(&plan.id, &took(plan)), out);
}

fn remember(path: &Path, measured: &Measured, out: Out) {
    if let Err(error) = history::append(path, measured) {
        out.say(&format!("what this took cannot be kept in `{}` for the next plan: {error}", path.display()));
    }
}

/// Adds what a run took to the history, if it went through at the first attempt: what was interrupted says nothing.
pub(super) fn learn(site: &Site, journal: &Journal, out: Out) {
    let (Some(prediction), Ok(plans)) = (kept(journal), journal.plans()) else { return };
    let Some(plan) = plans.iter().rfind(|plan| plan.kind == "upgrade") else { return };
    if plan.opened_at < prediction.at || plan.steps.iter().any(|step| step.attempts != 1) {
        return;
    }
    let id = crate::site::known_id(journal).ok().flatten().unwrap_or_default();
    remember(&site.history(), &prediction.measured(&id, &took(plan)), out);
}
