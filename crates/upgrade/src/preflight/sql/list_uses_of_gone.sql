-- Lists what stores an expression with built-in functions or operators that the target does not have, or is made of such functions.
-- Runs on: source, 13.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- $1: names or signatures of functions; $2: operators with their operands; $3: signatures of functions that take other arguments,
-- `*(…)` for all with these.  What is filled in differs by major.
-- Columns: name text, gone text (as in $1, $2 or $3)
-- Stored expressions are read as node trees, where functions and operators stand with their object ids: no dependency is
-- recorded on what every cluster has.
WITH functions AS (
    SELECT p.oid, f.given
      FROM unnest($1::text[] || $3::text[]) AS f (given) JOIN pg_catalog.pg_proc AS p
        ON CASE WHEN f.given LIKE '*(%' THEN p.oid::pg_catalog.regprocedure::text LIKE '%' || pg_catalog.substr(f.given, 2)
                WHEN f.given LIKE '%(%' THEN p.oid = pg_catalog.to_regprocedure('pg_catalog.' || f.given)
                ELSE p.proname = f.given END
     WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
), made (name, function) AS (
    SELECT pg_catalog.format('aggregate %s', a.aggfnoid::pg_catalog.oid::pg_catalog.regprocedure), f.oid
      FROM pg_catalog.pg_aggregate AS a
     CROSS JOIN LATERAL unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn,
                                     a.aggminvtransfn, a.aggmfinalfn]::pg_catalog.oid[]) AS f (oid)
     WHERE a.aggfnoid >= 16384
    UNION ALL
    SELECT pg_catalog.format('operator %s', oid::pg_catalog.regoperator), oprcode FROM pg_catalog.pg_operator WHERE oid >= 16384
    UNION ALL
    SELECT pg_catalog.format('cast (%s AS %s)', castsource::pg_catalog.regtype, casttarget::pg_catalog.regtype), castfunc
      FROM pg_catalog.pg_cast WHERE oid >= 16384
), gone AS (
    SELECT oid, given, '(?:funcid|opfuncid|aggfnoid|winfnoid)' AS node FROM functions WHERE given = ANY ($1::text[])
    UNION ALL
    SELECT o.oid, f.given, 'opno'
      FROM unnest($2::text[]) AS f (given)
      JOIN pg_catalog.pg_operator AS o ON o.oid = pg_catalog.to_regoperator('pg_catalog.' || f.given)
), pattern AS (
    SELECT pg_catalog.string_agg(alternatives, '|') AS p
      FROM (SELECT pg_catalog.format(':%s (?:%s)(?= )', node, pg_catalog.string_agg(oid::text, '|')) AS alternatives
              FROM gone GROUP BY node) AS nodes
), stored (name, tree) AS (
    SELECT pg_catalog.format('%s %s', CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                                                     ELSE 'rule of' END, c.oid::pg_catalog.regclass),
           pg_catalog.concat(r.ev_action::text, r.ev_qual::text)
      FROM pg_catalog.pg_rewrite AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.ev_class WHERE c.oid >= 16384
    UNION ALL
    SELECT pg_catalog.format('index %s', indexrelid::pg_catalog.regclass),
           pg_catalog.concat(indexprs::text, indpred::text)
      FROM pg_catalog.pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
    UNION ALL
    SELECT pg_catalog.format('constraint %I', conname), conbin::text
      FROM pg_catalog.pg_constraint WHERE conbin IS NOT NULL
    UNION ALL
    SELECT pg_catalog.format('default of %s', adrelid::pg_catalog.regclass), adbin::text FROM pg_catalog.pg_attrdef
    UNION ALL
    SELECT pg_catalog.format('policy %I of %s', polname, polrelid::pg_catalog.regclass),
           pg_catalog.concat(polqual::text, polwithcheck::text) FROM pg_catalog.pg_policy
    UNION ALL
    SELECT pg_catalog.format('trigger %I of %s', tgname, tgrelid::pg_catalog.regclass), tgqual::text
      FROM pg_catalog.pg_trigger WHERE tgqual IS NOT NULL
    UNION ALL
    SELECT pg_catalog.format('partition key of %s', partrelid::pg_catalog.regclass), partexprs::text
      FROM pg_catalog.pg_partitioned_table WHERE partexprs IS NOT NULL
    UNION ALL
    SELECT pg_catalog.format('function %s', oid::pg_catalog.regprocedure),
           pg_catalog.concat(proargdefaults::text, {tree}) FROM pg_catalog.pg_proc WHERE oid >= 16384
)
SELECT s.name, g.given AS gone
  FROM stored AS s CROSS JOIN pattern AS p
 CROSS JOIN LATERAL pg_catalog.regexp_matches(s.tree, p.p, 'g') AS m (match)
  JOIN gone AS g ON pg_catalog.split_part(m.match[1], ' ', 2) = g.oid::text
                AND (pg_catalog.split_part(m.match[1], ' ', 1) = ':opno') = (g.node = 'opno')
 UNION
SELECT m.name, f.given FROM made AS m JOIN functions AS f ON f.oid = m.function
 ORDER BY 1, 2
