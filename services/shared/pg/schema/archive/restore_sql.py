"""SQL of an archive's entries: what pg_restore would run, in its order, entry by entry.

As in pg_restore (src/bin/pg_dump/pg_backup_archiver.c), each section is restored in passes (`_pass`), an
entry without a section belongs to the section of the entry before it, and the owner is set after the
definition. The SQL of each entry is a separate value, so nothing has to be searched for in a script. Names
are quoted here. Definitions come from pg_dump and are not changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.schema.archive.entries import ArchiveEntry, Section

_SPECIAL = frozenset({"ENCODING", "STDSTRINGS", "SEARCHPATH"})
_OF_DATABASE = frozenset({"DATABASE", "DATABASE PROPERTIES"})
_FOLLOWING = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})
_PRIVILEGES = frozenset({"ACL", "ACL LANGUAGE", "DEFAULT ACL"})
_ENCODINGS = (b"SET client_encoding = 'UTF8';\n", b"SET client_encoding = 'SQL_ASCII';\n")
_STANDARD_STRINGS = b"SET standard_conforming_strings = 'on';\n"

_ALTERED_AS_TABLE = frozenset({"VIEW", "SEQUENCE", "MATERIALIZED VIEW"})
_ALTERED_BY_NAME = frozenset(
    {
        "COLLATION",
        "CONVERSION",
        "DOMAIN",
        "EVENT TRIGGER",
        "FOREIGN DATA WRAPPER",
        "FOREIGN TABLE",
        "PROCEDURAL LANGUAGE",
        "SCHEMA",
        "SERVER",
        "STATISTICS",
        "TABLE",
        "TEXT SEARCH CONFIGURATION",
        "TEXT SEARCH DICTIONARY",
        "TYPE",
        *_ALTERED_AS_TABLE,
    }
)
_ALTERED_BY_SIGNATURE = frozenset(
    {"AGGREGATE", "FUNCTION", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "PROCEDURE"}
)
_WITHOUT_OWNER = frozenset(
    {
        "CAST",
        "CHECK CONSTRAINT",
        "CONSTRAINT",
        "DEFAULT",
        "FK CONSTRAINT",
        "INDEX",
        "POLICY",
        "ROW SECURITY",
        "RULE",
        "TRIGGER",
        "USER MAPPING",
    }
)

_SETTINGS = b"""\
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
"""


@dataclass(frozen=True, slots=True)
class RestoreEntry:
    """SQL of one entry, complete statements. label: for messages, such as `index orders_by_day`."""

    kind: str
    label: str
    text: bytes
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """One section. settings: of the session, before any entry."""

    settings: bytes
    entries: tuple[RestoreEntry, ...]

    @property
    def text(self) -> bytes:
        """The SQL of the whole section."""
        return b"\n".join([self.settings, *(entry.text for entry in self.entries)])


def script_of(
    entries: Iterable[ArchiveEntry], section: Section, *, no_owner: bool = False, no_acl: bool = False
) -> Script:
    """The SQL of one section. Raises TOOL_MISSING for an archive with unknown contents."""
    listed = list(entries)
    passes: tuple[list[ArchiveEntry], ...] = ([], [], [], [])
    for entry in _of_section(listed, section):
        if not (no_acl and entry.kind in _PRIVILEGES):
            passes[_pass(entry)].append(entry)
    return Script(
        _SETTINGS + b"".join(entry.definition for entry in listed if entry.kind == "ENCODING"),
        tuple(
            RestoreEntry(
                entry.kind,
                f"{entry.kind.lower()} {entry.name}",
                _statements(entry, no_owner=no_owner),
                entry.identity,
            )
            for part in passes
            for entry in part
        ),
    )


def _of_section(entries: Iterable[ArchiveEntry], section: Section) -> Iterator[ArchiveEntry]:
    current = Section.PRE_DATA
    for entry in entries:
        if entry.section is not Section.NONE:
            current = entry.section
        if entry.kind in _SPECIAL:
            _check_special(entry)
        elif current is section and entry.definition and not _is_of_database(entry):
            yield entry


def _check_special(entry: ArchiveEntry) -> None:
    if entry.kind == "ENCODING" and entry.definition not in _ENCODINGS:
        raise _unknown(entry)
    if entry.kind == "STDSTRINGS" and entry.definition != _STANDARD_STRINGS:
        raise PgmigError(
            ErrorKind.SCHEMA_FAILED,
            "pg_dump wrote the schema with standard_conforming_strings off",
            "remove PGOPTIONS and options of the source's URI that set it",
        )


def _is_of_database(entry: ArchiveEntry) -> bool:
    """Whether the entry concerns the database itself; see database_settings.py. pg_dump writes the object's
    kind before its name."""
    if entry.kind in _OF_DATABASE:
        return True
    return entry.kind in _FOLLOWING and entry.name.startswith("DATABASE ")


def _pass(entry: ArchiveEntry) -> int:
    """Privileges are restored after their objects, and rows of materialized views after the privileges, which
    they need. Unlike in pg_restore, event triggers come last, with their comments and labels: they may fire
    for such a refresh, and may be ENABLE ALWAYS."""
    if entry.kind in _PRIVILEGES:
        return 1
    if entry.kind == "EVENT TRIGGER" or (
        entry.kind in _FOLLOWING and entry.name.startswith("EVENT TRIGGER ")
    ):
        return 3
    return 2 if entry.kind == "MATERIALIZED VIEW DATA" else 0


def _statements(entry: ArchiveEntry, *, no_owner: bool) -> bytes:
    """The entry's SQL, with the table access method before it and the owner after it."""
    parts = [entry.definition]
    if entry.access_method and entry.relation_kind == "p":
        method = _quoted(entry.access_method)
        parts.append(b"ALTER TABLE %b SET ACCESS METHOD %b;\n" % (_qualified(entry), method))
    elif entry.access_method:
        parts.insert(0, b"SET default_table_access_method = %b;\n" % _quoted(entry.access_method))
    if not no_owner and entry.owner and entry.drop and (target := _owned(entry)):
        parts.append(b"ALTER %b OWNER TO %b;\n" % (target, _quoted(entry.owner)))
    return b"\n".join(parts)


def _owned(entry: ArchiveEntry) -> bytes:
    """The object for ALTER ... OWNER TO. b"" for an object without an owner."""
    if entry.kind in _ALTERED_BY_NAME:
        kind = "TABLE" if entry.kind in _ALTERED_AS_TABLE else entry.kind
        return b"%b %b" % (kind.encode(), _qualified(entry))
    if entry.kind in _ALTERED_BY_SIGNATURE:
        # As in pg_restore: only this field has the arguments, `DROP FUNCTION s.f(integer);`.
        if not (entry.drop.startswith(b"DROP ") and entry.drop.endswith(b";\n")):
            raise _unknown(entry)
        return entry.drop[len(b"DROP ") : -len(b";\n")]
    if entry.kind in _WITHOUT_OWNER:
        return b""
    raise _unknown(entry)


def _unknown(entry: ArchiveEntry) -> PgmigError:
    return PgmigError(
        ErrorKind.TOOL_MISSING,
        f"pg_dump's archive holds something that this release of pgmig does not know: {entry.identity}",
        "use the client programs of PostgreSQL 18 (PGMIG_PG_BINDIR), or a newer release of pgmig",
    )


def _qualified(entry: ArchiveEntry) -> bytes:
    return b".".join(_quoted(name) for name in (entry.schema, entry.name) if name)


def _quoted(name: str) -> bytes:
    return b'"' + name.encode("utf-8", "surrogateescape").replace(b'"', b'""') + b'"'
