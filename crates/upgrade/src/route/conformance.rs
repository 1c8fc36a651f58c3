//! Tries a route's own program: does it keep the contract, also when it is asked twice, or killed half way?
//!
//! Clients are paused for real, for as long as each question takes; led elsewhere only if that is asked for. Whatever is found,
//! the route is left as it was: led to where it led, and resumed.

use std::time::Duration;

use pgleap_saga::StepError;
use tokio::time::Instant;

use super::{
    Clients,
    command::{CONTRACT, Program, Question, Request, State},
};
use crate::pg::Side;

/// One thing that was tried.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Trial {
    /// What the program must do.
    pub must: &'static str,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// Why it did not.
    pub failure: Option<StepError>,
}

/// A pause that the program ends by itself, if it says that it can.
const LEASE: Duration = Duration::from_secs(1);
/// How much later than the lease that may be.
const LATE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Tries<'a> {
    program: &'a Program,
    trials: Vec<Trial>,
}

fn failed(message: impl Into<String>) -> StepError {
    StepError::fatal(message, "docs/command-route.md says what the program must do")
}

fn shown(state: State) -> String {
    let paused = if state.paused { "clients wait" } else { "clients go on" };
    format!("it says that {paused}, led to the {}", state.leads_to)
}

impl Tries<'_> {
    /// Tries one thing; `false` if it failed.
    async fn must(&mut self, must: &'static str, tried: impl Future<Output = Result<(), StepError>>) -> bool {
        let began = Instant::now();
        let failure = tried.await.err();
        let well = failure.is_none();
        self.trials.push(Trial { must, took_ms: began.elapsed().as_secs_f64() * 1000.0, failure });
        well
    }

    /// Asks, and compares what is shown with what must be.
    async fn shows(&mut self, must: &'static str, request: Request, wanted: State) -> bool {
        let program = self.program;
        let asked = async {
            match program.ask_until_now(request).await? {
                state if state == wanted => Ok(()),
                state => Err(failed(shown(state))),
            }
        };
        self.must(must, asked).await
    }
}

/// Tries everything that can be tried, and returns all of it; what cannot be tried after a failure is left out.
pub async fn conform(program: &Program, and_move: bool) -> Vec<Trial> {
    let mut tries = Tries { program, trials: Vec::new() };
    let began = Instant::now();
    let found = match program.status().await {
        Ok(state) if !state.paused => state,
        Ok(state) => {
            let failure = Some(failed(format!("{}: let them go on first", shown(state))));
            let trial = Trial { must: "let clients go on before this begins", took_ms: 0.0, failure };
            return vec![trial];
        }
        Err(error) => {
            let failure = Some(error);
            return vec![Trial { must: "say how things are", took_ms: millis(began), failure }];
        }
    };
    tries.trials.push(Trial { must: "say how things are", took_ms: millis(began), failure: None });
    all(&mut tries, found, and_move).await;
    // whatever happened, as it was found
    let request = |verb| Request { to: Some(found.leads_to), ..program.request(verb) };
    if and_move {
        // clients may wait still, if something failed
        let back = async {
            match program.ask_until_now(request(Question::Repoint)).await? {
                state if state.leads_to == found.leads_to => Ok(()),
                state => Err(failed(shown(state))),
            }
        };
        tries.must("be left leading to where it led", back).await;
    }
    tries.shows("be left with clients going on", request(Question::Resume), found).await;
    tries.trials
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

async fn all(tries: &mut Tries<'_>, found: State, and_move: bool) {
    let program = tries.program;
    let plain = |verb| program.request(verb);
    let led = |to: Side| Request { to: Some(to), ..plain(Question::Repoint) };
    let pause = |lease: Duration| Request {
        turn: Some("route-check".to_owned()),
        lease_ms: u64::try_from(lease.as_millis()).ok(),
        ..plain(Question::Pause)
    };
    let long = Duration::from_secs(60);
    let other = found.leads_to.other();
    let check = Request { to: Some(other), ..plain(Question::Check) };
    tries.shows("see that clients could be led to the other side, and lead none", check, found).await;
    let refuses = async {
        let newer = Request { contract: CONTRACT + 1, ..plain(Question::Status) };
        match program.ask(newer, Duration::MAX).await {
            Err(_) => Ok(()),
            Ok(_) => Err(failed(format!("it answered to contract {}", CONTRACT + 1))),
        }
    };
    tries.must("refuse a contract that it does not know", refuses).await;
    tries.shows("resume what was never paused", plain(Question::Resume), found).await;
    if program.clients() != Clients::Errors {
        let paused = State { paused: true, ..found };
        let asked = Instant::now();
        if !tries.shows("pause", pause(long), paused).await {
            return;
        }
        let pause_took = asked.elapsed();
        tries.shows("pause what is paused", pause(long), paused).await;
        tries.shows("say that clients wait", plain(Question::Status), paused).await;
        if program.clients() == Clients::Wait {
            tries.shows("drain", plain(Question::Drain), paused).await;
        }
        tries.shows("repoint to where it leads, and keep clients waiting", led(found.leads_to), paused).await;
        if and_move {
            moved(tries, State { leads_to: other, paused: true }, led(other)).await;
            tries.shows("lead back", led(found.leads_to), paused).await;
        }
        tries.shows("resume", plain(Question::Resume), found).await;
        tries.shows("resume what was resumed", plain(Question::Resume), found).await;
        // wherever it was interrupted: paused, half paused, or not yet
        for parts in [4, 2] {
            drop(program.ask(pause(long), pause_took / parts).await);
            tries.shows("resume after a pause that was killed half way", plain(Question::Resume), found).await;
        }
        if program.outlives_host() {
            ends_by_itself(tries, pause(LEASE), found).await;
        }
    } else if and_move {
        moved(tries, State { leads_to: other, ..found }, led(other)).await;
        tries.shows("lead back", led(found.leads_to), found).await;
    }
}

async fn moved(tries: &mut Tries<'_>, wanted: State, request: Request) {
    let program = tries.program;
    let asked = Instant::now();
    tries.shows("lead clients to the other side", request.clone(), wanted).await;
    let took = asked.elapsed();
    tries.shows("lead them to where they are led", request.clone(), wanted).await;
    drop(program.ask(request.clone(), took / 2).await);
    tries.shows("lead them there after it was killed half way", request, wanted).await;
}

/// A program that outlives this host ends its pause when nobody asks it any more.
async fn ends_by_itself(tries: &mut Tries<'_>, pause: Request, found: State) {
    let program = tries.program;
    let ends = async {
        program.ask_until_now(pause).await?;
        let until = Instant::now() + LEASE + LATE;
        while program.status().await? != found {
            if Instant::now() >= until {
                return Err(failed(format!("clients still wait {} s after the lease was over", LATE.as_secs())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    tries.must("end a pause by itself when its lease is over", ends).await;
}
