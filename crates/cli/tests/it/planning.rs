//! Plans from saved facts, the document of a change request, and approvals, with no server anywhere.

use pgleap_saga::{Outcome, Plan, StepError};
use serde_json::{Value, json};

use crate::bed::{Bed, CONFIG, Pretend, World, drive, switchover, upgrade};

/// What `pgleap check --format json` says of a cluster, with one thing in the way.
fn saved(engine: &str) -> Value {
    let zeroes = [
        "partitioned_tables",
        "views",
        "materialized_views",
        "foreign_tables",
        "unlogged_tables",
        "without_identity",
        "identity_full",
        "functions",
        "types",
        "constraints",
        "triggers",
        "large_objects",
        "publications",
        "subscriptions",
    ];
    let mut database = json!({
        "name": "orders", "bytes": 1_u64 << 40, "tables": 400, "indexes": 900, "sequences": 12, "files": 2000,
        "table_bytes": 1_u64 << 39, "index_bytes": 1_u64 << 38, "sample_bytes": 1_u64 << 36, "extensions": ["hstore 1.8"],
        "largest": []
    });
    zeroes.iter().for_each(|name| database[*name] = json!(0));
    let rate = json!({ "bytes_per_s": 2e6, "over_s": 600.0 });
    json!({ "schema": 1, "clear": false,
        "findings": [{ "id": "wal_level.not_logical", "severity": "blocker", "message": "`wal_level` is `replica`",
                       "cause": null, "remedy": "ALTER SYSTEM SET wal_level = logical;" }],
        "facts": {
            "schema": 1, "taken_at": "2026-10-01T08:00:00Z", "took_s": 2.0, "source": "db1:5432", "target_major": 18,
            "engine": engine, "has_boundary_function": engine == "aurora", "version_num": 150_004, "version": "15.4",
            "platform": "PostgreSQL 15.4", "in_recovery": false, "cluster_bytes": 1_u64 << 40,
            "wal": { "window": rate, "checkpoint": rate, "statistics": null }, "commits_per_s": 250.0,
            "rows_written_per_s": 900.0, "slots": 0, "senders": 1, "connections": 40, "longest_transaction_s": 0.0,
            "settings": { "wal_level": "replica", "max_replication_slots": "10", "max_wal_senders": "10",
                          "max_logical_replication_workers": "4", "max_worker_processes": "8" },
            "databases": [database], "host": null } })
}

fn bed(config: &str, saved: &Value) -> Bed {
    let bed = Bed::with(config);
    std::fs::write(bed.path("facts.json"), saved.to_string()).unwrap();
    bed
}

const OFFLINE: [&str; 3] = ["plan", "--facts", "facts.json"];

#[test]
fn plan_from_saved_facts_recommends_and_says_why_how_long_and_what_first() {
    let ended = bed(CONFIG, &saved("self_managed")).run(&OFFLINE);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{}", ended.all());
    for part in [
        "self-managed 15.4, 1.0 TiB in 1 database",
        "recommended  clone + logical replication  pgleap runs it",
        "no     AWS Blue/Green",
        "first  what must be done before it can begin\n  `wal_level` is `replica` (wal_level.not_logical)",
        "restart  ALTER SYSTEM SET wal_level = logical;",
        "by a base backup at",
        "follow       2 d 00 h",
        "gates  a switchover is held until all of them are open",
        "pgleap switchover  before the point of no return by itself",
        "│ switchover.move_clients",
    ] {
        assert!(ended.stdout.contains(part), "`{part}` is not in:\n{}", ended.stdout);
    }
}

