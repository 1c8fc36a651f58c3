//! Reading: for the executor's resume, for steps that want earlier outputs, and for status, watch and report.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;

use super::{Journal, JournalError, Record, RecordKind, Recorded, Sample};
use crate::PlanState;

const SELECT_RECORDS: &str = "
    SELECT n, at_ms, plan, step, kind, attempt, revision, body FROM records WHERE n > ?1 ORDER BY n";
const SELECT_SAMPLES: &str = "SELECT at_ms, plan, step, name, value FROM samples ORDER BY rowid";
const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM records WHERE plan = ?1 AND step = ?2 AND kind = ?3)";
const SELECT_OUTPUT_IN: &str = "
    SELECT n, kind, revision, body, plan FROM records
     WHERE step = ?2 AND plan = ?1 AND kind IN ('succeeded', 'undone') ORDER BY n DESC LIMIT 1";
// With max(), SQLite takes the other columns from the row that has the maximum.
const SELECT_OUTPUT_ELSEWHERE: &str = "
    SELECT max(n), kind, revision, body, plan FROM records
     WHERE step = ?2 AND plan <> ?1 AND kind IN ('succeeded', 'undone') GROUP BY plan
    HAVING kind = 'succeeded' ORDER BY 1 DESC LIMIT 1";

impl Journal {
    /// Returns every record numbered above `after`, in order; 0 for all.
    ///
    /// # Errors
    /// [`JournalError::Read`], [`JournalError::Corrupt`].
    pub fn records(&self, after: i64) -> Result<Vec<Record>, JournalError> {
        let held = self.held();
        let mut statement = held.main.prepare_cached(SELECT_RECORDS).map_err(JournalError::Read)?;
        let mut rows = statement.query([after]).map_err(JournalError::Read)?;
        let mut records = Vec::new();
        while let Some(row) = rows.next().map_err(JournalError::Read)? {
            records.push(record(row)?);
        }
        Ok(records)
    }

    /// Returns every sample, in the order of writing.
    ///
    /// # Errors
    /// [`JournalError::Read`].
    pub fn samples(&self) -> Result<Vec<Sample>, JournalError> {
        let held = self.held();
        let mut statement = held.main.prepare_cached(SELECT_SAMPLES).map_err(JournalError::Read)?;
        let sample = |row: &Row<'_>| {
            Ok(Sample {
                at: timestamp(row.get(0)?),
                plan: row.get(1)?,
                step: row.get(2)?,
                name: row.get(3)?,
                value: row.get(4)?,
            })
        };
        statement.query_map([], sample).and_then(Iterator::collect).map_err(JournalError::Read)
    }

    /// Returns where each plan stands, in the order they were opened.
    ///
    /// # Errors
    /// [`JournalError::Read`], [`JournalError::Corrupt`].
    pub fn plans(&self) -> Result<Vec<PlanState>, JournalError> {
        PlanState::fold(&self.records(0)?)
    }

    /// Returns the newest plan that is neither done nor unwound.
    ///
    /// # Errors
    /// As [`Journal::plans`].
    pub fn open_plan(&self) -> Result<Option<PlanState>, JournalError> {
        Ok(self.plans()?.into_iter().rfind(|plan| plan.outcome.is_none()))
    }

    /// Returns whether a record may be found in the journal by whoever opens it next, though writing it failed here;
    /// `None` if that cannot be told.
    ///
    /// A commit whose last sync failed is not seen by this process any more. But its pages are in the log, and a process
    /// that recovers the log from its file sees it. So the file is searched too, whatever SQLite says.
    pub(crate) fn may_hold(&self, plan: &str, step: &str, kind: RecordKind) -> Option<bool> {
        let held = self.held();
        let kind = kind.as_str();
        let seen: bool = held.main.query_row(EXISTS, [plan, step, kind], |row| row.get(0)).ok()?;
        // Not the journal's own file: to close that would drop SQLite's locks on it. The log has none.
        let log = std::fs::read(format!("{}-wal", held.main.path()?)).ok()?;
        // A row has its texts side by side, in the order of the columns.
        let row = [plan, step, kind].concat();
        Some(seen || log.windows(row.len()).any(|bytes| bytes == row.as_bytes()))
    }

    /// The newest success of a step in one plan, unless it was undone since.
    pub(crate) fn output_in(&self, plan: &str, step: &str) -> Result<Option<Recorded>, JournalError> {
        self.output(SELECT_OUTPUT_IN, plan, step)
    }

    /// The newest success of a step, not undone since, in any plan but one.
    pub(crate) fn output_elsewhere(&self, plan: &str, step: &str) -> Result<Option<Recorded>, JournalError> {
        self.output(SELECT_OUTPUT_ELSEWHERE, plan, step)
    }

    fn output(&self, query: &str, plan: &str, step: &str) -> Result<Option<Recorded>, JournalError> {
        let found = {
            let held = self.held();
            let mut statement = held.main.prepare_cached(query).map_err(JournalError::Read)?;
            let columns = |row: &Row<'_>| {
                let (n, kind): (i64, String) = (row.get(0)?, row.get(1)?);
                let (revision, body): (Option<u32>, String) = (row.get(2)?, row.get(3)?);
                Ok((n, kind, revision, body, row.get::<_, String>(4)?))
            };
            statement.query_row(params![plan, step], columns).optional().map_err(JournalError::Read)?
        };
        match found {
            Some((n, kind, revision, body, plan)) if kind == RecordKind::Succeeded.as_str() => {
                let mut body = json(n, &body)?;
                let output = body.get_mut("output").map(Value::take).unwrap_or_default();
                Ok(Some(Recorded { output, revision: revision.unwrap_or_default(), plan }))
            }
            _ => Ok(None),
        }
    }
}

fn record(row: &Row<'_>) -> Result<Record, JournalError> {
    let read = JournalError::Read;
    let n = row.get(0).map_err(read)?;
    let kind: String = row.get(4).map_err(read)?;
    let body: String = row.get(7).map_err(read)?;
    Ok(Record {
        n,
        at: timestamp(row.get(1).map_err(read)?),
        plan: row.get(2).map_err(read)?,
        step: row.get(3).map_err(read)?,
        kind: RecordKind::from_name(&kind)
            .ok_or_else(|| JournalError::Corrupt { n, what: format!("unknown kind `{kind}`") })?,
        attempt: row.get(5).map_err(read)?,
        revision: row.get(6).map_err(read)?,
        body: json(n, &body)?,
    })
}

fn json(n: i64, body: &str) -> Result<Value, JournalError> {
    serde_json::from_str(body).map_err(|error| JournalError::Corrupt { n, what: error.to_string() })
}

fn timestamp(ms: i64) -> Timestamp {
    // Out of range only in a damaged file, where the time is the least of it.
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}
