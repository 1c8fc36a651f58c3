//! Schemas that nobody here wrote, through everything that looks before it touches, and one of them through an upgrade.
//!
//! `scripts/setup test` brings them. Where it never ran, or could not bring any, these tests pass over with a word; where it
//! brought some and one is missing, its test fails.

mod musicbrainz;
mod regression;
mod zabbix;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use pgleap_lab::{Lab, LabSpec};
use pgleap_local::{find, run, setup_roots};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};

/// Not every installation of 16 or 18 brings the contributed modules that are wanted.
const FROM: u16 = 15;
const TO: u16 = 17;

/// Everything on the source that a rehearsal could leave.
const TRACES: &str = "
    SELECT slot_name::text FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication
     UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'pgleap' ORDER BY 1";

/// How long one tool may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Returns where an input lies; none, with a word, if nobody was to bring any.
fn brought(name: &str) -> Option<PathBuf> {
    let all: Vec<_> = setup_roots().into_iter().map(|root| root.join("inputs")).filter(|path| path.is_dir()).collect();
    if all.is_empty() {
        eprintln!("skipped: `scripts/setup test` brings {name}");
        return None;
    }
    let found = all.iter().map(|path| path.join(name)).find(|path| path.is_dir());
    assert!(found.is_some(), "`scripts/setup test` did not bring {name}: it is not in {all:?}");
    found
}

/// A source with one database, which holds somebody else's schema.
struct Scene {
    lab: Lab,
    input: PathBuf,
}

impl Scene {
    /// Starts a source with an empty database of the input's name.
    async fn set(name: &str, settings: &[(&str, &str)]) -> Option<Self> {
        let input = brought(name)?;
        if let Err(error) = find(TO, &[]) {
            eprintln!("skipped: {error}");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("pgl-{}-{name}", std::process::id()));
        let mut spec = LabSpec::new(FROM, TO, &directory);
        (spec.databases, spec.empty) = (vec![name.to_owned()], true);
        let own = [("fsync", "off"), ("shared_preload_libraries", "pg_stat_statements")];
        let settings = own.iter().chain(settings);
        spec.source_settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let lab = Lab::start(spec).await.unwrap();
        // its last section is that of the budgets; a disk may have less room than the default wants
        std::fs::write(lab.config_path(), lab.config_text() + "retained_wal = \"1GiB\"\n").unwrap();
        Some(Self { lab, input })
    }

    /// Has pgleap's role apply what table owners could not.
    fn run_as_owner(&self) {
        let path = self.lab.config_path();
        let text = std::fs::read_to_string(&path).unwrap().replace("[target]\n", "[target]\nrun_as_owner = true\n");
        std::fs::write(path, text).unwrap();
    }

    fn database(&self) -> &str {
        &self.lab.spec.databases[0]
    }

    /// Returns psql on the input's database, as a superuser; the caller says what it runs.
    fn psql(&self) -> Command {
        let mut psql = self.lab.account.command(self.lab.source.installation.tool("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--username=postgres"]);
        psql.arg(format!("--host={}", self.lab.spec.dir.join("s").display()));
        psql.arg(format!("--port={}", self.lab.source_port)).arg(format!("--dbname={}", self.database()));
        psql
    }

    /// Runs files of the input in one session; the first statement that fails fails the test.
    async fn load(&self, files: &[&str], options: &str) {
        let mut psql = self.psql();
        psql.args(["--set=ON_ERROR_STOP=1", "--output=/dev/null"]).env("PGOPTIONS", options);
        for file in files {
            // each was written for a session of its own
            psql.arg("--command=RESET ALL").arg("--file").arg(self.input.join(file));
        }
        run(psql, PATIENCE).await.unwrap();
    }

    async fn client(&self, port: u16) -> Client {
        let (client, connection) = self.lab.directly(port, self.database()).connect(NoTls).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    }

