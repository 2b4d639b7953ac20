"""Mutations of the rules about replica identities, encodings, constraints and unlogged tables (30 to 33)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

ENCODINGS = "tests/integration/coordinator/phases/test_encodings.py"
STORED = "tests/integration/coordinator/phases/test_stored_encodings.py"
LOOSE_KEYS = "tests/integration/coordinator/phases/test_loose_keys.py"
IDENTITIES = "tests/integration/pg/catalog/test_identities.py"
RESYNC_IDENTITIES = "tests/integration/coordinator/tables/test_resync_identities.py"

MUTATIONS = (
    Mutation(
        "30 generated columns of identities are published",
        "services/shared/pg/replication/publication.py",
        "    elif generated:",
        "    elif False:",
        f"{IDENTITIES}::test_stored_generated_columns_of_identities_are_published_from_18_on",
    ),
    Mutation(
        "30 an identity that is not sent counts as none",
        "services/shared/pg/catalog/replica_identity_facts.py",
        "        return self.identity_stored and identity is not ReplicaIdentity.FULL",
        "        return False",
        f"{IDENTITIES}::test_before_18_an_identity_with_a_generated_column_counts_as_none",
    ),
    Mutation(
        "30 partitions of a root that is only copied stay unpublished",
        "services/coordinator/tables/publish.py",
        "if not {table, tops.get(table, table)} & left_out",
        "if table not in left_out",
        f"{RESYNC_IDENTITIES}::test_partitions_of_a_copy_only_root_are_copied_again_and_stay_unpublished",
    ),
    Mutation(
        "30 no table is added whose identity is not sent",
        "services/shared/pg/catalog/replica_identity.py",
        "    if version >= PUBLISH_GENERATED_SINCE and not sends_generated:",
        "    if False:",
        f"{RESYNC_IDENTITIES}::test_a_table_made_since_whose_key_the_publication_does_not_send_is_refused",
    ),
    Mutation(
        "30 what is published decides which tables can be added",
        "services/shared/pg/catalog/replica_identity.py",
        "    if version >= PUBLISH_GENERATED_SINCE and not sends_generated:",
        "    if version >= PUBLISH_GENERATED_SINCE:",
        f"{RESYNC_IDENTITIES}::test_a_table_made_since_with_a_key_that_is_sent_is_replicated",
    ),
    Mutation(
        "30 a root without a key is published by its partitions",
        "services/shared/pg/catalog/replica_identity.py",
        "if table in roots and not roots[table].keyed)",
        "if False)",
        f"{IDENTITIES}::test_a_partition_made_later_can_be_updated_though_its_root_has_no_key",
    ),
    Mutation(
        "31 SQL_ASCII is not converted",
        "services/shared/pg/session/encoding.py",
        'return "" if encoding in CONVERTED_IN_FULL else encoding',
        'return encoding.replace("SQL_ASCII", "") if encoding not in CONVERTED_IN_FULL else ""',
        f"{ENCODINGS}::test_text_arrives_byte_for_byte[SQL_ASCII]",
    ),
    Mutation(
        "31 text without an equivalent in UTF-8 is copied as it is stored",
        "services/shared/pg/copy/part.py",
        "    options += copy_options(destination)\n",
        "",
        f"{STORED}::test_text_without_an_equivalent_arrives_byte_for_byte[WIN1252]",
    ),
    Mutation(
        "31 text without an equivalent in UTF-8 is streamed as it is stored",
        "services/shared/pg/replication/connection.py",
        "            await self._command(set_encoding(encoding), doing)\n",
        "            pass\n",
        f"{STORED}::test_text_without_an_equivalent_arrives_byte_for_byte[WIN1252]",
    ),
    Mutation(
        "31 names of the stream are converted by the server",
        "services/shared/pg/apply/relation_names.py",
        'return _AS_BYTES if self._encoding else codec_of("")',
        "return codec_of(self._encoding)",
        f"{STORED}::test_text_without_an_equivalent_arrives_byte_for_byte[EUC_TW]",
    ),
    Mutation(
        "31 statements are prepared in UTF-8",
        "services/shared/pg/apply/session.py",
        'if statement.text.isascii() or self._encoding in {"", RAW}:',
        "if True:",
        f"{STORED}::test_text_without_an_equivalent_arrives_byte_for_byte[WIN1252]",
    ),
    Mutation(
        "31 long text is joined as it is stored",
        "services/shared/pg/apply/long_values.py",
        "LongValue(n, value, False, encoding)",
        "LongValue(n, value, False)",
        f"{STORED}::test_text_without_an_equivalent_arrives_byte_for_byte[EUC_JIS_2004]",
    ),
    Mutation(
        "31 late writes are decoded as they are stored",
        "services/shared/pg/session/encoding.py",
        "    cursor = await conn.execute(both)\n    cursor.nextset()\n",
        "    cursor = await conn.execute(query)\n",
        f"{STORED}::test_late_writes_without_an_equivalent_are_found[SQL_ASCII]",
    ),
    Mutation(
        "31 definitions without an equivalent in UTF-8 are refused",
        "services/shared/pg/preflight/encoding.py",
        "(_DEFAULTS,) if data_only else (_DEFAULTS, _DEFINITIONS, _OLD_ROWS)",
        "()",
        f"{STORED}::test_names_and_definitions_without_an_equivalent_are_refused_before_anything_begins[default]",
    ),
    Mutation(
        "31 a value of the catalog is proposed as it is stored",
        "services/shared/pg/catalog/stored_text.py",
        '"surrogateescape")',
        '"backslashreplace")',
        f"{STORED}::test_column_that_is_added_with_such_a_value_is_added_with_the_same_on_the_destination"
        "[SQL_ASCII]",
    ),
    Mutation(
        "31 the environment does not set the encoding",
        "services/shared/pg/session/connection.py",
        ', "client_encoding": "UTF8"}',
        "}",
        f"{ENCODINGS}::test_text_arrives_byte_for_byte[LATIN1]",
    ),
    Mutation(
        "32 keys of tables that are not replicated in full",
        "services/coordinator/phases/indexes.py",
        "    await _loosen_keys(context)",
        "    pass",
        f"{LOOSE_KEYS}::test_keys_of_tables_that_are_not_replicated_in_full_are_not_valid",
    ),
    Mutation(
        "32 keys that the destination had before are named",
        "services/coordinator/phases/indexes.py",
        "        await _warn_of_keys(context)\n",
        "",
        f"{LOOSE_KEYS}::test_keys_that_the_destination_brought_itself_are_only_named",
    ),
    Mutation(
        "33 rows of unlogged tables are counted at the switchover",
        "services/coordinator/operations/switchover.py",
        "    await check_unlogged(run.context)\n",
        "",
        f"{LOOSE_KEYS}::test_unlogged_tables_that_a_crash_has_emptied_are_copied_again_before_the_switchover",
    ),
    Mutation(
        "33 unlogged tables are checked again during the freeze",
        "services/coordinator/operations/switchover_steps.py",
        "    await check_unlogged(run.context, frozen=True)\n",
        "",
        f"{LOOSE_KEYS}::test_unlogged_tables_that_a_crash_empties_during_the_freeze_roll_the_switchover_back",
    ),
    Mutation(
        "33 rows of unlogged tables are counted at the end of the copy",
        "services/coordinator/phases/indexes.py",
        "    await check_unlogged(context)\n",
        "",
        f"{LOOSE_KEYS}::test_unlogged_tables_that_a_crash_empties_during_a_clone_stop_it",
    ),
    Mutation(
        "33 a table with some of its rows is not complete",
        "services/coordinator/tables/unlogged.py",
        "        if rows < expected.get(table, 0)",
        "        if not rows and expected.get(table, 0)",
        f"{LOOSE_KEYS}::test_unlogged_tables_that_a_crash_has_emptied_are_copied_again_before_the_switchover",
    ),
)