#[test]
fn plan_for_aurora_is_advice_and_prints_no_steps_that_nobody_runs() {
    let priced =
        format!("{CONFIG}\n[plan]\ninstance = \"db.r6g.4xlarge\"\ntarget_instances = 2\nsource_instances = 3\n");
    let bed = bed(&priced, &saved("aurora"));
    let text = bed.run(&OFFLINE).stdout;
    for part in
        ["recommended  AWS Blue/Green  advice", "rds.logical_replication", "USD", "this is advice", "bundled: AWS"]
    {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    assert!(!text.contains("provision.base_backup"), "{text}");
    let pinned = bed.run(&["plan", "--facts", "facts.json", "--method", "clone_logical"]).stdout;
    assert!(pinned.contains("planned       clone + logical replication"), "{pinned}");
    let json = bed.run(&["plan", "--facts", "facts.json", "--format", "json"]).json();
    let decision = &json["decision"];
    assert_eq!((&json["schema"], &decision["recommended"]), (&1.into(), &"blue_green".into()));
    assert_eq!(decision["choices"].as_array().unwrap().len(), 5);
    assert_eq!(decision["choices"][0]["cost"]["currency"], "USD");
    assert_eq!(json["settings"][0]["restart"], true);
}

#[test]
fn plan_by_no_method_ends_as_a_blocker_does() {
    let mut standby = saved("self_managed");
    standby["facts"]["in_recovery"] = json!(true);
    let ended = bed(CONFIG, &standby).run(&OFFLINE);
    assert_eq!(ended.code, 3, "{}", ended.all());
    assert!(ended.stdout.contains("no method can be used here"), "{}", ended.all());
}

#[test]
fn file_that_holds_no_facts_is_refused_with_how_to_make_one() {
    let bed = bed(CONFIG, &json!({ "facts": null, "findings": [] }));
    let ended = bed.run(&OFFLINE);
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("it holds no facts") && ended.stderr.contains("check --format json"),
        "{}",
        ended.stderr
    );
    assert_eq!(bed.run(&["plan", "--facts", "nowhere.json"]).code, 2);
    std::fs::write(bed.path("facts.json"), saved("self_managed").to_string()).unwrap();
    let ended = bed.run(&["plan", "--facts", "facts.json", "--method", "magic"]);
    assert!(ended.code == 2 && ended.stderr.contains("there is no method `magic`"), "{}", ended.all());
}

#[test]
fn plan_without_a_server_says_what_is_in_the_way_and_what_can_be_had_without() {
    let ended = Bed::new().run(&["plan"]);
    assert_eq!(ended.code, 2, "3 is for a cluster that no method can be used for: {}", ended.all());
    for part in ["cannot connect", "nothing was changed", "pgleap plan --steps"] {
        assert!(ended.stderr.contains(part), "{}", ended.all());
    }
}

#[test]
fn runbook_is_dated_filled_in_and_ticks_what_the_journal_holds() {
    let bed = bed(CONFIG, &saved("self_managed"));
    let runbook = |name: &str| {
        let ended = bed.run(&["plan", "--facts", "facts.json", "--runbook", name, "--begin", "2027-01-11"]);
        assert_eq!(ended.code, 0, "{}", ended.all());
        std::fs::read_to_string(bed.path(name)).unwrap()
    };
    let before = runbook("change.md");
    for part in [
        "# PostgreSQL 15.4 → 18",
        "| Monday, 11 January 2027 | `pgleap run`",
        "- [ ] logical replication is enabled: `wal_level` is `replica`  \n  proven by `pgleap check`",
        "- [x] every table has a replica identity",
        "- [ ] the copy is taken  \n  proven by `provision.base_backup`",
        "signed, the application's owner: ____",
        "## The week after",
        "point of no return",
        "ALTER SYSTEM SET wal_level = logical;",
    ] {
        assert!(before.contains(part), "`{part}` is not in:\n{before}");
    }
    let journal = bed.journal();
    assert_eq!(drive(&journal, &upgrade(), &World::default()), Outcome::Done);
    drop(journal);
    let after = runbook("change.md");
    assert!(after.contains("- [x] the copy is taken"), "{after}");
    let page = runbook("change.html");
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<code>provision.base_backup</code>"), "{page}");
    let refused = bed.run(&["plan", "--facts", "facts.json", "--runbook", "change.pdf"]);
    assert!(refused.code == 2 && refused.stderr.contains("neither in .md nor in .html"), "{}", refused.all());
    assert_eq!(refused.stdout, "", "before anything is measured or printed");
}

