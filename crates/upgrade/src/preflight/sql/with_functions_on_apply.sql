-- Which functions run where changes are applied, for which table and in what: other queries begin with it.
-- Runs on: source and target, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- Columns of `called`: relation oid, function oid, what text (`constraint …`, `index …`). Functions that came with the server have no
--          place in pg_depend, and are left out.
WITH RECURSIVE
-- an operator calls its function
direct (classid, objid, function) AS (
    SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid, oid FROM pg_catalog.pg_proc WHERE oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass, oid, oprcode::oid FROM pg_catalog.pg_operator WHERE oprcode::oid >= 16384
),
-- a value of the one type holds values of the other
held (part, whole) AS (
    SELECT typbasetype, oid FROM pg_catalog.pg_type WHERE typtype = 'd'
    UNION ALL
    SELECT oid, typarray FROM pg_catalog.pg_type WHERE typarray <> 0
    UNION ALL
    SELECT rngsubtype, rngtypid FROM pg_catalog.pg_range
    UNION ALL
    -- from 14 on
    SELECT rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid FROM pg_catalog.pg_range AS r
    UNION ALL
    SELECT a.atttypid, c.reltype
      FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
     WHERE c.relkind IN ('c', 'r', 'p') AND c.oid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
),
-- domains check their values, wherever these are
checked (type, function, what) AS (
    SELECT k.contypid, f.function, pg_catalog.format('constraint %I', k.conname)
      FROM pg_catalog.pg_constraint AS k
      JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = k.oid
      JOIN direct AS f ON f.classid = d.refclassid AND f.objid = d.refobjid
     WHERE k.contypid <> 0
    UNION
    SELECT h.whole, c.function, c.what FROM checked AS c JOIN held AS h ON h.part = c.type
),
used (classid, objid, objsubid, function) AS (
    SELECT d.classid, d.objid, d.objsubid, m.function
      FROM (SELECT classid, objid, function FROM direct
             UNION ALL
            SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, type, function FROM checked) AS m
      JOIN pg_catalog.pg_depend AS d ON d.refclassid = m.classid AND d.refobjid = m.objid
),
-- a partition's rows are within what its parents' keys say
keyed (root, relation, function) AS (
    SELECT p.partrelid, p.partrelid, u.function
      FROM used AS u JOIN pg_catalog.pg_partitioned_table AS p ON p.partrelid = u.objid
     WHERE u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND u.objsubid = 0
    UNION
    SELECT k.root, i.inhrelid, k.function FROM keyed AS k JOIN pg_catalog.pg_inherits AS i ON i.inhparent = k.relation
),
called (relation, function, what) AS (
    SELECT c.conrelid, u.function, pg_catalog.format('constraint %I', c.conname)
      FROM used AS u JOIN pg_catalog.pg_constraint AS c ON c.oid = u.objid AND c.contype = 'c' AND c.conrelid <> 0
     WHERE u.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
    UNION
    SELECT a.attrelid, k.function, k.what
      FROM checked AS k JOIN pg_catalog.pg_attribute AS a ON a.atttypid = k.type AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid AND c.relkind = 'r'
    UNION
    SELECT i.indrelid, u.function, pg_catalog.format('index %I', c.relname)
      FROM used AS u JOIN pg_catalog.pg_index AS i ON i.indexrelid = u.objid JOIN pg_catalog.pg_class AS c ON c.oid = u.objid
     WHERE u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    UNION
    SELECT f.adrelid, u.function, pg_catalog.format('generated column %I', a.attname)
      FROM used AS u JOIN pg_catalog.pg_attrdef AS f ON f.oid = u.objid
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated <> ''
     WHERE u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
    UNION
    -- up to 14 it is the column that depends on what generates it
    SELECT a.attrelid, u.function, pg_catalog.format('generated column %I', a.attname)
      FROM used AS u
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = u.objid AND a.attnum = u.objsubid AND a.attgenerated <> ''
     WHERE u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    UNION
    SELECT k.relation, k.function, pg_catalog.format('partition key of %I', c.relname)
      FROM keyed AS k JOIN pg_catalog.pg_class AS c ON c.oid = k.root WHERE k.relation <> k.root
)
