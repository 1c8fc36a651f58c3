-- Lists views that read columns of system relations that the target does not have.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: AccessShare on what such a view reads.
-- Writes: no.  $1: relations; $2: their columns, one for each of $1.
-- Columns: name text, gone text (relation.column)
WITH relations AS (
    SELECT c.relation, c.col, pg_catalog.to_regclass('pg_catalog.' || c.relation)::pg_catalog.oid AS oid
      FROM unnest($1::text[], $2::text[]) AS c (relation, col)
), concerned AS (
    -- one look at each tree, whatever the number of columns
    SELECT v.oid, v.relkind, w.ev_action::text AS tree
      FROM pg_catalog.pg_rewrite AS w JOIN pg_catalog.pg_class AS v ON v.oid = w.ev_class
     WHERE v.oid >= 16384 AND v.relkind IN ('v', 'm')
       AND w.ev_action::text ~ (SELECT pg_catalog.format(':relid (?:%s) ', pg_catalog.string_agg(DISTINCT oid::text, '|'))
                                  FROM relations)
)
SELECT DISTINCT pg_catalog.format('%s %s', CASE v.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END,
                                  v.oid::pg_catalog.regclass) AS name,
       r.relation || '.' || r.col AS gone
  FROM concerned AS v JOIN relations AS r ON v.tree LIKE '%:relid ' || r.oid || ' %'
 WHERE pg_catalog.pg_get_viewdef(v.oid) ~ pg_catalog.format('\m%s\M', r.col)
 ORDER BY 1, 2
