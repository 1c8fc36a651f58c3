//! Reads the facts from a live cluster: once, read-only, in short statements, with no locks on tables.
//!
//! Survives: databases that cannot be entered and statements that are refused; what they would have told is left out or
//! unknown. Does not: a source that cannot be entered at all.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use super::facts::{DatabaseFacts, Engine, Facts, Host, Rate, SCHEMA, TableFacts, Wal};
use crate::{
    config::Databases,
    pg::{PgError, Session},
    preflight::limits::InUse,
    world::World,
};

const CLUSTER: &str = include_str!("sql/facts_of_cluster.sql");
const DATABASE: &str = include_str!("sql/facts_of_database.sql");
const LARGEST: &str = include_str!("sql/list_largest_tables.sql");

/// Sizes of databases that this role may not enter are unknown to it, and left out.
const SIZES: &str = "
    SELECT datname::text, datallowconn AND NOT datistemplate,
           CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT') THEN pg_catalog.pg_database_size(oid) ELSE 0 END
      FROM pg_catalog.pg_database ORDER BY datname";

const SETTINGS: &str = "
    SELECT name, setting FROM pg_catalog.pg_settings WHERE setting IS NOT NULL AND name IN (
        'wal_level', 'max_replication_slots', 'max_wal_senders', 'max_worker_processes', 'max_logical_replication_workers',
        'max_sync_workers_per_subscription', 'max_active_replication_origins', 'autovacuum_max_workers', 'max_connections',
        'max_slot_wal_keep_size', 'idle_replication_slot_timeout', 'wal_sender_timeout', 'shared_buffers', 'wal_segment_size',
        'data_checksums', 'rds.logical_replication', 'data_directory', 'server_encoding', 'lc_collate')";

