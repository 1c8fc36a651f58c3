//! Real processes that die by SIGKILL: this test program runs itself as a child that works on a directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use pgleap_saga::{
    Cx, EventSink, Executor, Journal, JournalError, Observed, Outcome, Plan, RetryPolicy, Reversal, Step, StepError,
    StepName, StopSignal,
};

const DIRECTORY: &str = "PGLEAP_TEST_DIRECTORY";

struct Directory(PathBuf);

macro_rules! file {
    ($step:ident, $name:literal, $reversal:ident) => {
        struct $step;
        impl Step<Directory> for $step {
            type Output = ();
            const NAME: StepName = StepName($name);
            const REVISION: u32 = 1;
            const REVERSAL: Reversal = Reversal::$reversal;
            fn summary(&self) -> String {
                concat!("make the file ", $name).into()
            }
            async fn probe(&self, cx: &Cx<'_, Directory>) -> Result<Observed<()>, StepError> {
                Ok(if cx.world.0.join($name).exists() { Observed::Done(()) } else { Observed::Absent })
            }
            async fn run(&self, cx: &Cx<'_, Directory>) -> Result<(), StepError> {
                cx.note("making a file");
                fs::write(cx.world.0.join($name), "").map_err(|e| StepError::transient(e.to_string()))
            }
            async fn undo(&self, cx: &Cx<'_, Directory>) -> Result<(), StepError> {
                let _ = fs::remove_file(cx.world.0.join($name));
                Ok(())
            }
        }
    };
}
file!(One, "a.one", Undo);
file!(Two, "a.two", Undo);
file!(Three, "a.three", PointOfNoReturn);
file!(Four, "a.four", Undo);

fn plan() -> Plan<Directory> {
    let section = Duration::from_secs(60);
    Plan::new("a-1", "a", serde_json::Value::Null)
        .then(One)
        .then(Two)
        .section("pause", section, |s| s.then(Three).then(Four))
}

/// Not a test: what a child process does.
#[tokio::test]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let journal = Journal::open(directory.join("journal")).unwrap();
    let executor = Executor::new(&journal, EventSink::new(), RetryPolicy::default(), StopSignal::new());
    let outcome = executor.execute(&plan(), &Directory(directory.clone())).await.unwrap();
    fs::write(directory.join("outcome"), serde_json::to_string(&outcome).unwrap()).unwrap();
}

fn spawn(directory: &Path, fault: Option<&str>) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child"])
        .env(DIRECTORY, directory)
        .envs(fault.map(|fault| ("PGLEAP_FAULT", fault)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn run(directory: &Path, fault: &str) -> ExitStatus {
    spawn(directory, Some(fault)).wait().unwrap()
}

fn was_killed(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

fn outcome(directory: &Path) -> Outcome {
    serde_json::from_str(&fs::read_to_string(directory.join("outcome")).unwrap()).unwrap()
}

fn wait_for(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "it did not happen in 20 s");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_chain_of_resumes_that_each_die_at_a_new_point_comes_to_an_end() {
    let traced = tempfile::tempdir().unwrap();
    let points = traced.path().join("points");
    assert!(run(traced.path(), &format!("trace:{}", points.display())).success());
    let traced = fs::read_to_string(&points).unwrap();
    assert!(traced.lines().any(|point| point == "a.three.before_point_of_no_return"), "{traced}");

    let directory = tempfile::tempdir().unwrap();
    let points = directory.path().join("points");
    let fault = format!("kill-each:{}", points.display());
    let mut deaths = 0;
    while was_killed(run(directory.path(), &fault)) {
        deaths += 1;
        assert!(deaths < 200, "no end after {deaths} deaths");
    }
    assert!(deaths > 15, "only {deaths} deaths");
    assert_eq!(fs::read_to_string(&points).unwrap().lines().count(), deaths);
    // It dies inside the section, so it must have turned back.
    assert!(matches!(outcome(directory.path()), Outcome::Unwound { .. }));
    assert!(!directory.path().join("a.one").exists());
}

#[test]
fn killed_past_the_point_of_no_return_it_goes_forward() {
    let directory = tempfile::tempdir().unwrap();
    assert!(was_killed(run(directory.path(), "kill:a.three.after_point_of_no_return")));
    assert!(!directory.path().join("a.three").exists());
    assert!(spawn(directory.path(), None).wait().unwrap().success());
    assert_eq!(outcome(directory.path()), Outcome::Done);
    assert!(directory.path().join("a.four").exists());
}

#[test]
fn a_process_held_at_a_point_can_be_read_cannot_be_doubled_and_leaves_its_notes_when_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (hold, path) = (directory.path().join("hold"), directory.path().join("journal"));
    let fault = format!("hold:a.one.before_succeeded:{}", hold.display());
    let mut child = spawn(directory.path(), Some(&fault));
    wait_for(|| hold.exists());

    let error = Journal::open(&path).err().unwrap();
    assert!(matches!(error, JournalError::Locked { pid } if pid == child.id()), "{error}");
    let reader = Journal::read_only(&path).unwrap();
    assert_eq!(reader.open_plan().unwrap().unwrap().steps[0].attempts, 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reader.records(0).unwrap().iter().any(|r| r.body["text"] == "making a file"));
    drop(reader);

    fs::remove_file(&hold).unwrap();
    let mut child = spawn(directory.path(), Some(&fault));
    wait_for(|| hold.exists());
    fs::remove_file(&hold).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(outcome(directory.path()), Outcome::Done);
}

#[test]
fn a_fault_that_is_not_understood_ends_the_process_and_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    assert!(!run(directory.path(), "maim:a.one").success());
    assert!(!directory.path().join("outcome").exists());
}
