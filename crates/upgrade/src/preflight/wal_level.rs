//! Whether the source's WAL can be decoded.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, blocker},
    source::Source,
};

pub(super) const ABOUT: About = About {
    check: "wal_level",
    topic: Topic::Replication,
    reads: "the setting `wal_level`",
    why: "Below `logical` no slot can be made that decodes, and changing it is the one restart of the source that an \
          upgrade may cost: better weeks before than on the day.",
    findings: &[blocker("wal_level.not_logical", Applied::ByPgleap)],
};

pub(super) async fn check(source: &Source) -> Answer {
    let level = source.setting("wal_level").unwrap_or_default();
    if level == "logical" {
        return Ok(Vec::new());
    }
    let finding = Finding::blocker("wal_level.not_logical", format!("`wal_level` is `{level}`; it must be `logical`"));
    Ok(vec![
        finding
            .because("changes are read from the WAL; the setting takes effect with a restart of the source")
            .fixes([Fix::restart("wal_level", "logical")]),
    ])
}
