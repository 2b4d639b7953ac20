-- Foreign keys. Of the keys that partitions inherit from their roots, only those on the referencing side.
SELECT k.oid::bigint,
       k.conname || ' (' || k.conrelid::pg_catalog.regclass::text || ' to '
                 || k.confrelid::pg_catalog.regclass::text || ')',
       k.conrelid::bigint, k.confrelid::bigint, k.parent <> 0
  FROM (SELECT c.oid, c.conname, c.conrelid, c.confrelid,
               {c.conparentid} AS parent
          FROM pg_catalog.pg_constraint c
         WHERE c.contype = 'f') k
  LEFT JOIN pg_catalog.pg_constraint p ON p.oid = k.parent
 WHERE p.conrelid IS DISTINCT FROM k.conrelid
 ORDER BY k.conname, k.oid
