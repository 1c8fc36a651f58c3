//! Ctrl-C, as the terminal sends it.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::bed::{Bed, World, drive, upgrade};

#[test]
fn a_watch_that_nothing_ends_follows_until_it_is_interrupted_and_that_is_no_failure() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let bed = Bed::new();
        let journal = bed.journal();
        drive(&journal, &upgrade(), &World::default());
        drop(journal);
        let mut watch = bed.command(&["watch"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains("in sync  the source serves reads and writes"), "{first}");
        assert!(watch.try_wait().unwrap().is_none(), "it ended by itself");
        kill(Pid::from_raw(i32::try_from(watch.id()).unwrap()), signal).unwrap();
        assert_eq!(watch.wait().unwrap().code(), Some(0), "{signal}");
    }
}
