"""Connection strings: what is taken, and that nothing of one is ever shown."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import conninfo

from services.shared.model import ErrorKind, Parameter, PgmigError
from services.shared.model.redaction import has_password, redact
from services.shared.pg.session.connection import complete_conninfo
from services.shared.pg.session.uri import (
    as_recorded,
    each_server,
    endpoint,
    parameters,
    passwordless_uri,
    requires_tls,
    requiring_tls,
    same_servers,
)

SECRET = "Xq7secretZ"
ODD = st.text(st.sampled_from("@:/?#%&='\"\\+;,[]{}()|~^`$!*.- aé"), max_size=4)
AROUND = st.tuples(ODD, ODD).map(lambda pair: f"{pair[0]}{SECRET}{pair[1]}")
FORMS = st.sampled_from(
    (
        "postgresql://u:{}@h/db",
        "postgres://u:{}@h:5432/db?sslmode=require",
        "u:{}@h/db",
        "postgresql://u:{}",
        "postgresql://u:{}/db",
        "postgresql:u:{}@h",
        "postgresql://h/db?user=u&password={}",
        "host=h password={} dbname=db",
        "host=h password='{} dbname=db",
        "host={} user=u",
        "port={} host=h",
        "host=h {}",
        "{}",
        "postgresql://h/db?{}=1",
        "postgresql://{}@h/db",
        "dbname='postgresql://u:{}@h/db'",
    )
)


@given(FORMS, AROUND)
@example("postgresql://u:{}@h/db", f"%zz{SECRET}")
@example("postgresql://u:{}@h/db", f"12/34{SECRET}")
@example("postgresql://u:{}@h/db", f"p@{SECRET}")
@example("u:{}@h/db", SECRET)
def test_no_error_shows_any_of_a_connection_string(form: str, password: str) -> None:
    """What is taken as a name of host, user or database is not the password: it stands in its place."""
    uri = form.format(password)
    try:
        given_parameters = parameters(uri)
        endpoint(uri)
        complete_conninfo(uri, "test")
    except PgmigError as exc:
        assert exc.kind is ErrorKind.INVALID_ARGUMENT
        assert SECRET not in "".join(traceback.format_exception(exc))
        assert SECRET not in exc.hint
    else:
        if form.startswith(("postgres", "u:")) and "{}@h" in form.replace("u:", ""):
            shown = {name: value for name, value in given_parameters.items() if SECRET in value}
            assert set(shown) <= {"password", "user"}


@given(
    st.sampled_from(
        ("postgresql://u:{}@h/db", "u:{}@h/db", "postgresql://h/db?password={}", "password={}", "token: {}")
    ),
    AROUND.filter(lambda text: not any(letter.isspace() for letter in text)),
)
@example("postgresql://u:{}@h/db", f"p@{SECRET}")
@example("u:{}@h/db", f"12/34:p@{SECRET}")
@example("token: {}", f'"",{SECRET}')
def test_redaction_hides_passwords_of_any_letters(form: str, password: str) -> None:
    if form.startswith("postgresql://h/db?"):
        password = password.replace("&", "")
    elif form == "password={}":  # as libpq takes it, unless it begins with a quotation mark
        password = password.lstrip("'\"")
    text = f"cannot connect: {form.format(password)} says no"
    assert SECRET not in redact(text)
    assert redact(text).startswith("cannot connect: ")
    assert has_password(form.format(password))


@given(st.text(st.sampled_from("aé \\'\"=,;@:\n"), min_size=1))
def test_redaction_hides_quoted_passwords(password: str) -> None:
    """As libpq and SQL quote them; what is left does not depend on the password."""
    written = conninfo.make_conninfo("", host="h", password=f"{password} x")
    assert redact(written) == "host=h password=***"
    literal = password.replace("'", "''").replace("\\", "\\\\")
    assert redact(f"OPTIONS (user 'me', password '{literal}')") == "OPTIONS (user 'me', password ***)"


@pytest.mark.parametrize("name", ["sslkeylogfile", "passfile", "service", "hostaddr", "replication"])
def test_a_parameter_that_is_not_taken_is_named_without_its_value(name: str) -> None:
    for uri in (f"postgresql://u@h/db?{name}={SECRET}", f"host=h {name}={SECRET}"):
        with pytest.raises(PgmigError) as caught:
            parameters(uri, "source", {"PGMIG_ALLOWED_PATHS": "/"})
        assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
        assert name in caught.value.message
        assert "source" in caught.value.message
        assert SECRET not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir"])
def test_files_are_named_only_where_the_service_allows_it(name: str, tmp_path: Path) -> None:
    allowed, outside = tmp_path / "tls", tmp_path / "other"
    for folder in (allowed, outside):
        folder.mkdir()
        (folder / "file").write_text("x")
    (allowed / "link").symlink_to(outside / "file")
    environ = {"PGMIG_ALLOWED_PATHS": str(allowed)}
    good = f"host=h {name}={allowed / 'file'}"
    assert parameters(good, environ=environ)[name] == str(allowed / "file")
    for bad in (outside / "file", allowed / ".." / "other" / "file", allowed / "link", "relative"):
        with pytest.raises(PgmigError) as caught:
            parameters(f"host=h {name}={bad}", environ=environ)
        assert name in caught.value.message
        assert str(bad) not in caught.value.message
    with pytest.raises(PgmigError):
        parameters(good, environ={})
    assert parameters("host=h sslrootcert=system", environ={})["sslrootcert"] == "system"


def test_a_unix_socket_is_named_only_where_the_service_allows_it() -> None:
    for host in ("/var/run/postgresql", "h,/tmp", "@abstract"):
        with pytest.raises(PgmigError):
            parameters(f"host={host} dbname=d", environ={})
        assert parameters(f"host={host} dbname=d", environ={"PGMIG_ALLOWED_PATHS": "/"})["host"] == host


def test_parameters_outlive_the_password() -> None:
    uri = (
        f"postgresql://u:{SECRET}@a:5433,b:5434/db?sslmode=verify-full&sslrootcert=system"
        "&channel_binding=require&target_session_attrs=read-write&options=-c%20role%3Do&application_name=x"
    )
    where = endpoint(uri, 170004)
    assert (where.host, where.port, where.dbname, where.user) == ("a", 5433, "db", "u")
    assert SECRET not in repr(where)
    assert Parameter("sslmode", "verify-full") in where.parameters
    again = parameters(passwordless_uri(where))
    before = parameters(uri)
    assert again == {k: v for k, v in before.items() if k not in {"password", "application_name"}}


@pytest.mark.parametrize(
    ("given", "mode"),
    [("", "verify-full"), ("?sslmode=prefer", "verify-full"), ("?sslmode=disable", "disable")],
)
def test_a_connection_that_began_with_tls_keeps_it_unless_a_parameter_says_otherwise(
    given: str, mode: str
) -> None:
    where = endpoint(f"postgresql://u:{SECRET}@h/db?sslmode=verify-full&sslrootcert=system")
    merged = parameters(as_recorded(f"postgresql://u:{SECRET}@h/db{given}", where))
    assert (merged["sslmode"], merged["sslrootcert"], merged["password"]) == (mode, "system", SECRET)


def test_a_database_that_was_reached_with_tls_is_not_reached_without() -> None:
    for mode in ("", "?sslmode=prefer", "?sslmode=allow"):
        assert requires_tls(requiring_tls(endpoint(f"postgresql://u@h/db{mode}")))
    full = endpoint("postgresql://u@h/db?sslmode=verify-full")
    assert requiring_tls(full) == full
    assert not requires_tls(endpoint("postgresql://u@h/db"))


@pytest.mark.parametrize(
    ("given", "mode"), [("", "disable"), ("?gssencmode=prefer", "prefer"), ("?gssencmode=require", "require")]
)
def test_sessions_are_encrypted_with_kerberos_only_when_asked(given: str, mode: str) -> None:
    completed = conninfo.conninfo_to_dict(complete_conninfo(f"postgresql://u@h/d{given}", "test"))
    assert completed["gssencmode"] == mode


def test_several_servers_are_recorded_together_and_used_one_at_a_time() -> None:
    uri = "postgresql://u:pw@a:1,b:2/db?target_session_attrs=read-write&sslmode=require"
    where = endpoint(uri)
    assert where.servers == (("a", 1), ("b", 2))
    assert where.address == "a:1,b:2/db"
    assert endpoint(passwordless_uri(where)).servers == where.servers
    for one, expected in zip(each_server(uri, "source"), where.servers, strict=True):
        assert endpoint(one).servers == (expected,)
        assert parameters(one)["password"] == "pw"
        assert parameters(one)["sslmode"] == "require"
    assert endpoint("host=a,b port=5 dbname=db").servers == (("a", 5), ("b", 5))
    assert endpoint("postgresql://u@a,b:6/db").servers == (("a", 5432), ("b", 6))
    assert each_server("postgresql://u@a/db", "source") == ("postgresql://u@a/db",)


def test_an_address_of_one_of_the_servers_keeps_the_recorded_list() -> None:
    where = endpoint("postgresql://u@a:1,b:2/db")
    for one in ("postgresql://u:pw@b:2/db", "postgresql://u:pw@a:1,b:2/db"):
        assert same_servers(one, where)
        assert endpoint(as_recorded(one, where)).servers == where.servers
    for other in ("postgresql://u:pw@c:1/db", "postgresql://u:pw@a:1,c:2/db", "postgresql://v@b:2/db"):
        assert not same_servers(other, where)
        assert endpoint(as_recorded(other, where)).servers == endpoint(other).servers


@pytest.mark.parametrize("wanted", ["read-only", "standby"])
def test_a_standby_cannot_be_asked_for(wanted: str) -> None:
    with pytest.raises(PgmigError) as caught:
        parameters(f"host=a,b target_session_attrs={wanted}", "source")
    assert "the source's connection string asks for a standby" in caught.value.message


@pytest.mark.parametrize("wanted", ["any", "read-write", "primary", "prefer-standby"])
def test_every_session_is_with_a_primary(wanted: str) -> None:
    """Not with a read-write server: a source that is frozen is read-only."""
    completed = conninfo.conninfo_to_dict(complete_conninfo(f"host=a target_session_attrs={wanted}", "test"))
    assert completed["target_session_attrs"] == "primary"


def test_there_are_as_many_ports_as_hosts() -> None:
    with pytest.raises(PgmigError):
        parameters("host=a,b,c port=1,2")
