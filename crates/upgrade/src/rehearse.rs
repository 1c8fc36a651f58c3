//! Rehearses a switchover against production: real pauses, resumed on the same server, and every part of the switchover that
//! moves nothing. What clients would feel is foretold from what was measured.

use std::time::Duration;

use jiff::Timestamp;
use pgleap_saga::{Journal, Progress, StepError};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    pg::{PgError, Session, Side},
    readers::address,
    replicate::{
        catch_up::{Rates, round_trip},
        health,
    },
    route::Clients,
    switchover::{
        check_gates::{Decision, decide_for},
        hot::{GRACE, databases},
        patience::{Impatient, impatient},
        rehearse_repoint, sequences,
    },
    world::Cx,
};

/// What is rehearsed.
#[derive(Debug, Clone, Copy)]
pub struct Rehearse {
    /// The side that serves.
    pub from: Side,
    /// How many pauses clients are asked for.
    pub pauses: u32,
    /// The longest that each may take.
    pub budget: Duration,
}

/// What was measured, and what it foretells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// When it was.
    pub at: Timestamp,
    /// Each pause, from PAUSE sent to RESUME answered, in milliseconds; none where nothing can be paused.
    pub pauses_ms: Vec<f64>,
    /// How long transactions would have taken to end before they are cut off, at each look, in milliseconds; only where
    /// connections are. One that has been open for some time is expected to be so for as long again.
    #[serde(default)]
    pub wind_down_ms: Vec<f64>,
    /// What a switchover does in the pause besides: the last row's way to the other side, and the sequences.
    pub carry_ms: Vec<f64>,
    /// Ages of open transactions: how many were younger than each bound, over all looks.
    pub transaction_ages: Vec<AgeBucket>,
    /// How fast the side that serves writes WAL, in bytes per second.
    pub wal_per_s: f64,
    /// How fast the other side applies it.
    pub applied_per_s: f64,
    /// What clients would feel.
    pub predicted: Prediction,
}

/// How many transactions were younger than a bound, and not than the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgeBucket {
    /// In milliseconds; none is beyond the last.
    pub below_ms: Option<u32>,
    /// How many.
    pub count: u64,
}

/// The stall that a switchover would cost, in milliseconds; or the time of errors, where clients cannot wait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Half of all switchovers would stall clients for less.
    pub p50_ms: f64,
    /// All but one in a hundred.
    pub p99_ms: f64,
    /// From how many combinations of measurements.
    pub n: usize,
}

const BOUNDS_MS: [u32; 6] = [1, 10, 100, 1000, 10_000, 60_000];
const AGES: &str = "
    SELECT greatest(0, extract(epoch FROM clock_timestamp() - xact_start) * 1000)::float8
      FROM pg_catalog.pg_stat_activity
     WHERE datname = ANY($1::text[]) AND backend_type = 'client backend' AND xact_start IS NOT NULL
       AND pid <> pg_catalog.pg_backend_pid() AND application_name <> $2";

/// How long clients are left alone between two pauses.
const BETWEEN: Duration = Duration::from_secs(1);
const LOOKS_FOR_EACH: u32 = 5;
const ARRIVAL: Duration = Duration::from_secs(2);

