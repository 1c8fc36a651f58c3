//! Sequences: read on one side, set on the other; the stream does not carry them.
//!
//! A value that `nextval` has handed out is not transactional, so they are read after the fence. A copy that recovered
//! from the log stands up to 32 ahead of the source, which is why a sequence is never set backwards.

use futures::future::try_join_all;
use pgleap_saga::StepError;
use serde::{Deserialize, Serialize};

use crate::pg::{PgError, Session};

/// A sequence's definition, as far as it matters for carrying its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `schema.name`, quoted.
    pub name: String,
    /// Its step; negative for a descending one.
    pub increment: i64,
    /// It starts again at the other end.
    pub cycles: bool,
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The last value, or the first to come if `called` is false.
    pub last: i64,
    /// `last` was handed out.
    pub called: bool,
}

/// All sequences of a database, ready to be read and set.
pub struct Sequences {
    definitions: Vec<Definition>,
    /// Statements that read all positions, each with the number of the first sequence in it.
    reads: Vec<String>,
    /// Where they stand on the side that follows, as far as we have set them.
    to: Vec<Position>,
}

const LIST: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), s.seqincrement, s.seqcycle
      FROM pg_catalog.pg_sequence AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relpersistence <> 't' ORDER BY 1";

const SET: &str = "
    SELECT pg_catalog.setval(name::regclass, last, called)
      FROM unnest($1::text[], $2::bigint[], $3::bool[]) AS given (name, last, called)";

/// Sequences read by one statement: planning a longer union costs more than a round trip.
const PER_STATEMENT: usize = 200;

async fn list(session: &Session) -> Result<Vec<Definition>, PgError> {
    let rows = session.query(LIST, &[]).await?;
    Ok(rows.iter().map(|row| Definition { name: row.get(0), increment: row.get(1), cycles: row.get(2) }).collect())
}

fn read_statements(definitions: &[Definition]) -> Vec<String> {
    let part = |definitions: &[Definition]| {
        let one = |(i, d): (usize, &Definition)| format!("SELECT {i} AS i, last_value, is_called FROM {}", d.name);
        let all: Vec<_> = definitions.iter().enumerate().map(one).collect();
        format!("{} ORDER BY i", all.join(" UNION ALL "))
    };
    definitions.chunks(PER_STATEMENT).map(part).collect()
}

async fn read(session: &Session, reads: &[String]) -> Result<Vec<Position>, PgError> {
    let parts = try_join_all(reads.iter().map(|sql| session.query(sql, &[]))).await?;
    let read = |row: &tokio_postgres::Row| Position { last: row.get(1), called: row.get(2) };
    Ok(parts.iter().flatten().map(read).collect())
}

/// Returns the value that a sequence is to be set to; `None` leaves it as it is.
pub fn decide(definition: &Definition, from: Position, to: Position) -> Option<Position> {
    if from == to {
        return None;
    }
    // a cycle has no direction: only the position of the side that served is right
    if definition.cycles {
        return Some(from);
    }
    let next = |p: Position| i128::from(p.last) + if p.called { i128::from(definition.increment) } else { 0 };
    let behind = if definition.increment > 0 { next(to) < next(from) } else { next(to) > next(from) };
    behind.then_some(from)
}

/// Lists the sequences of both sides and prepares their statements.
///
/// # Errors
/// Fatal, if the two sides do not have the same sequences.
pub async fn warm(from: &Session, to: &Session) -> Result<Sequences, StepError> {
    let definitions = list(from).await?;
    let others = list(to).await?;
    let missing: Vec<_> = definitions.iter().filter(|d| !others.contains(d)).map(|d| d.name.clone()).collect();
    if !missing.is_empty() {
        return Err(StepError::fatal(
            format!("sequences differ between {} and {}", from.place, to.place),
            "make the same change on the other side, then try again",
        )
        .because(missing.join(", ")));
    }
    let reads = read_statements(&definitions);
    for sql in &reads {
        from.prepare(sql).await?;
    }
    to.prepare(SET).await?;
    let to = read(to, &reads).await?;
    Ok(Sequences { definitions, reads, to })
}

impl Sequences {
    /// Brings the sequences of the side that follows near, while the other still serves; returns how many were set.
    ///
    /// # Errors
    /// [`PgError`]; none is set then.
    pub async fn bring_near(&mut self, from: &Session, to: &Session) -> Result<usize, PgError> {
        let set = self.carry(from, to).await?;
        self.to = read(to, &self.reads).await?;
        Ok(set)
    }

    /// Reads every sequence on `from` and sets those on `to` that are behind, in one statement; returns how many.
    ///
    /// May be done again after a failure: what was set already is set to the same.
    ///
    /// # Errors
    /// [`PgError`]; none is set then.
    pub async fn carry(&self, from: &Session, to: &Session) -> Result<usize, PgError> {
        let positions = read(from, &self.reads).await?;
        let (mut names, mut lasts, mut called) = (Vec::new(), Vec::new(), Vec::new());
        for ((definition, from), to) in self.definitions.iter().zip(&positions).zip(&self.to) {
            if let Some(new) = decide(definition, *from, *to) {
                names.push(definition.name.clone());
                lasts.push(new.last);
                called.push(new.called);
            }
        }
        if !names.is_empty() {
            to.query(SET, &[&names, &lasts, &called]).await?;
        }
        Ok(names.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(increment: i64, cycles: bool) -> Definition {
        Definition { name: "s".to_owned(), increment, cycles }
    }

    fn at(last: i64, called: bool) -> Position {
        Position { last, called }
    }

    #[test]
    fn ascending_sequences_go_forward_and_never_back() {
        let s = sequence(1, false);
        assert_eq!(decide(&s, at(10, true), at(5, true)), Some(at(10, true)));
        assert_eq!(decide(&s, at(1, true), at(33, true)), None, "a recovered copy is ahead");
        assert_eq!(decide(&s, at(10, true), at(10, true)), None);
    }

    #[test]
    fn descending_sequences_go_forward_in_their_own_direction() {
        let s = sequence(-1, false);
        assert_eq!(decide(&s, at(-10, true), at(-5, true)), Some(at(-10, true)));
        assert_eq!(decide(&s, at(-5, true), at(-10, true)), None);
    }

    #[test]
    fn cycled_sequences_stand_where_they_stood() {
        let s = sequence(1, true);
        assert_eq!(decide(&s, at(1, true), at(99, true)), Some(at(1, true)));
    }

    #[test]
    fn sequences_that_were_never_called_stay_so() {
        let s = sequence(1, false);
        assert_eq!(decide(&s, at(1, false), at(1, false)), None);
        assert_eq!(decide(&s, at(1, true), at(1, false)), Some(at(1, true)));
        assert_eq!(decide(&s, at(1, false), at(1, true)), None, "1 was handed out there");
    }

    #[test]
    fn the_ends_of_the_range_do_not_overflow() {
        let s = sequence(1, false);
        assert_eq!(decide(&s, at(i64::MAX, true), at(1, true)), Some(at(i64::MAX, true)));
        assert_eq!(decide(&sequence(-1, false), at(i64::MIN, true), at(1, true)), Some(at(i64::MIN, true)));
    }
}
