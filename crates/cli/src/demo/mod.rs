//! `pgleap demo`: the whole upgrade on this machine, under load: there, back, and there again.

mod load;

use std::time::Duration;

use pgleap_lab::{Lab, LabError, LabSpec};
use pgleap_saga::{Cx, EventSink, Journal, Outcome, StopSignal};
use pgleap_upgrade::{
    Chain, World, chain::ChainError, pg::Side, pgbouncer::ini::Address, preflight, provision::PrepareDatabases,
    replicate::health,
};
use tokio::sync::watch;

use crate::{
    args,
    display::{Display, Voice, canary_line},
    errors::CommandError,
    exit::Exit,
    interrupt,
    out::Out,
    report::{Report, table, write},
    site::{self, Site},
};
use load::{Load, Verdict};

/// How many bare pauses the floor is taken from.
const FLOORS: usize = 5;
/// What the clients do between two acts, so that each is seen under load.
const BETWEEN_ACTS: u64 = 400;
const ACT_PATIENCE: Duration = Duration::from_secs(20);
const LAG_EVERY: Duration = Duration::from_millis(100);
const FLOOR_BUDGET: Duration = Duration::from_secs(2);

/// Runs the demo.
///
/// # Errors
/// If a part of it does not end as it should; what was started is stopped, and the directory with the logs is named.
pub async fn run(args: args::Demo, out: Out) -> Result<Exit, CommandError> {
    let directory = std::env::temp_dir().join(format!("pgleap-demo-{}", std::process::id()));
    let mut spec = LabSpec::new(args.from, args.to, &directory);
    spec.scale = args.scale;
    spec.bindirs.clone_from(&args.bindir);
    out.say(&format!(
        "starting PostgreSQL {} with a PgBouncer in front, scale {}, in `{}`",
        args.from,
        args.scale,
        directory.display()
    ));
    let lab = Lab::start(spec).await.map_err(cannot_start)?;
    let shown = play(&lab, &args, out).await;
    match (&shown, args.keep) {
        (_, true) => {
            lab.account.write_file(lab.config_path(), lab.config_text(), 0o644).map_err(|error| io(&error))?;
            out.say(&format!(
                "kept: servers and PgBouncer go on running in `{}`\n  `pgleap --config {} status` and every other command work \
                 on it",
                directory.display(),
                lab.config_path().display()
            ));
        }
        (Ok(Exit::Done), false) => drop(lab.destroy().await),
        (_, false) => {
            lab.stop().await;
            out.say(&format!("the logs are in `{}`", directory.display()));
        }
    }
    shown
}

fn cannot_start(error: LabError) -> CommandError {
    CommandError::of(Exit::Unexpected, &error).hint("`scripts/setup demo` brings what is missing")
}

fn io(error: &std::io::Error) -> CommandError {
    CommandError::of(Exit::Unexpected, error)
}

/// The stage: who plays on it, and who tells of it.
struct Stage<'a> {
    lab: &'a Lab,
    world: World,
    journal: Journal,
    events: EventSink,
    stop: StopSignal,
    load: Load,
    voice: Voice,
}

async fn play(lab: &Lab, args: &args::Demo, out: Out) -> Result<Exit, CommandError> {
    std::fs::write(lab.config_path(), lab.config_text()).map_err(|error| io(&error))?;
    let site = Site::load(&lab.config_path())?;
    let id = site::new_id();
    let world = site.world(id.clone()).await?;
    let journal = site.write()?;
    site::keep_id(&journal, &id)?;
    let load = Load::start(lab, args.clients).await?;
    let (events, stop) = (EventSink::new(), StopSignal::new());
    let display = Display::start(&events, out);
    load.follow(events.subscribe());
    let voice = display.voice();
    let aside = display.aside();
    let heard = voice.clone();
    let listening =
        interrupt::listen(stop.clone(), move |_| heard.say("stopping the demo where nobody is left waiting"));
    let stage = Stage { lab, world, journal, events, stop, load, voice };
    let acts = tokio::select! {
        acts = stage.acts() => acts,
        () = numbers(&stage.load, aside) => Ok(()),
        () = listening => Ok(()),
    };
    display.finish().await;
    acts?;
    curtain(stage, args, out).await
}

/// Keeps the line of live numbers up to date; never ends.
async fn numbers(load: &Load, aside: watch::Sender<String>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        ticks.tick().await;
        aside.send_replace(canary_line(&load.so_far()));
    }
}

