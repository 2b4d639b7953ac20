SELECT current_setting('server_version_num')::int,
       d.datname,
       d.oid::bigint,
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
       pg_catalog.pg_encoding_to_char(d.encoding),
       d.datcollate,
       d.datctype,
       r.rolname,
       r.rolsuper,
       r.rolsuper OR r.rolreplication
         OR EXISTS (SELECT FROM pg_catalog.pg_roles g
                     WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')),
       pg_catalog.pg_is_in_recovery(),
       current_setting('default_transaction_read_only') = 'on',
       (SELECT source FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'),
       pg_catalog.has_database_privilege(d.oid, 'CREATE'),
       pg_catalog.pg_has_role(d.datdba, 'USAGE')
  FROM pg_catalog.pg_database d
  JOIN pg_catalog.pg_roles r ON r.rolname = current_user
 WHERE d.datname = current_database()
