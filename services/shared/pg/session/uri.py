"""Connection strings: which ones are accepted, and what they contain.

A connection string is written by a user and contains a password. So no error message quotes any part of it.
libpq's own error messages do quote it, so they are not chained. pgmig refuses strings that libpq might split
at another place than the author meant, because a piece of the password could then appear as a host or a
database. Only parameters from our list are accepted: others make libpq read or write files of the service, or
use the service's credentials.

Files (certificates, keys) and Unix sockets are accepted only in the directories of PGMIG_ALLOWED_PATHS. By
default none are accepted, because the caller of a service need not be the user that the service runs as. The
embedded stack accepts all, because there the caller is that user.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psycopg
from psycopg import conninfo, pq

from services.shared.model import Endpoint, ErrorKind, Parameter, PgmigError

ALLOWED_PATHS_VARIABLE = "PGMIG_ALLOWED_PATHS"
FORM = "use postgresql://user:password@host:port/dbname"

_SCHEMES = ("postgresql://", "postgres://")
_PLACE = frozenset({"host", "port", "dbname", "user"})
_SECRETS = frozenset({"password", "sslpassword"})
_FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir"})
_OURS = frozenset({"application_name", "client_encoding", "fallback_application_name"})
"""Accepted, and replaced by our own values."""
_KEPT = _FILES | frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "options",
        "require_auth",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcertmode",
        "sslcompression",
        "sslmode",
        "sslnegotiation",
        "sslsni",
        "target_session_attrs",
        "tcp_user_timeout",
    }
)
"""Accepted, and stored in a migration's record."""
_ALLOWED = _PLACE | _SECRETS | _OURS | _KEPT
_PRIMARY_IS_REFUSED = frozenset({"read-only", "standby"})
"""Values of target_session_attrs that never lead to a primary."""
_OF_SEVERAL = frozenset({"load_balance_hosts", "target_session_attrs"})
"""Parameters that say which of several hosts is used."""
_WEAK_MODES = frozenset({"allow", "prefer"})
_STRICT_MODES = frozenset({"require", "verify-ca", "verify-full"})
_NOT_A_FILE = frozenset({"", "system"})
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PORT = re.compile(r"[0-9]{1,5}(?:,[0-9]{1,5})*")


