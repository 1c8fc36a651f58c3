//! The chain as a whole: which plans there are, and which command may begin, go on with or take back which.

use pgleap_saga::{
    Direction, EngineError, Event, EventKind, EventSink, Executor, Journal, JournalError, Outcome, Plan, PlanState,
    RetryPolicy, StepError, StopSignal, fault_point,
};
use tokio::time::Instant;

use crate::{
    approvals::{self, Gate},
    config::{Config, RouteKind},
    finalize,
    fix::{self, Remedy},
    pg::Side,
    provision, readers,
    replicate::{self, Watched},
    standing::{Standing, from_of, standing},
    switchover::{
        self, Attempt,
        check_gates::{Decision, decide},
    },
    timing::{self, PostponeFile, Timing},
    verify,
    world::{Cx, World},
};

fn is_unwound(plan: &PlanState) -> bool {
    matches!(plan.outcome, Some(Outcome::Unwound { .. }))
}

/// Returns the plan that makes the target and brings it in sync. What may take hours is watched: the slots are there.
pub fn upgrade_plan(id: String, config: &Config) -> Plan<World> {
    let target = &config.target;
    let plan = Plan::new(id, "upgrade", serde_json::Value::Null)
        .then(provision::ClaimDirectories { data_dir: target.data_dir.display().to_string() })
        .then(provision::PrepareDatabases { marker: true })
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
        .then(Watched(provision::RebuildIndexes))
        .then(replicate::CreateSubscriptions)
        .then(replicate::AdvanceOrigins)
        .then(replicate::EnableSubscriptions)
        .then(Watched(replicate::Analyze))
        .then(replicate::CatchUp { max_lag_bytes: config.budgets.max_lag_bytes })
        .then(Watched(verify::CompareTables))
        .then_if(matches!(config.route.kind, RouteKind::MultiHost), replicate::ShowReadOnly)
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
    /// It was waited for, and has not begun.
    #[error("{0}")]
    NotBegun(StepError),
    /// Too few people have approved.
    #[error("`{}` waits for approval: {} of {}", .0.gate, .0.given.len(), .0.needed)]
    NotApproved(approvals::State),
    /// The engine broke off.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl From<StepError> for ChainError {
    fn from(error: StepError) -> Self {
        Self::NotBegun(error)
    }
}

/// Refuses to take an upgrade back where the target serves, or is about to.
fn may_unwind(now: &Standing) -> Result<(), ChainError> {
    let (why, hint) = match now {
        Standing::SwitchedOver => {
            ("the target serves".to_owned(), "`pgleap rollback` moves writes back to the source first")
        }
        Standing::Finalized => ("the way back was given up".to_owned(), "there is nothing left to undo"),
        Standing::Open { kind, past_point_of_no_return, serving, .. }
            if kind != "upgrade" && (kind != "switchover" || *past_point_of_no_return || *serving != Side::Source) =>
        {
            (format!("a {kind} is under way"), "`pgleap resume` ends it")
        }
        _ => return Ok(()),
    };
    Err(ChainError::NotNow { verb: "unwind", why, hint })
}

const BEGIN_ANEW: &str = "`pgleap switchover` begins anew";

