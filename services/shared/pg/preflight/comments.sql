-- Texts that pg_dump reads of all objects, whichever it dumps: class, object and part as in pg_describe_object.
SELECT classoid AS class, objoid AS object, objsubid AS part, description AS text FROM pg_description
UNION ALL
SELECT classoid, objoid, objsubid, label FROM pg_seclabel
UNION ALL
SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, fdwoptions::text FROM pg_foreign_data_wrapper
UNION ALL
SELECT 'pg_foreign_server'::regclass, oid, 0, srvoptions::text FROM pg_foreign_server
UNION ALL
SELECT 'pg_user_mapping'::regclass, umid, 0, umoptions::text FROM pg_user_mappings
UNION ALL
SELECT 'pg_ts_dict'::regclass, oid, 0, dictinitoption FROM pg_ts_dict WHERE oid >= 16384