def parameters(uri: str, side: str = "", environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """libpq's parameters in `uri`, a URI or key=value string. Raises INVALID_ARGUMENT.

    side: "source" or "destination", for the error message.
    """
    whose = f"the {side}'s connection string" if side else "the connection string"
    _check_form(uri, whose)
    try:
        given = {name: str(value) for name, value in conninfo.conninfo_to_dict(uri).items()}
    except psycopg.Error:
        _refuse(f"{whose} is not one of PostgreSQL", FORM)
    if "," in given.get("port", ""):  # a host without a port has the default
        given["port"] = ",".join(one or "5432" for one in given["port"].split(","))
    _check_names(given, whose)
    _check_place(given, whose)
    _check_paths(given, whose, environ)
    return given


def _refuse(message: str, hint: str) -> NoReturn:
    raise PgmigError(ErrorKind.INVALID_ARGUMENT, message, hint) from None


def _check_form(uri: str, whose: str) -> None:
    if "\n" in uri or "\r" in uri or "\0" in uri:
        _refuse(f"{whose} has a line break in it", FORM)
    scheme = next((scheme for scheme in _SCHEMES if uri.startswith(scheme)), None)
    if scheme is None:
        return
    rest = uri.removeprefix(scheme)
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if authority.count("@") > 1 or "@" in rest[len(authority) :]:
        _refuse(
            f"{whose} has an @ that does not end user and password, or a / or ? before the one that does",
            "write these characters as %40, %2F and %3F in user, password and database",
        )
    if _ESCAPE.search(rest):
        _refuse(
            f"{whose} has a % that two hexadecimal digits do not follow", "write % itself as %25 everywhere"
        )


def _check_names(given: Mapping[str, str], whose: str) -> None:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for name in given:
        if name in _ALLOWED:
            continue
        # A name that libpq does not know may be a piece of a password.
        named = f" {name}" if name in known else ""
        _refuse(
            f"{whose} holds the parameter{named}, which pgmig does not take",
            "leave it out; the manual lists the parameters that pgmig takes (docs/operating.md)",
        )


def _check_place(given: Mapping[str, str], whose: str) -> None:
    port = given.get("port") or "5432"
    if not _PORT.fullmatch(port) or any(not 0 < int(one) < 1 << 16 for one in port.split(",")):
        _refuse(f"{whose} has a port that is no number from 1 to 65535", FORM)
    if given.get("target_session_attrs") in _PRIMARY_IS_REFUSED:
        _refuse(
            f"{whose} asks for a standby, which cannot be migrated from or to",
            "use target_session_attrs=read-write, or leave it out: pgmig always works with the primary",
        )
    hosts = given.get("host", "").split(",")
    if port.count(",") not in {0, len(hosts) - 1}:
        _refuse(f"{whose} has another number of ports than of hosts", FORM)
    for host in hosts:
        if not host.startswith(("/", "@")) and re.search(r"[\s/@:?#]", host) and not _is_ipv6(host):
            _refuse(f"{whose} has a host that is neither a name nor an address", FORM)
    if given.get("dbname", "").startswith(_SCHEMES) or "=" in given.get("dbname", ""):
        _refuse(f"{whose} names another connection string as its database", FORM)


def _is_ipv6(host: str) -> bool:
    return re.fullmatch(r"[0-9A-Fa-f:.]+(?:%[0-9A-Za-z_.-]+)?", host) is not None


def _check_paths(given: Mapping[str, str], whose: str, environ: Mapping[str, str]) -> None:
    for name in sorted(_FILES & given.keys()):
        if given[name] not in _NOT_A_FILE and not _is_allowed(given[name], environ):
            _refuse_path(f"{whose} names a file with {name}")
    for host in given.get("host", "").split(","):
        if host.startswith(("/", "@")) and not _is_allowed(host, environ):
            _refuse_path(f"{whose} names a Unix socket")


def _refuse_path(what: str) -> NoReturn:
    _refuse(
        f"{what}, which is not in a directory that this service allows",
        f"name its directory in {ALLOWED_PATHS_VARIABLE} of the coordinator and of every worker",
    )


def _is_allowed(path: str, environ: Mapping[str, str]) -> bool:
    """Whether `path` is in an allowed directory, after symbolic links are resolved. A name that begins with @
    is in Linux's abstract namespace."""
    allowed = [
        Path(one).resolve() for one in environ.get(ALLOWED_PATHS_VARIABLE, "").split(os.pathsep) if one
    ]
    if path.startswith("@"):
        return Path("/") in allowed
    real = Path(path).expanduser().resolve()
    return any(real.is_relative_to(one) for one in allowed)


def with_default_host(given: Mapping[str, str]) -> dict[str, str]:
    """Add a host if there is none. Without a host libpq connects to a Unix socket, where the server may
    accept the service's own user. That is allowed only for callers who may name sockets."""
    if given.get("host") or os.environ.get("PGHOST") or _is_allowed("/", os.environ):
        return dict(given)
    return {**given, "host": "localhost"}


def endpoint(uri: str, server_version_num: int = 0) -> Endpoint:
    """The server and database of `uri` with their parameters, without credentials. If there are several
    hosts, the endpoint has the first one as its host and all of them as a parameter."""
    given = parameters(uri)
    hosts, ports = given.get("host") or "localhost", given.get("port") or "5432"
    kept = {name: value for name, value in given.items() if name in _KEPT}
    if "," in hosts:
        kept |= {"host": hosts, "port": ports}
    user = given.get("user", "")
    return Endpoint(
        hosts.split(",")[0],
        int(ports.split(",")[0]),
        given.get("dbname") or user,
        user,
        server_version_num,
        tuple(Parameter(name, value) for name, value in sorted(kept.items())),
    )


def each_server(uri: str, side: str) -> tuple[str, ...]:
    """`uri` once for each of its hosts, with that host only. If it has one host: `uri` itself.

    side: "source" or "destination", for the error message. Raises INVALID_ARGUMENT.
    """
    given = {name: value for name, value in parameters(uri, side).items() if name not in _OF_SEVERAL}
    servers = endpoint(uri).servers
    if len(servers) == 1:
        return (uri,)
    return tuple(
        conninfo.make_conninfo("", **(given | {"host": host, "port": str(port)})) for host, port in servers
    )


def same_servers(uri: str, where: Endpoint) -> bool:
    """Whether `uri` names the servers, database and user of `where`, or one of several servers."""
    found = endpoint(uri)
    if found.place[2:] != where.place[2:]:
        return False
    named = found.servers
    return named == where.servers or (len(named) == 1 and named[0] in where.servers)


def passwordless_uri(where: Endpoint) -> str:
    """A connection string without a password: libpq's password file may have it."""
    place = {"host": where.host, "port": str(where.port), "dbname": where.dbname, "user": where.user}
    kept = {one.name: one.value for one in where.parameters if one.name in _KEPT | _PLACE}
    return conninfo.make_conninfo("", **{key: value for key, value in (place | kept).items() if value})


def as_recorded(uri: str, where: Endpoint) -> str:
    """`uri` completed with the parameters of `where` that it lacks. So a migration that began with TLS
    continues with TLS, even if the URI with the password comes from another place."""
    given = parameters(uri)
    own = dict(given)
    if given.get("sslmode") in _WEAK_MODES and requires_tls(where):
        del own["sslmode"]
    kept = {one.name: one.value for one in where.parameters if one.name in _KEPT | _PLACE}
    several = {name: kept.pop(name) for name in _PLACE & kept.keys()}
    completed = kept | own | (several if same_servers(uri, where) else {})
    return uri if completed == given else conninfo.make_conninfo("", **completed)


def requires_tls(where: Endpoint) -> bool:
    """Whether connections without TLS are refused."""
    return any(one.name == "sslmode" and one.value in _STRICT_MODES for one in where.parameters)


def requiring_tls(where: Endpoint) -> Endpoint:
    """`where` with sslmode=require, for a database that was reached with TLS. With sslmode=prefer, the
    default, libpq connects without TLS if an attacker in the network suppresses TLS, or if it was built
    without TLS."""
    if requires_tls(where):
        return where
    others = [one for one in where.parameters if one.name != "sslmode"]
    return replace(where, parameters=tuple(sorted([*others, Parameter("sslmode", "require")], key=str)))
