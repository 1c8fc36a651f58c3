//! What every command that changes something has in common: the display, Ctrl-C, and the last words.

use pgleap_saga::{EngineError, EventSink, Failure, Journal, Outcome, PlanState, Release, StopSignal};
use pgleap_upgrade::{
    Chain, Standing, World, chain::ChainError, readers::were_led, standing::standing, timing::Timing,
};
use serde::Serialize;

use crate::{
    display::Display,
    errors::CommandError,
    exit::Exit,
    interrupt,
    out::{Out, SCHEMA},
    second::Second,
    site::{self, Site},
};

/// What is done with the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Make the target and bring it in sync.
    Run,
    /// Move writes to the target, when it is time.
    Switchover(Timing),
    /// Move writes back, when it is time.
    Rollback(Timing),
    /// End what was interrupted.
    Resume,
    /// Take a switchover back whose readers nobody watches any more.
    LeadReadersBack,
    /// Leave the source as it was found.
    Unwind,
    /// Give up the way back.
    Finalize,
    /// Apply remedies of findings.
    Fix,
    /// Take them back.
    Unfix,
}

/// Opens what was begun, and drives it.
///
/// # Errors
/// If nothing was begun, another process works on it, or it does not end as it should.
pub async fn drive_begun(site: &Site, out: Out, verb: Verb) -> Result<Exit, CommandError> {
    let journal = site.write_begun()?;
    let id = site::known_id(&journal)?
        .ok_or_else(|| CommandError::new(Exit::Usage, "nothing was begun here").hint("`pgleap run` begins"))?;
    let world = site.world(id).await?;
    // tests that count the deaths of one process want no other to take over
    let alone = cfg!(feature = "faults") && std::env::var_os("PGLEAP_FAULT_ALONE").is_some();
    let pauses = matches!(verb, Verb::Switchover(_) | Verb::Rollback(_) | Verb::Resume);
    let second = (pauses && !alone).then(|| Second::start(site)).transpose()?;
    let ended = drive(&world, &journal, out, verb).await;
    second.into_iter().for_each(Second::dismiss);
    ended
}

/// Drives the chain with a display, and says how it ended.
///
/// # Errors
/// If it does not end as it should.
pub async fn drive(world: &World, journal: &Journal, out: Out, verb: Verb) -> Result<Exit, CommandError> {
    drive_by(world, journal, out, &verb, async |chain| act(chain, &verb).await).await
}

/// Does what [`drive`] does, with the chain driven by `act`.
///
/// # Errors
/// If it does not end as it should.
pub async fn drive_by(
    world: &World,
    journal: &Journal,
    out: Out,
    verb: &Verb,
    act: impl AsyncFnOnce(&Chain<'_>) -> Result<Outcome, ChainError>,
) -> Result<Exit, CommandError> {
    let (events, stop) = (EventSink::new(), StopSignal::new());
    let display = Display::start(&events, out);
    let voice = display.voice();
    let listening = interrupt::listen(stop.clone(), move |count| {
        voice.say(match count {
            1 => "stopping where nobody is left waiting; what must not stay half done is finished first",
            _ => "still finishing: `pgleap` ends by itself as soon as that is safe",
        });
    });
    let chain = Chain::new(world, journal, events, stop);
    let ended = tokio::select! {
        biased;
        ended = act(&chain) => ended,
        () = listening => return Err(CommandError::new(Exit::Unexpected, "signals cannot be listened to")),
    };
    display.finish().await;
    let plans = journal.plans();
    let outcome = match ended {
        Ok(outcome) => outcome,
        Err(error) => return Err(broken_off(error, plans.ok().map(|plans| standing(&plans)).as_ref())),
    };
    let plans = plans?;
    conclude(verb, &outcome, &plans, &standing(&plans), out)
}

/// Says who serves, also where the journal cannot be read any more, or does not know that clients were let go.
fn broken_off(error: ChainError, standing: Option<&Standing>) -> CommandError {
    let let_go =
        matches!(error, ChainError::Engine(EngineError::JournalInSection { release: Release::Whole { .. }, .. }));
    let error = CommandError::from(error);
    match standing {
        _ if error.state.is_some() => error,
        Some(Standing::Open { serving, .. }) if let_go => error.state(format!("the {serving} serves reads and writes")),
        None if let_go => error.state("clients go on where they were"),
        Some(standing) => error.state(standing.traffic()),
        None => error,
    }
}

async fn act(chain: &Chain<'_>, verb: &Verb) -> Result<Outcome, ChainError> {
    match verb {
        Verb::Run => chain.run().await,
        Verb::Switchover(timing) => chain.switchover_when(timing).await,
        Verb::Rollback(timing) => chain.rollback_when(timing).await,
        Verb::Resume => chain.resume().await,
        Verb::LeadReadersBack => chain.lead_readers_back("pgleap died before writers followed the readers").await,
        Verb::Unwind => chain.unwind("taken back on request").await,
        Verb::Finalize => chain.finalize().await,
        Verb::Fix | Verb::Unfix => chain.resume().await,
    }
}

/// The last object of `--format json`.
#[derive(Serialize)]
struct Ended<'a> {
    schema: u32,
    ended: &'a Outcome,
    standing: &'a Standing,
    traffic: String,
    next: &'static str,
    exit_code: u8,
}

