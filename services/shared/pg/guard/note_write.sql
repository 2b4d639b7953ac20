DECLARE
  own pg_catalog.text := pg_catalog.current_setting('pgmig.own', true);
  client pg_catalog.text := pg_catalog.current_setting('application_name');
BEGIN
  IF own = 'on' THEN
    RETURN NULL;
  END IF;
  BEGIN
    -- A serializable transaction that reads this table could fail because of another writer, so it only inserts.
    -- Another one records at most a hundred writers of a table: more would not tell more about it.
    IF pg_catalog.current_setting('transaction_isolation') = 'serializable' OR NOT EXISTS (
      SELECT FROM pgmig.foreign_write w
       WHERE w.relation = TG_RELID AND w.pipeline = TG_ARGV[0] AND w.role_name = SESSION_USER::pg_catalog.text
         AND w.application = client
    ) AND NOT EXISTS (
      SELECT FROM pgmig.foreign_write w WHERE w.relation = TG_RELID AND w.pipeline = TG_ARGV[0] OFFSET 100)
    THEN
      INSERT INTO pgmig.foreign_write (pipeline, relation, role_name, application, at)
      VALUES (TG_ARGV[0], TG_RELID, SESSION_USER::pg_catalog.text, client, pg_catalog.clock_timestamp());
    END IF;
  EXCEPTION
    -- Somebody has dropped or altered the table.
    WHEN undefined_table OR undefined_column OR invalid_schema_name OR insufficient_privilege THEN
      RETURN NULL;
  END;
  RETURN NULL;
END
