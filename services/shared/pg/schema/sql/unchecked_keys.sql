-- Valid foreign keys of and to some tables, and of and to the migration's tables that are unlogged here. A
-- partition counts with its whole partitioned table. Keys that partitions inherit from their roots are left
-- out, because they are changed with their roots' keys.
WITH RECURSIVE named AS (
    SELECT c.oid
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE (n.nspname, c.relname) IN (SELECT s, t FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w (s, t))
        OR c.relkind = 'r' AND c.relpersistence = 'u'
           AND (n.nspname, c.relname) IN
               (SELECT s, t FROM unnest(%(own_schemas)s::text[], %(own_names)s::text[]) AS w (s, t))
), above AS (
    SELECT oid FROM named
     UNION
    SELECT i.inhparent
      FROM above a
      JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.oid
      JOIN pg_catalog.pg_class c ON c.oid = a.oid AND c.relispartition
), family AS (
    SELECT oid FROM above
     UNION
    SELECT i.inhrelid
      FROM family f
      JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT n.nspname, c.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid),
       c.relkind = 'p' OR r.relkind = 'p'
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
 WHERE k.contype = 'f' AND k.convalidated AND k.conparentid = 0
   AND (k.conrelid IN (SELECT oid FROM family) OR k.confrelid IN (SELECT oid FROM family))
 ORDER BY 1, 2, 3
