//! A network that exists on this machine alone: each host is a network namespace with a thread in it, all on one switch.
//!
//! What a host's thread starts is in its namespace, and so are the sockets that it opens. Two ways to lose a link: its
//! interface is down, so that the host knows; or the switch drops everything, and nobody knows. Namespaces have no names:
//! they are gone with their threads and processes, however the test ends. Needs root and iproute2.

#![cfg_attr(not(feature = "faults"), allow(dead_code, reason = "a link is lost at a fault point"))]

use std::process::Command;

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Uid, gettid},
};
use tokio::{runtime::Handle, sync::oneshot};

/// Something that runs programs and opens sockets: this machine, or a namespace of it.
pub struct Host {
    pub name: String,
    runtime: Handle,
    thread: i32,
    /// The thread ends when this is dropped.
    _end: Option<oneshot::Sender<()>>,
}

impl Host {
    /// Returns this machine as it is.
    pub fn here() -> Self {
        Self { name: "here".into(), runtime: Handle::current(), thread: gettid().as_raw(), _end: None }
    }

    fn isolated(name: &str) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel();
        let enter = move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tell.send(entered.map(|()| (runtime.handle().clone(), gettid().as_raw()))).unwrap();
            // its end is the host's
            let _ = runtime.block_on(ended);
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(enter).unwrap();
        let (runtime, thread) = told.recv().unwrap().expect("root may make a network namespace");
        Self { name: name.to_owned(), runtime, thread, _end: Some(end) }
    }

    /// Does the work on this host.
    pub async fn does<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.spawn(work).await.unwrap()
    }

    async fn runs(&self, line: &str) {
        let (program, arguments) = line.split_once(' ').unwrap();
        let mut command = Command::new(program);
        command.args(arguments.split(' '));
        let output = self.does(async move { command.output() }).await;
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `scripts/setup test` brings iproute2"));
        assert!(output.status.success(), "{}: `{line}`: {}", self.name, String::from_utf8_lossy(&output.stderr));
    }
}

/// A way in which a host loses its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Its interface is down.
    Down,
    /// Everything to and from it is dropped on the way.
    BlackHole,
}

/// The switch between the hosts.
pub struct Network(Host);

impl Network {
    /// Returns a switch without hosts, or why there can be none.
    pub async fn new() -> Result<Self, &'static str> {
        if !Uid::effective().is_root() {
            return Err("only root can make network namespaces");
        }
        let switch = Host::isolated("switch");
        switch.runs("ip link add bridge type bridge").await;
        switch.runs("ip link set bridge up").await;
        Ok(Self(switch))
    }

    /// Adds a host with this address; its name is that of the switch's port, of at most 15 characters.
    pub async fn host(&self, name: &str, address: &str) -> Host {
        let host = Host::isolated(name);
        let Self(switch) = self;
        switch.runs(&format!("ip link add {name} type veth peer name eth0 netns {}", host.thread)).await;
        switch.runs(&format!("ip link set {name} master bridge up")).await;
        host.runs("ip link set lo up").await;
        host.runs(&format!("ip address add {address}/24 dev eth0")).await;
        host.runs("ip link set eth0 up").await;
        host
    }

    /// Takes the host's link away.
    pub async fn cut(&self, host: &Host, how: Cut) {
        match how {
            Cut::Down => host.runs("ip link set eth0 down").await,
            Cut::BlackHole => self.0.runs(&format!("bridge link set dev {} state 0", host.name)).await,
        }
    }

    /// Gives it back.
    pub async fn mend(&self, host: &Host, how: Cut) {
        match how {
            Cut::Down => host.runs("ip link set eth0 up").await,
            Cut::BlackHole => self.0.runs(&format!("bridge link set dev {} state 3", host.name)).await,
        }
    }
}
