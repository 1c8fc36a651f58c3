//! The chain as a whole: which plans there are, in which order, and where an upgrade stands.

use pgleap_saga::{
    EngineError, EventSink, Executor, Journal, JournalError, Outcome, Plan, PlanState, RetryPolicy, Step, StepError,
    StepStatus, StopSignal,
};
use serde::Serialize;

use crate::{
    config::Config,
    finalize,
    pg::Side,
    provision,
    replicate::{self, Watched},
    switchover, verify,
    world::World,
};

/// Where an upgrade stands, read from the journal alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// Nothing was begun, or all was unwound.
    Nothing,
    /// A plan is under way, or stopped on its way.
    Open {
        /// Its id.
        plan: String,
        /// `upgrade`, `switchover` or `finalize`.
        kind: String,
        /// The side that served when it began.
        serving: Side,
        /// It can only go forward.
        past_point_of_no_return: bool,
        /// It is being taken back.
        unwinding: bool,
        /// Its clients were moved: the other side serves already.
        clients_moved: bool,
    },
    /// The source serves, the target follows.
    InSync,
    /// The target serves, the source follows.
    SwitchedOver,
    /// The target serves, and there is no way back.
    Finalized,
}

impl Standing {
    /// Returns which side serves writes, in a word for a person.
    pub fn traffic(&self) -> String {
        match self {
            Self::Nothing | Self::InSync => "the source serves reads and writes".to_owned(),
            Self::SwitchedOver => "the target serves reads and writes; the source follows".to_owned(),
            Self::Finalized => "the target serves reads and writes".to_owned(),
            Self::Open { kind, serving, past_point_of_no_return, clients_moved, .. } if kind == "switchover" => {
                if *clients_moved {
                    format!("the {} serves reads and writes; the way back is not ready yet", serving.other())
                } else if *past_point_of_no_return {
                    format!("the {} takes over; `pgleap resume` finishes it", serving.other())
                } else {
                    format!("the {serving} serves; clients may be waiting at the pooler until `pgleap resume`")
                }
            }
            Self::Open { serving, .. } => format!("the {serving} serves reads and writes"),
        }
    }
}

/// Reads where an upgrade stands.
///
/// # Errors
/// [`JournalError`].
pub fn standing(plans: &[PlanState]) -> Standing {
    let mut now = Standing::Nothing;
    let mut taken_back = false;
    for plan in plans {
        if plan.kind == "upgrade" {
            taken_back = plan.direction == pgleap_saga::Direction::Unwinding;
        } else if taken_back {
            // a switchover and its rollback came before the upgrade was unwound: that is what counts
            continue;
        }
        let serving =
            if matches!(now, Standing::SwitchedOver | Standing::Finalized) { Side::Target } else { Side::Source };
        now = match (&plan.outcome, plan.kind.as_str()) {
            (None, kind) => Standing::Open {
                plan: plan.id.clone(),
                kind: kind.to_owned(),
                serving,
                past_point_of_no_return: plan.past_point_of_no_return,
                unwinding: plan.direction == pgleap_saga::Direction::Unwinding,
                clients_moved: plan.steps.iter().any(|step| {
                    step.name == switchover::move_clients::MoveClients::NAME.0 && step.status == StepStatus::Done
                }),
            },
            (Some(Outcome::Done), "upgrade") => Standing::InSync,
            (Some(_), "upgrade") => Standing::Nothing,
            (Some(Outcome::Done), "switchover") => match from_of(plan) {
                Side::Source => Standing::SwitchedOver,
                Side::Target => Standing::InSync,
            },
            (Some(Outcome::Done), "finalize") => Standing::Finalized,
            (Some(_), _) => now,
        };
    }
    now
}

fn from_of(plan: &PlanState) -> Side {
    plan.params.get("from").cloned().and_then(|from| serde_json::from_value(from).ok()).unwrap_or(Side::Source)
}

