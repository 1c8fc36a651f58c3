-- Lists which numbers each client has in one canary table, as runs of consecutive numbers.
-- Runs on: any audited database, 13 and later.  Role: may read pgleap_canary.  Locks: none that wait.  Writes: no.
-- Parameters: table; clients, a list of literals; tail, the text that ends a payload.
-- Columns: client text, low bigint, high bigint, copies numeric (rows; more than high - low + 1 if any is there twice),
--          altered numeric (rows whose payload is not what the client wrote)
SELECT client,
       pg_catalog.min(seq) AS low,
       pg_catalog.max(seq) AS high,
       pg_catalog.sum(copies) AS copies,
       pg_catalog.sum(altered) AS altered
  FROM (SELECT client, seq, copies, altered,
               seq - pg_catalog.row_number() OVER (PARTITION BY client ORDER BY seq) AS island
          FROM (SELECT client, seq,
                       pg_catalog.count(*) AS copies,
                       pg_catalog.count(*) FILTER (WHERE payload <> client || '/' || seq || '{tail}') AS altered
                  FROM pgleap_canary.{table}
                 WHERE client IN ({clients})
                 GROUP BY client, seq) AS numbers) AS numbered
 GROUP BY client, island
 ORDER BY client, low
