-- Lists functions that run where changes are applied and name tables, functions or types of a schema that only a search_path finds.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- Columns: function text (regprocedure, as SQL writes it), users text[] (what they run for, three at most), count int8 (of all
--          these), names text[], schemas text[] (of the names), ambiguous text[] (names that are in several schemas)
-- Begins with: with_functions_on_apply.sql
, run (function, by) AS (
    SELECT function, what FROM called
    UNION
    SELECT tgfoid, pg_catalog.format('trigger %I', tgname) FROM pg_catalog.pg_trigger WHERE tgenabled IN ('A', 'R')
), bodies AS (
    SELECT p.oid, u.users, u.count,
           -- without comments and texts
           pg_catalog.lower(pg_catalog.regexp_replace(p.prosrc, '--[^\n]*|/\*(?:[^*]|\*(?!/))*\*/|''[^'']*''', ' ', 'g')) AS body
      FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
      JOIN (SELECT function, count(*) AS count, (array_agg(by ORDER BY by))[1:3] AS users FROM run GROUP BY 1) AS u
           ON u.function = p.oid
     WHERE p.oid >= 16384 AND l.lanname IN ('sql', 'plpgsql')
       -- a body that was parsed when it was made names what it means
       AND pg_catalog.to_jsonb(p) ->> 'prosqlbody' IS NULL
       AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c LIKE 'search\_path=%')
), named (oid, kind, name) AS (
    SELECT b.oid, 'relation', m[1]
      FROM bodies AS b, pg_catalog.regexp_matches(b.body, '\m(?:from|join|into|update|only)\s+([a-z_]\w*)\M(?!\s*[.(])', 'g') AS m
    UNION
    SELECT b.oid, 'function', m[1]
      FROM bodies AS b, pg_catalog.regexp_matches(b.body, '(?<![.\w])([a-z_]\w*)\s*\(', 'g') AS m
    UNION
    SELECT b.oid, 'type', m[1]
      FROM bodies AS b, pg_catalog.regexp_matches(b.body, '::\s*([a-z_]\w*)\M(?!\s*\.)', 'g') AS m
), known (kind, name, schema) AS (
    SELECT 'relation', relname, relnamespace FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION SELECT 'function', proname, pronamespace FROM pg_catalog.pg_proc
    UNION SELECT 'type', typname, typnamespace FROM pg_catalog.pg_type
), found AS (
    SELECT n.oid, n.name, s.nspname, n.kind
      FROM named AS n JOIN known AS k ON k.kind = n.kind AND k.name = n.name
      JOIN pg_catalog.pg_namespace AS s ON s.oid = k.schema
     WHERE s.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND s.nspname NOT LIKE 'pg\_temp\_%'
       AND NOT EXISTS (SELECT FROM known AS own WHERE own.kind = n.kind AND own.name = n.name
                          AND own.schema = 'pg_catalog'::pg_catalog.regnamespace)
)
SELECT f.oid::pg_catalog.regprocedure::text AS function, b.users, b.count,
       array_agg(DISTINCT f.name) AS names, array_agg(DISTINCT f.nspname::text) AS schemas,
       coalesce(array_agg(DISTINCT f.name) FILTER (WHERE f.places > 1), '{}') AS ambiguous
  FROM (SELECT oid, name, nspname, count(*) OVER (PARTITION BY oid, kind, name) AS places
          FROM (SELECT DISTINCT oid, kind, name, nspname FROM found) AS each) AS f
  JOIN bodies AS b ON b.oid = f.oid GROUP BY f.oid, b.users, b.count ORDER BY 1