/// Returns the plan that makes the target and brings it in sync. What may take hours is watched: the slots are there.
pub fn upgrade_plan(id: String, config: &Config) -> Plan<World> {
    let target = &config.target;
    let plan = Plan::new(id, "upgrade", serde_json::Value::Null)
        .then(provision::ClaimDirectories { data_dir: target.data_dir.display().to_string() })
        .then(provision::PrepareDatabases)
        .then(replicate::CreatePublications)
        .then(replicate::CreateSlots);
    let plan = match &config.provider.standby {
        Some(standby) => plan.then(Watched(provision::AdoptStandby { data_dir: standby.display().to_string() })),
        None => plan.then(Watched(provision::BaseBackup)),
    };
    plan.then(provision::FixBoundary)
        .then(Watched(provision::RecoverCopy))
        .then(provision::ProveCopy)
        .then(provision::QuarantineCopy)
        .then(provision::InitTarget { major: target.version })
        .then(Watched(provision::UpgradeCopy { major: target.version, transfer: config.provider.transfer }))
        .then(provision::StartTarget { port: target.port })
        .then(provision::ProveTarget)
        .then(provision::UpdateExtensions)
        .then(replicate::CreateSubscriptions)
        .then(replicate::AdvanceOrigins)
        .then(replicate::EnableSubscriptions)
        .then(Watched(replicate::Analyze))
        .then(replicate::CatchUp { max_lag_bytes: config.budgets.max_lag_bytes })
        .then(Watched(verify::CompareTables))
}

/// What a command cannot do now.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The upgrade stands elsewhere.
    #[error("cannot {verb} now: {why}")]
    NotNow {
        /// What was asked.
        verb: &'static str,
        /// Where it stands.
        why: String,
        /// What to type instead.
        hint: &'static str,
    },
    /// The engine broke off.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An upgrade, with its journal open for writing.
pub struct Chain<'a> {
    world: &'a World,
    journal: &'a Journal,
    events: EventSink,
    stop: StopSignal,
}

impl<'a> Chain<'a> {
    /// Brings world and journal together.
    pub fn new(world: &'a World, journal: &'a Journal, events: EventSink, stop: StopSignal) -> Self {
        Self { world, journal, events, stop }
    }

