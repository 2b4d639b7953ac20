-- Roles by how the database's objects name them. pg_shdepend knows all but the bootstrap
-- superuser's, which are pinned; those are taken from the owner columns.
WITH mine AS (
    SELECT oid FROM pg_catalog.pg_namespace
     WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', %(bookkeeping)s)
)
SELECT DISTINCT r.rolname::text,
       CASE d.deptype WHEN 'o' THEN 'owner' WHEN 'r' THEN 'policy' ELSE 'grantee' END
  FROM pg_catalog.pg_shdepend d
  JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
 WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
   AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND d.deptype IN ('o', 'r', 'a')
UNION
SELECT r.rolname::text, 'owner'
  FROM pg_catalog.pg_roles r
 WHERE r.oid = 10
   AND (EXISTS (SELECT FROM pg_catalog.pg_class c JOIN mine ON mine.oid = c.relnamespace WHERE c.relowner = r.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN mine ON mine.oid = p.pronamespace WHERE p.proowner = r.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_type t JOIN mine ON mine.oid = t.typnamespace WHERE t.typowner = r.oid))
