//! Every finding is made by a test on real servers, and every check is silent on a sound one.
//!
//! The assertions of the tests here are the register: a finding is made where `assert_says` or a case names it, and is known to
//! stay away where `assert_silent` does, or where a sound source has no finding at all. A check that is added without either
//! fails here.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, path::Path};

use pgleap_local::Auth;
use pgleap_upgrade::preflight::{
    self,
    Severity::{Blocker, Note, Warning},
};

use crate::preflight::{Bed, GOOD_TABLES, Wishes, assert_says, assert_silent, finding, ids};

/// Findings that no server and no host can be made to have by a test, and why.
const NOT_MADE: &[(&str, &str)] = &[("version.cluster_changes", "no rule about a cluster as a whole is a warning yet")];

/// Asserted in other words: the file that names them.
const IN_OTHER_WORDS: &[(&str, &str)] = &[
    ("ddl.database_made", "drift.rs"),
    ("ddl.object_changed", "drift.rs"),
    ("ddl.role_changed", "drift.rs"),
    ("ddl.table_changed", "drift.rs"),
    ("ddl.table_dropped", "drift.rs"),
    ("ddl.table_made", "drift.rs"),
];

/// Checks that a sound source behind a PgBouncer says nothing of, because they are about other routes.
const OF_OTHER_ROUTES: [&str; 2] = ["read_only_defaults", "route"];

fn tests() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

/// Returns the first text after each of these words, in all tests.
fn named_after<'a>(tests: &'a [(String, String)], words: &[&str]) -> BTreeSet<&'a str> {
    let after = |text: &'a str, word: &str| text.match_indices(word).map(|(at, _)| at + word.len()).collect::<Vec<_>>();
    let all = tests.iter().flat_map(|(_, text)| words.iter().map(move |word| (text.as_str(), *word)));
    all.flat_map(|(text, word)| after(text, word).into_iter().filter_map(|at| text[at..].split('"').nth(1))).collect()
}

#[test]
fn every_finding_is_made_on_a_real_server_and_every_check_is_silent_on_a_sound_one() {
    let tests = tests();
    let made = named_after(&tests, &["says(", " id: "]);
    let silent = named_after(&tests, &["assert_silent("]);
    let (mut unmade, mut unquiet) = (Vec::new(), Vec::new());
    for about in preflight::abouts() {
        for id in about.findings.iter().map(|kind| kind.id) {
            let in_other_words = |(named, file): &(&str, &str)| {
                *named == id && tests.iter().any(|(name, text)| name == file && text.contains(&format!("\"{id}\"")))
            };
            let known = NOT_MADE.iter().any(|(named, _)| *named == id);
            if !known && !made.contains(id) && !IN_OTHER_WORDS.iter().any(in_other_words) {
                unmade.push(id);
            }
            assert!(!known || !made.contains(id), "`{id}` is made after all");
            let exempt = OF_OTHER_ROUTES.contains(&about.check) || crate::preflight::UP_TO_THE_MACHINE.contains(&id);
            if exempt && !silent.contains(id) {
                unquiet.push(id);
            }
        }
    }
    assert!(unmade.is_empty(), "no test makes these on a real server: {unmade:#?}");
    assert!(unquiet.is_empty(), "no test has a source without these: {unquiet:#?}");
}

