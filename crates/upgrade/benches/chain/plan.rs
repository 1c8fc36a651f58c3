//! How long `pgleap plan` takes from a saved `pgleap check --format json`: the whole process, from its start to its end.
//!
//! It is asked again and again while people change what they wish, so it must feel like nothing: a tenth of a second.

use std::{path::PathBuf, process::Command, time::Instant};

use serde_json::json;

use crate::table::{Table, median, short};

const TIMES: usize = 50;
/// A large cluster with much in its way: files do not grow with tables, but with databases and findings.
const DATABASES: usize = 50;
const FINDINGS: usize = 1000;

/// The program that `make bench` built: beside this one's directory.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("pgleap")
}

fn saved() -> String {
    let largest: Vec<_> = (0..10)
        .map(|n| json!({ "name": format!("public.t{n}"), "bytes": 1_u64 << 33, "rows": 1, "rows_written": 1 }))
        .collect();
    let zeroes = [
        "partitioned_tables",
        "sequences",
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
    let database = |n: usize| {
        let mut of = json!({
            "name": format!("db{n}"), "bytes": 1_u64 << 36, "tables": 1000, "indexes": 2000, "files": 4000,
            "table_bytes": 1_u64 << 35, "index_bytes": 1_u64 << 34, "sample_bytes": 1_u64 << 33, "extensions": [],
            "largest": largest
        });
        zeroes.iter().for_each(|name| of[*name] = json!(3));
        of
    };
    let rate = json!({ "bytes_per_s": 1e6, "over_s": 10.0 });
    let facts = json!({
        "schema": 1, "taken_at": "2026-01-01T00:00:00Z", "took_s": 2.0, "source": "db1:5432", "target_major": 18,
        "engine": "self_managed", "has_boundary_function": false, "version_num": 150_018, "version": "15.18",
        "platform": "PostgreSQL 15.18", "in_recovery": false, "cluster_bytes": 1_u64 << 42,
        "wal": { "window": rate, "checkpoint": rate, "statistics": rate }, "commits_per_s": 1.0,
        "rows_written_per_s": 1.0, "slots": 0, "senders": 0, "connections": 10, "longest_transaction_s": 0.0,
        "settings": { "wal_level": "replica", "max_replication_slots": "10" },
        "databases": (0..DATABASES).map(database).collect::<Vec<_>>(), "host": null
    });
    let finding = |n: usize| {
        json!({ "id": "replica_identity.missing", "severity": "blocker", "remedy": "ALTER TABLE …",
                "message": format!("table t{n} has no replica identity") })
    };
    json!({ "schema": 1, "facts": facts, "findings": (0..FINDINGS).map(finding).collect::<Vec<_>>() }).to_string()
}

const CONFIG: &str = "
[source]
dsn = \"host=127.0.0.1 port=1 user=postgres\"
[target]
version = 18
port = 2
data_dir = \"t\"
[provider]
kind = \"self_managed\"
[route]
kind = \"pgbouncer\"
[[route.pgbouncer]]
admin = \"host=127.0.0.1 port=3 user=postgres\"
ini = \"i\"
";

pub fn run() {
    let directory = std::env::temp_dir().join(format!("pgl-{}-plan", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("pgleap.toml"), CONFIG).unwrap();
    std::fs::write(directory.join("facts.json"), saved()).unwrap();
    let mut table = Table::new(["plan --facts", "p50 ms", "longest ms"]);
    let mut json = serde_json::Map::new();
    for (name, more) in [("terminal", &[][..]), ("json", &["--format", "json"]), ("runbook", &["--runbook", "r.html"])]
    {
        let mut took_ms = Vec::new();
        for _ in 0..TIMES {
            let mut command = Command::new(program());
            command.args(["plan", "--facts", "facts.json"]).args(more).current_dir(&directory);
            let began = Instant::now();
            let output = command.output().unwrap();
            took_ms.push(began.elapsed().as_secs_f64() * 1000.0);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let longest = took_ms.iter().copied().fold(0.0, f64::max);
        table.row([name.to_owned(), short(median(&took_ms)), short(longest)]);
        json.insert(name.to_owned(), serde_json::json!({ "p50_ms": median(&took_ms), "longest_ms": longest }));
    }
    table.print();
    #[allow(clippy::print_stdout, reason = "a benchmark talks to stdout")]
    {
        println!("{}", serde_json::json!({ "bench": "plan", "took": json }));
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
