//! Whether the target's port is free.

use std::{path::Path, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
};
use crate::world::World;

/// A listener on this host answers at once.
const BUDGET: Duration = Duration::from_secs(2);

pub(super) const ABOUT: About = About {
    check: "target_port",
    topic: Topic::Host,
    reads: "who listens at the target's address",
    why: "Whatever listens there would keep the target from starting, after the copy is upgraded; or worse, be taken \
          for it.",
    findings: &[
        blocker("target.port_in_use", Applied::ByHand("what listens there may be needed.")),
        blocker("target.host_unknown", Applied::ByHand("the target's address is said in `pgleap.toml`.")),
    ],
};

pub(super) async fn check(world: &World) -> Answer {
    let target = &world.config.target;
    let port = target.port;
    let knock = async |host: &str| timeout(BUDGET, TcpStream::connect((host, port))).await;
    let (taken, place) = if target.host.starts_with('/') {
        let socket = Path::new(&target.host).join(format!(".s.PGSQL.{port}"));
        // a socket that nobody listens at is a leftover, which the server replaces
        let listens = matches!(timeout(BUDGET, UnixStream::connect(&socket)).await, Ok(Ok(_)));
        (listens || matches!(knock("127.0.0.1").await, Ok(Ok(_))), socket.display().to_string())
    } else {
        if let Ok(Err(error)) =
            timeout(BUDGET, tokio::net::lookup_host((target.host.as_str(), port))).await.map(|r| r.map(drop))
        {
            let message = format!("the target's host `{}` has no address", target.host);
            let finding = Finding::blocker("target.host_unknown", message).because(error.to_string());
            return Ok(vec![finding.fix("name the host under `target.host` as the pooler and the source reach it")]);
        }
        (matches!(knock(&target.host).await, Ok(Ok(_))), format!("{}:{port}", target.host))
    };
    if !taken {
        return Ok(Vec::new());
    }
    let finding = Finding::blocker("target.port_in_use", format!("something listens at {place} already"));
    Ok(vec![finding.fix("stop it, or name another port under `target.port`")])
}
