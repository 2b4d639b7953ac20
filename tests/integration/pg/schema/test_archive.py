"""What is read from pg_dump's archive is what pg_restore reads from it, entry by entry."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from services.shared.pg.schema.archive.entries import Section, read_archive
from services.shared.pg.schema.archive.restore_sql import script_of
from services.shared.pg.schema.dump import dump_schema
from services.shared.pg.schema.dump_tools import DumpTools, find_tools
from services.shared.pg.schema.parsing.lexer import Kind, Token, statements
from tests.support.data.schema import create_schema
from tests.support.schema.post_data import SCHEMA, post_data, scripts
from tests.support.servers.installs import PostgresInstall, installs
from tests.support.servers.postgres import PostgresServer

SECTIONS = {Section.PRE_DATA: "pre-data", Section.POST_DATA: "post-data"}

MORE = """
CREATE FUNCTION odd.acts() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN NULL; END $f$;
CREATE EVENT TRIGGER acting ON ddl_command_end EXECUTE FUNCTION odd.acts();
COMMENT ON EVENT TRIGGER acting IS 'acts';
CREATE PROCEDURE odd.nothing(INOUT n int) LANGUAGE plpgsql AS $p$ BEGIN n := n + 1; END $p$;
CREATE AGGREGATE odd.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR odd.<~> (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR FAMILY odd.family USING btree;
CREATE COLLATION odd.plain (provider = libc, locale = 'C');
CREATE DOMAIN odd.few AS int CHECK (VALUE < 5);
CREATE TYPE odd.mood AS ENUM ('a;', 'b''');
CREATE CAST (odd.mood AS int) WITH INOUT;
CREATE TEXT SEARCH CONFIGURATION odd.words (COPY = pg_catalog.simple);
CREATE FOREIGN DATA WRAPPER wrapper;
CREATE SERVER server FOREIGN DATA WRAPPER wrapper;
CREATE USER MAPPING FOR PUBLIC SERVER server OPTIONS (who 'me''');
CREATE FOREIGN TABLE odd.far (a int) SERVER server;
CREATE SEQUENCE odd.free;
CREATE TABLE odd.counted (id int GENERATED ALWAYS AS IDENTITY, n serial, d text DEFAULT E'x\\\\''y');
CREATE VIEW odd.seen AS SELECT * FROM odd.counted;
CREATE STATISTICS odd.both ON id, n FROM odd.counted;
GRANT SELECT ON odd.counted TO PUBLIC;
GRANT SELECT (id) ON odd.seen TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA odd GRANT SELECT ON TABLES TO PUBLIC;
COMMENT ON SCHEMA public IS 'ours';
COMMENT ON DATABASE {} IS 'not of this';
REFRESH MATERIALIZED VIEW odd.grouped;
"""


@pytest.fixture(params=installs(), ids=lambda install: str(install.major))
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """Of each version, with the pg_dump of the same."""
    install: PostgresInstall = request.param
    with PostgresServer(install, fsync=False) as server:
        yield server


@pytest.mark.parametrize("leave", [False, True])
async def test_every_entry_and_statement_is_pg_restores(
    server: PostgresServer, tmp_path: Path, leave: bool
) -> None:
    """leave: without owners and privileges."""
    with server.fresh_database("archive") as uri:
        create_schema(uri)
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute(SCHEMA)
            dbname = conn.info.dbname
            conn.execute(sql.SQL(MORE).format(sql.Identifier(dbname)))
        tools = DumpTools(server.bin_dir, 0)
        archive = tmp_path / "schema.dump"
        await dump_schema(tools, uri, None, archive)
    entries = read_archive(archive)
    numbers = [line.split()[:3] for line in listed(tools, archive)]
    ours = [
        [f"{entry.dump_id};", str(entry.catalog), str(entry.oid)]
        for entry in entries
        if entry.kind not in {"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE"}
        and entry.name != f"DATABASE {dbname}"
    ]
    assert sorted(numbers) == sorted(ours)
    for section, name_of in SECTIONS.items():
        script = script_of(entries, section, no_owner=leave, no_acl=leave)
        assert comparable(script.text) == comparable(restored(tools, archive, name_of, leave=leave))


def listed(tools: DumpTools, archive: Path) -> list[str]:
    text = run(tools, "--list", str(archive)).decode()
    return [line for line in text.splitlines() if line and not line.startswith(";")]


def restored(tools: DumpTools, archive: Path, section: str, *, leave: bool) -> bytes:
    """pg_restore's script, which ends with a meta-command that no release before 2025 wrote."""
    options = ["--no-owner", "--no-privileges"] if leave else []
    lines = run(
        tools, f"--section={section}", "--no-tablespaces", *options, "--file=-", str(archive)
    ).splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith((b"\\restrict ", b"\\unrestrict ")))


def run(tools: DumpTools, *arguments: str) -> bytes:
    return subprocess.run(
        [tools.bindir / "pg_restore", *arguments], stdout=subprocess.PIPE, check=True
    ).stdout


def comparable(script: bytes) -> list[tuple[str | bytes, ...]]:
    """The statements, without the settings of the session; names quoted or not. Owners of views and
    sequences are set by ALTER TABLE too, as pg_restore before 16 does."""
    found = [tuple(map(plain, statement)) for statement in statements(script)]
    return sorted((as_table(one) for one in found if one[0] != "SET" and "set_config" not in one), key=str)


