-- Fills the laboratory's tables; $SCALE is pgbench's scale factor.
-- Runs on: source, 13 and later.  Role: owner of the database.  Locks: none that matter.  Writes: yes.
INSERT INTO pgbench_branches SELECT b, 0, '' FROM generate_series(1, $SCALE) AS b;
INSERT INTO pgbench_tellers SELECT t, 1 + (t - 1) / 10, 0, '' FROM generate_series(1, $SCALE * 10) AS t;
INSERT INTO pgbench_accounts SELECT a, 1 + (a - 1) / 100000, 0, '' FROM generate_series(1, $SCALE * 100000) AS a;
INSERT INTO everything (flag, small, money, ratio, label, code, fixed, raw, document, plain, tags, matrix, at, day, span,
                        address, key, mood, period, shape, big)
SELECT i % 2 = 0, i, i / 3.0, CASE i % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN '-0' ELSE (i / 7.0)::float8 END,
       'label ' || i, 'c' || i, 'f' || i, decode(md5(i::text), 'hex'), jsonb_build_object('i', i, 'nested', jsonb_build_array(i, null, 'x')),
       '{"b": 1,  "a": 2}', ARRAY['x', NULL, 'y' || i], ARRAY[[i, 1], [2, 3]], timestamptz '2024-02-29 23:59:59.999999+00' + i * interval '1 h',
       date '2024-01-01' + i, i * interval '1 day 2 h', '10.0.0.1', md5(i::text)::uuid, 'sad',
       tstzrange('2024-01-01', '2024-02-01'), point(i, -i), repeat(md5(i::text), 300)
  FROM generate_series(1, 200) AS i;
INSERT INTO events (at, kind, body) SELECT timestamptz '2019-06-01' + i * interval '1 day', 'fill', '{}' FROM generate_series(1, 500) AS i;
INSERT INTO parents SELECT i, 'first ' || i FROM generate_series(1, 100) AS i;
INSERT INTO children (parent, n) SELECT 1 + i % 100, i FROM generate_series(1, 300) AS i;
INSERT INTO pgbench_history (tid, bid, aid, delta) SELECT 1, 1, i, 0 FROM generate_series(1, 50) AS i;
INSERT INTO "Odd Name, really" VALUES (1, 'one'), (2, NULL);
INSERT INTO no_columns DEFAULT VALUES;
REFRESH MATERIALIZED VIEW totals;
ANALYZE;
