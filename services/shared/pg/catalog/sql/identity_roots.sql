-- The partitioned roots among some tables, with the permanent tables below them (NULL: none yet). The last
-- column shows whether a partition that is created later gets the root's primary key as its replica identity:
-- the key must not be deferrable, and all of its columns must be sent (generated_keys: stored generated
-- columns can be sent). Since version 13.
WITH RECURSIVE below AS (
    SELECT c.oid AS root, c.oid
      FROM unnest(%(schemas)s::text[], %(names)s::text[]) t (s, n)
      JOIN pg_catalog.pg_namespace n ON n.nspname = t.s
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.n
     WHERE c.relkind = 'p'
     UNION ALL
    SELECT b.root, i.inhrelid
      FROM below b
      JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid
), leaf AS (
    SELECT b.root, n.nspname, c.relname
      FROM below b
      JOIN pg_catalog.pg_class c ON c.oid = b.oid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence = 'p'
)
SELECT rn.nspname, r.relname, leaf.nspname, leaf.relname,
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = r.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate
                  AND (%(generated_keys)s
                       OR NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                       WHERE a.attrelid = r.oid AND a.attgenerated <> ''
                                         AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))))
  FROM below b
  JOIN pg_catalog.pg_class r ON r.oid = b.root
  JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
  LEFT JOIN leaf ON leaf.root = b.root
 WHERE b.oid = b.root
 ORDER BY 1, 2, 3, 4