/// Where the journal keeps why everything is being taken back, until it is.
const UNWINDING: &str = "unwinding";

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
        self.executor_until(plan, self.stop.clone())
    }

    fn executor_until(&self, plan: &Plan<World>, stop: StopSignal) -> Executor<'_> {
        let used_up = match plan.kind() {
            "upgrade" => "`pgleap resume` tries again; `pgleap unwind` takes everything back",
            // elsewhere unwinding is refused, or takes back more than what failed
            _ => "`pgleap resume` tries again",
        };
        let retry = RetryPolicy { used_up, ..RetryPolicy::default() };
        Executor::new(self.journal, self.events.clone(), retry, stop)
    }

    fn next_id(&self, kind: &str) -> Result<String, ChainError> {
        let count = self.journal.plans()?.iter().filter(|plan| plan.kind == kind).count();
        Ok(format!("{kind}-{}", count + 1))
    }

    fn rebuild(&self, state: &PlanState) -> Plan<World> {
        let id = state.id.clone();
        if let Some(remedy) = fix::remedy(state) {
            return fix::plan(id, &remedy);
        }
        match state.kind.as_str() {
            "switchover" => {
                let attempt = serde_json::from_value(state.params.clone());
                let attempt = attempt.unwrap_or_else(|_| Attempt::only(from_of(state)));
                switchover::plan_of(id, &attempt, &self.world.config)
            }
            "finalize" => finalize::plan(id),
            _ => upgrade_plan(id, &self.world.config),
        }
    }

    /// Refuses to begin what waits for approval.
    fn approved(&self, gate: Gate) -> Result<(), ChainError> {
        match self.world.config.approvals.closed(gate, self.journal)? {
            Some(state) => Err(ChainError::NotApproved(state)),
            None => Ok(()),
        }
    }

    async fn begin(&self, plan: Plan<World>) -> Result<Outcome, ChainError> {
        Ok(self.executor(&plan).execute(&plan, self.world).await?)
    }

    /// Takes back what ended with readers led away: they are not left where nobody watches them any more.
    async fn none_left(&self, ended: Outcome) -> Result<Outcome, ChainError> {
        let why = match &ended {
            Outcome::Stopped => StepError::fatal("stopped on request before writers followed the readers", BEGIN_ANEW),
            Outcome::Blocked(failure) | Outcome::NeedsOperator(failure) => StepError {
                hint: Some(format!("remove the cause, then {BEGIN_ANEW}; readers are led back meanwhile")),
                ..failure.error.clone()
            },
            Outcome::Done | Outcome::Unwound { .. } => return Ok(ended),
        };
        // what cannot be taken back would not go better at once
        let was_stopped = ended == Outcome::Stopped;
        let left = self.readers_led()?.filter(|plan| was_stopped || plan.direction == Direction::Forward);
        match left {
            Some(state) => self.lead_back(&state, why).await,
            None => Ok(ended),
        }
    }

    /// Returns the switchover that has led readers to the target's standbys, and whose writers have not begun to follow, or have
    /// gone back.
    fn readers_led(&self) -> Result<Option<PlanState>, ChainError> {
        let led = |plan: &PlanState| {
            let writers_stay = plan.direction == Direction::Unwinding || !switchover::is_felt(plan);
            plan.outcome.is_none() && readers::are_led(plan) && writers_stay
        };
        Ok(self.journal.plans()?.into_iter().find(led))
    }

    /// Takes it back, whoever wants to stop: readers half way are worse off than at either end.
    async fn lead_back(&self, state: &PlanState, why: StepError) -> Result<Outcome, ChainError> {
        let plan = self.rebuild(state);
        Ok(self.executor_until(&plan, StopSignal::new()).unwind(&plan, self.world, why).await?)
    }

    /// Makes the target and brings it in sync; goes on where an earlier run stopped.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn run(&self) -> Result<Outcome, ChainError> {
        self.no_fix_under_way("run")?;
        match self.standing()? {
            Standing::Nothing => {
                self.approved(Gate::Run)?;
                self.note_unwinding(None)?;
                let id = self.next_id("upgrade")?;
                self.begin(upgrade_plan(id, &self.world.config)).await
            }
            Standing::Open { kind, unwinding, .. } if kind == "upgrade" => {
                // taking it back was ordered and never begun, and now this is ordered
                if !unwinding {
                    self.note_unwinding(None)?;
                }
                self.resume().await
            }
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
        self.switchover_when(&Timing::default()).await
    }

    /// Moves writes to the target, when it is time.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn switchover_when(&self, timing: &Timing) -> Result<Outcome, ChainError> {
        self.switch(Side::Source, timing, "switch over", "`pgleap run` brings the target in sync first").await
    }

    /// Moves writes back to the source: the same switchover, the other way.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn rollback(&self) -> Result<Outcome, ChainError> {
        self.rollback_when(&Timing::default()).await
    }

    /// Moves writes back to the source, when it is time.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn rollback_when(&self, timing: &Timing) -> Result<Outcome, ChainError> {
        self.switch(
            Side::Target,
            timing,
            "roll back",
            "there is nothing to roll back before a switchover; `pgleap unwind` undoes a run",
        )
        .await
    }

    async fn switch(
        &self,
        from: Side,
        timing: &Timing,
        verb: &'static str,
        hint: &'static str,
    ) -> Result<Outcome, ChainError> {
        match (self.standing()?, from) {
            (Standing::InSync, Side::Source) | (Standing::SwitchedOver, Side::Target) => {
                if from == Side::Source {
                    self.approved(Gate::Switchover)?;
                }
                self.note_unwinding(None)?;
                let file = timing.postpone_file.as_deref().map(PostponeFile::lay).transpose()?;
                let ended = self.attempts(from, timing).await;
                file.into_iter().for_each(PostponeFile::pick_up);
                ended
            }
            (Standing::Open { kind, .. }, _) if kind == "switchover" => Err(ChainError::NotNow {
                verb,
                why: "a switchover is under way".to_owned(),
                hint: "`pgleap resume` ends it",
            }),
            (other, _) => Err(ChainError::NotNow { verb, why: other.traffic(), hint }),
        }
    }

    /// Attempts a switchover, when it is time, as often as was asked for. Never again past the point of no return: a plan is
    /// not taken back from there; nor if what holds it stays until a person does something.
    async fn attempts(&self, from: Side, timing: &Timing) -> Result<Outcome, ChainError> {
        let budgets = &self.world.config.budgets;
        let cx = Cx::standalone(self.world, self.journal).with_sink(self.events.clone()).with_stop(self.stop.clone());
        if let Some(at) = timing.at {
            timing::until(&cx, from, at, &self.stop).await?;
        }
        let deadline = timing.quiet_within.map(|within| Instant::now() + within);
        let mut attempt = Attempt {
            from,
            postpone_file: timing.postpone_file.clone(),
            attempt: 1,
            attempts: timing.attempts.unwrap_or(budgets.switchover_attempts),
            ways: None,
        };
        loop {
            if let Some(deadline) = deadline {
                let look = timing::until_quiet(&cx, from, deadline, &self.stop).await?;
                cx.note(format!("a quiet moment: clients would wait for {:.0} ms", look.foretold_ms));
            }
            // hours may have gone by, and an attempt that clients felt used an approval up
            if from == Side::Source {
                self.approved(Gate::Switchover)?;
            }
            let id = self.next_id("switchover")?;
            let outcome = self.begin(switchover::plan_of(id.clone(), &attempt, &self.world.config)).await?;
            let Outcome::Unwound { cause } = &outcome else { return self.none_left(outcome).await };
            if attempt.attempt >= attempt.attempts || self.stop.is_requested() {
                return Ok(outcome);
            }
            if let Ok(Decision::Hold { reasons, lasting: true }) = decide(&cx, from).await {
                self.journal.append_note(&id, &format!("not tried again, as this stays: {}", reasons.join("; ")))?;
                return Ok(outcome);
            }
            let delay = timing::backoff(budgets.switchover_backoff, attempt.attempt);
            let Attempt { attempt: number, attempts, .. } = attempt;
            self.journal.append_note(
                &id,
                &format!(
                    "attempt {number} of {attempts} was taken back: {cause}; the next begins in {:.1} s",
                    delay.as_secs_f64()
                ),
            )?;
            attempt.attempt += 1;
            let in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            let kind = EventKind::PlanRetrying { in_ms, attempt: attempt.attempt, attempts };
            self.events.emit(Event { at: jiff::Timestamp::now(), plan: id, step: None, kind });
            timing::until_next(&cx, delay, attempt.attempt, &self.stop).await?;
        }
    }

    /// Takes a switchover back in which readers were led to the target's standbys and writers have not followed.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn lead_readers_back(&self, why: &str) -> Result<Outcome, ChainError> {
        match self.readers_led()? {
            Some(state) => self.lead_back(&state, StepError::fatal(why, BEGIN_ANEW)).await,
            None => Err(ChainError::NotNow {
                verb: "lead readers back",
                why: "no switchover has led them away".to_owned(),
                hint: "`pgleap status` says where the upgrade stands",
            }),
        }
    }

    /// Finishes what was begun, or takes it back, as the journal says.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn resume(&self) -> Result<Outcome, ChainError> {
        let plans = self.journal.plans()?;
        let now = standing(&plans);
        if let Some(why) = self.unwinding()? {
            if may_unwind(&now).is_ok() {
                return self.unwind(&why).await;
            }
            // what has come so far since ends forward
            self.note_unwinding(None)?;
        }
        // not every plan that was left open: `finalize` may have given a switchover up
        let open = match now {
            // an upgrade may wait for a remedy that was interrupted, and never the other way round
            Standing::Open { plan, kind, .. } => {
                let fix = fix::open(&plans).filter(|_| kind == "upgrade");
                fix.or_else(|| plans.iter().find(|state| state.id == plan))
            }
            _ => fix::open(&plans),
        };
        let Some(state) = open else {
            return Err(ChainError::NotNow {
                verb: "resume",
                why: "nothing was interrupted".to_owned(),
                hint: "`pgleap status` says where the upgrade stands",
            });
        };
        // people's word is used up by a pause: one that has not begun still needs it, and the way back never does
        let forward = state.direction == Direction::Forward;
        if forward
            && state.kind == "switchover"
            && from_of(state) == Side::Source
            && !switchover::is_felt(state)
            && let Err(refused) = self.approved(Gate::Switchover)
        {
            // readers cannot wait for it where nobody watches them
            let hint = format!("`pgleap approve`, then {BEGIN_ANEW}; readers are led back meanwhile");
            return match self.readers_led()? {
                Some(state) => self.lead_back(&state, StepError::fatal(refused.to_string(), hint)).await,
                None => Err(refused),
            };
        }
        self.none_left(self.begin(self.rebuild(state)).await?).await
    }

    /// Returns why everything is being taken back, if that was begun and has not ended.
    fn unwinding(&self) -> Result<Option<String>, ChainError> {
        Ok(self.journal.meta(UNWINDING)?.filter(|why| !why.is_empty()))
    }

    fn note_unwinding(&self, why: Option<&str>) -> Result<(), ChainError> {
        match (self.unwinding()?, why) {
            (None, None) => Ok(()),
            _ => Ok(self.journal.set_meta(UNWINDING, why.unwrap_or_default())?),
        }
    }

    /// Takes the whole upgrade back: the source is left as it was found. Several plans may be taken back for that, so the
    /// journal notes it first, and `resume` goes on with all of it.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn unwind(&self, why: &str) -> Result<Outcome, ChainError> {
        let now = self.standing()?;
        may_unwind(&now)?;
        // what an interrupted one left may be nothing
        if now == Standing::Nothing && !self.has_fixes()? && self.unwinding()?.is_none() {
            let (verb, why) = ("unwind", "nothing was begun".to_owned());
            return Err(ChainError::NotNow { verb, why, hint: "`pgleap run` begins" });
        }
        self.note_unwinding(Some(why))?;
        let cause = StepError::fatal(why, "`pgleap run` begins anew");
        // newest first; what operators had pgleap change for the upgrade goes with it, and not before
        while let Some(state) = self.standing_plan()? {
            let plan = self.rebuild(&state);
            fault_point!("unwind.after_note");
            match self.executor(&plan).unwind(&plan, self.world, cause.clone()).await {
                Ok(Outcome::Unwound { .. }) => {}
                Ok(other) => {
                    let led = self.readers_led()?.filter(|_| other == Outcome::Stopped);
                    return match led {
                        None => Ok(other),
                        Some(state) => match self.lead_back(&state, cause).await? {
                            Outcome::Unwound { .. } => Ok(other),
                            stuck => Ok(stuck),
                        },
                    };
                }
                Err(error) => {
                    // refused before anything of it was taken back: nothing is under way that `resume` could go on with
                    let plans = self.journal.plans()?;
                    if !plans.iter().any(|plan| plan.id == state.id && plan.direction == Direction::Unwinding) {
                        self.note_unwinding(None)?;
                    }
                    return Err(error.into());
                }
            }
        }
        let outcome = self.take_fixes_back(why, |_| true).await?;
        if matches!(outcome, Outcome::Unwound { .. }) {
            self.note_unwinding(None)?;
        }
        Ok(outcome)
    }

    /// Returns the plan that has to be taken back next for the source to be as it was found: a switchover that is under way,
    /// then the upgrade; none if nothing of them stands.
    fn standing_plan(&self) -> Result<Option<PlanState>, ChainError> {
        let plans = self.journal.plans()?;
        Ok(match standing(&plans) {
            Standing::Open { plan, kind, .. } if kind == "switchover" => {
                plans.into_iter().find(|state| state.id == plan)
            }
            Standing::Open { .. } | Standing::InSync => plans.into_iter().rev().find(|plan| plan.kind == "upgrade"),
            _ => None,
        })
    }

    /// Applies remedies to the source, one plan each.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn fix(&self, remedies: &[Remedy]) -> Result<Outcome, ChainError> {
        self.no_fix_under_way("change the source")?;
        let verb = "change the source";
        match self.standing()? {
            Standing::Nothing | Standing::InSync => {}
            Standing::Open { kind, .. } if kind == "upgrade" => {}
            Standing::Open { kind, .. } => {
                return Err(ChainError::NotNow {
                    verb,
                    why: format!("a {kind} is under way"),
                    hint: "`pgleap resume` ends it",
                });
            }
            standing @ (Standing::SwitchedOver | Standing::Finalized) => {
                let hint = "what the target needs is done there";
                return Err(ChainError::NotNow { verb, why: standing.traffic(), hint });
            }
        }
        self.note_unwinding(None)?;
        let mut outcome = Outcome::Done;
        for remedy in remedies {
            let id = self.next_id(fix::KIND)?;
            outcome = self.begin(fix::plan(id, remedy)).await?;
            if outcome != Outcome::Done {
                break;
            }
        }
        Ok(outcome)
    }

    /// Takes back the remedies of these findings, newest first; all of them for an empty list.
    ///
    /// # Errors
    /// [`ChainError`]; also while an upgrade is under way that was begun with them.
    pub async fn unfix(&self, findings: &[String]) -> Result<Outcome, ChainError> {
        let verb = "take a remedy back";
        self.no_fix_under_way(verb)?;
        match self.standing()? {
            Standing::Nothing => {}
            Standing::Finalized | Standing::SwitchedOver => {
                let why = "the target serves, and was made with it".to_owned();
                return Err(ChainError::NotNow { verb, why, hint: "change it on the target where it is not wanted" });
            }
            Standing::InSync | Standing::Open { .. } => {
                let why = "an upgrade is under way that was begun with it".to_owned();
                return Err(ChainError::NotNow { verb, why, hint: "`pgleap unwind` takes the upgrade and it back" });
            }
        }
        let wanted = |remedy: &Remedy| findings.is_empty() || findings.contains(&remedy.finding);
        self.take_fixes_back("taken back on request", wanted).await
    }

    async fn take_fixes_back(&self, why: &str, wanted: impl Fn(&Remedy) -> bool) -> Result<Outcome, ChainError> {
        let plans = self.journal.plans()?;
        let concerned = plans.iter().rev().filter(|plan| plan.kind == fix::KIND && !is_unwound(plan));
        let concerned: Vec<_> =
            concerned.filter(|plan| fix::remedy(plan).is_some_and(|remedy| wanted(&remedy))).collect();
        let cause = StepError::fatal(why, "`pgleap check` looks again");
        let mut outcome = Outcome::Unwound { cause: cause.clone() };
        for state in concerned {
            let plan = self.rebuild(state);
            outcome = self.executor(&plan).unwind(&plan, self.world, cause.clone()).await?;
            if !matches!(outcome, Outcome::Unwound { .. }) {
                break;
            }
        }
        Ok(outcome)
    }

    fn has_fixes(&self) -> Result<bool, ChainError> {
        Ok(self.journal.plans()?.iter().any(|plan| plan.kind == fix::KIND && !is_unwound(plan)))
    }

    fn no_fix_under_way(&self, verb: &'static str) -> Result<(), ChainError> {
        match fix::open(&self.journal.plans()?) {
            None => Ok(()),
            Some(plan) => {
                let why = format!("`{}` was interrupted, which changes the source", plan.id);
                Err(ChainError::NotNow { verb, why, hint: "`pgleap resume` ends it" })
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
                self.approved(Gate::Finalize)?;
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
