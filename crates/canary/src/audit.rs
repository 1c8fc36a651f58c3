//! Compares a ledger with what a database holds: the verdict on "no acknowledged write lost, none applied twice".
//!
//! The server condenses each table to runs of consecutive numbers per client, in one snapshot and from the tables
//! themselves, not from their indexes: an index may be what is broken. A clean database answers with one row per client,
//! however many millions it holds; only what is wrong is listed.
//!
//! What it cannot see: a write that a client made after the ledger was closed counts as unexpected, so let the clients
//! end first; and a standby or a subscriber has to have caught up.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Config, SimpleQueryMessage, SimpleQueryRow};

use crate::canary::is_missing;
use crate::error::{CanaryError, target_of};
use crate::ledger::{ClientLedger, Ledger};
use crate::ranges::Ranges;
use crate::schema::CONNECT_LIMIT;
use crate::session::Session;
use crate::transaction::PAYLOAD_TAIL;

const LIST_ISLANDS: &str = include_str!("../sql/list_islands.sql");
const LIST_REPEATED: &str = include_str!("../sql/list_repeated.sql");
const LIST_ALTERED: &str = include_str!("../sql/list_altered.sql");

/// One snapshot for all; long enough for any table; and no index, for the reason above.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
     SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off; \
     SET LOCAL work_mem = '64MB'";

const TABLES: [&str; 2] = ["entry", "entry_keyless"];
const MOST_EXAMPLES: usize = 20;
const ACTION: &str = "read what the database holds of the ledger";

/// What a database holds of the transactions in a ledger. Counts transactions, not rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The ledger says: COMMIT was acknowledged.
    pub acknowledged: u64,
    /// Of these, present in full and once.
    pub present_once: u64,
    /// Acknowledged, but absent or only half there; also an unknown one that is half there.
    pub lost: u64,
    /// Present more than once, whatever the ledger says of them.
    pub duplicated: u64,
    /// The answer to COMMIT never came, and it turns out to have been committed.
    pub unknown_present: u64,
    /// The answer to COMMIT never came, and it turns out not to have been committed.
    pub unknown_absent: u64,
    /// Present, although the client rolled it back or never sent it.
    pub unexpected: u64,
    /// Rows with another content than the client wrote.
    pub altered: u64,
    /// Clients whose counter is not the number of their committed transactions: an update was lost or added.
    pub miscounted: u64,
    /// The first 20 of each kind that is not as it should be, and of the unknown ones.
    pub examples: BTreeMap<String, Vec<Example>>,
}

/// One transaction that an audit points out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The client's id, as in the tables.
    pub client: String,
    /// The transaction's number, as in the tables; for a miscount what the counter says, or -1 if it is not there.
    pub seq: i64,
}

impl Audit {
    /// Says whether nothing was lost, duplicated, altered or made up. Unknown outcomes may have gone either way.
    pub fn is_clean(&self) -> bool {
        [self.lost, self.duplicated, self.unexpected, self.altered, self.miscounted].iter().all(|count| *count == 0)
    }

    fn example(&mut self, kind: &str, client: &str, seqs: impl Iterator<Item = i64>) {
        let examples = self.examples.entry(kind.to_owned()).or_default();
        let room = MOST_EXAMPLES.saturating_sub(examples.len());
        examples.extend(seqs.take(room).map(|seq| Example { client: client.to_owned(), seq }));
        if examples.is_empty() {
            self.examples.remove(kind);
        }
    }