/// Makes an installation that says what version it is, and has nothing else.
fn hollow(bed: &Bed, name: &str, version: &str) -> String {
    let bindir = bed.dir.path().join(name);
    std::fs::create_dir(&bindir).unwrap();
    for tool in ["postgres", "pg_ctl"] {
        std::fs::write(bindir.join(tool), format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")).unwrap();
        std::fs::set_permissions(bindir.join(tool), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("bindirs = [\"{}\"]", bindir.display())
}

/// One server, upgraded by operators who wrote something wrong, or whose host is not ready.
#[tokio::test]
async fn what_is_wrong_in_the_configuration_or_on_the_host_is_found_and_the_rest_is_not() {
    let Some(bed) = Bed::start(15, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    bed.run("app", GOOD_TABLES).await;
    // no pooler runs: that is another finding
    let sound = bed.wishes(&bed.pooler("pgbouncer".into(), "pool"));
    let wishes = Wishes { target: 18, ..sound };
    let report = wishes.check().await;
    assert_silent(&report, "binaries.minor_differs");
    assert_silent(&report, "version.known_bug");

    // every default that changes is given
    let changing = finding(&report, "setting.default_changes").objects.clone();
    let settings: Vec<_> = changing.iter().map(|name| format!("{name} = \"on\"")).collect();
    let report = Wishes { settings: settings.join(", "), ..wishes.clone() }.check().await;
    assert_silent(&report, "setting.default_changes");

    assert_silent(&report, "memory.huge_pages");
    assert_silent(&report, "memory.low");
    let settings = "huge_pages = \"on\", shared_buffers = \"1TB\"".to_owned();
    let report = Wishes { settings, ..wishes.clone() }.check().await;
    let says = ["1.0 TiB of `shared_buffers`", "settings = { huge_pages = \"try\" }"];
    assert_says(&report, "memory.huge_pages", Blocker, &says);
    let report = Wishes { settings: "shared_buffers = \"1TB\"".into(), ..wishes.clone() }.check().await;
    assert_says(&report, "memory.low", Warning, &["are available on this host", "settings = { shared_buffers = "]);

    // nobody has any, and still the application uses them
    bed.run("app", &["SELECT lo_unlink(lo_from_bytea(0, 'x'))"]).await;
    let until = tokio::time::Instant::now() + crate::preflight::LONG;
    let report = loop {
        let report = wishes.check().await;
        if ids(&report).contains("large_object.not_replicated") || tokio::time::Instant::now() > until {
            break report;
        }
    };
    assert_says(&report, "large_object.not_replicated", Warning, &["has 0 large objects, 2 of their pages written"]);

    let absent = (16..=19).find(|major| pgleap_local::find(*major, &[]).is_err());
    let target = absent.unwrap_or(18);
    let report = Wishes { target, target_more: "host = \"nowhere.invalid\"".into(), ..wishes.clone() }.check().await;
    match absent {
        Some(_) => assert_says(&report, "binaries.missing", Blocker, &["the target's programs", "scripts/setup"]),
        None => eprintln!("left out: every major is installed"),
    }
    assert_says(&report, "target.host_unknown", Blocker, &["`nowhere.invalid`"]);

    let report = Wishes { provider: hollow(&bed, "hollow18", "18.0"), ..wishes.clone() }.check().await;
    assert_says(&report, "binaries.incomplete", Blocker, &["PostgreSQL 18 in", "`pg_upgrade`", "the target needs"]);
    let report = Wishes { provider: hollow(&bed, "hollow15", "15.1"), ..wishes.clone() }.check().await;
    assert_says(&report, "binaries.minor_differs", Note, &["the source runs 15.", "are 15.1"]);

    if !nix::unistd::geteuid().is_root() {
        let report = Wishes { work_dir: "/proc/pgleap/work".into(), ..wishes.clone() }.check().await;
        assert_says(&report, "directory.not_writable", Blocker, &["/proc"]);
    }

    // a source that writes without end, and a budget that does not last
    let writer = bed.client("app").await;
    let writing = tokio::spawn(async move {
        while writer.batch_execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 8000))").await.is_ok() {}
    });
    let budgets = "retained_wal = \"1MiB\"\ncatch_up = \"30d\"".to_owned();
    let report = Wishes { budgets, ..wishes.clone() }.check().await;
    assert_says(&report, "retained_wal.budget_spent_early", Warning, &["/s (", "the budget of 1.0 MiB", "are left"]);
    writing.abort();

    let amiss = [
        "CREATE DATABASE tmpl IS_TEMPLATE true",
        "CREATE DATABASE broken",
        // as DROP DATABASE leaves one that was interrupted
        "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'broken'",
        "CREATE DATABASE far",
        "UPDATE pg_database SET datfrozenxid = '3000000000' WHERE datname = 'far'",
        "ALTER SYSTEM SET vacuum_defer_cleanup_age = 1",
        "ALTER DATABASE app SET force_parallel_mode = off",
        "SELECT pg_reload_conf()",
    ];
    bed.run("postgres", &amiss).await;
    let report = wishes.check().await;
    assert_says(&report, "database.unreachable", Blocker, &["cannot enter database `broken`"]);
    assert_says(&report, "wraparound.near", Warning, &["database `far`", "VACUUM FREEZE"]);
    assert_says(&report, "setting.not_carried", Note, &["`vacuum_defer_cleanup_age`"]);
    assert_says(&report, "setting.refused", Blocker, &["ALTER DATABASE \"app\" RESET force_parallel_mode;"]);
    let report = Wishes { source: "databases = [\"app\", \"tmpl\"]".into(), ..wishes.clone() }.check().await;
    assert_says(&report, "database.template", Blocker, &["`tmpl`", "IS_TEMPLATE false"]);

    // by its path a library is the source's, whatever the target has
    let row = bed.client("app").await.query_one("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'", &[]).await;
    let place = row.unwrap().get::<_, String>(0);
    let library = format!("{place}/plpgsql");
    bed.restart(&[("shared_preload_libraries", &library)]).await;
    let report = wishes.check().await;
    assert_says(&report, "library.preload_missing", Blocker, &["`shared_preload_libraries`", &library]);
    // one by the name of another that has workers of its own
    let acting = bed.dir.path().join("pg_squeeze.so");
    std::fs::copy(format!("{place}/dict_snowball.so"), &acting).unwrap();
    let both = format!("{library}, {}", acting.display());
    bed.restart(&[("shared_preload_libraries", &both)]).await;
    let report = wishes.check().await;
    let quiet = format!("settings = {{ shared_preload_libraries = \"{library}\" }}");
    assert_says(&report, "library.acts", Warning, &["/pg_squeeze.so`", &quiet]);

    // what RDS has in place of a setting of its own
    bed.restart(&[("wal_level", "replica"), ("rds.logical_replication", "off")]).await;
    let report = wishes.check().await;
    assert_silent(&report, "wal_level.not_logical");
    let says =
        ["`rds.logical_replication` is `off`", "aws rds modify-db-parameter-group", "aws rds reboot-db-instance"];
    assert_says(&report, "wal_level.off_on_rds", Blocker, &says);
}

#[tokio::test]
async fn source_of_a_major_that_was_never_tried_is_refused() {
    let Some(bed) = Bed::start(19, Auth::Trust).await else { return };
    // there is no newer target to name
    let pooler = bed.pooler("pgbouncer".into(), "pool");
    let report = bed.wishes_for(&pooler, 19).check().await;
    assert_says(&report, "version.source_unsupported", Blocker, &["the source is PostgreSQL 19"]);
}

/// Routes that are no PgBouncer: a program of the operator's, and clients that know both servers.
#[tokio::test]
async fn other_routes_are_looked_at_too() {
    let Some(bed) = Bed::start(15, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    let sound = bed.wishes(&bed.pooler("pgbouncer".into(), "pool"));
    let program = bed.dir.path().join("route.sh");
    let answers = async |answer: &str| {
        std::fs::write(&program, format!("#!/bin/sh\nread -r request\n{answer}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let route = format!("kind = \"command\"\ncommand = [\"{}\"]", program.display());
        Wishes { route, ..sound.clone() }.check().await
    };
    let report = answers(r#"echo '{"leads_to":"source","paused":false}'"#).await;
    for id in ids(&report) {
        assert!(!id.starts_with("route."), "{report:#?}");
    }
    assert_silent(&report, "route.program_fails");
    assert_silent(&report, "route.leads_elsewhere");
    assert_silent(&report, "route.paused");
    assert_silent(&report, "route.clients_see_errors");
    let report = answers(r#"echo '{"leads_to":"target","paused":true}'"#).await;
    assert_says(&report, "route.leads_elsewhere", Blocker, &["leads clients to the target"]);
    assert_says(&report, "route.paused", Blocker, &["keeps clients waiting"]);
    let report = answers("echo 'no such backend' >&2; exit 3").await;
    assert_says(&report, "route.program_fails", Blocker, &["no such backend", "pgleap route-check"]);

    let both = Wishes { route: "kind = \"multi_host\"".into(), ..sound.clone() };
    let report = both.check().await;
    assert_silent(&report, "read_only_default.set");
    assert_says(&report, "route.clients_see_errors", Note, &["for at most 2 s"]);
    bed.run("postgres", &["ALTER ROLE ALL SET default_transaction_read_only = off"]).await;
    let report = both.check().await;
    let says = ["`off` for every role", "ALTER ROLE ALL RESET default_transaction_read_only;"];
    assert_says(&report, "read_only_default.set", Blocker, &says);
}