/// Position and counters of one moment.
const COUNTERS: &str = "
    SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8 AS at,
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
                ELSE (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8 END AS position,
           (SELECT coalesce(sum(xact_commit), 0)::float8 FROM pg_catalog.pg_stat_database) AS commits,
           (SELECT coalesce(sum(tup_inserted + tup_updated + tup_deleted), 0)::float8
              FROM pg_catalog.pg_stat_database) AS rows_written";

/// The checkpoint's redo position is that of its beginning, and so is its time.
const CHECKPOINT: &str = "
    SELECT (pg_catalog.pg_current_wal_insert_lsn() - redo_lsn)::float8,
           extract(epoch FROM pg_catalog.clock_timestamp() - checkpoint_time)::float8
      FROM pg_catalog.pg_control_checkpoint()";

const STATISTICS: &str = "
    SELECT wal_bytes::float8, extract(epoch FROM pg_catalog.clock_timestamp() - stats_reset)::float8
      FROM pg_catalog.pg_stat_wal WHERE stats_reset IS NOT NULL";

/// Databases that are looked into at the same time: each is a connection.
const AT_ONCE: usize = 8;

/// Reads the facts. Rates are measured over `window`, while everything else is read.
///
/// # Errors
/// [`PgError`] if the source cannot be asked what it is.
pub async fn collect(world: &World, window: Duration) -> Result<Facts, PgError> {
    let began = Instant::now();
    let source = &world.config.source;
    let session = world.source.db(&source.database).await?;
    let first = session.query_one(COUNTERS, &[]).await?;
    let over = Instant::now() + window;

    let row = session.query_one(CLUSTER, &[]).await?;
    let version_num = u32::try_from(row.get::<_, i32>("version_num")).unwrap_or_default();
    let in_recovery: bool = row.get("in_recovery");
    let used = InUse::read(&session).await?;
    let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let engine = engine_of(&row);
    let sizes = session.query(SIZES, &[]).await?;
    let sizes: Vec<(String, bool, u64)> =
        sizes.iter().map(|row| (row.get(0), row.get(1), bytes(row.get::<_, i64>(2)))).collect();
    let settings = session.query(SETTINGS, &[]).await?;
    let settings: BTreeMap<String, String> = settings.iter().map(|row| (row.get(0), row.get(1))).collect();
    let wanted = sizes.iter().filter(|(name, connectable, _)| match &source.databases {
        Databases::All => *connectable,
        Databases::Only(names) => names.contains(name),
    });
    let databases = stream::iter(wanted.map(|(name, _, size)| database(world, name, *size)));
    let databases: Vec<DatabaseFacts> =
        databases.buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter().flatten().collect();

    let averages = if in_recovery { Wal::default() } else { wal_averages(&session, version_num).await };
    tokio::time::sleep_until(over).await;
    let second = session.query_one(COUNTERS, &[]).await?;
    let seconds = (second.get::<_, f64>("at") - first.get::<_, f64>("at")).max(0.001);
    let since = |name: &str| Some((second.get::<_, Option<f64>>(name)? - first.get::<_, Option<f64>>(name)?) / seconds);
    let window = since("position").map(|bytes_per_s| Rate { bytes_per_s, over_s: seconds });

    Ok(Facts {
        schema: SCHEMA,
        taken_at: Timestamp::now(),
        took_s: began.elapsed().as_secs_f64(),
        source: format!("{}:{}", source.host, source.port),
        target_major: world.config.target.version,
        engine,
        has_boundary_function: row.get("has_boundary"),
        version_num,
        version: row.get("version"),
        platform: row.get("platform"),
        in_recovery,
        cluster_bytes: sizes.iter().map(|(_, _, size)| size).sum(),
        wal: Wal { window, ..averages },
        commits_per_s: since("commits").unwrap_or_default().max(0.0),
        rows_written_per_s: since("rows_written").unwrap_or_default().max(0.0),
        slots: small(used.slots),
        senders: small(used.senders),
        origins: small(used.origins),
        logical_workers: small(used.logical_workers),
        workers: small(used.workers),
        connections: u32::try_from(row.get::<_, i32>("connections")).unwrap_or_default(),
        longest_transaction_s: row.get("longest_transaction_s"),
        host: host(world, settings.get("data_directory").map(Path::new)),
        settings,
        databases,
    })
}

fn engine_of(row: &tokio_postgres::Row) -> Engine {
    let is = |mark: &str| row.get::<_, bool>(mark);
    match () {
        () if is("is_aurora") => Engine::Aurora,
        () if is("is_rds") => Engine::Rds,
        () if is("is_cloud_sql") || is("is_azure") => Engine::OtherManaged,
        () => Engine::SelfManaged,
    }
}

/// Reads how fast a primary has been writing WAL, on average; what it does not tell is left out.
pub(crate) async fn wal_averages(session: &Session, version_num: u32) -> Wal {
    let statistics = if version_num >= 140_000 { average(session, STATISTICS).await } else { None };
    Wal { window: None, checkpoint: average(session, CHECKPOINT).await, statistics }
}

/// Reads an average; `None` if this role or this server does not tell.
async fn average(session: &Session, statement: &str) -> Option<Rate> {
    let row = session.query_opt(statement, &[]).await.ok()??;
    let (bytes, over_s) = (row.get::<_, Option<f64>>(0)?, row.get::<_, Option<f64>>(1)?);
    (over_s > 0.0).then(|| Rate { bytes_per_s: bytes / over_s, over_s })
}

/// Reads what a database holds; `None` if it cannot be entered, which is a finding of the preflight.
async fn database(world: &World, name: &str, size: u64) -> Option<DatabaseFacts> {
    let session = world.source.db(name).await.ok()?;
    let row = session.query_one(DATABASE, &[]).await.ok()?;
    let block = session.query_one("SELECT pg_catalog.current_setting('block_size')::bigint", &[]).await.ok()?;
    let block: i64 = block.get(0);
    let count = |column: &str| bytes(row.get::<_, i64>(column));
    let pages = |column: &str| bytes(row.get::<_, i64>(column).saturating_mul(block));
    let largest = session.query(LARGEST, &[]).await.unwrap_or_default();
    let table = |row: &tokio_postgres::Row| TableFacts {
        name: row.get("table_name"),
        bytes: bytes(row.get::<_, i64>("pages").saturating_mul(block)),
        rows: bytes(row.get("row_count")),
        rows_written: bytes(row.get("written")),
    };
    Some(DatabaseFacts {
        name: name.to_owned(),
        bytes: size,
        tables: count("tables"),
        partitioned_tables: count("partitioned_tables"),
        indexes: count("indexes"),
        sequences: count("sequences"),
        views: count("views"),
        materialized_views: count("materialized_views"),
        foreign_tables: count("foreign_tables"),
        unlogged_tables: count("unlogged_tables"),
        without_identity: count("without_identity"),
        identity_full: count("identity_full"),
        files: count("files"),
        table_bytes: pages("table_pages"),
        index_bytes: pages("index_pages"),
        sample_bytes: pages("sample_pages"),
        functions: count("functions"),
        types: count("types"),
        constraints: count("constraints"),
        triggers: count("triggers"),
        large_objects: count("large_objects"),
        publications: count("publications"),
        subscriptions: count("subscriptions"),
        extensions: row.get("extensions"),
        largest: largest.iter().map(table).collect(),
    })
}

fn bytes(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

/// Looks at this host, if the source's files are on it.
fn host(world: &World, data_dir: Option<&Path>) -> Option<Host> {
    let data_dir = data_dir.filter(|dir| dir.exists())?;
    let memory = std::fs::read_to_string("/proc/meminfo").ok();
    let kib = memory.as_deref().and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok())
    });
    Some(Host {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kib.map(|kib| kib << 10),
        copy_free_bytes: free(world.places().work()),
        wal_free_bytes: free(&data_dir.join("pg_wal")),
    })
}

/// Returns what is free at `path`, or at the directory above it that exists.
fn free(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = statvfs(existing).ok()?;
    #[allow(clippy::useless_conversion, reason = "narrower on other systems")]
    Some(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
}
