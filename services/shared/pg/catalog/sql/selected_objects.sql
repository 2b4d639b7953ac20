-- Objects that may have no dependencies, and so have no row in the result of dependencies.sql.
SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass::oid::bigint, oid::bigint
  FROM pg_catalog.pg_namespace
 WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', %(bookkeeping)s)
UNION ALL
SELECT 'pg_catalog.pg_event_trigger'::pg_catalog.regclass::oid::bigint, oid::bigint FROM pg_catalog.pg_event_trigger
UNION ALL
SELECT 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass::oid::bigint, oid::bigint
  FROM pg_catalog.pg_foreign_data_wrapper WHERE oid >= 16384
UNION ALL
SELECT 'pg_catalog.pg_language'::pg_catalog.regclass::oid::bigint, oid::bigint
  FROM pg_catalog.pg_language WHERE oid >= 16384
UNION ALL
SELECT 'pg_catalog.pg_cast'::pg_catalog.regclass::oid::bigint, oid::bigint
  FROM pg_catalog.pg_cast WHERE oid >= 16384
