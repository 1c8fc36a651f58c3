-- Lists the largest tables of a database, and the rows written to each since its statistics began.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- Columns: table_name text, pages bigint (with TOAST and indexes, as the planner knows them), row_count bigint,
--          written bigint
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS table_name,
       (c.relpages + coalesce(t.relpages, 0) + coalesce(i.pages, 0))::bigint AS pages,
       greatest(c.reltuples, 0)::bigint AS row_count,
       coalesce(pg_catalog.pg_stat_get_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_tuples_updated(c.oid)
                + pg_catalog.pg_stat_get_tuples_deleted(c.oid), 0) AS written
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_class AS t ON t.oid = c.reltoastrelid AND c.reltoastrelid <> 0
  LEFT JOIN (SELECT x.indrelid, sum(ic.relpages) AS pages
               FROM pg_catalog.pg_index AS x JOIN pg_catalog.pg_class AS ic ON ic.oid = x.indexrelid
              WHERE x.indrelid >= 16384 GROUP BY x.indrelid) AS i ON i.indrelid = c.oid
 WHERE c.relkind IN ('r', 'm') AND c.oid >= 16384 AND c.relpersistence <> 't'
 ORDER BY 2 DESC, 1 LIMIT 10