/// A configuration by each route, what its runbook says of clients, and what it must not say.
fn routes() -> [(String, &'static str, &'static [&'static str]); 5] {
    let without = CONFIG.split("[route]").next().unwrap();
    let by = |route: &str| format!("{without}[route]\n{route}\n");
    let command = "kind = \"command\"\ncommand = [\"/bin/true\"]";
    let by_standby = CONFIG.replace("\"self_managed\"", "\"self_managed\"\nstandby = \"standby\"");
    let reconnect = CONFIG.replace("\"pgbouncer\"\n\n", "\"pgbouncer\"\nclients = \"reconnect\"\n\n");
    let of_others = &["nobody new is let in", "by themselves", "the program", "both servers"];
    [
        (CONFIG.to_owned(), "] clients wait, on a lease", of_others),
        (by_standby, "] every pooler leads to the target", of_others),
        (reconnect, "] nobody new is let in: clients wait for a connection", &["] clients wait, on a lease"]),
        (by(command), "] the program leads to the target", &["every pooler", "use the pooler", "pass the pooler"]),
        (
            by("kind = \"multi_host\""),
            "] the target is opened, and clients find it",
            &["on a lease", "pooler", "are led there"],
        ),
    ]
}

/// The steps that a runbook's checklist gives as proof, and those that its last chapter lists.
fn steps_of(document: &str) -> [Vec<String>; 2] {
    let quoted = |line: &str| line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let proofs = document.lines().filter(|line| line.starts_with("  proven by ") && line.ends_with(", in the journal"));
    let listed = document.lines().filter(|line| line.starts_with("| ") && line.contains(" | `"));
    let steps = |line| quoted(line).into_iter().filter(|word| !word.contains(' '));
    [proofs.flat_map(steps).collect(), listed.filter_map(|line| quoted(line).into_iter().next()).collect()]
}

#[test]
fn runbook_gives_as_proof_what_its_own_method_and_route_do() {
    let mut saved = saved("self_managed");
    let found = |id: &str, severity: &str| json!({ "id": id, "severity": severity, "message": format!("of {id}") });
    saved["findings"].as_array_mut().unwrap().extend([
        found("trigger.fires_on_apply", "warning"),
        found("version.object_changes", "warning"),
        found("sequence.set_at_switchover", "note"),
    ]);
    for (config, told, others) in routes() {
        let bed = bed(&config, &saved);
        for method in ["clone_logical", "blue_green", "snapshot_logical", "logical_copy", "in_place"] {
            let ended = bed.run(&["plan", "--facts", "facts.json", "--method", method, "--runbook", "change.md"]);
            assert_eq!(ended.code, 0, "{}", ended.all());
            let text = std::fs::read_to_string(bed.path("change.md")).unwrap();
            let lists =
                &text[text.find("## The week before").unwrap()..text.find("## Every step").unwrap_or(text.len())];
            let [proofs, listed] = steps_of(&text);
            let strange: Vec<_> = proofs.iter().filter(|step| !listed.contains(step)).collect();
            assert_eq!(strange, [""; 0], "{method} by\n{config}");
            let (runs, in_place) = (method == "clone_logical", method == "in_place");
            assert_eq!((proofs.len() > 15, lists.contains(told)), (runs, runs), "{method}, `{told}`: {lists}");
            for other in others.iter().filter(|_| runs) {
                assert!(!lists.contains(other), "`{other}` is not of this route:\n{config}\n{lists}");
            }
            for of_a_stream in ["slots", "ublications", "rigins", "trigger.fires_on_apply", "wal_level", "follow"] {
                assert!(!(in_place && lists.contains(of_a_stream)), "`{of_a_stream}`: {lists}");
            }
            for part in ["pgleap run`", "Settings of the source", "ALTER SYSTEM", "## Gates"] {
                assert!(!(in_place && text.contains(part)), "`{part}`: {text}");
            }
            assert!(
                in_place || lists.contains("of trigger.fires_on_apply (`trigger.fires_on_apply`)  \n  signed"),
                "{lists}"
            );
            assert!(
                lists.contains("decided about: of version.object_changes (") && !lists.contains("of sequence."),
                "{lists}"
            );
            assert!(
                lists.contains("new major, and those that changed were read  \n  proven by `pgleap rehearse --twin`"),
                "{lists}"
            );
        }
    }
}

fn waiting(more: &str) -> Bed {
    Bed::with(&format!("{CONFIG}\n[approvals]\nbefore = [\"switchover\"]\n{more}\n"))
}

#[test]
fn switchover_waits_until_enough_people_have_said_so_and_status_shows_who_did() {
    let bed = waiting("count = 2\nby = [\"ana\", \"ben\", \"eve\"]");
    let journal = bed.journal();
    assert_eq!(drive(&journal, &upgrade(), &World::default()), Outcome::Done);
    drop(journal);
    let held = bed.run(&["switchover", "--yes"]);
    assert_eq!(held.code, 4, "{}", held.all());
    assert!(held.stderr.contains("`switchover` waits for approval, 0 of 2"), "{}", held.stderr);
    assert!(held.stderr.contains("pgleap approve switchover"), "{}", held.stderr);

    let first = bed.run(&["approve", "switchover", "--by", "ana", "--for", "CHG-7"]);
    assert!(first.code == 0 && first.stdout.contains("waits for approval, 1 of 2: ana"), "{}", first.all());
    assert_eq!(bed.run(&["approve", "switchover", "--by", "ana"]).code, 2, "one person is one voice");
    assert_eq!(bed.run(&["approve", "switchover", "--by", "mallory"]).code, 2, "not among those who may");
    let status = bed.run(&["status"]).stdout;
    assert!(
        status.contains("gate:    `switchover` waits for approval, 1 of 2: ana (") && status.contains("CHG-7"),
        "{status}"
    );

    let second = bed.run(&["approve", "switchover", "--by", "ben", "--format", "json"]).json();
    assert_eq!((&second["open"], &second["approval"]["given"][0]["by"]), (&true.into(), &"ana".into()));
    let status = bed.run(&["status"]).stdout;
    assert!(status.contains("gate:    `switchover` approved, 2 of 2: ana ("), "{status}");
    let journal = bed.run(&["journal"]).stdout;
    assert!(journal.contains("approved") && journal.contains("switchover by ana (account "), "{journal}");
}

#[test]
fn approval_is_used_up_by_the_attempt_it_was_given_for() {
    let bed = waiting("");
    let journal = bed.journal();
    assert_eq!(drive(&journal, &upgrade(), &World::default()), Outcome::Done);
    drop(journal);
    assert_eq!(bed.run(&["approve", "switchover", "--by", "ana"]).code, 0);
    let journal = bed.journal();
    drive(&journal, &switchover("switchover-1", "source"), &World::default());
    drive(&journal, &switchover("switchover-2", "target"), &World::default());
    drop(journal);
    assert_eq!(bed.run(&["switchover", "--yes"]).code, 4, "the second time needs a word of its own");
}

#[test]
fn switchover_that_was_stopped_before_its_pause_is_resumed_only_with_approval() {
    let bed = waiting("");
    let journal = bed.journal();
    assert_eq!(drive(&journal, &upgrade(), &World::default()), Outcome::Done);
    let (stays, no_pause) = (StepError::blocked("the disk is full", "mend it"), "replicate.catch_up");
    let plan = Plan::new("switchover-1", "switchover", json!({ "from": "source" })).then(Pretend::<7>);
    let outcome = drive(&journal, &plan, &World { fails: Some((no_pause, stays)) });
    assert!(matches!(outcome, Outcome::Blocked(_)), "{outcome:?}");
    drop(journal);
    let held = bed.run(&["resume"]);
    assert!(held.code == 4 && held.stderr.contains("`switchover` waits for approval, 0 of 1"), "{}", held.all());
    assert_eq!(bed.run(&["approve", "switchover", "--by", "ana"]).code, 0);
    let resumed = bed.run(&["resume"]);
    assert!(!resumed.stderr.contains("waits for approval"), "it goes on: {}", resumed.all());
}

#[test]
fn gate_that_is_unknown_or_at_which_nothing_waits_is_refused() {
    let bed = waiting("");
    let unknown = bed.run(&["approve", "lunch"]);
    assert!(
        unknown.code == 2 && unknown.stderr.contains("a gate is one of run, switchover, finalize"),
        "{}",
        unknown.all()
    );
    let open = bed.run(&["approve", "finalize"]);
    assert!(open.code == 2 && open.stderr.contains("nothing waits for approval before `finalize`"), "{}", open.all());
    assert!(!bed.path("state").exists(), "nothing was recorded");
    let back = Bed::with(&format!("{CONFIG}\n[approvals]\nbefore = [\"rollback\"]\n")).run(&["status"]);
    assert!(back.code == 2 && back.stderr.contains("the way back is never held up"), "{}", back.all());
}

#[test]
fn run_that_waits_for_approval_touches_nothing() {
    let bed = Bed::with(&format!("{CONFIG}\n[approvals]\nbefore = [\"run\"]\n"));
    let held = bed.run(&["run"]);
    assert_eq!(held.code, 4, "{}", held.all());
    assert!(!bed.path("state").exists());
    assert!(bed.run(&["status"]).stdout.contains("gate:    `run` waits for approval, 0 of 1"));
    assert_eq!(bed.run(&["approve", "run", "--by", "ana"]).code, 0);
    assert_eq!(bed.run(&["run"]).code, 3, "now it is the preflight that looks");
}
