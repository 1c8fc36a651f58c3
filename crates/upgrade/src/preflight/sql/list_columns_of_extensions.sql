-- Lists columns of tables that FOR ALL TABLES would publish whose type is of an extension, or made of one that is: arrays, domains,
-- ranges, rows.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- $1 text[]: the extensions.
-- Columns: extension text, name text (of the column)
WITH RECURSIVE made (part, whole) AS MATERIALIZED (
    SELECT t.typbasetype, t.oid FROM pg_catalog.pg_type AS t WHERE t.typtype = 'd'
    UNION ALL SELECT t.typelem, t.oid FROM pg_catalog.pg_type AS t WHERE t.typcategory = 'A' AND t.typelem <> 0
    UNION ALL SELECT r.rngsubtype, r.rngtypid FROM pg_catalog.pg_range AS r
    UNION ALL SELECT a.atttypid, t.oid FROM pg_catalog.pg_type AS t
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.typrelid
               WHERE t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped AND t.oid >= 16384
), concerned (extension, oid) AS (
    SELECT e.extname::text, d.objid
      FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
     WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'e'
       AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND e.extname = ANY ($1::text[])
    UNION
    SELECT c.extension, m.whole FROM concerned AS c JOIN made AS m ON m.part = c.oid
)
SELECT t.extension, pg_catalog.format('%I.%I.%I', n.nspname, c.relname, a.attname) AS name
  FROM concerned AS t
  JOIN pg_catalog.pg_attribute AS a ON a.atttypid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
 ORDER BY 1, 2
