-- Lists the first rows of one canary table whose payload is not what the client wrote.
-- Runs on: any audited database, 13 and later.  Role: may read pgleap_canary.  Locks: none that wait.  Writes: no.
-- Parameters: table; clients, a list of literals; tail, the text that ends a payload; limit.
-- Columns: client text, seq bigint
SELECT client, seq
  FROM pgleap_canary.{table}
 WHERE client IN ({clients}) AND payload <> client || '/' || seq || '{tail}'
 ORDER BY client, seq
 LIMIT {limit}
