//! What is refused before anything is contacted.

use std::path::Path;

use crate::bed::{Bed, CONFIG};

#[test]
fn an_unknown_verb_is_a_usage_error_and_help_is_not() {
    let bed = Bed::new();
    assert_eq!(bed.run(&["frobnicate"]).code, 2);
    assert_eq!(bed.run(&[]).code, 2, "no verb at all");
    let help = bed.run(&["--help"]);
    assert_eq!(help.code, 0);
    for verb in
        "check plan run status watch switchover verify rollback resume unwind finalize journal report canary".split(' ')
    {
        assert!(help.stdout.contains(&format!("  {verb} ")), "{verb} is missing in:\n{}", help.stdout);
    }
}

#[test]
fn every_problem_of_a_configuration_is_reported_at_once() {
    let config = CONFIG.replace("version = 18", "version = 12").replace("[route]\n", "[route]\ncolour = 1\n");
    let ended = Bed::with(&config).run(&["status"]);
    assert_eq!(ended.code, 2, "{}", ended.all());
    for part in
        ["error: `pgleap.toml` has 2 problems", "target.version", "route.colour", "state: nothing was contacted"]
    {
        assert!(ended.stderr.contains(part), "`{part}` is not in:\n{}", ended.stderr);
    }
    assert_eq!(ended.stdout, "");
}

#[test]
fn an_option_that_would_do_nothing_or_cannot_be_meant_is_refused() {
    let bed = Bed::new();
    for (arguments, said) in [
        (&["rehearse", "--twin", "--factor", "0"][..], "it must be a number above 1"),
        (&["rehearse", "--twin", "--factor", "1"], "it must be a number above 1"),
        (&["rehearse", "--twin", "--factor", "nan"], "it must be a number above 1"),
        (&["check", "--every", "5"], "--watch"),
    ] {
        let ended = bed.run(arguments);
        assert!(ended.code == 2 && ended.stderr.contains(said), "{arguments:?}: {}", ended.all());
    }
}

#[test]
fn a_missing_configuration_is_one_clear_error() {
    let bed = Bed::new();
    let ended = bed.run(&["plan", "--steps", "--config", "elsewhere.toml"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("elsewhere.toml") && ended.stderr.contains("No such file"), "{}", ended.stderr);
    let mut command = bed.command(&["plan", "--steps"]);
    let output = command.env("PGLEAP_CONFIG", bed.path("pgleap.toml")).current_dir("/").output().unwrap();
    assert!(output.status.success(), "the environment names it too");
}

#[test]
fn a_password_on_the_command_line_is_refused_and_never_printed() {
    let bed = Bed::new();
    for arguments in [
        &["canary", "--dsn", "host=127.0.0.1 user=app password=hunter2"] as &[&str],
        &["canary", "--dsn=postgres://app:hunter2@127.0.0.1/orders"],
        // Where the parser would quote the argument that it does not expect.
        &["canary", "postgres://app:hunter2@127.0.0.1/orders"],
        &["--format", "json", "canary", "--dsn", "host=h password='hunter2"],
    ] {
        let ended = bed.run(arguments);
        assert_eq!(ended.code, 2, "{}", ended.all());
        assert!(
            ended.stderr.contains("must not hold a password") && ended.stderr.contains("PGPASSWORD"),
            "{}",
            ended.all()
        );
        assert!(!ended.all().contains("hunter2"), "{}", ended.all());
    }
}

#[test]
fn a_connection_string_that_cannot_be_read_is_not_repeated() {
    let ended = Bed::new().run(&["canary", "--dsn", "host=h hunter2"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("cannot be read as a connection string"), "{}", ended.stderr);
    assert!(!ended.all().contains("hunter2"), "{}", ended.all());
}

#[test]
fn commands_that_only_read_leave_no_trace_and_say_that_nothing_was_begun() {
    let bed = Bed::new();
    let status = bed.run(&["status"]);
    assert_eq!(
        status.all(),
        "exit 0\n--- stdout\nnothing was begun here\ntraffic: the source serves reads and writes\nnext:    `pgleap run` \
         begins\n--- stderr\n"
    );
    assert_eq!(bed.run(&["status", "--format", "json"]).json()["standing"]["standing"], "nothing");
    for verb in ["journal", "report", "verify", "watch", "switchover", "rollback", "resume", "unwind", "finalize"] {
        let ended = bed.run(&[verb]);
        assert_eq!(ended.code, 2, "{verb}: {}", ended.all());
        assert!(ended.stderr.contains("error: nothing was begun here"), "{verb}: {}", ended.stderr);
    }
    assert!(!Path::new(&bed.path("state")).exists(), "no state directory was made");
}

#[test]
fn what_moves_traffic_is_refused_without_a_terminal_or_yes() {
    let bed = Bed::new();
    drop(bed.journal());
    for verb in ["switchover", "rollback", "unwind", "finalize"] {
        let ended = bed.run(&[verb]);
        assert_eq!(ended.code, 2, "{verb}: {}", ended.all());
        assert!(ended.stderr.contains("needs a confirmation"), "{verb}: {}", ended.stderr);
        let ended = bed.run(&[verb, "--yes"]);
        assert_eq!(ended.code, 2, "{verb}: {}", ended.all());
        assert!(ended.stderr.contains("now: "), "confirmed, but not the moment for {verb}: {}", ended.stderr);
    }
}
