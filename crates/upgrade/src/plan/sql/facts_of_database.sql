-- Counts what a database holds: one row.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- Columns: counts (bigint), pages as the planner knows them (bigint), extensions text[]
-- Sizes are relpages, as old as the last VACUUM or ANALYZE: asking the files would wait for everybody's locks.
WITH own AS MATERIALIZED (
    -- below 16384 is what initdb made
    SELECT c.oid, c.relkind, c.relpersistence, c.relpages::bigint AS pages, c.relreplident, c.reltoastrelid
      FROM pg_catalog.pg_class AS c WHERE c.oid >= 16384 AND c.relpersistence <> 't'
), keys AS MATERIALIZED (
    SELECT indrelid, bool_or(indisprimary AND indisvalid AND indimmediate) AS has_primary,
           bool_or(indisreplident AND indisvalid AND indimmediate) AS has_identity
      FROM pg_catalog.pg_index WHERE indrelid >= 16384 GROUP BY indrelid
)
SELECT count(*) FILTER (WHERE relkind IN ('r', 'p')) AS tables,
       count(*) FILTER (WHERE relkind = 'p') AS partitioned_tables,
       count(*) FILTER (WHERE relkind IN ('i', 'I')) AS indexes,
       count(*) FILTER (WHERE relkind = 'S') AS sequences,
       count(*) FILTER (WHERE relkind = 'v') AS views,
       count(*) FILTER (WHERE relkind = 'm') AS materialized_views,
       count(*) FILTER (WHERE relkind = 'f') AS foreign_tables,
       count(*) FILTER (WHERE relkind = 'r' AND relpersistence = 'u') AS unlogged_tables,
       count(*) FILTER (WHERE relkind IN ('r', 'i', 't', 'm', 'S')) AS files,
       count(*) FILTER (WHERE relkind = 'r' AND relpersistence = 'p' AND NOT CASE relreplident
                              WHEN 'd' THEN coalesce(k.has_primary, false)
                              WHEN 'i' THEN coalesce(k.has_identity, false)
                              WHEN 'f' THEN true
                              ELSE false END) AS without_identity,
       count(*) FILTER (WHERE relkind = 'r' AND relreplident = 'f' AND NOT coalesce(k.has_primary, false)) AS identity_full,
       coalesce(sum(pages) FILTER (WHERE relkind IN ('r', 't', 'm')), 0)::bigint AS table_pages,
       coalesce(sum(pages) FILTER (WHERE relkind = 'i'), 0)::bigint AS index_pages,
       -- ANALYZE reads 300 times default_statistics_target pages of each table at most
       coalesce(sum(least(pages, 30000)) FILTER (WHERE relkind IN ('r', 'm')), 0)::bigint AS sample_pages,
       (SELECT count(*) FROM pg_catalog.pg_proc WHERE oid >= 16384) AS functions,
       (SELECT count(*) FROM pg_catalog.pg_type WHERE oid >= 16384 AND typtype IN ('d', 'e', 'r')) AS types,
       (SELECT count(*) FROM pg_catalog.pg_constraint WHERE oid >= 16384) AS constraints,
       (SELECT count(*) FROM pg_catalog.pg_trigger WHERE oid >= 16384 AND NOT tgisinternal) AS triggers,
       (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata) AS large_objects,
       (SELECT count(*) FROM pg_catalog.pg_publication) AS publications,
       (SELECT count(*) FROM pg_catalog.pg_subscription AS s
          JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid AND d.datname = pg_catalog.current_database()) AS subscriptions,
       (SELECT coalesce(array_agg(pg_catalog.format('%s %s', extname, extversion) ORDER BY extname), '{}')
          FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql') AS extensions
  FROM own LEFT JOIN keys AS k ON k.indrelid = own.oid
