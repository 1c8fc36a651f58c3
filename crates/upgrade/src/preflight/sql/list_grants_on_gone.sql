-- Lists privileges on built-in functions and columns that the target does not have, where they are not what initdb gave.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- $1: names or signatures of functions, `*(…)` for all with these arguments; $2: relations; $3: their columns, one for each of $2.
-- Columns: name text, gone text (as in $1, or relation.column), fix text
-- pg_dump writes what differs from pg_init_privs, and restores it by the function's signature or the column's name.
WITH concerned (gone, object, target, acl, initial) AS (
    SELECT f.given, p.oid::pg_catalog.regprocedure::text, pg_catalog.format(' ON FUNCTION %s', p.oid::pg_catalog.regprocedure),
           coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)), coalesce(i.initprivs, pg_catalog.acldefault('f', p.proowner))
      FROM pg_catalog.pg_proc AS p
      LEFT JOIN pg_catalog.pg_init_privs AS i
        ON i.classoid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND i.objoid = p.oid AND i.objsubid = 0
      JOIN unnest($1::text[]) AS f (given)
        ON CASE WHEN f.given LIKE '*(%' THEN p.oid::pg_catalog.regprocedure::text LIKE '%' || pg_catalog.substr(f.given, 2)
                WHEN f.given LIKE '%(%' THEN p.oid = pg_catalog.to_regprocedure('pg_catalog.' || f.given)
                ELSE p.proname = f.given END
     WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.oid < 16384 AND p.proacl IS DISTINCT FROM i.initprivs
    UNION ALL
    SELECT c.relation || '.' || c.col, c.relation || '.' || c.col, pg_catalog.format(' (%I) ON pg_catalog.%I', c.col, c.relation),
           a.attacl, i.initprivs
      FROM unnest($2::text[], $3::text[]) AS c (relation, col)
      JOIN pg_catalog.pg_attribute AS a
        ON a.attrelid = pg_catalog.to_regclass('pg_catalog.' || c.relation)::pg_catalog.oid AND a.attname = c.col
      LEFT JOIN pg_catalog.pg_init_privs AS i
        ON i.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.objoid = a.attrelid AND i.objsubid = a.attnum
     WHERE a.attacl IS DISTINCT FROM i.initprivs
), now AS (
    SELECT c.gone, c.object, c.target, x.grantee, x.privilege_type, x.is_grantable
      FROM concerned AS c, pg_catalog.aclexplode(c.acl) AS x
), before AS (
    SELECT c.gone, c.object, c.target, x.grantee, x.privilege_type, x.is_grantable
      FROM concerned AS c, pg_catalog.aclexplode(c.initial) AS x
), changed (gone, object, target, grantee, privilege, grantable, given) AS (
    SELECT s.*, true FROM (TABLE now EXCEPT TABLE before) AS s
    UNION ALL
    SELECT s.*, false FROM (TABLE before EXCEPT TABLE now) AS s
)
SELECT pg_catalog.format('%s: %s%s to %s', c.object, CASE WHEN c.given THEN '' ELSE 'no ' END, c.privilege, w.who) AS name,
       c.gone,
       CASE WHEN c.given THEN pg_catalog.format('REVOKE %s%s FROM %s CASCADE;', c.privilege, c.target, w.who)
            ELSE pg_catalog.format('GRANT %s%s TO %s%s;', c.privilege, c.target, w.who,
                                   CASE WHEN c.grantable THEN ' WITH GRANT OPTION' ELSE '' END) END AS fix
  FROM changed AS c
 CROSS JOIN LATERAL (SELECT CASE c.grantee WHEN 0 THEN 'PUBLIC'
                                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.grantee)) END) AS w (who)
 ORDER BY c.given DESC, c.object, w.who
