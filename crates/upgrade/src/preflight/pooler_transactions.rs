//! Transactions that took long in the last minute, as a pooler counts.

use std::time::Duration;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::listed,
    pooler::Console,
    slow_transactions::slow_ms,
    source::Source,
};
use crate::world::World;

pub(super) const ABOUT: About = About {
    check: "pooler_transactions",
    topic: Topic::Poolers,
    reads: "SHOW STATS: how long transactions of each entry took on average in the last `stats_period`, a minute by default",
    why: "A pause waits for the transactions that are open when it begins. What they took a minute ago is the best guess of what \
          they will take; `slow_transactions` tells of the longer past.",
    findings: &[note(
        "pooler.transactions_slow",
        Applied::ByHand("how long a transaction takes is the application's to say."),
    )],
};

pub(super) async fn check(world: &World, source: Option<&Source>, console: &Console<'_>) -> Answer {
    let names = source.map(Source::names);
    let leading = console.entries_to_source(world, names.as_deref());
    let mean_ms = |name: &str| {
        let mean = Duration::from_micros(*console.seen.mean_transaction_us.get(name)?);
        Some(mean.as_secs_f64() * 1000.0)
    };
    let slow = leading.iter().filter_map(|entry| Some((&entry.name, mean_ms(&entry.name)?)));
    let slow: Vec<_> = slow.filter(|(_, mean)| *mean > slow_ms(world)).collect();
    let Some(longest) = slow.iter().map(|(_, mean)| *mean).reduce(f64::max) else { return Ok(Vec::new()) };
    let named: Vec<_> = slow.iter().map(|(name, mean)| format!("{name}: {:.1} s", mean / 1000.0)).collect();
    let message = format!(
        "transactions took long on average in the last {} s by PgBouncer {}: {}; the write pause is {} s",
        console.setting("stats_period").unwrap_or("60"),
        console.pooler(),
        listed(&named),
        world.config.budgets.write_pause.as_secs_f64()
    );
    Ok(vec![
        Finding::note("pooler.transactions_slow", message)
            .because("the pause waits for each that is open when it begins, as long as its budget lasts")
            .number("longest_mean_ms", longest)
            .objects(slow.iter().map(|(name, _)| name.as_str())),
    ])
}