    /// Judges one client.
    fn judge(&mut self, ledger: &ClientLedger, held: &Held) {
        let client = ledger.client.as_str();
        let [keyed, keyless] = &held.present;
        let whole = keyed.intersection(keyless);
        let any = keyed.union(keyless);
        let duplicated = held.repeated[0].union(&held.repeated[1]);
        let unknown_present = ledger.unknown.intersection(&any);
        let unknown_absent = ledger.unknown.difference(&any);
        let lost = ledger.acknowledged.difference(&whole).union(&unknown_present.difference(&whole));
        let unexpected = any.difference(&ledger.acknowledged).difference(&ledger.unknown);
        self.acknowledged += ledger.acknowledged.len();
        self.present_once += ledger.acknowledged.intersection(&whole).difference(&duplicated).len();
        self.lost += lost.len();
        self.duplicated += duplicated.len();
        self.unknown_present += unknown_present.len();
        self.unknown_absent += unknown_absent.len();
        self.unexpected += unexpected.len();
        self.example("lost", client, lost.iter());
        self.example("duplicated", client, duplicated.iter());
        self.example("unknown_present", client, unknown_present.iter());
        self.example("unknown_absent", client, unknown_absent.iter());
        self.example("unexpected", client, unexpected.iter());
        self.altered += held.altered;
        let committed = ledger.acknowledged.len() + unknown_present.len();
        let counted = held.counter.unwrap_or(-1);
        if u64::try_from(counted).unwrap_or(0) != committed {
            self.miscounted += 1;
            self.example("miscounted", client, std::iter::once(counted));
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "audit {}: {} acknowledged, {} present once, {} lost, {} duplicated, {} unexpected",
            if self.is_clean() { "clean" } else { "NOT clean" },
            self.acknowledged,
            self.present_once,
            self.lost,
            self.duplicated,
            self.unexpected,
        )?;
        if self.altered + self.miscounted > 0 {
            writeln!(f, "  {} rows altered, {} clients miscounted", self.altered, self.miscounted)?;
        }
        if self.unknown_present + self.unknown_absent > 0 {
            writeln!(
                f,
                "  of the unknown outcomes {} turned out committed, {} not",
                self.unknown_present, self.unknown_absent
            )?;
        }
        for (kind, examples) in self.examples.iter().filter(|(kind, _)| !kind.starts_with("unknown")) {
            let list: Vec<String> = examples.iter().map(|at| format!("{} of {}", at.seq, at.client)).collect();
            writeln!(f, "  {kind}: {}", list.join(", "))?;
        }
        Ok(())
    }
}

/// What the database holds of one client.
#[derive(Debug, Clone, Default)]
struct Held {
    /// By table, as in [`TABLES`].
    present: [Ranges; 2],
    repeated: [Ranges; 2],
    altered: u64,
    counter: Option<i64>,
}

/// Compares `ledger` with the database that `connect` names: any copy, directly or through a pooler.
///
/// Other clients' rows are left out of it, so several canaries may share a database.
///
/// # Errors
/// [`CanaryError::NotPrepared`] if the database has no canary schema; [`CanaryError::Connect`],
/// [`CanaryError::ConnectTimeout`], [`CanaryError::Statement`] if it cannot be read.
pub async fn audit(connect: &Config, ledger: &Ledger) -> Result<Audit, CanaryError> {
    if ledger.clients.is_empty() {
        return Ok(Audit::default());
    }
    let session = Session::connect(connect, CONNECT_LIMIT).await?;
    let held = read_all(&session.client, ledger).await.map_err(|error| match error {
        CanaryError::Statement { source, .. } if is_missing(&source) => {
            CanaryError::NotPrepared { target: target_of(connect) }
        }
        other => other,
    })?;
    let mut audit = Audit::default();
    for client in &ledger.clients {
        audit.judge(client, held.0.get(&client.client).unwrap_or(&Held::default()));
    }
    if audit.altered > 0 {
        audit.examples.insert("altered".to_owned(), held.1);
    }
    Ok(audit)
}

async fn read_all(client: &Client, ledger: &Ledger) -> Result<(BTreeMap<String, Held>, Vec<Example>), CanaryError> {
    let names: Vec<String> =
        ledger.clients.iter().map(|client| format!("'{}'", client.client.replace('\'', "''"))).collect();
    let names = names.join(", ");
    let fill = |sql: &str, table: &str| {
        sql.replace("{table}", table)
            .replace("{tail}", PAYLOAD_TAIL)
            .replace("{limit}", &MOST_EXAMPLES.to_string())
            .replace("{clients}", &names)
    };
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    let mut altered = Vec::new();
    query(client, BEGIN).await?;
    for (nth, table) in TABLES.into_iter().enumerate() {
        let mut islands: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
        let (mut any_repeated, mut any_altered) = (false, false);
        for row in query(client, &fill(LIST_ISLANDS, table)).await? {
            let (name, low, high) = (text(&row, 0)?, number(&row, 1)?, number(&row, 2)?);
            any_repeated |= number(&row, 3)? > high - low + 1;
            let altered = u64::try_from(number(&row, 4)?).unwrap_or(0);
            any_altered |= altered > 0;
            held.entry(name.clone()).or_default().altered += altered;
            islands.entry(name).or_default().push((low, high));
        }
        for (name, ranges) in islands {
            held.entry(name).or_default().present[nth] = Ranges::from(ranges);
        }
        if any_repeated {
            let mut repeated: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
            for row in query(client, &fill(LIST_REPEATED, table)).await? {
                repeated.entry(text(&row, 0)?).or_default().push((number(&row, 1)?, number(&row, 2)?));
            }
            for (name, ranges) in repeated {
                held.entry(name).or_default().repeated[nth] = Ranges::from(ranges);
            }
        }
        if any_altered {
            for row in query(client, &fill(LIST_ALTERED, table)).await? {
                altered.push(Example { client: text(&row, 0)?, seq: number(&row, 1)? });
            }
        }
    }
    let counters = format!("SELECT client, value FROM pgleap_canary.counter WHERE client IN ({names})");
    for row in query(client, &counters).await? {
        held.entry(text(&row, 0)?).or_default().counter = Some(number(&row, 1)?);
    }
    query(client, "COMMIT").await?;
    altered.truncate(MOST_EXAMPLES);
    Ok((held, altered))
}