/// Says what holds now and what to type next.
fn conclude(
    verb: &Verb,
    outcome: &Outcome,
    plans: &[PlanState],
    standing: &Standing,
    out: Out,
) -> Result<Exit, CommandError> {
    let judged = judge(verb, outcome, plans, standing);
    let exit = judged.as_ref().map_or_else(|error| error.exit, |(exit, _)| *exit);
    if out.is_json() {
        let (traffic, next) = (standing.traffic(), next_after(verb, standing));
        out.json(&Ended { schema: SCHEMA, ended: outcome, standing, traffic, next, exit_code: exit as u8 });
    }
    match judged {
        Ok((exit, headline)) => {
            let paint = out.paint();
            out.say(&format!("{headline}\n  {} {}", paint.bold("state:"), standing.traffic()));
            out.say(&format!("  {}  {}", paint.bold("next:"), next_after(verb, standing)));
            Ok(exit)
        }
        // The object above holds all of it: only the words are left to say.
        Err(error) if out.is_json() => {
            out.say(&error.render(out.paint()));
            Ok(exit)
        }
        Err(error) => Err(error),
    }
}

/// Returns the exit code and the headline of an end as wished, or the error that it was.
fn judge(
    verb: &Verb,
    outcome: &Outcome,
    plans: &[PlanState],
    standing: &Standing,
) -> Result<(Exit, String), CommandError> {
    let plan = plans.last();
    match outcome {
        Outcome::Done if *verb == Verb::Fix => Ok((Exit::Done, "applied".to_owned())),
        Outcome::Done => Ok((Exit::Done, headline(standing).to_owned())),
        Outcome::Unwound { .. } if *verb == Verb::Unfix => {
            Ok((Exit::Done, "taken back: the source has again what it had".to_owned()))
        }
        Outcome::Unwound { .. } if *verb == Verb::Unwind => {
            Ok((Exit::Done, "taken back: the source is as it was found".to_owned()))
        }
        Outcome::Unwound { cause } => {
            // A switchover that ended before its pause was held by its gates: nothing was taken from anybody.
            let held = plan.is_some_and(|plan| plan.kind == "switchover" && plan.sections.is_empty());
            let source_serves = matches!(standing, Standing::Nothing | Standing::InSync);
            let exit = if held || !source_serves { Exit::Stopped } else { Exit::TakenBack };
            let done = match plan {
                Some(plan) if held && were_led(plan) => "readers were led back, and writers never waited",
                _ if held => "nothing was changed",
                _ => "what was begun was taken back",
            };
            let mut error = CommandError::from(cause.clone()).state(format!("{done}; {}", standing.traffic()));
            error.exit = exit;
            Err(or_next(error, standing))
        }
        Outcome::Stopped => {
            let last = plan.and_then(last_done).map_or(String::new(), |step| format!(" after `{step}`"));
            Ok((Exit::Stopped, format!("stopped on request{last}")))
        }
        Outcome::Blocked(failure) | Outcome::NeedsOperator(failure) => {
            Err(or_next(blocked(failure).state(standing.traffic()), standing))
        }
    }
}

fn blocked(Failure { step, error }: &Failure) -> CommandError {
    let mut shown = CommandError::from(error.clone());
    shown.message = format!("`{step}` cannot go on: {}", shown.message);
    shown
}

fn or_next(mut error: CommandError, standing: &Standing) -> CommandError {
    error.hint.get_or_insert_with(|| next(standing).to_owned());
    error
}

fn last_done(plan: &PlanState) -> Option<&str> {
    let done = |step: &&pgleap_saga::StepState| step.status == pgleap_saga::StepStatus::Done;
    plan.steps.iter().rfind(done).map(|step| step.name.as_str())
}

fn headline(standing: &Standing) -> &'static str {
    match standing {
        Standing::Nothing => "done",
        Standing::Open { .. } => "not finished",
        Standing::InSync => "in sync: the target follows the source",
        Standing::SwitchedOver => "switched over: writes go to the target",
        Standing::Finalized => "finished: the upgrade is complete",
    }
}

/// Returns what to type next after a command: a remedy may wait for a restart, and what was taken back is in the way again.
fn next_after(verb: &Verb, standing: &Standing) -> &'static str {
    match (verb, standing) {
        (Verb::Fix | Verb::Unfix, Standing::Nothing) => "`pgleap check` says what is in the way now",
        _ => next(standing),
    }
}

