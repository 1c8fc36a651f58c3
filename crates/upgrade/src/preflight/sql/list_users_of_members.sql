-- Lists what uses members of extensions that an update of the extension drops, and is no member itself.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: AccessShare on what such a view reads.  Writes: no.
-- $1: extensions; $2: names of their members, one for each of $1.
-- Columns: extension text, name text, before text (what drops it), after text (what makes it again; both are null for what is no view)
WITH used AS (
    SELECT DISTINCT e.extname::text AS extension, m.classid, m.objid
      FROM pg_catalog.pg_depend AS m JOIN pg_catalog.pg_extension AS e ON e.oid = m.refobjid
      LEFT JOIN pg_catalog.pg_class AS c ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = m.objid
      LEFT JOIN pg_catalog.pg_proc AS p ON m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = m.objid
      LEFT JOIN pg_catalog.pg_type AS t ON m.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = m.objid
      JOIN unnest($1::text[], $2::text[]) AS d (extension, member)
        ON d.extension = e.extname AND d.member = coalesce(c.relname, p.proname, t.typname)
     WHERE m.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND m.deptype = 'e'
), users AS (
    -- a view depends by its rule
    SELECT DISTINCT u.extension,
           CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_catalog.pg_class'::pg_catalog.regclass END AS classid,
           coalesce(r.ev_class, d.objid) AS objid, CASE WHEN r.oid IS NULL THEN d.objsubid ELSE 0 END AS objsubid
      FROM used AS u
      JOIN pg_catalog.pg_depend AS d ON d.refclassid = u.classid AND d.refobjid = u.objid AND d.deptype IN ('n', 'a')
      LEFT JOIN pg_catalog.pg_rewrite AS r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid
)
SELECT u.extension, pg_catalog.pg_describe_object(u.classid, u.objid, u.objsubid) AS name,
       CASE WHEN v.oid IS NOT NULL THEN pg_catalog.format('DROP %s %s;', k.kind, v.oid::pg_catalog.regclass) END AS before,
       CASE WHEN v.oid IS NOT NULL THEN
            pg_catalog.format(E'CREATE %s %s%s AS\n%s\nALTER %1$s %2$s OWNER TO %5$I;%6$s', k.kind, v.oid::pg_catalog.regclass,
                              ' WITH (' || pg_catalog.array_to_string(v.reloptions, ', ') || ')', pg_catalog.pg_get_viewdef(v.oid),
                              pg_catalog.pg_get_userbyid(v.relowner), g.grants) END AS after
  FROM users AS u
  LEFT JOIN pg_catalog.pg_class AS v
    ON u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND v.oid = u.objid AND v.relkind IN ('v', 'm')
 CROSS JOIN LATERAL (SELECT CASE v.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' END) AS k (kind)
 CROSS JOIN LATERAL (
       SELECT pg_catalog.string_agg(pg_catalog.format(E'\nGRANT %s ON %s TO %s;', x.privilege_type, v.oid::pg_catalog.regclass,
                                                      CASE x.grantee WHEN 0 THEN 'PUBLIC'
                                                      ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END), '')
         FROM pg_catalog.aclexplode(v.relacl) AS x WHERE x.grantee <> v.relowner) AS g (grants)
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS e
                    WHERE e.classid = u.classid AND e.objid = u.objid AND e.deptype = 'e')
 ORDER BY 1, 2
