"""Mutations of the rules about access (S1 to S16)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

PRIVATE = "tests/integration/clients/embedded/test_private.py"
RPC_LIMITS = "tests/contract/test_rpc_limits.py"
CHANNEL = "tests/integration/pg/transport/test_channel.py"
WORKER_SECRET = "tests/contract/test_worker_secret.py"
OWNERS = "tests/integration/pg/preflight/test_owners_functions.py"
CASTS = "tests/integration/pg/apply/test_hijacked_casts.py"
CATALOGS = "tests/integration/pg/catalog/test_hijacked_catalogs.py"

MUTATIONS = (
    Mutation(
        "S1 workers prove that they know the secret",
        "services/shared/rpc/handshake.py",
        "if len(given.key) != KEY_BYTES or (token and not hmac.compare_digest(given.proof, expected)):",
        "if len(given.key) != KEY_BYTES:",
        f"{WORKER_SECRET}::test_who_does_not_know_the_secret_is_given_nothing",
    ),
    Mutation(
        "S1 the coordinator proves that it knows the secret",
        "services/shared/rpc/handshake.py",
        "    if token and not (",
        "    if False and not (",
        f"{WORKER_SECRET}::test_an_impostor_at_the_coordinators_address_learns_ids_alone_and_commands_no_worker",
    ),
    Mutation(
        "S2 a worker id belongs to its process",
        "services/shared/rpc/workers_api.py",
        "if not hmac.compare_digest(self._keys.get(worker, key), key):",
        "if False:",
        f"{WORKER_SECRET}::test_a_worker_id_belongs_to_the_process_that_registered_it",
    ),
    Mutation(
        "S3 a socket that only this user can open",
        "services/shared/rpc/listening.py",
        "path.chmod(0o600)",
        "path.chmod(0o666)",
        f"{PRIVATE}::test_no_other_user_reaches_the_socket_even_in_an_open_directory",
    ),
    Mutation(
        "S4 no link is followed",
        "services/shared/runtime/files.py",
        "flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600",
        "flags | os.O_CLOEXEC, 0o600",
        f"{PRIVATE}::test_nothing_is_written_through_a_link",
    ),
    Mutation(
        "S4 private under every umask",
        "clients/embedded/shim.py",
        "os.umask(0o077)",
        "os.umask(0)",
        f"{PRIVATE}::test_a_program_that_asks_for_no_mode_makes_private_files",
    ),
    Mutation(
        "S5 requests are bounded",
        "services/shared/rpc/channel.py",
        "_LONGEST_REQUEST = 4 * 1024 * 1024",
        "_LONGEST_REQUEST = 64 * 1024 * 1024",
        f"{RPC_LIMITS}::test_a_request_beyond_4_mb_is_refused",
    ),
    Mutation(
        "S5 the first message of an unauthenticated stream is small",
        "services/shared/rpc/limits.py",
        "if most is not None and len(raw) > most:",
        "if False:",
        f"{RPC_LIMITS}::test_a_stream_begins_with_a_small_request",
    ),
    Mutation(
        "S6 nothing follows the last answer",
        "services/shared/pg/copy/relay.py",
        "        if self.has_more:\n            while",
        "        if False:\n            while",
        f"{CHANNEL}::test_bytes_after_the_last_answer_close_the_connection",
    ),
    Mutation(
        "S6 a channel is used while its connection is open",
        "services/shared/pg/transport/raw_connection.py",
        "    if owner.closed:",
        "    if False:",
        f"{CHANNEL}::test_connection_that_is_closed_under_a_channel_is_noticed",
    ),
    Mutation(
        "S10 quoted text is one token",
        "services/shared/pg/schema/parsing/lexer.py",
        """_PLAIN = rb"(?:[^']|'')\"""",
        """_PLAIN = rb"(?:[^';]|'')\"""",
        "tests/unit/pg/schema/archive/test_archive.py::test_quoted_text_is_one_token",
    ),
    Mutation(
        "S10 sections are fields of the archive",
        "services/shared/pg/schema/archive/restore_sql.py",
        "parts = [entry.definition]",
        'parts = [entry.definition.split(b"--\\n-- Name: ")[-1]]',
        "tests/e2e/access/test_hostile_source.py::test_forged_entries_in_comments_create_no_superuser",
    ),
    Mutation(
        "S11 connection strings are never shown",
        "services/shared/pg/session/uri.py",
        'if authority.count("@") > 1 or "@" in rest[len(authority) :]:',
        "if authority.count('@') > 9:",
        "tests/unit/pg/session/test_uri.py::test_no_error_shows_any_of_a_connection_string",
    ),
    Mutation(
        "S11 redaction",
        "services/shared/model/redaction.py",
        """_IN_URI = re.compile(r"(://[^:/?#@\\s'\\"]*):\\S*@")""",
        """_IN_URI = re.compile(r"(://[^:/?#@\\s'\\"]*):[^@]*@")""",
        "tests/unit/pg/session/test_uri.py::test_redaction_hides_passwords_of_any_letters",
    ),
    Mutation(
        "S12 libpq's parameters",
        "services/shared/pg/session/uri.py",
        "if name in _ALLOWED:",
        "if name in known:",
        "tests/unit/pg/session/test_uri.py::test_a_parameter_that_is_not_taken_is_named_without_its_value",
    ),
    Mutation(
        "S13 pg_dump with TLS",
        "services/shared/pg/schema/dump_tools.py",
        "usable = [tools for tools in found if not tls or await speaks_tls(tools.pg_dump)]",
        "usable = found",
        "tests/integration/pg/session/test_tls_verified.py::test_a_source_that_is_reached_with_tls_is_not_dumped_without",
    ),
    Mutation(
        "S13 parameters are kept with a new password",
        "services/shared/pg/session/uri.py",
        """if given.get("sslmode") in _WEAK_MODES and requires_tls(where):""",
        "if False:",
        "tests/unit/pg/session/test_uri.py::test_a_connection_that_began_with_tls_keeps_it_unless_a_parameter_says_otherwise",
    ),
    Mutation(
        "S14 a table is not left out by --skip-object",
        "services/shared/pg/schema/archive/selection.py",
        "if entry.dump_id in out and entry.kind in _TAKING_ROWS",
        "if False",
        "tests/unit/pg/schema/archive/test_skipping_objects.py::test_tables_and_unknown_names_are_refused",
    ),
    Mutation(
        "S15 functions of owners are listed",
        "services/shared/pg/preflight/functions.sql",
        "     WHERE k.contype = 'c'\n    UNION ALL\n    SELECT 'pg_catalog.pg_type'",
        "     WHERE false\n    UNION ALL\n    SELECT 'pg_catalog.pg_type'",
        f"{OWNERS}::test_they_have_the_rights_of_a_superuser_who_is_warned",
    ),
    Mutation(
        "S15 built-in functions that execute any SQL",
        "services/shared/pg/preflight/functions.sql",
        "p.provolatile = 'v'",
        "false",
        f"{OWNERS}::test_whatever_calls_functions_is_named[built-in]",
    ),
    Mutation(
        "S15 roles that may become a superuser",
        "services/shared/pg/preflight/functions.py",
        "    if may_become:",
        "    if False:",
        f"{OWNERS}::test_a_role_that_may_become_a_superuser_is_warned[member]",
    ),
    Mutation(
        "S16 only the server's own casts to text",
        "services/shared/pg/apply/target_statements.py",
        "_SAME_BY_CAST if self.columns[i].cast_to_text else _SAME_BY_OUTPUT",
        "_SAME_BY_CAST",
        f"{CASTS}::test_rows_without_a_key_are_found_by_what_the_type_prints",
    ),
    Mutation(
        "S16 long values are read by the input function too",
        "services/shared/pg/apply/target_statements.py",
        "column.typed(value, column.element_sql or column.plain_sql)",
        'sql.SQL("CAST({} AS {})").format(value, sql.SQL(column.element_sql or column.plain_sql))',
        f"{CASTS}::test_long_values_are_read_by_input_functions",
    ),
    Mutation(
        "S16 only the server's own casts from text",
        "services/shared/pg/apply/target_statements.py",
        "_TYPED_BY_CAST if self.cast_from_text else _TYPED_BY_INPUT",
        "_TYPED_BY_CAST",
        f"{CASTS}::test_rows_that_are_written_together_are_read_by_input_functions",
    ),
    Mutation(
        "S16 rows of catalogs are not converted to JSON",
        "services/shared/pg/session/sql_files.py",
        '"a.attgenerated::text"',
        "\"pg_catalog.to_jsonb(a) ->> 'attgenerated'\"",
        f"{CATALOGS}::test_catalogs_are_read_without_casts_of_owners",
    ),
    Mutation(
        "S16 values of old rows are printed by the output function",
        "services/shared/pg/session/sql_files.py",
        '"a.attmissingval::text"',
        '"pg_catalog.to_jsonb(a.attmissingval)::text"',
        f"{CATALOGS}::test_values_of_old_rows_are_checked_without_casts_of_owners",
    ),
)
