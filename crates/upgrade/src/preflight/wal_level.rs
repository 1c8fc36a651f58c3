//! Whether the source's WAL can be decoded.

use super::{Answer, Finding, source::Source};

/// Reads `wal_level`. Below `logical` no slot can be made that decodes, and changing it is the one restart of the source
/// that an upgrade may cost: better weeks before than on the day.
pub(super) async fn check(source: &Source) -> Answer {
    let level = source.setting("wal_level").unwrap_or_default();
    if level == "logical" {
        return Ok(Vec::new());
    }
    let finding = Finding::blocker("wal_level.not_logical", format!("`wal_level` is `{level}`; it must be `logical`"));
    Ok(vec![
        finding
            .because("changes are read from the WAL; the setting takes effect with a restart of the source")
            .fix("ALTER SYSTEM SET wal_level = 'logical';  -- then restart the source"),
    ])
}
