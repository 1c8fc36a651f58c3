//! PostgreSQL's own regression database: everything that a schema can hold, made by those who wrote the server.

use pgleap_local::run;

use super::{PATIENCE, Scene, serious};

/// They leave nothing behind, and would take as long as all the others: they try how the executor does it.
const LEFT_OUT: [&str; 8] = [
    "join_hash",
    "select_parallel",
    "write_parallel",
    "vacuum_parallel",
    "tuplesort",
    "memoize",
    "incremental_sort",
    "infinite_recurse",
];

/// What `check` says against what pg_upgrade refuses.
const REMEDIES: &str = "
    ALTER TABLE public.tab_core_types ALTER COLUMN aclitem TYPE text;
    ALTER TABLE public.gtest_normal_child NO INHERIT public.gtest_normal;
    ALTER TABLE public.gtest_normal_child ALTER COLUMN b DROP EXPRESSION;
    ALTER TABLE public.gtest_normal_child INHERIT public.gtest_normal;
    ALTER TABLE public.gtest_normal_child2 NO INHERIT public.gtest_normal;
    ALTER TABLE public.gtest_normal_child2 ALTER COLUMN b DROP EXPRESSION;
    ALTER TABLE public.gtest_normal_child2 INHERIT public.gtest_normal;
    CREATE EXTENSION pg_stat_statements";

impl Scene {
    /// Runs the regression tests in the order of their schedule. Statements fail on purpose, and those that need the tests'
    /// own library of C functions because it is not there.
    async fn load_regression(&self) {
        let schedule = std::fs::read_to_string(self.input.join("parallel_schedule")).unwrap();
        let tests: Vec<_> =
            schedule.lines().filter_map(|line| line.strip_prefix("test: ")).flat_map(str::split_whitespace).collect();
        assert!(tests.len() > 150 && LEFT_OUT.iter().all(|name| tests.contains(name)), "{tests:?}");
        // what some of them write
        let written = self.lab.spec.dir.join("regression");
        self.lab.account.create_dir(&written, 0o755).unwrap();
        self.lab.account.create_dir(written.join("results"), 0o755).unwrap();
        for test in tests.into_iter().filter(|name| !LEFT_OUT.contains(name)) {
            let mut psql = self.psql();
            psql.args(["--set=HIDE_TABLEAM=on", "--set=HIDE_TOAST_COMPRESSION=on", "--output=/dev/null"]);
            psql.arg("--file").arg(self.input.join(format!("sql/{test}.sql")));
            psql.env("PGTZ", "PST8PDT").env("PGDATESTYLE", "Postgres, MDY");
            psql.env("PGOPTIONS", "-c intervalstyle=postgres_verbose -c jit=off");
            psql.env("PG_ABS_SRCDIR", &self.input).env("PG_ABS_BUILDDIR", &written);
            psql.env("PG_LIBDIR", &written).env("PG_DLSUFFIX", ".so");
            run(psql, PATIENCE).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regression_database_is_checked_planned_and_rehearsed() {
    let settings = [("max_prepared_transactions", "2"), ("allow_in_place_tablespaces", "on")];
    let Some(scene) = Scene::set("regression", &settings).await else { return };
    scene.load_regression().await;
    let found = scene.check(3).await;
    assert_eq!(
        serious(&found),
        [
            "blocker replica_identity.generated",
            "blocker replica_identity.missing",
            "blocker table_owner.kept_out",
            "blocker version.object_refused aclitem",
            "blocker version.object_refused generated_inheritance",
            "warning large_object.not_replicated",
            "warning publication.restricted",
            "warning transaction_id.kept",
            "warning trigger.fires_on_apply",
        ]
    );
    assert!(found["blocker replica_identity.missing"].len() > 400, "{found:#?}");
    assert!(found["note materialized_view.goes_stale"].contains("public.mvtest_tm"), "{found:#?}");
    for (finding, objects) in [
        ("blocker replica_identity.generated", vec!["public.gtest22b", "public.gtest23p"]),
        ("blocker version.object_refused aclitem", vec!["public.tab_core_types.aclitem"]),
        (
            "blocker version.object_refused generated_inheritance",
            vec!["public.gtest_normal_child.b", "public.gtest_normal_child2.b"],
        ),
        ("warning trigger.fires_on_apply", vec!["public.trigger_parted_p2_2.aft_row (ALWAYS)"]),
    ] {
        assert_eq!(found[finding].iter().map(String::as_str).collect::<Vec<_>>(), objects, "{finding}");
    }

    // what pgleap can remedy it does; what is left are tables whose rows nothing tells apart
    assert_eq!(scene.pgleap(&["check", "--fix", "replica_identity.missing"]).await.status.code(), Some(0));
    let left = scene.check(3).await.remove("blocker replica_identity.missing").unwrap();
    assert!(left.contains("public.box_tbl") && left.len() < 70, "{left:?}");
    scene.sql(REMEDIES).await;
    scene.run_as_owner();
    for table in left.iter().chain(&found["blocker replica_identity.generated"]) {
        scene.sql(&format!("DROP TABLE IF EXISTS {table} CASCADE")).await;
    }
    let found = scene.check(0).await;
    assert!(serious(&found).iter().all(|finding| !finding.starts_with("blocker")), "{found:#?}");

    scene.plan().await;
    let twin = scene.twin(&[], 0).await;
    assert!(twin["indexes"]["all"].as_u64() > Some(100), "{twin:#}");
    let explained = twin["same"].as_u64().unwrap() + twin["changed"].as_array().unwrap().len() as u64;
    assert!(explained > 0, "{twin:#}");
    scene.end().await;
}
