//! Which tables are written most.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::{counted, listed},
    rates::{self, WriteRate},
    source::Entered,
};

/// What is written less often than once a second is not worth a word.
const LEAST_PER_S: f64 = 1.0;
/// As many are named.
const NAMED: usize = 20;

pub(super) const ABOUT: About = About {
    check: "busiest_tables",
    topic: Topic::Activity,
    reads: "the counters of rows written to each table, twice, a second apart, and since when they count",
    why: "What these tables take is what the stream carries, what catching up and the comparison have to keep up with, and what \
          says which hour suits a switchover.",
    findings: &[note("table.busiest", Applied::ByHand("nothing has to be done."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rates = rates::measure(&database.session, None, database.may_wait).await?;
    Ok(judge(&database.name, rates).into_iter().collect())
}

fn judge(database: &str, mut rates: Vec<WriteRate>) -> Option<Finding> {
    rates.retain(|rate| rate.per_s() >= LEAST_PER_S);
    rates.sort_by(|a, b| b.per_s().total_cmp(&a.per_s()).then_with(|| a.table.cmp(&b.table)));
    if rates.is_empty() {
        return None;
    }
    let total: f64 = rates.iter().map(WriteRate::per_s).sum();
    let count = rates.len();
    let words = |rate: &WriteRate| {
        let (inserts, updates, deletes) = (rate.inserts_per_s, rate.updates_per_s, rate.deletes_per_s);
        format!(
            "{}: {inserts:.0} rows/s inserted, {updates:.0} updated, {deletes:.0} deleted, {}",
            rate.table,
            rate.basis()
        )
    };
    let names: Vec<_> = rates.iter().take(NAMED).map(words).collect();
    let message =
        format!("{} of database `{database}` take {total:.0} rows/s: {}", counted(count, "table"), listed(&names));
    let message = if count == 1 { message.replacen(" take ", " takes ", 1) } else { message };
    Some(
        Finding::note("table.busiest", message)
            .because("every row of these is sent, applied and compared; a quiet hour is the time for the switchover")
            .number("tables", count)
            .number("rows_written_per_s", total)
            .objects(names),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busiest_come_first_and_quiet_ones_not_at_all() {
        let rate = |table: &str, inserts_per_s, updates_per_s| WriteRate {
            oid: 1,
            table: table.into(),
            rows: 1,
            inserts_per_s,
            updates_per_s,
            deletes_per_s: 0.0,
            over_s: 1.0,
            is_window: true,
        };
        let finding = judge("app", vec![rate("s.a", 0.2, 0.0), rate("s.b", 2.0, 0.0), rate("s.c", 1.0, 30.0)]).unwrap();
        assert_eq!(
            finding.message,
            "2 tables of database `app` take 33 rows/s: `s.c: 1 rows/s inserted, 30 updated, 0 deleted, over 1.0 s just now`, \
             `s.b: 2 rows/s inserted, 0 updated, 0 deleted, over 1.0 s just now`"
        );
        assert_eq!(judge("app", vec![rate("s.a", 0.2, 0.0)]), None);
    }
}
