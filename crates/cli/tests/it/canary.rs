//! `pgleap canary` where there is no server: what it says, and what it keeps to itself.

use crate::bed::Bed;

#[test]
fn a_server_that_is_not_there_is_named_and_its_password_is_not() {
    let bed = Bed::new();
    let output = bed
        .command(&["canary", "--dsn", "host=127.0.0.1 port=1 user=app dbname=orders", "--seconds", "1"])
        .env("PGPASSWORD", "hunter2")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot connect to database `orders` at 127.0.0.1:1"), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn a_passfile_that_was_named_must_have_a_line_for_the_server() {
    let bed = Bed::new();
    std::fs::write(bed.path("passfile"), "elsewhere:5432:*:app:hunter2\n").unwrap();
    let ended = bed.run(&["canary", "--dsn", "host=127.0.0.1 port=1 user=app", "--passfile", "passfile"]);
    assert_eq!(ended.code, 2, "{}", ended.all());
    assert!(ended.stderr.contains("has no line for 127.0.0.1:1, user `app`"), "{}", ended.stderr);
    assert!(!ended.all().contains("hunter2"));
}

#[test]
fn a_ledger_that_is_none_is_refused_before_anything_is_contacted() {
    let ended = Bed::new().run(&["canary", "--dsn", "host=127.0.0.1 port=1 user=app", "--audit", "pgleap.toml"]);
    assert_eq!(ended.code, 2, "{}", ended.all());
    assert!(ended.stderr.contains("is not a ledger entry"), "{}", ended.stderr);
}
