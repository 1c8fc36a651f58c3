-- Reads how many rows of each table were written since its statistics began; tables of which none were are left out.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- $1 oid[]: only these tables; all that can be published if null.
-- Columns: oid oid, table_name text, row_count bigint (as the planner knows it), inserted, updated, deleted bigint,
--          at float8 (s), age_s float8 (how long they count; null if nobody knows)
WITH began AS (
    -- from 15 on a database that nobody reset says nothing: it counts since the cluster's own statistics began
    SELECT coalesce(pg_catalog.pg_stat_get_db_stat_reset_time(d.oid), least(a.stats_reset, b.stats_reset)) AS at
      FROM pg_catalog.pg_database AS d, pg_catalog.pg_stat_archiver AS a, pg_catalog.pg_stat_bgwriter AS b
     WHERE d.datname = pg_catalog.current_database()
), counted AS (
    SELECT c.oid, c.relname, c.relnamespace, greatest(c.reltuples, 0)::bigint AS row_count,
           coalesce(pg_catalog.pg_stat_get_tuples_inserted(c.oid), 0) AS inserted,
           coalesce(pg_catalog.pg_stat_get_tuples_updated(c.oid), 0) AS updated,
           coalesce(pg_catalog.pg_stat_get_tuples_deleted(c.oid), 0) AS deleted
      FROM pg_catalog.pg_class AS c
     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384 AND ($1::oid[] IS NULL OR c.oid = ANY ($1))
)
SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS table_name, c.row_count, c.inserted, c.updated, c.deleted,
       extract(epoch FROM pg_catalog.clock_timestamp())::float8 AS at,
       extract(epoch FROM pg_catalog.clock_timestamp() - (SELECT at FROM began))::float8 AS age_s
  FROM counted AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.inserted + c.updated + c.deleted > 0