    /// Returns where the upgrade stands.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn standing(&self) -> Result<Standing, ChainError> {
        Ok(standing(&self.journal.plans()?))
    }

    fn executor(&self, plan: &Plan<World>) -> Executor<'_> {
        let used_up = match plan.kind() {
            "upgrade" => "`pgleap resume` tries again; `pgleap unwind` takes everything back",
            // elsewhere unwinding is refused, or takes back more than what failed
            _ => "`pgleap resume` tries again",
        };
        let retry = RetryPolicy { used_up, ..RetryPolicy::default() };
        Executor::new(self.journal, self.events.clone(), retry, self.stop.clone())
    }

    fn next_id(&self, kind: &str) -> Result<String, ChainError> {
        let count = self.journal.plans()?.iter().filter(|plan| plan.kind == kind).count();
        Ok(format!("{kind}-{}", count + 1))
    }

    fn rebuild(&self, state: &PlanState) -> Plan<World> {
        let id = state.id.clone();
        match state.kind.as_str() {
            "switchover" => switchover::plan(id, from_of(state), &self.world.config.budgets),
            "finalize" => finalize::plan(id),
            _ => upgrade_plan(id, &self.world.config),
        }
    }

    async fn begin(&self, plan: Plan<World>) -> Result<Outcome, ChainError> {
        Ok(self.executor(&plan).execute(&plan, self.world).await?)
    }

    /// Makes the target and brings it in sync; goes on where an earlier run stopped.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn run(&self) -> Result<Outcome, ChainError> {
        match self.standing()? {
            Standing::Nothing => {
                let id = self.next_id("upgrade")?;
                self.begin(upgrade_plan(id, &self.world.config)).await
            }
            Standing::Open { kind, .. } if kind == "upgrade" => self.resume().await,
            other => Err(ChainError::NotNow {
                verb: "run",
                why: other.traffic(),
                hint: "`pgleap status` says where the upgrade stands",
            }),
        }
    }

    /// Moves writes to the target.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn switchover(&self) -> Result<Outcome, ChainError> {
        self.switch(Side::Source, "switch over", "`pgleap run` brings the target in sync first").await
    }

    /// Moves writes back to the source: the same switchover, the other way.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn rollback(&self) -> Result<Outcome, ChainError> {
        self.switch(
            Side::Target,
            "roll back",
            "there is nothing to roll back before a switchover; `pgleap unwind` undoes a run",
        )
        .await
    }

    async fn switch(&self, from: Side, verb: &'static str, hint: &'static str) -> Result<Outcome, ChainError> {
        match (self.standing()?, from) {
            (Standing::InSync, Side::Source) | (Standing::SwitchedOver, Side::Target) => {
                let mut attempt = 1;
                loop {
                    let id = self.next_id("switchover")?;
                    let outcome = self.begin(switchover::plan(id, from, &self.world.config.budgets)).await?;
                    let again = matches!(outcome, Outcome::Unwound { .. }) && !self.stop.is_requested();
                    if !again || attempt >= self.world.config.budgets.switchover_attempts {
                        return Ok(outcome);
                    }
                    attempt += 1;
                }
            }
            (Standing::Open { kind, .. }, _) if kind == "switchover" => Err(ChainError::NotNow {
                verb,
                why: "a switchover is under way".to_owned(),
                hint: "`pgleap resume` ends it",
            }),
            (other, _) => Err(ChainError::NotNow { verb, why: other.traffic(), hint }),
        }
    }

    /// Finishes what was begun, or takes it back, as the journal says.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn resume(&self) -> Result<Outcome, ChainError> {
        match self.journal.open_plan()? {
            Some(state) => self.begin(self.rebuild(&state)).await,
            None => Err(ChainError::NotNow {
                verb: "resume",
                why: "nothing was interrupted".to_owned(),
                hint: "`pgleap status` says where the upgrade stands",
            }),
        }
    }

    /// Takes the whole upgrade back: the source is left as it was found.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn unwind(&self, why: &str) -> Result<Outcome, ChainError> {
        let not_now = |why: String, hint| Err(ChainError::NotNow { verb: "unwind", why, hint });
        match self.standing()? {
            Standing::Nothing => not_now("nothing was begun".to_owned(), "`pgleap run` begins"),
            Standing::SwitchedOver => {
                not_now("the target serves".to_owned(), "`pgleap rollback` moves writes back to the source first")
            }
            Standing::Finalized => not_now("the way back was given up".to_owned(), "there is nothing left to undo"),
            // one that never came to its pause has nothing that is worth waiting for
            Standing::Open { plan, kind, past_point_of_no_return: false, serving: Side::Source, .. }
                if kind == "switchover" =>
            {
                let plans = self.journal.plans()?;
                if let Some(state) = plans.iter().find(|state| state.id == plan) {
                    let cause = StepError::fatal(why, "`pgleap run` begins anew");
                    let plan = self.rebuild(state);
                    match self.executor(&plan).unwind(&plan, self.world, cause).await? {
                        Outcome::Unwound { .. } => {}
                        other => return Ok(other),
                    }
                }
                Box::pin(self.unwind(why)).await
            }
            Standing::Open { kind, .. } if kind != "upgrade" => {
                not_now(format!("a {kind} is under way"), "`pgleap resume` ends it")
            }
            Standing::InSync | Standing::Open { .. } => {
                let plans = self.journal.plans()?;
                let Some(state) = plans.iter().rev().find(|plan| plan.kind == "upgrade") else {
                    return not_now("nothing was begun".to_owned(), "`pgleap run` begins");
                };
                let cause = StepError::fatal(why, "`pgleap run` begins anew");
                let plan = self.rebuild(state);
                Ok(self.executor(&plan).unwind(&plan, self.world, cause).await?)
            }
        }
    }

    /// Gives up the way back, and removes everything of pgleap's.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn finalize(&self) -> Result<Outcome, ChainError> {
        match self.standing()? {
            // clients are served by the target, and the source may never come back to follow it
            Standing::SwitchedOver | Standing::Open { clients_moved: true, serving: Side::Source, .. } => {
                let id = self.next_id("finalize")?;
                self.begin(finalize::plan(id)).await
            }
            Standing::Open { kind, .. } if kind == "finalize" => self.resume().await,
            other => Err(ChainError::NotNow {
                verb: "finalize",
                why: other.traffic(),
                hint: "`pgleap switchover` moves writes to the target first",
            }),
        }
    }
}
