//! The documents do what they say: every command in them is run, in the order in which a reader meets it.
//!
//! Commands are the lines of `sh` blocks, and those after `$ ` in `console` blocks. A `# exit N` behind a command says how it
//! ends; without one it ends well. `pgleap` is run against real servers, `make` is asked what it would do, and programs
//! that are not ours must be on a list.

pub mod reading;
mod stage;

use std::{collections::BTreeSet, path::Path, process::Command};

use pgleap_upgrade::{Config, config::guard::GuardConfig};

use reading::{Line, commands, commands_of, configuration, documents, ours, read, root, uncommented};
use stage::{Given, Stage};

/// Programs that are not ours, and are not run here.
const OTHERS: [&str; 2] = ["psql", "systemctl"];
/// The runbook's pages as one story: what each takes for granted, and where the upgrade stands after it.
const PAGES: [(&str, Given, &str); 13] = [
    ("is-my-cluster-ready", Given::NoIdentity, "nothing"),
    ("how-do-i-undo-everything", Given::Interrupted, "nothing"),
    ("how-do-i-start", Given::Nothing, "in_sync"),
    ("what-must-i-leave-alone-meanwhile", Given::Nothing, "in_sync"),
    ("the-target-lags-what-now", Given::Nothing, "in_sync"),
    ("the-sources-disk-fills-what-now", Given::Nothing, "nothing"),
    ("it-stopped-what-now", Given::Interrupted, "in_sync"),
    ("the-switchover-was-held-what-now", Given::PreparedTransaction, "switched_over"),
    ("how-do-i-go-back", Given::Nothing, "switched_over"),
    ("when-do-i-switch-over", Given::Nothing, "switched_over"),
    ("clients-are-waiting-what-now", Given::KilledInThePause, "switched_over"),
    ("how-do-i-finish", Given::Nothing, "finalized"),
    ("what-did-it-do-and-can-i-prove-it", Given::Nothing, "finalized"),
];

fn page(name: &str) -> String {
    format!("docs/runbook/{name}.md")
}

#[test]
fn commands_are_found_with_their_places_and_exit_codes() {
    let text = "text\n```sh\npgleap a  # exit 4: held\n# no command\n\n```\n```console\n$ psql -c \"x\"\noutput\n```\n```text\npgleap b\n```\n";
    let found = commands("d.md", text);
    let line = |place: &str, command: &str, exit| Line { place: place.into(), command: command.into(), exit };
    assert_eq!(found, [line("d.md:3", "pgleap a", 4), line("d.md:8", "psql -c \"x\"", 0)]);
}

#[test]
fn every_command_in_the_documents_is_run_by_a_story_or_known() {
    // the last two's by `route_check` and `prices`
    let others = ["README.md", "docs/command-route.md", "docs/plan.md"].map(str::to_owned);
    let told: BTreeSet<_> = PAGES.iter().map(|(name, ..)| page(name)).chain(others).collect();
    for document in documents() {
        for line in commands_of(&document) {
            match line.program() {
                "pgleap" => assert!(told.contains(&document), "{}: no story runs `{}`", line.place, line.command),
                "make" => {
                    let words: Vec<_> = line.command.split_whitespace().collect();
                    let asked = Command::new("make").arg("-n").args(&words[1..]).current_dir(root()).output();
                    let asked = asked.unwrap();
                    assert!(asked.status.success(), "{}: {}", line.place, String::from_utf8_lossy(&asked.stderr));
                }
                other => assert!(OTHERS.contains(&other), "{}: what is `{other}`?", line.place),
            }
        }
    }
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    for document in documents() {
        let folder = root().join(&document).parent().unwrap().to_owned();
        for link in read(&document).split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let path = link.split('#').next().unwrap_or_default();
            assert!(link.contains("://") || folder.join(path).exists(), "{document}: nothing is at `{link}`");
        }
    }
}

#[test]
fn the_configuration_in_the_readme_is_right_with_and_without_its_optional_lines() {
    let text = configuration();
    Config::parse(&text, Path::new("/")).unwrap();
    let optional: String = text.lines().map(|line| format!("{}\n", uncommented(line).unwrap_or(line))).collect();
    assert_ne!(text, optional, "there are optional lines");
    Config::parse(&optional, Path::new("/")).unwrap();
}

#[test]
fn the_configurations_of_guards_in_the_documents_are_right() {
    let text = read("docs/guards.md");
    let blocks: Vec<_> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [guard, remote, by_session] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    GuardConfig::parse(guard, Path::new("/")).unwrap();
    let (before, rest) =
        configuration().split_once("[[route.pgbouncer]]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let (_, after) = rest.split_once("[fence]").unwrap();
    Config::parse(&format!("{before}{remote}[fence]{after}"), Path::new("/")).unwrap();
    let (before, _) = before.split_once("[route]").unwrap();
    Config::parse(&format!("{before}{by_session}[[route.pgbouncer]]{rest}"), Path::new("/")).unwrap();
}

#[test]
fn what_the_plans_document_configures_is_right() {
    let text = read("docs/plan.md");
    let blocks: Vec<_> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [plan, prices, approvals] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    let (before, _) = configuration().split_once("[approvals]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let all = format!("{before}{plan}{approvals}");
    let optional: String = all.lines().map(|line| format!("{}\n", uncommented(line).unwrap_or(line))).collect();
    for text in [&all, &optional] {
        Config::parse(text, Path::new("/")).unwrap_or_else(|problems| panic!("{problems:#?}"));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), prices).unwrap();
    pgleap_upgrade::plan::Prices::load(file.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_story_runs_from_beginning_to_end() {
    let mut stage = Stage::set("readme").await;
    std::fs::write(stage.lab.config_path(), stage.here(&configuration())).unwrap();
    let told = async {
        for line in ours("README.md") {
            stage.run(&line).await?;
        }
        match stage.standing().await.as_str() {
            "finalized" => stage.foretold(),
            other => Err(format!("the story ends with {other}")),
        }
    };
    let told = told.await;
    stage.strike(told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runbooks_pages_run_one_after_the_other() {
    let mut stage = Stage::set("runbook").await;
    let told = async {
        for (name, given, then) in PAGES {
            stage.note(&format!("== {name}, given {given:?}"));
            stage.given(given).await?;
            for line in ours(&page(name)) {
                stage.run(&line).await?;
                // that page shows how pgleap does it, and takes it back, before the reader does it
                let cured = if given == Given::NoIdentity { line.has("--undo") } else { line.exit != 0 };
                if cured {
                    stage.cure(given).await?;
                }
            }
            let standing = stage.standing().await;
            if standing != then {
                return Err(format!("after `{name}` the upgrade stands at {standing}, not at {then}"));
            }
        }
        Ok(())
    };
    let told = told.await;
    stage.strike(told).await;
}
