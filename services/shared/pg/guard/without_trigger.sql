-- Tables that belong to one partition or inheritance tree with one of the given ones and lack the trigger.
WITH RECURSIVE tree (oid) AS (
  SELECT c.oid
    FROM unnest(%(schemas)s::text[], %(names)s::text[]) w (schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
  UNION
  SELECT CASE WHEN i.inhrelid = tree.oid THEN i.inhparent ELSE i.inhrelid END
    FROM tree
    JOIN pg_catalog.pg_inherits i ON tree.oid IN (i.inhrelid, i.inhparent)
)
SELECT n.nspname, c.relname
  FROM tree
  JOIN pg_catalog.pg_class c ON c.oid = tree.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = %(trigger)s)
 ORDER BY 1, 2
