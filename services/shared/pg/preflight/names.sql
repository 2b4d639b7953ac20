-- The names of objects: class, object and part as in pg_describe_object.
SELECT 'pg_namespace'::regclass AS class, oid AS object, 0 AS part, nspname::text AS text FROM pg_namespace
UNION ALL
SELECT 'pg_class'::regclass, oid, 0, relname::text FROM pg_class
UNION ALL
SELECT 'pg_class'::regclass, attrelid, attnum, attname::text FROM pg_attribute
UNION ALL
SELECT 'pg_type'::regclass, oid, 0, typname::text FROM pg_type
UNION ALL
SELECT 'pg_constraint'::regclass, oid, 0, conname::text FROM pg_constraint
UNION ALL
SELECT 'pg_proc'::regclass, oid, 0, proname::text FROM pg_proc
