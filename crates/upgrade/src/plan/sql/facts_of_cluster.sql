-- Says what a cluster is and how it is used: one row.
-- Runs on: source, 13 and later.  Role: any; what it may not see is null.  Locks: none on tables.  Writes: no.
-- Columns: version_num int, version text, platform text, in_recovery bool, the engine's marks (is_aurora, has_boundary,
--          is_rds, is_cloud_sql, is_azure bool), connections int, longest_transaction_s float8
SELECT pg_catalog.current_setting('server_version_num')::int AS version_num,
       pg_catalog.current_setting('server_version') AS version,
       pg_catalog.version() AS platform,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proname = 'aurora_version') AS is_aurora,
       EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proname = 'aurora_volume_logical_start_lsn') AS has_boundary,
       EXISTS (SELECT FROM pg_catalog.pg_settings WHERE name = 'rds.extensions') AS is_rds,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'cloudsqlsuperuser') AS is_cloud_sql,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'azure_pg_admin') AS is_azure,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')::int AS connections,
       (SELECT coalesce(extract(epoch FROM max(pg_catalog.clock_timestamp() - xact_start)), 0)::float8
          FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()) AS longest_transaction_s
