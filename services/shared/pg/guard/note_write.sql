DECLARE
  own pg_catalog.text := pg_catalog.current_setting('pgmig.own', true);
  client pg_catalog.text := pg_catalog.current_setting('application_name');
BEGIN
  IF own = 'on' THEN
    RETURN NULL;
  END IF;
  -- A serializable transaction that reads this table could fail because of another writer, so it only inserts.
  IF pg_catalog.current_setting('transaction_isolation') = 'serializable' OR NOT EXISTS (
    SELECT FROM pgmig.foreign_write w
     WHERE w.relation = TG_RELID AND w.pipeline = TG_ARGV[0] AND w.role_name = SESSION_USER::pg_catalog.text
       AND w.application = client)
  THEN
    INSERT INTO pgmig.foreign_write (pipeline, relation, role_name, application, at)
    VALUES (TG_ARGV[0], TG_RELID, SESSION_USER::pg_catalog.text, client, pg_catalog.clock_timestamp());
  END IF;
  RETURN NULL;
END
