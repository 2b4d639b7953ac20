-- Settings of ALTER DATABASE ... SET (role: NULL) and of ALTER ROLE ... IN DATABASE ... SET, in order.
SELECT r.rolname::text, split_part(c.setting, '=', 1), substr(c.setting, strpos(c.setting, '=') + 1)
  FROM pg_catalog.pg_db_role_setting s
 CROSS JOIN LATERAL unnest(s.setconfig) WITH ORDINALITY AS c (setting, position)
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
 WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND (s.setrole = 0 OR r.oid IS NOT NULL)
 ORDER BY r.rolname NULLS FIRST, c.position
