//! Whether the directories of the upgrade can be made on this host.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
};
use crate::world::World;

/// Source: `unix(7)`, `sun_path` less its final zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// The longest name of a socket in the upgrade: that of the servers which pg_upgrade starts.
const LONGEST_SOCKET: &str = ".s.PGSQL.50432";

pub(super) const ABOUT: About = About {
    check: "directories",
    topic: Topic::Host,
    reads: "the target's data directory, the work directory, and the way to them",
    why: "Both must be absent or empty, reachable for the servers' user, and short enough for a socket: pgleap \
          removes what it made there, so it must not find anything of others.",
    findings: &[
        blocker("directory.not_empty", Applied::ByHand("what is there may be needed.")),
        blocker("directory.closed", Applied::ByHand("who may enter a directory is its owner's decision.")),
        blocker("directory.not_writable", Applied::ByHand("who may write to a directory is its owner's decision.")),
        blocker("socket_path.too_long", Applied::ByHand("where the upgrade works is said in `pgleap.toml`.")),
    ],
};

pub(super) async fn check(world: &World) -> Answer {
    let places = world.places();
    // directories of this very upgrade are no surprise
    let ours = std::fs::read_to_string(places.claim()).is_ok_and(|id| id.trim() == world.id);
    let mut findings = Vec::new();
    for (key, path) in [("target.data_dir", &places.data), ("provider.work_dir", places.work())] {
        if !ours {
            findings.extend(occupied(key, path));
        }
        if let Some(closed) = world.account.closed_dir_on_the_way_to(path) {
            let user = &world.account.name;
            let message =
                format!("user `{user}` cannot enter `{}`, on the way to `{}`", closed.display(), path.display());
            findings.push(
                Finding::blocker("directory.closed", message)
                    .because("the servers of the upgrade run as this user")
                    .fix(format!("chmod o+x '{}'", closed.display())),
            );
        }
        let parent = existing(path);
        if access(&parent, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
            let message =
                format!("`{}` cannot be made: pgleap may not write to `{}`", path.display(), parent.display());
            findings.push(Finding::blocker("directory.not_writable", message).fix(format!(
                "make `{}` for the user that runs pgleap, or name another place under `{key}`",
                path.display()
            )));
        }
    }
    findings.extend(too_long(&places.sockets().join(LONGEST_SOCKET)));
    Ok(findings)
}

fn occupied(key: &str, path: &Path) -> Option<Finding> {
    let what = match std::fs::read_dir(path) {
        Ok(entries) => match entries.count() {
            0 => return None,
            1 => "holds 1 entry".to_owned(),
            n => format!("holds {n} entries"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => format!("cannot be read: {error}"),
    };
    let finding = Finding::blocker("directory.not_empty", format!("`{}` is there already, and {what}", path.display()));
    Some(
        finding
            .because("pgleap makes this directory, and removes it with everything in it when it unwinds")
            .fix(format!("name a directory that is empty or absent under `{key}`")),
    )
}

fn too_long(socket: &Path) -> Option<Finding> {
    let length = socket.as_os_str().len();
    (length > MAX_SOCKET_PATH_BYTES).then(|| {
        let message = format!(
            "the socket `{}` would be {length} bytes long, the most is {MAX_SOCKET_PATH_BYTES}",
            socket.display()
        );
        Finding::blocker("socket_path.too_long", message).fix("name a shorter directory under `provider.work_dir`")
    })
}

/// Returns the directory itself, or the nearest one above it that exists.
pub(super) fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_may_have_107_bytes_and_no_more() {
        let path = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        assert_eq!(too_long(&path(107)), None);
        assert_eq!(too_long(&path(108)).unwrap().id, "socket_path.too_long");
    }

    #[test]
    fn nearest_existing_directory_is_found_above_what_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b/c")), dir.path());
        assert_eq!(existing(dir.path()), dir.path());
    }

    #[test]
    fn directory_with_something_in_it_is_occupied_and_an_empty_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(occupied("k", dir.path()), None);
        assert_eq!(occupied("k", &dir.path().join("absent")), None);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(occupied("k", dir.path()).unwrap().message.ends_with("holds 1 entry"));
        assert!(occupied("k", &dir.path().join("file")).is_some(), "a file in its place");
    }
}
