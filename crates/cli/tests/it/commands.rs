//! Commands that read a configuration or a journal and print.

use crate::bed::{Bed, World, drive, drive_until, switchover, upgrade};
use pgleap_saga::{Outcome, StepError, StopSignal};

#[test]
fn a_plan_shows_every_step_the_write_pause_and_the_point_of_no_return() {
    let ended = Bed::new().run(&["plan", "--steps"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    let text = ended.stdout;
    assert!(text.starts_with("127.0.0.1:59432 → 127.0.0.1:59433  PostgreSQL 18\n\npgleap run"), "{text}");
    for part in [
        "\npgleap switchover",
        "\npgleap finalize",
        "\n    1    provision.",
        "┌ write pause: clients wait, at most 2.0 s",
        "│ switchover.move_clients",
        "point of no return: from here back is `pgleap rollback`",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("`{part}` is not in:\n{text}"));
    assert!(at("replicate.create_slots") < at("provision.base_backup"), "the slot comes before the copy");
    assert!(at("┌ write pause") < at("switchover.fence") && at("switchover.fence") < at("point of no return"));
}

#[test]
fn a_plan_as_json_holds_the_same_steps_and_a_schema() {
    let plan = Bed::new().run(&["plan", "--steps", "--format", "json"]).json();
    assert_eq!((&plan["schema"], &plan["target_version"]), (&1.into(), &18.into()));
    let steps = plan["plans"][1]["steps"].as_array().unwrap();
    let moving = steps.iter().find(|step| step["name"] == "switchover.move_clients").unwrap();
    assert_eq!((&moving["reversal"], &moving["section"]), (&"point_of_no_return".into(), &"write pause".into()));
    assert_eq!(moving["budget_ms"], 2000);
}

#[test]
fn a_journal_that_another_process_writes_is_refused_with_its_own_exit_code() {
    let bed = Bed::new();
    let held = bed.journal();
    for verb in [&["run"] as &[&str], &["resume"], &["switchover", "--yes"], &["unwind", "--yes"]] {
        let ended = bed.run(verb);
        assert_eq!(ended.code, 75, "{verb:?}: {}", ended.all());
        let words = format!("process {} is already working on this upgrade", std::process::id());
        assert!(ended.stderr.contains(&words) && ended.stderr.contains("pgleap watch"), "{}", ended.stderr);
    }
    assert_eq!(bed.run(&["status"]).code, 0, "readers are not in the way");
    drop(held);
    assert_eq!(bed.run(&["resume"]).code, 2, "nothing to resume, but no lock");
}

#[test]
fn a_run_that_is_blocked_by_the_preflight_leaves_no_journal() {
    let bed = Bed::new();
    let ended = bed.run(&["run"]);
    assert_eq!(ended.code, 3, "{}", ended.all());
    assert!(ended.stderr.contains("state: nothing was touched"), "{}", ended.stderr);
    assert!(!bed.path("state").exists(), "{}", ended.all());
    let check = bed.run(&["check", "--format", "json"]);
    assert_eq!(check.code, 3);
    assert_eq!(check.json()["clear"], false);
}

#[test]
fn status_shows_what_is_done_what_failed_and_what_comes_next() {
    let bed = Bed::new();
    let journal = bed.journal();
    let error = StepError::blocked("no room for the copy", "make room, then `pgleap resume`").because("3 GiB of 40");
    let world = World { fails: Some(("provision.base_backup", error)) };
    assert!(matches!(drive(&journal, &upgrade(), &world), Outcome::Blocked(_)));
    drop(journal);
    let ended = bed.run(&["status"]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "127.0.0.1:59432  15.18 → 18  upgrade 7f3a  phase provision (2 of 7)  interrupted",
        "{}",
        ended.all()
    );
    assert!(lines[1].starts_with("  done     provision.prepare_databases"), "{}", ended.all());
    assert!(lines[2].starts_with("  done     replicate.create_slots"), "{}", ended.all());
    let rest = lines[3..].join("\n");
    assert_eq!(
        rest,
        "  failed   provision.base_backup        no room for the copy: 3 GiB of 40\n           \
         hint:                        make room, then `pgleap resume`\n  \
         next     provision.fix_boundary\n  \
         then     provision.prove_copy\n  \
         then     provision.start_target\n  \
         then     provision.prove_target\n           … 2 more steps\n\
         traffic: the source serves reads and writes\n\
         next:    `pgleap resume` goes on; `pgleap unwind` takes everything back"
    );
}

#[test]
fn status_says_that_another_process_is_at_work() {
    let bed = Bed::new();
    let journal = bed.journal();
    let world = World { fails: Some(("provision.base_backup", StepError::blocked("no", "yes"))) };
    drive(&journal, &upgrade(), &world);
    let ended = bed.run(&["status"]);
    assert!(ended.stdout.contains(&format!("(process {})", std::process::id())), "{}", ended.stdout);
    assert!(ended.stdout.contains("`pgleap watch` follows it"), "{}", ended.stdout);
    assert_eq!(bed.run(&["status", "--format", "json"]).json()["process"], std::process::id());
}

#[test]
fn status_follows_the_writes_from_side_to_side() {
    let bed = Bed::new();
    let (journal, world) = (bed.journal(), World::default());
    let serves = |words: &str| {
        let ended = bed.run(&["status"]);
        assert!(ended.stdout.contains(words), "`{words}` is not in:\n{}", ended.stdout);
    };
    drive(&journal, &upgrade(), &world);
    serves("traffic: the source serves reads and writes\nnext:    `pgleap switchover`");
    drive(&journal, &switchover("switchover-1", "source"), &world);
    serves("phase soak (6 of 7)");
    serves("traffic: the target serves reads and writes; the source follows\nnext:    `pgleap rollback`");
    drive(&journal, &switchover("switchover-2", "target"), &world);
    serves("traffic: the source serves reads and writes\n");
}

#[test]
fn watch_once_prints_what_status_does_and_watch_ends_where_nothing_is_left_to_follow() {
    let bed = Bed::new();
    let journal = bed.journal();
    let fatal = World { fails: Some(("provision.base_backup", StepError::fatal("lost", "again"))) };
    assert!(matches!(drive(&journal, &upgrade(), &fatal), Outcome::Unwound { .. }));
    drop(journal);
    let once = bed.run(&["watch", "--once"]);
    assert!(once.code == 0 && once.stdout.contains("nothing is begun"), "{}", once.all());
    let ended = bed.run(&["watch"]);
    assert!(ended.code == 0 && ended.stdout.contains("the source serves"), "{}", ended.all());
}

#[test]
fn a_journal_says_at_which_step_a_run_was_stopped_and_why() {
    let bed = Bed::new();
    let journal = bed.journal();
    let stop = StopSignal::new();
    stop.request();
    assert_eq!(drive_until(&journal, &upgrade(), &World::default(), stop), Outcome::Stopped);
    drop(journal);
    let text = bed.run(&["journal"]).stdout;
    let line = text.lines().find(|line| line.contains("  stopped  ")).unwrap_or_else(|| panic!("{text}"));
    let end = "upgrade-1       provision.prepare_databases  on request, before it began";
    assert!(line.ends_with(end), "{line}");
    let json = bed.run(&["journal", "--format", "json"]).stdout;
    let record: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&record["kind"], &record["step"]), (&"stopped".into(), &"provision.prepare_databases".into()));
    assert_eq!(record["body"]["reason"], "on request, before it began");
}

#[test]
fn a_journal_is_printed_as_lines_and_as_json_lines() {
    let bed = Bed::new();
    let journal = bed.journal();
    drive(&journal, &upgrade(), &World::default());
    drop(journal);
    let text = bed.run(&["journal"]).stdout;
    assert!(
        text.lines().next().is_some_and(|line| line.contains("plan_opened") && line.contains("upgrade-1")),
        "{text}"
    );
    assert!(text.contains("setting `password_encryption` is not carried over"), "{text}");
    let json = bed.run(&["journal", "--format", "json", "--after", "1", "--plan", "upgrade-1"]).stdout;
    let records: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records[0]["n"], 2);
    assert_eq!(bed.run(&["journal", "--plan", "other-1"]).stdout, "");
}
