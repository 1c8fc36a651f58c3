//! `pgleap rehearse`: real pauses that move nothing, and what they foretell of a switchover.

use std::time::Duration;

use pgleap_saga::{Cx, EventSink, Journal};
use pgleap_upgrade::{
    Standing,
    pg::Side,
    rehearse::{KEPT, Rehearsal, Rehearse, newest, rehearse},
    route::Capabilities,
};

use crate::{
    args,
    display::{Display, text},
    errors::CommandError,
    exit::Exit,
    interrupt,
    out::{Out, SCHEMA},
    site::{self, Site},
};

pub(super) async fn run(args: &args::Rehearse, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let budget = args.budget_ms.map_or(site.config.budgets.write_pause, |ms| Duration::from_millis(ms.into()));
    site.read_begun()?;
    let route = site.config.route.capabilities();
    let times = text::plural(args.pauses as usize, "time");
    out.confirm(&match route.pauses() {
        true => format!(
            "This pauses the pools {times}, each time for at most {}, and resumes them where they are. Nothing is moved.",
            text::seconds(budget.as_secs_f64())
        ),
        false => format!("This looks {times} at what a switchover would wait for. Nobody is paused, and nothing is moved."),
    })?;
    let journal = site.write_begun()?;
    let standing = site::standing(&journal)?;
    let from = match &standing {
        Standing::InSync => Side::Source,
        Standing::SwitchedOver => Side::Target,
        other => {
            return Err(CommandError::new(Exit::Usage, "cannot rehearse now: one side must follow the other")
                .state(other.traffic())
                .hint("`pgleap status` says where the upgrade stands"));
        }
    };
    let id = site::known_id(&journal)?.unwrap_or_default();
    let world = site.world(id).await?;
    let events = EventSink::new();
    let cx = Cx::standalone(&world, &journal).with_sink(events.clone());
    let display = (!out.is_json()).then(|| Display::start(&events, out));
    let rehearsed = interrupt::unless_interrupted(rehearse(&cx, Rehearse { from, pauses: args.pauses, budget })).await;
    if let Some(display) = display {
        display.finish().await;
    }
    let Some(rehearsed) = rehearsed else {
        // the guard ends a pause that was under way
        return Err(CommandError::new(Exit::Stopped, "stopped on request").state(standing.traffic()));
    };
    let rehearsal = rehearsed.map_err(|error| CommandError::from(error).state(standing.traffic()))?;
    journal.set_meta(KEPT, &serde_json::to_string(&rehearsal).unwrap_or_default())?;
    match out.is_json() {
        true => out.json(&serde_json::json!({ "schema": SCHEMA, "rehearsal": rehearsal })),
        false => out.data(&render(&rehearsal, route)),
    }
    Ok(Exit::Done)
}

/// Returns the newest rehearsal, and what it foretells of this route in a line; none if there was none.
pub fn told(journal: &Journal, route: Capabilities) -> Option<(Rehearsal, String)> {
    let rehearsal = newest(journal)?;
    let line = format!("{}, rehearsed at {:.0}", foretold(&rehearsal, route), rehearsal.at);
    Some((rehearsal, line))
}

/// Returns what the newest rehearsal foretells, in a line; none if there was none.
pub fn quote(journal: &Journal, route: Capabilities) -> Option<String> {
    told(journal, route).map(|(_, line)| line)
}

fn foretold(rehearsal: &Rehearsal, route: Capabilities) -> String {
    let predicted = rehearsal.predicted;
    let measured: Vec<_> =
        [(rehearsal.pauses_ms.len(), "pause", ""), (rehearsal.wind_down_ms.len(), "look", " at open transactions")]
            .into_iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, what, rest)| text::plural(count, what) + rest)
            .collect();
    format!(
        "{} {} (p50), {} (p99; from {} and {})",
        route.foretold(),
        text::millis(predicted.p50_ms),
        text::millis(predicted.p99_ms),
        measured.join(", "),
        text::plural(rehearsal.carry_ms.len(), "round trip")
    )
}

fn render(rehearsal: &Rehearsal, route: Capabilities) -> String {
    let pauses: Vec<_> = rehearsal.pauses_ms.iter().map(|ms| text::millis(*ms)).collect();
    let ages: Vec<_> = rehearsal
        .transaction_ages
        .iter()
        .filter(|bucket| bucket.count > 0)
        .map(|bucket| match bucket.below_ms {
            Some(below) => format!("{} below {}", bucket.count, text::millis(below.into())),
            None => format!("{} older", bucket.count),
        })
        .collect();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
    let rate = |per_s: f64| format!("{}/s", text::bytes(per_s.max(0.0) as u64));
    format!(
        "pauses        {}\ntransactions  {}\nWAL           written {}, applied {}\nforetold      {}",
        if pauses.is_empty() {
            "none: this route has nothing that could be paused".to_owned()
        } else {
            pauses.join(", ")
        },
        if ages.is_empty() { "none seen".to_owned() } else { ages.join(", ") },
        rate(rehearsal.wal_per_s),
        rate(rehearsal.applied_per_s),
        foretold(rehearsal, route)
    )
}
