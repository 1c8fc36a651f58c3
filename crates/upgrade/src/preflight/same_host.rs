//! Whether the source runs on this host.

use std::os::unix::fs::MetadataExt;

use pgleap_local::{Installation, Server};

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    source::Source,
};
use crate::world::World;

pub(super) const ABOUT: About = About {
    check: "same_host",
    topic: Topic::Host,
    reads: "the source's `postmaster.pid` and the owner of its data directory",
    why: "The copy, the target and the source's later subscriptions share this host's files: programs, certificates, \
          and the password file that the source's own workers read once they follow the target.",
    findings: &[
        blocker("source.not_on_this_host", Applied::ByHand("pgleap has to be started elsewhere.")),
        warning("source.other_owner", Applied::ByHand("the servers' user is said in `pgleap.toml`.")),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let Some(data_dir) = source.data_dir.clone() else { return Ok(Vec::new()) };
    // only the data directory is looked at
    let (major, version) = (source.major(), format!("{}.{}", source.major(), source.minor()));
    let installation = Installation { major, version, bindir: data_dir.clone() };
    let log = data_dir.join("log");
    let server = Server { installation, account: world.account.clone(), data_dir: data_dir.clone(), log };
    let port = source.number("port").and_then(|port| u16::try_from(port).ok());
    let here = server.running().is_some_and(|running| Some(running.port) == port);
    if !here {
        let message =
            format!("the source, whose data directory is `{}`, does not run on this host", data_dir.display());
        let finding = Finding::blocker("source.not_on_this_host", message)
            .because("the self-managed provider makes the target beside the source")
            .fix("run pgleap on the source's host, as root or as the user that owns its files");
        return Ok(vec![finding]);
    }
    let owner = std::fs::metadata(&data_dir).map(|metadata| metadata.uid());
    let account = &world.account;
    Ok(match owner {
        Ok(uid) if uid != account.uid => {
            let message = format!(
                "the source's files belong to user {uid}, the target's to `{}` ({})",
                account.name, account.uid
            );
            let finding = Finding::warning("source.other_owner", message)
                .because("the source's workers read a password file that the target's user owns, and the target its certificates")
                .fix("os_user = \"…\"  # under [provider]: the user that owns the source's data directory");
            vec![finding]
        }
        _ => Vec::new(),
    })
}