    /// Runs statements on the source.
    async fn sql(&self, sql: &str) {
        self.client(self.lab.source_port)
            .await
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    /// Returns the first column of every row, from the source.
    async fn ask(&self, sql: &str) -> Vec<String> {
        self.client(self.lab.source_port).await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn pgleap(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
        command.args(["--yes", "--config"]).arg(self.lab.config_path()).args(words);
        let ended = command.stdin(Stdio::null()).kill_on_drop(true).output();
        tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("{words:?} does not end")).unwrap()
    }

    /// Runs the program and returns what it says as JSON; any other exit code fails the test.
    async fn json(&self, words: &[&str], code: i32) -> Value {
        let output = self.pgleap(&[words, &["--format", "json"]].concat()).await;
        let (told, story) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{words:?}\n{told}\n{story}");
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    /// Checks, and returns what is found, apart from what the laboratory and the machine give reason for: the names under each
    /// finding, as `severity id`, or `severity id rule` where a rule between two majors found it.
    async fn check(&self, code: i32) -> BTreeMap<String, BTreeSet<String>> {
        const OF_THE_LABORATORY: [&str; 8] = [
            "database.not_kept_up",
            "pooler.server_login_retry",
            "ddl.recent",
            "table.busiest",
            "statement.slow",
            "replica_identity.full_scans",
            "retained_wal.budget_spent_early",
            "collation.icu_differs",
        ];
        let checked = self.json(&["check"], code).await;
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for finding in checked["findings"].as_array().unwrap() {
            if OF_THE_LABORATORY.iter().any(|id| finding["id"] == *id) {
                continue;
            }
            let words = [&finding["severity"], &finding["id"], &finding["numbers"]["rule"]];
            let words: Vec<_> = words.into_iter().filter_map(Value::as_str).collect();
            let objects = finding["objects"].as_array().into_iter().flatten();
            found.entry(words.join(" ")).or_default().extend(objects.map(|name| name.as_str().unwrap().to_owned()));
        }
        found
    }

    /// Plans, and fails the test if the plan is another than that of a cluster that pgleap can upgrade.
    async fn plan(&self) {
        let plan = self.json(&["plan"], 0).await;
        assert_eq!(plan["decision"]["recommended"], "clone_logical", "{plan:#}");
        let stages = plan["decision"]["choices"][0]["stages"].as_array().unwrap();
        assert!(stages.iter().any(|stage| stage["name"] == "upgrade"), "{stages:#?}");
    }

    /// Rehearses with a twin, fails the test if anything of it is left, and returns what it told.
    async fn twin(&self, words: &[&str], code: i32) -> Value {
        let before = self.ask(TRACES).await;
        let told = self.json(&[&["rehearse", "--twin"], words].concat(), code).await["twin"].clone();
        for place in ["w.twin", "target.twin"] {
            assert!(!self.lab.spec.dir.join(place).exists(), "{place} is left");
        }
        assert_eq!(self.ask(TRACES).await, before);
        let stages: Vec<_> = told["stages"].as_array().unwrap().iter().map(|stage| &stage["step"]).collect();
        for step in ["provision.upgrade_copy", "twin.explain_after", "twin.check_indexes", "twin.restore_schema"] {
            assert!(stages.iter().any(|stage| *stage == step), "{stages:?}");
        }
        assert_eq!((&told["indexes"]["checked"], &told["indexes"]["wrong"]), (&told["indexes"]["all"], &json!([])));
        assert_eq!((&told["restore"], &told["broken"]), (&json!([]), &json!([])), "{told:#}");
        told
    }

    async fn end(self) {
        self.lab.destroy().await.unwrap();
    }
}

/// Returns the blockers and warnings: the list of what is merely worth knowing grows with the checks.
fn serious(found: &BTreeMap<String, BTreeSet<String>>) -> Vec<&str> {
    found.keys().map(String::as_str).filter(|finding| !finding.starts_with("note ")).collect()
}