impl Stage<'_> {
    async fn acts(&self) -> Result<(), CommandError> {
        let report = preflight::check(&self.world).await;
        if let Some(blocker) = report.blockers().next() {
            return Err(CommandError::new(Exit::Blocker, blocker.message.clone())
                .because(blocker.cause.clone().unwrap_or_default())
                .hint(blocker.remedy.clone().unwrap_or_default()));
        }
        self.voice.say("the floor: what a pause costs clients when nothing else is done");
        for n in 0..FLOORS {
            self.load.settle(BETWEEN_ACTS / 4, ACT_PATIENCE).await;
            self.load.mark(&format!("{FLOOR} {n}"));
            self.micro_pause().await?;
            self.load.settle(BETWEEN_ACTS / 8, ACT_PATIENCE).await;
            self.load.mark(BEFORE);
        }
        let chain = Chain::new(&self.world, &self.journal, self.events.clone(), self.stop.clone());
        self.voice.say("act 1: make the target and bring it in sync");
        self.act(chain.run().await)?;
        self.voice.say("act 2: switch over; the old cluster follows");
        self.act(chain.switchover().await)?;
        self.soak(Side::Target).await;
        self.voice.say("act 3: roll back, with the same care");
        self.act(chain.rollback().await)?;
        self.soak(Side::Source).await;
        self.voice.say("act 4: switch over again, without a new copy, and finalize");
        self.act(chain.switchover().await)?;
        self.soak(Side::Target).await;
        self.act(chain.finalize().await)
    }

    /// Lets the clients work while the other side follows, and notes how far behind it is.
    async fn soak(&self, serving: Side) {
        self.load.mark("soak");
        let cx = Cx::standalone(&self.world, &self.journal).with_sink(self.events.clone());
        let follow = async {
            let databases = cx.try_output::<PrepareDatabases>().ok().flatten().map(|facts| facts.databases);
            let mut ticks = tokio::time::interval(LAG_EVERY);
            loop {
                ticks.tick().await;
                let Some(databases) = &databases else { continue };
                // a look that fails costs a point of the chart, no more
                if let Ok(health) = health::look(&self.world, serving, databases).await {
                    #[expect(clippy::cast_precision_loss, reason = "a chart's value")]
                    cx.sample("lag_bytes", health.lag_bytes as f64);
                }
            }
        };
        tokio::select! {
            () = self.load.settle(BETWEEN_ACTS, ACT_PATIENCE) => {}
            () = follow => {}
        }
    }

    async fn micro_pause(&self) -> Result<(), CommandError> {
        let serving = Address { host: self.world.source.endpoint.host.clone(), port: self.lab.source_port };
        let entries = self.world.route.leading_to(std::slice::from_ref(&serving), &self.lab.spec.databases).await;
        let entries = entries.map_err(|error| CommandError::of(Exit::Unexpected, &error))?;
        self.world.route.micro_pause(&entries, &serving, FLOOR_BUDGET).await?;
        Ok(())
    }

    fn act(&self, ended: Result<Outcome, ChainError>) -> Result<(), CommandError> {
        match ended? {
            Outcome::Done => Ok(()),
            Outcome::Stopped => Err(CommandError::new(Exit::Stopped, "the demo was stopped")),
            Outcome::Unwound { cause } => Err(cause.into()),
            Outcome::Blocked(failure) | Outcome::NeedsOperator(failure) => Err(failure.error.into()),
        }
    }
}

/// Periods of this name are bare pauses.
const FLOOR: &str = "floor";
/// Periods of this name lie between them.
const BEFORE: &str = "before";
/// The canary's own name for its first period.
const START: &str = "start";

fn before_the_upgrade(period: &str) -> bool {
    period == START || period == BEFORE || period.starts_with(FLOOR)
}

/// Stops the clients, lets the ledgers judge, and shows what happened.
async fn curtain(stage: Stage<'_>, args: &args::Demo, out: Out) -> Result<Exit, CommandError> {
    let Stage { lab, world, journal, events, load, .. } = stage;
    // whoever follows the events ends with them
    drop(events);
    let mut verdict = load.verdict(lab, lab.target_port).await?;
    verdict.measured.pause_floor_ms = floor(&verdict);
    // clients that have just connected to a cold server wait too, but not for the upgrade
    let upgrade = verdict.measured.periods.iter().filter(|period| !before_the_upgrade(&period.name));
    verdict.measured.longest_client_stall_ms = upgrade.map(|period| period.longest_stall_ms).fold(0.0, f64::max);
    verdict.measured = verdict.measured.around(&journal.plans()?);
    verdict.measured.keep(&journal)?;
    let name = format!("{}:{}", world.source.endpoint.host, world.source.endpoint.port);
    let report = Report::of(&journal, &name, args.to, None)?;
    let written = write(&report, &args.report_dir)?;
    match out.is_json() {
        true => out.json(&report),
        false => out.data(&table::render(&report)),
    }
    for (database, audit) in verdict.audits.iter().filter(|(_, audit)| !audit.is_clean()) {
        out.say(&format!("database `{database}`: {audit}"));
    }
    if let Some(failure) = &verdict.applied.first_failure {
        out.say(&format!("the application saw: {failure}"));
    }
    for failures in verdict.stats.iter().flat_map(|stats| &stats.failures) {
        out.say(&format!(
            "the canary saw {}: {} times, first: {}",
            failures.0, failures.1.count, failures.1.first_message
        ));
    }
    out.say(&format!("wrote `{}` and `{}`", written.html.display(), written.json.display()));
    Ok(if verdict.is_clean() { Exit::Done } else { Exit::Differs })
}

/// Returns the median of the longest stalls that the bare pauses caused.
fn floor(verdict: &Verdict) -> Option<f64> {
    let floors = verdict.measured.periods.iter().filter(|period| period.name.starts_with(FLOOR));
    let mut stalls: Vec<f64> = floors.map(|period| period.longest_stall_ms).collect();
    stalls.sort_by(f64::total_cmp);
    stalls.get(stalls.len() / 2).copied()
}