def as_table(statement: tuple[str | bytes, ...]) -> tuple[str | bytes, ...]:
    for kind in (("VIEW",), ("SEQUENCE",), ("MATERIALIZED", "VIEW")):
        if "OWNER" in statement and statement[1 : len(kind) + 1] == kind:
            return ("ALTER", "TABLE", *statement[len(kind) + 1 :])
    return statement


def plain(token: Token) -> str | bytes:
    return token.name if token.kind in {Kind.WORD, Kind.QUOTED} else token.text


PIECES = (
    "--\n-- Name: x; Type: INDEX; Schema: s; Owner: -\n--\n\n",
    "\n\\unrestrict x\n",
    "DROP TABLE app.t;",
    "ON app.t (a)",
    *("\n", "\r", "$$", "$body$", "';", "''", '"', "\\", "\\'", "E'", "/*", "*/", "--", ";\n", "é", "%s"),
)
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
NAMES = TEXTS.map(lambda text: text.encode()[:50].decode(errors="ignore")).filter(
    lambda text: "$$" not in text
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(
    names=st.lists(NAMES, min_size=6, max_size=6, unique=True), texts=st.lists(TEXTS, min_size=5, max_size=5)
)
def test_names_comments_defaults_and_bodies_stay_text(
    source_server: PostgresServer,
    dest_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    texts: list[str],
) -> None:
    """Any such text comes out as it was, and nothing else is made."""

    async def restore(source: str, dest: str) -> None:
        tools = await find_tools(17, 18)
        pre, post = await scripts(tools, source, tmp_path_factory.mktemp("fuzz"))
        with psycopg.connect(dest, autocommit=True) as conn:
            conn.execute(pre.text)
        await post_data(dest, post)

    with source_server.fresh_database("fuzz") as source, dest_server.fresh_database("fuzz") as dest:
        with psycopg.connect(source, autocommit=True) as conn:
            make(conn, names, texts)
            made = described(conn)
        asyncio.run(restore(source, dest))
        with psycopg.connect(dest, autocommit=True) as conn:
            assert described(conn) == made


def make(conn: psycopg.Connection, names: list[str], texts: list[str]) -> None:
    schema, table, column, index, key, function = map(sql.Identifier, names)
    first, default, body, constant, comment = map(sql.Literal, texts)
    where = sql.SQL("{}.{}").format(schema, table)
    called = sql.SQL("{}.{}").format(schema, function)
    for statement in (
        sql.SQL("CREATE SCHEMA {}").format(schema),
        sql.SQL("CREATE TABLE {} ({} text DEFAULT {}, b int)").format(where, column, default),
        sql.SQL("CREATE FUNCTION {}(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS {}").format(
            called, sql.Literal(f"BEGIN RETURN {sql.Literal(texts[2]).as_string(conn)}; END")
        ),
        sql.SQL("CREATE INDEX {} ON {} ({}({})) WHERE {} <> {}").format(
            index, where, called, column, column, constant
        ),
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} UNIQUE ({}, b)").format(where, key, column),
        sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(where),
        sql.SQL("CREATE RULE {} AS ON DELETE TO {} WHERE old.{} = {} DO INSTEAD NOTHING").format(
            index, where, column, body
        ),
        sql.SQL("COMMENT ON INDEX {}.{} IS {}").format(schema, index, comment),
        sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(key, where, first),
        sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(where, column, comment),
        sql.SQL("COMMENT ON FUNCTION {}(text) IS {}").format(called, first),
        sql.SQL("COMMENT ON SCHEMA {} IS {}").format(schema, body),
    ):
        conn.execute(statement)


def described(conn: psycopg.Connection) -> list[tuple[object, ...]]:
    """Every object that a user made, with its definition and comment."""
    return conn.execute(
        """
        SELECT n.nspname, c.relname, c.relkind::text, obj_description(c.oid, 'pg_class'),
               CASE WHEN c.relkind = 'i' THEN pg_get_indexdef(c.oid) END,
               (SELECT array_agg(row(attname, format_type(atttypid, atttypmod),
                    pg_get_expr(adbin, adrelid), col_description(c.oid, attnum))::text ORDER BY attnum)
                FROM pg_attribute a LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
                WHERE attrelid = c.oid AND attnum > 0),
               (SELECT array_agg(row(conname, pg_get_constraintdef(k.oid),
                    obj_description(k.oid, 'pg_constraint'))::text ORDER BY conname)
                FROM pg_constraint k WHERE conrelid = c.oid AND contype <> 'n'),
               (SELECT array_agg(pg_get_ruledef(r.oid) ORDER BY rulename) FROM pg_rewrite r
                WHERE ev_class = c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgmig')
        UNION ALL
        SELECT n.nspname, proname, 'function', obj_description(p.oid, 'pg_proc'), prosrc, NULL, NULL, NULL
        FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
        WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgmig')
        UNION ALL
        SELECT nspname, '', 'schema', obj_description(oid, 'pg_namespace'), NULL, NULL, NULL, NULL
        FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pgmig')
        ORDER BY 1, 2, 3
        """
    ).fetchall()
