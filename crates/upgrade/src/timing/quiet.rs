//! Whether this is a moment for a switchover: what it would cost clients now, foretold from what is seen now.

use std::time::Duration;

use pgleap_saga::StepError;
use tokio::time::Instant;

use crate::{
    pg::Side,
    rehearse::{Rehearsal, ages},
    replicate::{
        catch_up::{Outlook, Rates, round_trip},
        health,
    },
    switchover::{
        check_gates::{Decision, decide},
        hot::databases,
    },
    world::Cx,
};

/// What a pause is taken to cost where none was rehearsed: several times what it costs where it was measured.
const UNREHEARSED_PAUSE_MS: f64 = 100.0;
/// A last row that is under way for longer than this foretells nothing.
const ARRIVAL: Duration = Duration::from_secs(2);

/// One look.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// What would hold a switchover now.
    pub reasons: Vec<String>,
    /// How long clients would wait, in milliseconds: for open transactions, for the last rows, and for the pause itself.
    pub foretold_ms: f64,
    /// What most of that is for.
    pub mostly: &'static str,
}

impl Look {
    /// Returns what makes this no moment for a switchover; none if it is one.
    pub fn in_the_way(&self, budget: Duration) -> Option<String> {
        let budget_ms = budget.as_secs_f64() * 1000.0;
        match self.reasons.as_slice() {
            [] if self.foretold_ms <= budget_ms => None,
            [] => Some(format!(
                "clients would wait for {:.0} ms, mostly for {}; the budget is {budget_ms:.0} ms",
                self.foretold_ms, self.mostly
            )),
            reasons => Some(reasons.join("; ")),
        }
    }
}

/// Looks again and again; some of what is seen needs two looks.
pub(super) struct Watch {
    from: Side,
    rehearsed: Option<Rehearsal>,
    rates: Rates,
    began: Instant,
}

impl Watch {
    pub(super) fn begin(cx: &Cx<'_>, from: Side) -> Self {
        let rehearsed = cx.kept(crate::rehearse::KEPT).and_then(|text| serde_json::from_str(&text).ok());
        Self { from, rehearsed, rates: Rates::default(), began: Instant::now() }
    }

    pub(super) async fn look(&mut self, cx: &Cx<'_>) -> Result<Look, StepError> {
        let (world, from) = (cx.world, self.from);
        let (all, names) = databases(cx)?;
        if let Decision::Hold { reasons, .. } = decide(cx, from).await? {
            return Ok(Look { reasons, foretold_ms: f64::INFINITY, mostly: "what holds it" });
        }
        let session = world.cluster(from).db(&world.config.source.database).await?;
        let open = ages(&session, &names, &world.source.application_name).await?;
        let arrived = round_trip(world, from, &all, ARRIVAL).await?.unwrap_or(ARRIVAL);
        let health = health::look(world, from, &all).await?;
        self.rates.add(self.began.elapsed().as_secs_f64(), health.publisher, health.applied);
        Ok(foretell(self.rehearsed.as_ref(), &open, arrived, health.lag_bytes, self.rates.outlook()))
    }
}

/// A transaction that has been open for some time is expected to be so for as long again. Rows are applied at the speed
/// at which they were lately, if something is behind.
fn foretell(
    rehearsed: Option<&Rehearsal>,
    open_ms: &[f64],
    arrived: Duration,
    lag_bytes: u64,
    outlook: Option<Outlook>,
) -> Look {
    let pause = rehearsed.and_then(|rehearsal| rehearsal.pauses_ms.iter().copied().reduce(f64::max));
    let pause = pause.unwrap_or(UNREHEARSED_PAUSE_MS);
    let transactions = open_ms.iter().copied().fold(0.0, f64::max);
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let behind = outlook
        .filter(|outlook| outlook.applied_per_s > 0.0 && outlook.eta_s.is_none())
        .map_or(0.0, |outlook| lag_bytes as f64 / outlook.applied_per_s * 1000.0);
    let rows = behind.max(arrived.as_secs_f64() * 1000.0);
    let parts = [(pause, "the pause itself"), (transactions, "open transactions"), (rows, "the last rows")];
    let mostly = parts.iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |part| part.1);
    Look { reasons: Vec::new(), foretold_ms: parts.iter().map(|part| part.0).sum(), mostly }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_quiet_moment_is_one_whose_foretold_stall_fits_the_budget() {
        let look = foretell(None, &[3.0], MS(20), 0, None);
        assert_eq!((look.foretold_ms, look.mostly), (123.0, "the pause itself"));
        assert_eq!(look.in_the_way(MS(123)), None);
        let refused = look.in_the_way(MS(122)).unwrap();
        assert_eq!(refused, "clients would wait for 123 ms, mostly for the pause itself; the budget is 122 ms");
    }

    #[test]
    fn an_open_transaction_counts_with_its_age_and_a_growing_lag_with_the_time_to_apply_it() {
        let look = foretell(None, &[40.0, 900.0], MS(10), 0, None);
        assert_eq!((look.foretold_ms, look.mostly), (1010.0, "open transactions"));
        let growing = Outlook { produced_per_s: 3e6, applied_per_s: 2e6, eta_s: None };
        let look = foretell(None, &[], MS(10), 4_000_000, Some(growing));
        assert_eq!((look.foretold_ms, look.mostly), (2100.0, "the last rows"));
        let catching_up = Outlook { eta_s: Some((0.1, 0.2)), ..growing };
        assert_eq!(foretell(None, &[], MS(10), 4_000_000, Some(catching_up)).foretold_ms, 110.0);
    }

    #[test]
    fn what_holds_a_switchover_is_in_the_way_whatever_is_foretold() {
        let look = Look { reasons: vec!["lag".into(), "pid 7".into()], foretold_ms: 0.0, mostly: "" };
        assert_eq!(look.in_the_way(MS(2000)).unwrap(), "lag; pid 7");
    }
}
