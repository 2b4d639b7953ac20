-- copied: tables whose rows are all removed and copied. A record of a table with descendants may mean rows of
-- each of them, so all of them must be among these.
WITH RECURSIVE copied (oid) AS (
  SELECT c.oid
    FROM unnest(%(schemas)s::text[], %(names)s::text[]) w (schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
  UNION
  SELECT i.inhrelid
    FROM copied
    JOIN pg_catalog.pg_class p ON p.oid = copied.oid AND p.relkind = 'p'
    JOIN pg_catalog.pg_inherits i ON i.inhparent = copied.oid
), below (relation, oid) AS (
  SELECT w.relation, w.relation FROM pgmig.foreign_write w WHERE w.pipeline = %(pipeline)s
  UNION
  SELECT below.relation, i.inhrelid FROM below JOIN pg_catalog.pg_inherits i ON i.inhparent = below.oid
)
DELETE FROM pgmig.foreign_write f
 WHERE f.pipeline = %(pipeline)s
   AND NOT EXISTS (
     SELECT FROM below
       JOIN pg_catalog.pg_class c ON c.oid = below.oid AND c.relkind = 'r'
      WHERE below.relation = f.relation AND NOT EXISTS (SELECT FROM copied WHERE copied.oid = below.oid))
