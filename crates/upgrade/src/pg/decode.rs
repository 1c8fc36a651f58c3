//! Looking into a slot without consuming it: which transactions it holds, and where each committed.

use super::{Lsn, PgError, Session};

/// A transaction as a slot would deliver it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Decoded {
    /// The transaction's id on the publisher, without epoch.
    pub xid: u32,
    /// Where its commit record starts.
    pub commit: Lsn,
}

/// Begin messages alone, rows stay on the server: of transactions in which something comes before the Commit. Publishers
/// older than 15 send those too in which nothing does, such as DDL.
const PEEK: &str = "
    SELECT data FROM (
        SELECT data, pg_catalog.get_byte(data, 0) AS kind,
               pg_catalog.lead(pg_catalog.get_byte(data, 0)) OVER (ORDER BY n) AS next
          FROM pg_catalog.pg_logical_slot_peek_binary_changes(
               $1, $2::text::pg_lsn, NULL, 'proto_version', '1', 'publication_names', $3)
               WITH ORDINALITY AS m (lsn, xid, data, n)) AS m
     WHERE kind = 66 AND next <> 67";

/// Returns the transactions with published changes that `slot` holds, up to the first commit at or past `upto`, in
/// commit order. The slot is not moved; it must be inactive.
///
/// # Errors
/// [`PgError`]: an active slot is `OBJECT_IN_USE`, a lost one `OBJECT_NOT_IN_PREREQUISITE_STATE`.
///
/// Source: PostgreSQL manual, "Logical Replication Message Formats": Begin is `B`, the final LSN of the transaction
/// (its commit record's start), a timestamp, the xid.
pub async fn peek(session: &Session, slot: &str, publication: &str, upto: Lsn) -> Result<Vec<Decoded>, PgError> {
    let publications = super::ident::quote(publication);
    begun(session, &session.query(PEEK, &[&slot, &upto.to_string(), &publications]).await?)
}

/// As [`PEEK`], of this session's own temporary slot, which moves on; without those whose Begin is followed by an Origin.
const TAKE: &str = "
    SELECT data FROM (
        SELECT data, pg_catalog.get_byte(data, 0) AS kind,
               pg_catalog.lead(pg_catalog.get_byte(data, 0)) OVER (ORDER BY n) AS next
          FROM pg_catalog.pg_logical_slot_get_binary_changes(
               'pgleap_strays_' || pg_catalog.pg_backend_pid(), NULL, NULL, 'proto_version', '1', 'publication_names', $1)
               WITH ORDINALITY AS m (lsn, xid, data, n)) AS m
     WHERE kind = 66 AND next NOT IN (67, 79)";

/// Returns the transactions with published changes since the last call that did not come by replication.
///
/// # Errors
/// [`PgError`].
///
/// Source: PostgreSQL manual, "Logical Replication Message Formats": Origin is `O`, and follows the Begin of a transaction that
/// was applied from elsewhere.
pub async fn local(session: &Session, publication: &str) -> Result<Vec<Decoded>, PgError> {
    let publications = super::ident::quote(publication);
    begun(session, &session.query(TAKE, &[&publications]).await?)
}

fn begun(session: &Session, rows: &[tokio_postgres::Row]) -> Result<Vec<Decoded>, PgError> {
    let one = |row: &tokio_postgres::Row| {
        let data: &[u8] = row.get(0);
        parse_begin(data).ok_or_else(|| session.unexpected(format!("{data:02x?}"), "a Begin message"))
    };
    rows.iter().map(one).collect()
}

fn parse_begin(data: &[u8]) -> Option<Decoded> {
    let commit = u64::from_be_bytes(data.get(1..9)?.try_into().ok()?);
    let xid = u32::from_be_bytes(data.get(17..21)?.try_into().ok()?);
    (data[0] == b'B').then_some(Decoded { xid, commit: Lsn(commit) })
}

/// Returns the full transaction id nearest to, and below, `next_full` that ends in `xid`.
///
/// `next_full` is the publisher's next id, read after the transaction was decoded, so the true id is less than 2^32
/// before it.
pub fn with_epoch(xid: u32, next_full: u64) -> u64 {
    let candidate = (next_full & !0xFFFF_FFFF) | u64::from(xid);
    if candidate < next_full { candidate } else { candidate.saturating_sub(1 << 32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_message_gives_xid_and_commit_position() {
        let mut data = vec![b'B'];
        data.extend(0x0000_0001_0300_03B0_u64.to_be_bytes());
        data.extend(0_u64.to_be_bytes());
        data.extend(725_u32.to_be_bytes());
        assert_eq!(parse_begin(&data), Some(Decoded { xid: 725, commit: Lsn(0x1_0300_03B0) }));
        assert_eq!(parse_begin(&data[..20]), None);
        data[0] = b'C';
        assert_eq!(parse_begin(&data), None);
    }

    #[test]
    fn epoch_is_the_one_before_when_the_id_is_ahead_of_the_counter() {
        let epoch = 1_u64 << 32;
        assert_eq!(with_epoch(700, 3 * epoch + 800), 3 * epoch + 700);
        assert_eq!(with_epoch(u32::MAX, 3 * epoch + 800), 3 * epoch - 1);
        assert_eq!(with_epoch(5, 6), 5);
    }
}