async fn query(client: &Client, sql: &str) -> Result<Vec<SimpleQueryRow>, CanaryError> {
    let answer = client.simple_query(sql).await.map_err(|source| CanaryError::Statement { action: ACTION, source })?;
    Ok(answer
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect())
}

fn text(row: &SimpleQueryRow, nth: usize) -> Result<String, CanaryError> {
    row.try_get(nth).ok().flatten().map(str::to_owned).ok_or(CanaryError::Answer { action: ACTION })
}

fn number(row: &SimpleQueryRow, nth: usize) -> Result<i64, CanaryError> {
    text(row, nth)?.parse().map_err(|_| CanaryError::Answer { action: ACTION })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(i64, i64)]) -> Ranges {
        Ranges::from(list.to_vec())
    }

    fn judge(held: Held) -> Audit {
        let ledger = ClientLedger {
            client: "a-0".to_owned(),
            acknowledged: ranges(&[(1, 5), (7, 9)]),
            unknown: ranges(&[(6, 6), (10, 10)]),
        };
        let mut audit = Audit::default();
        audit.judge(&ledger, &held);
        audit
    }

    fn held(list: &[(i64, i64)], counter: i64) -> Held {
        Held { present: [ranges(list), ranges(list)], counter: Some(counter), ..Held::default() }
    }

    #[test]
    fn unknown_outcomes_are_clean_whichever_way_they_went() {
        for (list, counter, present) in [(&[(1, 10)][..], 10, 2), (&[(1, 5), (7, 9)], 8, 0), (&[(1, 9)], 9, 1)] {
            let audit = judge(held(list, counter));
            assert!(audit.is_clean(), "{audit}");
            assert_eq!((audit.unknown_present, audit.unknown_absent), (present, 2 - present));
            assert_eq!(audit.present_once, 8);
        }
    }

    #[test]
    fn half_a_transaction_is_a_lost_one() {
        let mut half = held(&[(1, 9)], 9);
        half.present[0] = ranges(&[(1, 1), (3, 9)]);
        let audit = judge(half);
        assert_eq!((audit.lost, audit.examples["lost"][0].seq, audit.present_once), (1, 2, 7));
        let mut half = held(&[(1, 5), (7, 9)], 9);
        half.present[1] = ranges(&[(1, 9)]);
        assert_eq!(judge(half).lost, 1, "the unknown one is half there");
    }

    #[test]
    fn a_write_that_was_rolled_back_or_never_sent_is_unexpected() {
        let audit = judge(held(&[(-3, -3), (1, 9), (11, 12)], 9));
        assert_eq!(audit.unexpected, 3);
        assert_eq!(audit.examples["unexpected"].iter().map(|at| at.seq).collect::<Vec<_>>(), [-3, 11, 12]);
    }

    #[test]
    fn a_counter_that_missed_an_update_is_told() {
        assert_eq!(judge(held(&[(1, 9)], 9)).miscounted, 0);
        assert_eq!(judge(held(&[(1, 9)], 8)).miscounted, 1);
        assert_eq!(judge(Held { counter: None, ..held(&[(1, 9)], 0) }).miscounted, 1);
    }

    #[test]
    fn an_empty_database_has_lost_everything_and_lists_twenty_at_most() {
        let ledger =
            ClientLedger { client: "a-0".to_owned(), acknowledged: ranges(&[(1, 1000)]), unknown: Ranges::default() };
        let mut audit = Audit::default();
        audit.judge(&ledger, &Held::default());
        assert_eq!((audit.lost, audit.examples["lost"].len()), (1000, 20));
        assert!(!audit.is_clean());
    }
}
