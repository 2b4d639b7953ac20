-- Tables of a subscriber that changes are written to: whether the table exists, whether the role may write to
-- it, whether policies apply to the role, and whether triggers fire in spite of session_replication_role.
SELECT t.s, t.n, c.oid IS NOT NULL,
       coalesce(pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
                AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
                AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
                AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
                AND pg_catalog.has_table_privilege(c.oid, 'DELETE')
                AND pg_catalog.has_table_privilege(c.oid, 'TRUNCATE'), false),
       coalesce(pg_catalog.row_security_active(c.oid), false),
       EXISTS (SELECT FROM pg_catalog.pg_trigger g
                WHERE g.tgrelid = c.oid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal)
  FROM unnest(%(schemas)s::text[], %(names)s::text[]) t (s, n)
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = t.s
  LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.n AND c.relkind IN ('r', 'p')
 ORDER BY 1, 2
