SELECT d.datname,
       d.oid::text,
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
       pg_catalog.current_setting('server_version'),
       pg_catalog.current_setting('server_version_num')::int,
       pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()),
       pg_catalog.pg_encoding_to_char(d.encoding),
       pg_catalog.pg_current_wal_insert_lsn()::text,
       pg_catalog.pg_current_wal_flush_lsn()::text,
       extract(epoch FROM pg_catalog.clock_timestamp())::float8
  FROM pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
