-- Lists what stores a query that reads columns of system relations that the target does not have.
-- Runs on: source, 13.  Role: any that can read pg_catalog.  Locks: AccessShare on what such a query reads.  Writes: no.
-- $1: relations; $2: their columns, one for each of $1.  What is filled in differs by major.
-- Columns: name text, gone text (relation.column)
WITH relations AS (
    SELECT c.relation, c.col, pg_catalog.to_regclass('pg_catalog.' || c.relation)::pg_catalog.oid AS oid
      FROM unnest($1::text[], $2::text[]) AS c (relation, col)
), pattern AS (
    SELECT pg_catalog.format(':relid (?:%s) ', pg_catalog.string_agg(DISTINCT oid::text, '|')) AS p FROM relations
), concerned AS (
    -- one look at each tree, whatever the number of columns, and only those that match are written as SQL
    SELECT pg_catalog.format('%s %s', CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                                                     ELSE 'rule of' END, c.oid::pg_catalog.regclass) AS name,
           pg_catalog.concat(r.ev_action::text, r.ev_qual::text) AS tree, pg_catalog.pg_get_ruledef(r.oid) AS definition
      FROM pg_catalog.pg_rewrite AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.ev_class
     WHERE c.oid >= 16384 AND pg_catalog.concat(r.ev_action::text, r.ev_qual::text) ~ (SELECT p FROM pattern)
    UNION ALL
    SELECT pg_catalog.format('policy %I of %s', p.polname, p.polrelid::pg_catalog.regclass),
           pg_catalog.concat(p.polqual::text, p.polwithcheck::text),
           pg_catalog.concat_ws(' ', pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
      FROM pg_catalog.pg_policy AS p
     WHERE pg_catalog.concat(p.polqual::text, p.polwithcheck::text) ~ (SELECT p FROM pattern)
    UNION ALL
    SELECT pg_catalog.format('function %s', oid::pg_catalog.regprocedure), {tree}, {body}
      FROM pg_catalog.pg_proc WHERE oid >= 16384 AND {tree} ~ (SELECT p FROM pattern)
)
SELECT DISTINCT s.name, r.relation || '.' || r.col AS gone
  FROM concerned AS s JOIN relations AS r ON s.tree LIKE '%:relid ' || r.oid || ' %'
 WHERE s.definition ~ pg_catalog.format('\m%s\M', r.col)
 ORDER BY 1, 2
