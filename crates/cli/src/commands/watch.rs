//! `pgleap watch`: follows the upgrade, whoever runs it, from the journal and a look at replication.
//!
//! Looks once a second, reads only what is new in the journal, and keeps its connections: it must cost nothing.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use pgleap_saga::{Journal, PlanState, Record, Step, StepStatus};
use pgleap_upgrade::{
    Standing, World,
    pg::{PgError, Side},
    preflight::Drift,
    replicate::health::{self, Health},
    standing::from_of,
    switchover::{confirm_reverse::ConfirmReverse, strays::Strays},
    timing::waiting,
    world::Database,
};

use super::status::View;
use crate::{
    args,
    display::text,
    errors::CommandError,
    exit::Exit,
    interrupt,
    out::{Out, Paint},
    site::{self, Site},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whole catalogs are read for it.
const DDL_EVERY: Duration = Duration::from_secs(60);
/// Without a terminal the lag is told at most once in so many looks.
const LAG_EVERY: u32 = 5;

pub(super) async fn run(args: &args::Watch, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let journal = site.read_begun()?;
    let mut watcher = Watcher {
        site,
        journal,
        plans: Vec::new(),
        records: Vec::new(),
        world: None,
        strays: None,
        found: Vec::new(),
        ddl: Ddl::default(),
    };
    if args.once {
        let (view, health) = watcher.look().await?;
        match out.is_json() {
            true => out.json(&object(&view, health.as_ref())),
            false => out.data(&block(&view, health.as_ref(), out.data_paint())),
        }
        return Ok(Exit::Done);
    }
    let watched = out.story_is_watched() && !out.is_json();
    let following = async { if watched { live(&mut watcher, out).await } else { lines(&mut watcher, out).await } };
    match interrupt::unless_interrupted(following).await {
        Some(ended) => ended.map(|()| Exit::Done),
        // Nobody else is touched by the end of a watch.
        None => Ok(Exit::Done),
    }
}

struct Watcher<'a> {
    site: &'a Site,
    journal: Journal,
    plans: Vec<PlanState>,
    records: Vec<Record>,
    world: Option<World>,
    strays: Option<Strays>,
    found: Vec<String>,
    ddl: Ddl,
}

/// What DDL changed on the source since the upgrade began.
#[derive(Default)]
struct Ddl {
    drift: Option<Drift>,
    looked: Option<Instant>,
    /// What somebody must know: a line each.
    told: Vec<String>,
}

impl Ddl {
    /// Looks, if it is time. A source that cannot be asked is told by the lag already.
    async fn look(&mut self, world: &World) {
        if self.looked.is_some_and(|at| at.elapsed() < DDL_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        if self.drift.is_none() {
            self.drift = Drift::begin(world).await.ok();
        }
        let Some(drift) = &self.drift else { return };
        let findings = drift.look(world).await;
        if findings.iter().any(|finding| finding.id == "check.unanswered") {
            self.drift = None;
            return;
        }
        let wanted =
            |id: &str| id.starts_with("ddl.") && id != "ddl.object_changed" || id == "replica_identity.missing";
        let of_note = findings.iter().filter(|finding| wanted(finding.id));
        self.told = of_note
            .map(|finding| {
                let place = finding.database.as_ref().map(|name| format!("database `{name}`: ")).unwrap_or_default();
                let cause = finding.cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
                format!("{place}{}{cause}", finding.message)
            })
            .collect();
    }
}

impl Watcher<'_> {
    async fn look(&mut self) -> Result<(View, Option<Health>), CommandError> {
        let after = self.records.last().map_or(0, |record| record.n);
        let new = self.journal.records(after)?;
        if !new.is_empty() {
            self.records.extend(new);
            self.plans = self.journal.plans()?;
        }
        let id = site::known_id(&self.journal)?;
        let waiting = waiting(&self.journal, self.site.writer());
        let view = View::of(self.site, id.clone(), &self.plans, &self.records, waiting);
        let fenced = fenced(&view, &self.plans);
        if self.strays.as_ref().is_some_and(|strays| Some(strays.side()) != fenced) {
            // a switchover back is not disturbed
            self.strays = None;
        }
        let health = match (serving(&view), id) {
            (Some(from), Some(id)) => self.health(from, fenced, id).await,
            _ => None,
        };
        Ok((view, health))
    }

    /// A side that cannot be asked is no reason to stop watching: the lag is then not known.
    async fn health(&mut self, from: Side, fenced: Option<Side>, id: String) -> Option<Health> {
        if self.world.is_none() {
            self.world = self.site.world(id).await.ok();
        }
        let world = self.world.as_ref()?;
        let databases = site::source_facts(world, &self.journal).ok()??.databases;
        let mut health = health::look(world, from, &databases).await.ok()?;
        if from == Side::Source {
            self.ddl.look(world).await;
            health.problems.extend(self.ddl.told.iter().cloned());
        }
        if let Some(fenced) = fenced {
            let (strays, found) = strays(self.strays.take(), world, fenced, &databases).await;
            self.strays = strays;
            self.found.extend(found.unwrap_or_else(|error| {
                health.problems.push(format!("nobody looks who writes to the fenced {fenced}: {error}"));
                Vec::new()
            }));
            // said again with every look: it is not to be missed
            health.problems.extend(self.found.iter().cloned());
        }
        Some(health)
    }
}

