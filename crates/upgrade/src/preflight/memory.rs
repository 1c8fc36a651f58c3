//! Whether this host has memory for a second server beside the source.

use std::path::Path;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    finding::size,
    source::Source,
};
use crate::world::World;

/// A number without a unit counts blocks of 8 KiB.
const BYTES: &str = "
    SELECT CASE WHEN $1 ~ '^\\s*[0-9]+\\s*$' THEN $1::bigint * 8192 ELSE pg_catalog.pg_size_bytes($1) END";

pub(super) const ABOUT: About = About {
    check: "memory",
    topic: Topic::Host,
    reads: "`shared_buffers` and `huge_pages`, the source's or what [target] says, and this host's `/proc/meminfo`",
    why: "The target has the source's settings and runs beside it. With `huge_pages = on` it does not start where too few are free, \
          which shows only when the copy was taken and upgraded. Where memory is short the two push each other out of it, and \
          the source serves clients. `rehearse --twin` starts small, and does not see it.",
    findings: &[
        blocker("memory.huge_pages", Applied::ByHand("the host's memory is its administrator's.")),
        warning("memory.low", Applied::ByHand("the host's memory is its administrator's.")),
    ],
};

/// What this host has, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    available: u64,
    huge_free: u64,
}

/// Reads `/proc/meminfo`: `MemAvailable:   12345 kB`.
fn read(meminfo: &str) -> Option<Memory> {
    let value = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let huge_free = value("HugePages_Free").unwrap_or(0).saturating_sub(value("HugePages_Rsvd").unwrap_or(0));
    let huge_free = huge_free.saturating_mul(value("Hugepagesize").unwrap_or(0) << 10);
    Some(Memory { available: value("MemAvailable")? << 10, huge_free })
}

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let Some(memory) = std::fs::read_to_string(Path::new("/proc/meminfo")).ok().as_deref().and_then(read) else {
        return Ok(Vec::new());
    };
    let own = |name: &str| {
        let own = world.config.target.settings.iter().rev().find(|(given, _)| given.eq_ignore_ascii_case(name));
        own.map(|(_, value)| value.as_str()).or_else(|| source.setting(name)).unwrap_or_default()
    };
    // a standby that is used up ends before the target begins, and leaves it its memory
    if world.config.provider.standby.is_some() {
        return Ok(Vec::new());
    }
    let bytes: i64 = source.session.query_one(BYTES, &[&own("shared_buffers")]).await?.get(0);
    let huge = matches!(own("huge_pages"), "on" | "true" | "yes" | "1");
    Ok(too_little(u64::try_from(bytes).unwrap_or_default(), huge, &memory).into_iter().collect())
}

/// What else is shared: locks, buffers' headers, sessions. 64 GiB of buffers take 65.6 on a 17 with 500 connections, 2 GiB 2.1.
fn shared(buffers: u64) -> u64 {
    buffers + buffers / 20 + (64 << 20)
}

fn too_little(buffers: u64, huge: bool, memory: &Memory) -> Option<Finding> {
    let numbers = |finding: Finding| {
        let finding = finding.number("shared_buffers_bytes", buffers);
        finding.number("available_bytes", memory.available).number("huge_pages_free_bytes", memory.huge_free)
    };
    if huge && memory.huge_free < shared(buffers) {
        let message = format!(
            "the target has `huge_pages = on` and {} of `shared_buffers`; {} of huge pages are free on this host",
            size(buffers),
            size(memory.huge_free)
        );
        let finding = Finding::blocker("memory.huge_pages", message)
            .because("it does not start without them, and the source keeps its own")
            .fix("settings = { huge_pages = \"try\" }  # under [target]; or a larger vm.nr_hugepages on this host");
        return Some(numbers(finding));
    }
    (!huge && memory.available < buffers).then(|| {
        let message = format!(
            "the target has {} of `shared_buffers`, as it runs beside the source; {} are available on this host",
            size(buffers),
            size(memory.available)
        );
        let finding = Finding::warning("memory.low", message)
            .because("the source's clients would feel it, or the system ends one of the servers")
            .fix(format!(
                "settings = {{ shared_buffers = \"{}MB\" }}  # under [target], until the source is gone; or more memory",
                (memory.available / 2) >> 20
            ));
        numbers(finding)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_is_read_as_linux_tells_it() {
        let text = "MemTotal: 8 kB\nMemAvailable:   2048 kB\nHugePages_Free:    10\nHugePages_Rsvd:  4\nHugepagesize:   2048 kB\n";
        assert_eq!(read(text), Some(Memory { available: 2 << 20, huge_free: 12 << 20 }));
        assert_eq!(read("MemTotal: 8 kB\n"), None);
    }

    #[test]
    fn huge_pages_that_must_be_are_counted_alone() {
        let memory = Memory { available: 4 * GIB, huge_free: 2 * GIB };
        let id = |buffers, huge| too_little(buffers, huge, &memory).map(|finding| finding.id);
        assert_eq!((id(GIB, true), id(4 * GIB, false)), (None, None));
        assert_eq!((id(2 * GIB, true), id(5 * GIB, false)), (Some("memory.huge_pages"), Some("memory.low")));
    }
}
