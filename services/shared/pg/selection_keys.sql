-- Foreign keys; of those that partitions have from their roots the ones on the referencing side.
SELECT k.oid::bigint,
       k.conname || ' (' || k.conrelid::pg_catalog.regclass::text || ' to '
                 || k.confrelid::pg_catalog.regclass::text || ')',
       k.conrelid::bigint, k.confrelid::bigint, k.conparentid <> 0
  FROM pg_catalog.pg_constraint k
  LEFT JOIN pg_catalog.pg_constraint p ON p.oid = k.conparentid
 WHERE k.contype = 'f' AND p.conrelid IS DISTINCT FROM k.conrelid
 ORDER BY k.conname, k.oid
