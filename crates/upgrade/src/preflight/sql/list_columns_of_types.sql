-- Lists stored columns of the given types, or of types made of them: arrays, domains, ranges, rows.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- What is filled in: a statement for the types' object ids, out of rules/versions.toml, and a condition on what has the column.
-- Columns: name text, fix text
WITH RECURSIVE made (part, whole) AS MATERIALIZED (
    -- gathered once: looked up for each type concerned, this would grow with the product of types and columns
    SELECT t.typbasetype, t.oid FROM pg_catalog.pg_type AS t WHERE t.typtype = 'd'
    UNION ALL SELECT t.typelem, t.oid FROM pg_catalog.pg_type AS t WHERE t.typcategory = 'A' AND t.typelem <> 0
    UNION ALL SELECT r.rngsubtype, r.rngtypid FROM pg_catalog.pg_range AS r
    UNION ALL SELECT a.atttypid, t.oid FROM pg_catalog.pg_type AS t
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.typrelid
               WHERE t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
                 -- rows of tables are types too: what counts there is the table's own column
                 AND t.oid >= 16384
), concerned (oid) AS (
    {types}
    UNION
    SELECT m.whole FROM concerned AS c JOIN made AS m ON m.part = c.oid
)
SELECT pg_catalog.format('%I.%I.%I', n.nspname, c.relname, a.attname) AS name,
       CASE c.relkind WHEN 'r' THEN pg_catalog.format('ALTER TABLE %I.%I ALTER COLUMN %I TYPE text;',
                                                      n.nspname, c.relname, a.attname)
                      WHEN 'm' THEN pg_catalog.format('DROP MATERIALIZED VIEW %I.%I;', n.nspname, c.relname)
                      ELSE pg_catalog.format('DROP INDEX %I.%I;', n.nspname, c.relname) END AS fix
  FROM pg_catalog.pg_attribute AS a
  JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE a.atttypid IN (SELECT oid FROM concerned) AND NOT a.attisdropped AND {relations}
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
 ORDER BY 1