/// Returns what stalls clients if one of each meets one of each other, over all that can meet; what was not measured does
/// not stall.
pub fn predict(measured: &[&[f64]]) -> Option<Prediction> {
    let meets = |stalls: Vec<f64>, one: &&[f64]| -> Vec<f64> {
        stalls.iter().flat_map(|stall| one.iter().map(move |more| stall + more)).collect()
    };
    let mut measured = measured.iter().filter(|measured| !measured.is_empty());
    let first = measured.next()?.to_vec();
    let mut stalls = measured.fold(first, meets);
    stalls.sort_by(f64::total_cmp);
    let at = |percent: usize| stalls.get((stalls.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Some(Prediction { p50_ms: at(50)?, p99_ms: at(99)?, n: stalls.len() })
}

/// Where the journal keeps the newest rehearsal.
pub const KEPT: &str = "rehearsal";

/// Returns the newest rehearsal, if there was one that this version can read.
pub fn newest(journal: &Journal) -> Option<Rehearsal> {
    serde_json::from_str(&journal.meta(KEPT).ok()??).ok()
}

/// Returns how long each of the transactions that are open in `databases` has been so, in milliseconds; not pgleap's own.
///
/// # Errors
/// [`PgError`].
pub async fn ages(session: &Session, databases: &[String], own: &str) -> Result<Vec<f64>, PgError> {
    Ok(session.query(AGES, &[&databases, &own]).await?.iter().map(|row| row.get(0)).collect())
}

fn histogram(ages_ms: &[f64]) -> Vec<AgeBucket> {
    let mut buckets: Vec<_> = BOUNDS_MS.map(|below| AgeBucket { below_ms: Some(below), count: 0 }).into();
    buckets.push(AgeBucket { below_ms: None, count: 0 });
    for age in ages_ms {
        if let Some(bucket) =
            buckets.iter_mut().find(|bucket| bucket.below_ms.is_none_or(|below| *age < f64::from(below)))
        {
            bucket.count += 1;
        }
    }
    buckets
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Refuses a budget that somebody who waits does not have.
async fn refuse_impatience(cx: &Cx<'_>, from: Side, budget: Duration) -> Result<(), StepError> {
    match impatient(cx.world, from, budget + GRACE).await?.into_iter().next() {
        None => Ok(()),
        Some(Impatient { who, setting }) => {
            let guard_s = GRACE.as_secs_f64();
            let hint = format!(
                "rehearse with a budget below it (a guard adds {guard_s} s), or raise `{setting}` if it may wait longer"
            );
            Err(StepError::blocked(who, hint))
        }
    }
}

/// Rehearses. Clients wait as often as asked, each time for no longer than the budget; nothing is moved. Where nothing can be
/// paused they are looked at as often, and nobody waits.
///
/// # Errors
/// If somebody would not wait for so long, a gate holds, or a pause cannot be had within its budget.
pub async fn rehearse(cx: &Cx<'_>, what: Rehearse) -> Result<Rehearsal, StepError> {
    let Rehearse { from, pauses, budget } = what;
    let can_pause = cx.world.route.capabilities.pauses();
    let cuts = cx.world.route.capabilities.clients != Clients::Wait;
    if can_pause {
        refuse_impatience(cx, from, budget).await?;
    }
    if let Decision::Hold { reasons, .. } = decide_for(cx, from, budget + GRACE).await? {
        return Err(StepError::blocked("a switchover would be held now", "remove what is named, then try again")
            .because(reasons.join("; ")));
    }
    rehearse_repoint::rehearse(cx, from).await?;
    let world = cx.world;
    let (all, names) = databases(cx)?;
    let serving = address(world.cluster(from));
    let session = world.cluster(from).db(&world.config.source.database).await?;
    let (mut pauses_ms, mut wind_down_ms, mut carry_ms) = (Vec::new(), Vec::new(), Vec::new());
    let (mut open, mut rates) = (Vec::new(), Rates::default());
    let finish_ms = world.config.route.finish.as_secs_f64() * 1000.0;
    let started = Instant::now();
    for n in 0..pauses {
        if can_pause {
            let entries = world.route.leading_to(std::slice::from_ref(&serving), &names).await?;
            pauses_ms.push(world.route.micro_pause(&entries, &serving, budget).await?.as_secs_f64() * 1000.0);
        }
        cx.progress(Progress {
            text: if can_pause { "rehearsing pauses" } else { "looking at what a switchover waits for" }.to_owned(),
            done: Some(u64::from(n) + 1),
            total: Some(pauses.into()),
            unit: if can_pause { "pauses" } else { "times" },
            ..Progress::default()
        });
        let until = Instant::now() + BETWEEN;
        for _ in 0..LOOKS_FOR_EACH {
            let ages = ages(&session, &names, &world.source.application_name).await?;
            if cuts {
                wind_down_ms.push(ages.iter().copied().fold(0.0, f64::max).min(finish_ms));
            }
            open.extend(ages);
            let look = Instant::now();
            for database in &all {
                let (here, there) = (
                    world.cluster(from).db(&database.name).await?,
                    world.cluster(from.other()).db(&database.name).await?,
                );
                sequences::warm(&here, &there).await?;
            }
            let arrived = round_trip(world, from, &all, ARRIVAL).await?;
            if arrived.is_none() {
                return Err(StepError::blocked(
                    format!("a row written on the {from} has not arrived within {} s", ARRIVAL.as_secs()),
                    "look at the lag, then try again",
                ));
            }
            carry_ms.push(millis(look));
        }
        let health = health::look(world, from, &all).await?;
        rates.add(started.elapsed().as_secs_f64(), health.publisher, health.applied);
        tokio::time::sleep_until(until).await;
    }
    let outlook = rates.outlook();
    let predicted = predict(&[&pauses_ms, &wind_down_ms, &carry_ms])
        .ok_or_else(|| StepError::blocked("nothing was measured", "rehearse at least one pause"))?;
    Ok(Rehearsal {
        at: Timestamp::now(),
        transaction_ages: histogram(&open),
        wal_per_s: outlook.map_or(0.0, |outlook| outlook.produced_per_s),
        applied_per_s: outlook.map_or(0.0, |outlook| outlook.applied_per_s),
        predicted,
        pauses_ms,
        wind_down_ms,
        carry_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prediction_lets_every_pause_meet_every_carry_and_every_transaction() {
        let predicted = predict(&[&[10.0, 20.0], &[], &[1.0, 2.0, 100.0]]).unwrap();
        assert_eq!(predicted, Prediction { p50_ms: 21.0, p99_ms: 120.0, n: 6 });
        let predicted = predict(&[&[10.0], &[5.0, 300.0], &[1.0]]).unwrap();
        assert_eq!(predicted, Prediction { p50_ms: 16.0, p99_ms: 311.0, n: 2 });
        assert_eq!(predict(&[&[], &[], &[]]), None);
    }

    #[test]
    fn ages_fall_into_the_first_bucket_that_holds_them() {
        let counts: Vec<_> = histogram(&[0.5, 5.0, 5.0, 999.0, 90_000.0]).iter().map(|bucket| bucket.count).collect();
        assert_eq!(counts, [1, 2, 0, 1, 0, 0, 1]);
    }
}
