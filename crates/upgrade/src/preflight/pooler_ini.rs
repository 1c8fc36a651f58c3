//! Whether a pooler's configuration file can be rewritten.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::listed,
    pooler::Console,
    source::Source,
};
use crate::{pgbouncer::inspect::File, world::World};

pub(super) const ABOUT: About = About {
    check: "pooler_ini",
    topic: Topic::Poolers,
    reads: "the configuration of each PgBouncer with the files that it includes, as PgBouncer reads them",
    why: "Each file that holds entries is replaced by a new one in its directory, so that must be writable; every entry \
          that the console shows must be found; and `*`, which stands for any name, cannot be paused or moved by name.",
    findings: &[
        blocker("pooler.ini_unreadable", Applied::ByHand("which file it is, is said in `pgleap.toml`.")),
        blocker("pooler.entry_not_in_ini", Applied::ByHand("the pooler's configuration is its owner's.")),
        blocker("pooler.wildcard", Applied::ByHand("the pooler's configuration is its owner's.")),
        blocker("pooler.ini_not_writable", Applied::ByHand("who may write there is its owner's decision.")),
    ],
};

pub(super) async fn check(world: &World, source: Option<&Source>, console: &Console<'_>) -> Answer {
    let (pooler, path) = (console.pooler(), console.ini());
    let (found, replaceable) = match console.file() {
        File::Read { leading, replaceable } => (leading, *replaceable),
        File::Unreadable(why) => {
            let message = format!("`{}`, the configuration of PgBouncer {pooler}, cannot be read", path.display());
            let finding = Finding::blocker("pooler.ini_unreadable", message).because(why);
            return Ok(vec![finding.fix("name the file that it was started with under `route.pgbouncer.ini`")]);
        }
    };
    let mut findings = Vec::new();
    let names = source.map(Source::names);
    let leading = console.entries_to_source(world, names.as_deref());
    let missing: Vec<_> = leading.iter().map(|entry| &entry.name).filter(|name| !found.contains(name)).collect();
    if !missing.is_empty() {
        let message = format!(
            "entries of PgBouncer {pooler} are not in `{}`, nor in what it includes: {}",
            path.display(),
            listed(&missing)
        );
        findings.push(
            Finding::blocker("pooler.entry_not_in_ini", message)
                .objects(missing.into_iter().cloned())
                .because("they come from `*`, the file was edited and not reloaded, or the process was started with another one")
                .fix("name the file that it was started with, or put them into this one as entries of their own, then RELOAD"),
        );
    }
    if found.iter().any(|name| name == "*") {
        let message = format!("PgBouncer {pooler} leads any name to the source by its entry `*`");
        findings.push(
            Finding::blocker("pooler.wildcard", message)
                .because("entries are paused and moved by name; `*` is not supported yet")
                .fix(format!("replace `*` in `{}` by an entry for each database, then RELOAD", path.display())),
        );
    }
    if !replaceable {
        let message = format!(
            "`{}`, or a file that it includes, cannot be replaced: its directory is not writable for pgleap",
            path.display()
        );
        findings.push(
            Finding::blocker("pooler.ini_not_writable", message).fix("run pgleap as a user that may write there"),
        );
    }
    Ok(findings)
}