/// Returns what to type next.
pub fn next(standing: &Standing) -> &'static str {
    match standing {
        Standing::Nothing => "`pgleap run` begins",
        Standing::Open { kind, unwinding: false, .. } if kind == "upgrade" => {
            "`pgleap resume` goes on; `pgleap unwind` takes everything back"
        }
        Standing::Open { .. } => "`pgleap resume` ends it",
        Standing::InSync => "`pgleap switchover` moves writes to the target; `pgleap unwind` takes everything back",
        Standing::SwitchedOver => {
            "`pgleap rollback` moves writes back to the source; `pgleap finalize` gives up the way back; `pgleap watch` tells who \
             still writes to the source"
        }
        Standing::Finalized => "nothing is left to do; the old cluster can be stopped and archived",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pgleap_saga::{Direction, JournalError, SectionState, StepError};
    use pgleap_upgrade::pg::Side;

    use super::*;

    #[test]
    fn after_a_remedy_or_its_end_a_look_comes_before_a_run() {
        assert_eq!(next_after(&Verb::Fix, &Standing::Nothing), "`pgleap check` says what is in the way now");
        assert_eq!(next_after(&Verb::Unfix, &Standing::Nothing), "`pgleap check` says what is in the way now");
        assert_eq!(next_after(&Verb::Unwind, &Standing::Nothing), next(&Standing::Nothing));
        assert_eq!(next_after(&Verb::Fix, &Standing::InSync), next(&Standing::InSync));
    }

    fn switchover(paused: bool) -> PlanState {
        let section = SectionState {
            name: "write pause".into(),
            budget_ms: 2000,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
        };
        PlanState {
            id: "switchover-1".into(),
            kind: "switchover".into(),
            params: serde_json::json!({ "from": "source" }),
            direction: Direction::Unwinding,
            cause: None,
            past_point_of_no_return: false,
            outcome: None,
            stopped: false,
            opened_at: Timestamp::UNIX_EPOCH,
            closed_at: None,
            sections: if paused { vec![section] } else { Vec::new() },
            steps: Vec::new(),
        }
    }

    fn unwound() -> Outcome {
        Outcome::Unwound { cause: StepError::fatal("switchover held", "try again") }
    }

    #[test]
    fn a_switchover_held_before_its_pause_is_not_one_that_was_taken_back() {
        let exit = |verb, paused, standing| judge(verb, &unwound(), &[switchover(paused)], &standing).unwrap_err().exit;
        let (forward, back) = (Verb::Switchover(Timing::default()), Verb::Rollback(Timing::default()));
        assert_eq!(exit(&forward, false, Standing::InSync), Exit::Stopped);
        assert_eq!(exit(&forward, true, Standing::InSync), Exit::TakenBack);
        assert_eq!(exit(&back, true, Standing::SwitchedOver), Exit::Stopped, "the source does not serve");
    }

    #[test]
    fn an_unwinding_is_an_end_as_wished_only_for_the_command_that_asked_for_it() {
        let exit =
            |verb: &Verb| judge(verb, &unwound(), &[], &Standing::Nothing).map_or_else(|e| e.exit, |(exit, _)| exit);
        assert_eq!((exit(&Verb::Unwind), exit(&Verb::Run)), (Exit::Done, Exit::TakenBack));
    }

    #[test]
    fn a_journal_lost_in_the_pause_is_told_with_who_serves_and_whether_anybody_waits() {
        let open = Standing::Open {
            plan: "switchover-1".into(),
            kind: "switchover".into(),
            serving: Side::Source,
            past_point_of_no_return: false,
            unwinding: false,
            clients_moved: false,
            paused: true,
        };
        let told = |release, standing| {
            let source = JournalError::ReadOnly.into();
            let error = EngineError::JournalInSection { section: "write pause".into(), release, source };
            broken_off(error.into(), standing)
        };
        let whole = || Release::Whole { undone: vec!["switchover.fence".into(), "switchover.pause_pools".into()] };
        let error = told(whole(), Some(&open));
        assert_eq!(error.exit, Exit::Stopped);
        assert_eq!(
            error.to_string(),
            "error: the journal failed inside `write pause`, so the run was broken off: `switchover.fence` and \
             `switchover.pause_pools` taken back, so that nobody waits\n  \
               cause: the journal was opened to read, not to write\n  \
               state: the source serves reads and writes\n  \
               hint:  check the disk that the journal is on, then `pgleap resume`: it ends what was begun"
        );
        assert_eq!(told(whole(), None).state.as_deref(), Some("clients go on where they were"));
        let withheld = told(Release::Withheld, Some(&open));
        assert!(withheld.message.ends_with("nothing taken back, as the point of no return may be recorded"));
        assert!(withheld.state.is_some_and(|state| state.contains("clients may be waiting")));
    }

    #[test]
    fn a_block_is_told_with_its_step_who_serves_and_what_to_type() {
        let mut error = StepError::blocked("no room", "make room");
        error.hint = None;
        let outcome = Outcome::Blocked(Failure { step: "provision.base_backup".into(), error });
        let error = judge(&Verb::Run, &outcome, &[], &Standing::InSync).unwrap_err();
        assert_eq!(
            (error.exit, error.message.as_str()),
            (Exit::Stopped, "`provision.base_backup` cannot go on: no room")
        );
        assert_eq!(error.state.as_deref(), Some("the source serves reads and writes"));
        assert!(error.hint.is_some_and(|hint| hint.contains("pgleap switchover")));
    }
}
