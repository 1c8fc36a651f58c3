//! Whether the copy fits on this host's disks.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;

use super::{
    Answer, Finding, Unanswered,
    about::{About, Applied, Topic, blocker},
    directories::existing,
    finding::size,
    source::Source,
};
use crate::{config::Transfer, pg::PgError, world::World};

const SIZE: &str = "SELECT coalesce(sum(pg_catalog.pg_database_size(oid)), 0)::bigint FROM pg_catalog.pg_database";

/// WAL of the copy and files that grow meanwhile: a tenth, and a little for a small cluster.
const SPARE_BYTES: u64 = 256 << 20;

pub(super) const ABOUT: About = About {
    check: "disk_space",
    topic: Topic::Host,
    reads: "the cluster's size, and the free space where the copy and the target will be",
    why: "The copy is in the work directory. pg_upgrade links or moves its files into the target's data directory, \
          which must then be on the same file system, or makes a second copy of them there.",
    findings: &[
        blocker("directory.file_systems_differ", Applied::ByHand("where the upgrade works is said in `pgleap.toml`.")),
        blocker("disk.too_small", Applied::ByHand("disks are the administrator's.")),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let bytes = cluster_bytes(source).await?;
    let places = world.places();
    let (work, data) = (existing(places.work()), existing(&places.data));
    let transfer = world.config.provider.transfer;
    let one_disk = device(&work) == device(&data);
    let mut findings = Vec::new();
    if !one_disk && matches!(transfer, Transfer::Auto | Transfer::Link | Transfer::Swap | Transfer::Clone) {
        let message =
            format!("`{}` and `{}` are on different file systems", places.work().display(), places.data.display());
        findings.push(
            Finding::blocker("directory.file_systems_differ", message)
                .because("pg_upgrade cannot link, move or clone files from one to the other")
                .fix("name a `provider.work_dir` beside `target.data_dir`, or transfer = \"copy\" under [provider]"),
        );
    }
    for (dir, copies) in &copies(world) {
        let free = free_bytes(dir).map_err(|error| Unanswered {
            message: format!("the free space of `{}` cannot be read", dir.display()),
            cause: Some(error.to_string()),
            privilege: false,
            remedy: None,
        })?;
        findings.extend(too_small(dir, bytes, *copies, free));
    }
    Ok(findings)
}

async fn cluster_bytes(source: &Source) -> Result<u64, PgError> {
    let bytes: i64 = source.session.query_one(SIZE, &[]).await?.get(0);
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// Returns where copies of the cluster will be, and how many.
fn copies(world: &World) -> Vec<(PathBuf, u64)> {
    let places = world.places();
    let (work, data) = (existing(places.work()), existing(&places.data));
    // a second copy is made of the first
    let twice = world.config.provider.transfer == Transfer::Copy;
    match (twice, device(&work) == device(&data)) {
        (true, true) => vec![(work, 2)],
        (true, false) => vec![(work, 1), (data, 1)],
        (false, _) => vec![(work, 1)],
    }
}

fn needed(cluster: u64, copies: u64) -> u64 {
    cluster.saturating_mul(copies).saturating_add(cluster / 10).saturating_add(SPARE_BYTES)
}

/// Returns how much of the file system of `dir` the copies take.
///
/// # Errors
/// [`PgError`], if the source does not say how large it is.
pub(super) async fn taken_by_copies(world: &World, source: &Source, dir: &Path) -> Result<u64, PgError> {
    let beside: Vec<_> = copies(world).into_iter().filter(|(copy, _)| device(copy) == device(dir)).collect();
    if beside.is_empty() {
        return Ok(0);
    }
    let bytes = cluster_bytes(source).await?;
    Ok(beside.into_iter().map(|(_, copies)| needed(bytes, copies)).sum())
}

fn too_small(dir: &Path, cluster: u64, copies: u64, free: u64) -> Option<Finding> {
    let needed = needed(cluster, copies);
    (needed > free).then(|| {
        let message = format!(
            "the copy needs {} at `{}`, {} are free; the source has {}",
            size(needed),
            dir.display(),
            size(free),
            size(cluster)
        );
        Finding::blocker("disk.too_small", message)
            .number("needed_bytes", needed)
            .number("free_bytes", free)
            .number("cluster_bytes", cluster)
            .fix("make room, or name a `provider.work_dir` and a `target.data_dir` on a larger disk")
    })
}

fn device(dir: &Path) -> Option<u64> {
    std::fs::metadata(dir).ok().map(|metadata| metadata.dev())
}

/// Returns how many bytes a user other than root can write to the file system of `dir`.
pub(super) fn free_bytes(dir: &Path) -> nix::Result<u64> {
    let stat = statvfs(dir)?;
    #[allow(clippy::useless_conversion, reason = "narrower on other systems")]
    Ok(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_fits_with_a_tenth_to_spare() {
        let (cluster, dir) = (100_u64 << 30, Path::new("/d"));
        let free = cluster + cluster / 10 + SPARE_BYTES;
        assert_eq!(too_small(dir, cluster, 1, free), None);
        assert!(too_small(dir, cluster, 1, free - 1).is_some());
        assert!(too_small(dir, cluster, 2, free).unwrap().message.contains("210.2 GiB"));
    }

    #[test]
    fn free_space_of_this_machine_can_be_read() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
    }
}