/// Looks who wrote to the fenced side since the last look; begins to watch it where nobody did.
async fn strays(
    known: Option<Strays>,
    world: &World,
    fenced: Side,
    databases: &[Database],
) -> (Option<Strays>, Result<Vec<String>, PgError>) {
    let strays = match known {
        Some(strays) => strays,
        None => match Strays::watch(world, fenced, databases).await {
            Ok(strays) => strays,
            Err(error) => return (None, Err(error)),
        },
    };
    match strays.look().await {
        Ok(found) => (Some(strays), Ok(found)),
        Err(error) => (None, Err(error)),
    }
}

/// Returns the side that others follow, once they do; not in a switchover, which is not disturbed by looks.
fn serving(view: &View) -> Option<Side> {
    match &view.standing {
        Standing::InSync => Some(Side::Source),
        Standing::SwitchedOver => Some(Side::Target),
        Standing::Open { kind, serving, unwinding: false, .. } if kind == "switchover" => {
            // the side that follows does so again: what is left, the proof of equality, may take hours
            let follows = view.plan.as_ref()?.steps.iter().find(|step| step.name == ConfirmReverse::NAME.0)?;
            (follows.status == StepStatus::Done).then_some(serving.other())
        }
        Standing::Open { kind, unwinding: false, .. } if kind == "upgrade" => {
            let steps = &view.plan.as_ref()?.steps;
            let enabled = steps.iter().find(|step| step.name == "replicate.enable_subscriptions")?;
            (enabled.status == StepStatus::Done).then_some(Side::Source)
        }
        _ => None,
    }
}

/// Returns the side that was fenced and follows: one that never served is closed, and nobody's habit.
fn fenced(view: &View, plans: &[PlanState]) -> Option<Side> {
    let mut of_upgrade = plans.iter().rev().take_while(|plan| plan.kind != "upgrade");
    let moved = of_upgrade.find(|plan| plan.kind == "switchover" && plan.past_point_of_no_return)?;
    (serving(view)? == from_of(moved).other()).then(|| from_of(moved))
}

fn lag(health: &Health) -> String {
    let mut text =
        format!("lag {}; the slots keep {}", text::bytes(health.lag_bytes), text::bytes(health.retained_bytes));
    health.problems.iter().for_each(|problem| text.push_str(&format!("\n         {problem}")));
    text
}

fn block(view: &View, health: Option<&Health>, paint: Paint) -> String {
    let mut text = view.render(paint, Timestamp::now());
    if let Some(health) = health {
        text.push_str(&format!("\n{}     {}", paint.bold("lag:").as_str(), lag(health).trim_start_matches("lag ")));
    }
    text
}

fn object(view: &View, health: Option<&Health>) -> serde_json::Value {
    let mut object = serde_json::json!(view);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("health".into(), serde_json::json!(health));
        fields.insert("at".into(), serde_json::json!(Timestamp::now()));
    }
    object
}

/// Follows until the plan that was open closes; if none was, until there is nothing left to follow.
fn is_over(view: &View, began_open: bool) -> bool {
    match &view.standing {
        Standing::Open { .. } => false,
        Standing::Nothing | Standing::Finalized => true,
        Standing::InSync | Standing::SwitchedOver => began_open,
    }
}

async fn lines(watcher: &mut Watcher<'_>, out: Out) -> Result<(), CommandError> {
    let (mut told, mut looks, mut began_open) = ((String::new(), Vec::new()), 0, None);
    loop {
        let (view, health) = watcher.look().await?;
        let began_open = *began_open.get_or_insert(view.is_open());
        if out.is_json() {
            out.json(&object(&view, health.as_ref()));
        } else {
            let problems = health.as_ref().map_or_else(Vec::new, |health| health.problems.clone());
            let now = (line(&view), problems);
            let changed = now != told;
            let lag_is_due = health.is_some() && looks % LAG_EVERY == 0;
            if changed || lag_is_due {
                let lag = health.as_ref().map(|health| format!("  {}", lag(health))).unwrap_or_default();
                out.data(&format!("{}  {}{lag}", jiff::Zoned::now().strftime("%H:%M:%S"), now.0));
                told = now;
            }
        }
        if is_over(&view, began_open) {
            return Ok(());
        }
        looks += 1;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Returns what changes are judged by: the step and how it stands, or the traffic.
fn line(view: &View) -> String {
    let step = view.plan.as_ref().filter(|_| view.is_open()).and_then(|plan| {
        let at = plan.steps.iter().find(|step| step.status != StepStatus::Done)?;
        Some(format!("{}  {:?}", at.name, at.status).to_lowercase())
    });
    let phase = if view.standing == Standing::InSync { "in sync" } else { view.phase };
    let waiting = view.waiting.as_ref().map(|waiting| format!("waiting  {}", waiting.what));
    format!("{phase}  {}", step.or(waiting).unwrap_or_else(|| view.traffic.clone()))
}

async fn live(watcher: &mut Watcher<'_>, out: Out) -> Result<(), CommandError> {
    let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(2));
    let mut rows: Vec<ProgressBar> = Vec::new();
    let mut began_open = None;
    loop {
        let (view, health) = watcher.look().await?;
        let began_open = *began_open.get_or_insert(view.is_open());
        let text = block(&view, health.as_ref(), out.paint());
        if is_over(&view, began_open) {
            rows.iter().for_each(ProgressBar::finish_and_clear);
            out.say(&text);
            return Ok(());
        }
        let wanted: Vec<&str> = text.lines().collect();
        while rows.len() < wanted.len() {
            let row = screen.add(ProgressBar::new_spinner());
            row.set_style(
                ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            rows.push(row);
        }
        for (nth, row) in rows.iter().enumerate() {
            row.set_message(wanted.get(nth).copied().unwrap_or_default().to_owned());
            row.tick();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
