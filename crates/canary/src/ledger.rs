//! What the server acknowledged, client by client: the evidence that an audit judges by.
//!
//! The file form is a line of JSON per fact, so that a canary that is killed leaves a ledger that can be read. A file may
//! hold several runs, one after the other or interleaved: clients have ids that never repeat.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::CanaryError;
use crate::ranges::Ranges;

/// The ledger of one canary, or of all that wrote to one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// One entry per client of each run, in the order in which they started.
    pub clients: Vec<ClientLedger>,
}

/// What one client knows of its transactions, which it numbers from 1 without gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLedger {
    /// The id of the run and the number of the client in it: unique in every database.
    pub client: String,
    /// COMMIT was acknowledged: must be present, once.
    pub acknowledged: Ranges,
    /// COMMIT was sent and its answer never came: may be present, once, or absent.
    pub unknown: Ranges,
}

impl ClientLedger {
    pub(crate) fn new(client: String) -> Self {
        Self { client, ..Self::default() }
    }

    /// Returns the number that the next transaction takes.
    pub(crate) fn next(&self) -> i64 {
        self.acknowledged.last().max(self.unknown.last()).unwrap_or(0) + 1
    }
}

/// One line of a ledger file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    /// A run begins.
    Run { schema: u32, run: String, label: String, clients: Vec<String> },
    /// COMMIT was acknowledged.
    Acknowledged { client: String, acknowledged: i64 },
    /// COMMIT was sent and its answer never came.
    Unknown { client: String, unknown: i64 },
    /// The client ended with nothing in flight.
    Ended { client: String, ended: bool },
}

impl Ledger {
    /// Reads a ledger file.
    ///
    /// A torn last line, of the file or before another run begins, is what a killed canary leaves; it is passed over. The
    /// transaction that a client had not finished when its canary was killed is unknown.
    ///
    /// # Errors
    /// [`CanaryError::LedgerFile`] if it cannot be read, [`CanaryError::LedgerLine`] if it is not a ledger.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, CanaryError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| CanaryError::LedgerFile { path: path.to_owned(), source })?;
        Self::read(&bytes).map_err(|line| CanaryError::LedgerLine { path: path.to_owned(), line })
    }

    /// Returns the number of acknowledged transactions.
    pub fn acknowledged(&self) -> u64 {
        self.clients.iter().map(|client| client.acknowledged.len()).sum()
    }

    /// Returns the number of transactions whose outcome the clients could not learn.
    pub fn unknown(&self) -> u64 {
        self.clients.iter().map(|client| client.unknown.len()).sum()
    }

    fn read(bytes: &[u8]) -> Result<Self, usize> {
        let mut clients: Vec<(ClientLedger, bool)> = Vec::new();
        let mut index: BTreeMap<String, usize> = BTreeMap::new();
        let mut torn = None;
        for (nth, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if text.is_empty() {
                continue;
            }
            let line: Option<Line> = serde_json::from_slice(text).ok();
            match (torn, &line) {
                (Some(earlier), Some(line)) if !matches!(line, Line::Run { .. }) => return Err(earlier),
                (Some(earlier), None) => return Err(earlier),
                (_, None) => torn = Some(nth + 1),
                (_, Some(_)) => torn = None,
            }
            let Some(line) = line else { continue };
            if let Line::Run { clients: names, .. } = line {
                for name in names {
                    index.insert(name.clone(), clients.len());
                    clients.push((ClientLedger::new(name), false));
                }
                continue;
            }
            let (Line::Acknowledged { client, .. } | Line::Unknown { client, .. } | Line::Ended { client, .. }) = &line
            else {
                continue;
            };
            let Some((ledger, ended)) = index.get(client).and_then(|at| clients.get_mut(*at)) else {
                return Err(nth + 1);
            };
            match line {
                Line::Acknowledged { acknowledged, .. } => ledger.acknowledged.insert(acknowledged),
                Line::Unknown { unknown, .. } => ledger.unknown.insert(unknown),
                Line::Ended { ended: value, .. } => *ended = value,
                Line::Run { .. } => {}
            }
        }
        let clients = clients
            .into_iter()
            .map(|(mut ledger, ended)| {
                if !ended {
                    let in_flight = ledger.next();
                    ledger.unknown.insert(in_flight);
                }
                ledger
            })
            .collect();
        Ok(Self { clients })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{"schema":1,"run":"a","label":"orders","clients":["a-0","a-1"]}"#;

    fn read(lines: &[&str]) -> Result<Ledger, usize> {
        Ledger::read(lines.join("\n").as_bytes())
    }

    #[test]
    fn the_transaction_in_flight_at_a_kill_is_unknown() {
        let ledger = read(&[
            RUN,
            r#"{"client":"a-0","acknowledged":1}"#,
            r#"{"client":"a-0","acknowledged":2}"#,
            r#"{"client":"a-1","unknown":1}"#,
            r#"{"client":"a-1","acknowledged":2}"#,
            r#"{"client":"a-1","ended":true}"#,
            "",
        ])
        .unwrap();
        assert_eq!(ledger.clients[0].acknowledged, Ranges::from(vec![(1, 2)]));
        assert_eq!(ledger.clients[0].unknown, Ranges::from(vec![(3, 3)]), "no `ended` line: the next one is in doubt");
        assert_eq!(ledger.clients[1].unknown, Ranges::from(vec![(1, 1)]));
        assert_eq!((ledger.acknowledged(), ledger.unknown()), (3, 2));
    }

    #[test]
    fn a_torn_last_line_is_passed_over() {
        let ledger = read(&[RUN, r#"{"client":"a-0","acknowledged":1}"#, r#"{"client":"a-0","ackno"#]).unwrap();
        assert_eq!(ledger.clients[0].acknowledged.len(), 1);
        assert!(ledger.clients[0].unknown.contains(2));
    }

    #[test]
    fn a_torn_line_before_another_run_is_passed_over() {
        let second = RUN.replace("a-", "b-");
        let ledger = read(&[RUN, r#"{"client":"a-0","#, &second, r#"{"client":"b-1","acknowledged":1}"#]).unwrap();
        assert_eq!(ledger.clients.len(), 4);
        assert_eq!(ledger.acknowledged(), 1);
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_refused() {
        assert_eq!(read(&[RUN, r#"{"client":"a-0","#, r#"{"client":"a-0","acknowledged":1}"#]), Err(2));
        assert_eq!(read(&["what", "ever"]), Err(1));
    }

    #[test]
    fn an_entry_of_a_client_that_no_run_announced_is_refused() {
        assert_eq!(read(&[RUN, r#"{"client":"z-0","acknowledged":1}"#]), Err(2));
    }
}
