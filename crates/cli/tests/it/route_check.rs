//! `pgleap route-check`, and what `pgleap plan` says of routes that cannot pause.

use crate::{
    bed::{Bed, CONFIG},
    docs::reading::{Line, commands_of},
};

/// A route that is two files: where it leads, and whether it is paused.
const PROGRAM: &str = r#"#!/bin/sh
cd "$1" && read -r request
case "$request" in
    *'"contract":1,'*) ;;
    *) echo "another contract" >&2; exit 2 ;;
esac
case "$request" in
    *'"verb":"pause"'*) echo true >paused ;;
    *'"verb":"repoint"'*'"to":"target"'*) echo target >side ;;
    *'"verb":"repoint"'*) echo source >side ;;
    *'"verb":"resume"'*) RESUME ;;
esac
echo "{\"leads_to\":\"$(cat side)\",\"paused\":$(cat paused)}"
"#;

fn with_route(route: &str) -> Bed {
    let (before, _) = CONFIG.split_once("[route]").unwrap();
    Bed::with(&format!("{before}[route]\n{route}\n"))
}

fn with_program(resume: &str) -> Bed {
    use std::os::unix::fs::PermissionsExt;
    let bed = with_route("kind = \"command\"\ncommand = [\"./program\", \"DIRECTORY\"]");
    let text = std::fs::read_to_string(bed.path("pgleap.toml")).unwrap();
    let directory = bed.path("");
    std::fs::write(bed.path("pgleap.toml"), text.replace("DIRECTORY", &directory.display().to_string())).unwrap();
    for (name, text) in [("program", PROGRAM.replace("RESUME", resume)), ("side", "source".into())] {
        std::fs::write(bed.path(name), text).unwrap();
    }
    std::fs::write(bed.path("paused"), "false").unwrap();
    std::fs::set_permissions(bed.path("program"), std::fs::Permissions::from_mode(0o755)).unwrap();
    bed
}

#[test]
fn a_program_that_keeps_the_contract_passes_what_the_documents_type() {
    let bed = with_program("echo false >paused");
    let typed = commands_of("docs/command-route.md");
    assert_eq!(typed.len(), 2);
    for Line { command, exit, .. } in typed {
        let arguments: Vec<_> = command.split_whitespace().skip(1).chain(["--yes"]).collect();
        let ended = bed.run(&arguments);
        assert_eq!(ended.code, exit, "{}", ended.all());
        assert!(ended.stdout.contains("keeps the contract, as far as it was tried"), "{}", ended.all());
        assert_eq!(ended.stdout.contains("lead clients to the other side"), command.contains("--and-move"));
    }
    assert_eq!(std::fs::read_to_string(bed.path("side")).unwrap().trim(), "source");
}

#[test]
fn a_program_that_does_not_let_clients_go_on_is_found_out() {
    let bed = with_program(":");
    let ended = bed.run(&["route-check", "--yes"]);
    assert_eq!(ended.code, 3, "{}", ended.all());
    assert!(ended.stdout.contains("it says that clients wait, led to the source"), "{}", ended.all());
    assert!(ended.stdout.contains("does not keep the contract"), "{}", ended.all());
    assert_eq!(bed.run(&["route-check"]).code, 2, "clients are paused only if somebody said yes");
    assert_eq!(Bed::new().run(&["route-check", "--yes"]).code, 2, "there is no program");
}

#[test]
fn plan_says_what_clients_see_of_each_route() {
    for (route, line) in [
        ("kind = \"multi_host\"", "┌ write pause: clients lose their connections, and get errors, at most 2.0 s"),
        (
            "kind = \"command\"\ncommand = [\"lb\"]\nclients = \"reconnect\"",
            "┌ write pause: clients lose their connections, and wait for new ones, at most 2.0 s",
        ),
        ("kind = \"command\"\ncommand = [\"lb\"]", "┌ write pause: clients wait, at most 2.0 s"),
    ] {
        let ended = with_route(route).run(&["plan", "--steps"]);
        assert_eq!(ended.code, 0, "{}", ended.all());
        let line = format!("{line}: the write budget, as nothing was rehearsed");
        assert!(ended.stdout.contains(&line), "{route}: `{line}` is not in:\n{}", ended.stdout);
    }
}

#[test]
fn plan_says_for_about_how_long_clients_will_see_errors_once_that_was_rehearsed() {
    let bed = with_route("kind = \"multi_host\"");
    let rehearsal = serde_json::json!({
        "at": "2026-11-21T03:00:00Z", "pauses_ms": [], "wind_down_ms": [40.0, 90.0], "carry_ms": [5.0, 9.0],
        "transaction_ages": [], "wal_per_s": 0.0, "applied_per_s": 0.0,
        "predicted": { "p50_ms": 45.0, "p99_ms": 99.0, "n": 4 } });
    bed.journal().set_meta("rehearsal", &rehearsal.to_string()).unwrap();
    let ended = bed.run(&["plan", "--steps"]);
    assert_eq!(ended.code, 0, "{}", ended.all());
    for line in [
        "clients lose their connections, and get errors, about 45 ms (p50) to 99 ms (p99), at most 2.0 s: the write budget",
        "clients would get errors for about 45 ms (p50), 99 ms (p99; from 2 looks at open transactions and 2 round trips)",
    ] {
        assert!(ended.stdout.contains(line), "`{line}` is not in:\n{}", ended.stdout);
    }
}
