-- Lists tables that keep their own owner from applying changes, as a subscription of 16 and later does unless it says run_as_owner.
-- Runs on: source and target, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- Columns: table_name, owner text, forced bool (row-level security, for the owner too), lacking text[] (privileges), denied text[]
--          (functions of constraints, domains, indexes and generated columns, as SQL writes them), deferred text[] (triggers, as SQL
--          writes them), quiet text[] (actions of ALTER TABLE: ordinary sessions fire them as before)
-- Partitioned tables are left out: changes are applied to the partition that a row is in.
-- Begins with: with_functions_on_apply.sql
, denied AS (
    SELECT c.oid, array_agg(called.function::pg_catalog.regprocedure::text ORDER BY called.function) AS denied
      FROM (SELECT DISTINCT d.relation, d.function
              FROM called AS d JOIN pg_catalog.pg_proc AS p ON p.oid = d.function
             WHERE p.proacl IS NOT NULL AND NOT pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE')) AS called
      JOIN pg_catalog.pg_class AS c ON c.oid = called.relation
     WHERE NOT pg_catalog.has_function_privilege(c.relowner, called.function, 'EXECUTE')
     GROUP BY 1
)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS table_name,
       r.rolname::text AS owner,
       c.relrowsecurity AND c.relforcerowsecurity AND NOT r.rolbypassrls AS forced,
       coalesce(l.lacking, '{}') AS lacking,
       coalesce(denied.denied, '{}') AS denied,
       coalesce(t.deferred, '{}') AS deferred,
       coalesce(t.quiet, '{}') AS quiet
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
  LEFT JOIN LATERAL (
       -- rows are looked for before they are changed, which takes SELECT; TRUNCATE is asked of the subscription's owner
       SELECT array_agg(p.privilege ORDER BY p.place) AS lacking
         FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS p(privilege, place)
        -- without a list of its own, a table's owner may do everything
        WHERE c.relacl IS NOT NULL AND NOT pg_catalog.has_table_privilege(r.oid, c.oid, p.privilege)) AS l ON true
  LEFT JOIN denied ON denied.oid = c.oid
  LEFT JOIN (
       SELECT tgrelid, array_agg(pg_catalog.quote_ident(tgname) ORDER BY tgname) AS deferred,
              array_agg(pg_catalog.format('%s TRIGGER %I', CASE tgenabled WHEN 'A' THEN 'ENABLE' ELSE 'DISABLE' END, tgname)
                        ORDER BY tgname) AS quiet
         FROM pg_catalog.pg_trigger WHERE tgenabled IN ('A', 'R') AND tginitdeferred GROUP BY 1) AS t ON t.tgrelid = c.oid
 WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384 AND NOT r.rolsuper
   AND (c.relrowsecurity AND c.relforcerowsecurity AND NOT r.rolbypassrls
        OR l.lacking IS NOT NULL OR denied.denied IS NOT NULL OR t.deferred IS NOT NULL)
 ORDER BY 1
