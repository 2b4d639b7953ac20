"""Hypothesis strategies for every pgoutput message that can be parsed."""

from __future__ import annotations

from hypothesis import strategies as st

from services.shared.model import ReplicaIdentity
from services.shared.pgoutput import (
    POSTGRES_EPOCH_US,
    UNCHANGED,
    Begin,
    Binary,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    PgOutputMessage,
    Relation,
    RelationColumn,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
    Value,
    Values,
)

_u32 = st.integers(0, 2**32 - 1)
_u64 = st.integers(0, 2**64 - 1)
_time = st.integers(-(2**63) + POSTGRES_EPOCH_US, 2**63 - 1)  # the whole range of PostgreSQL's int64
_stream_xid = st.integers(1, 2**32 - 1)
_xid = st.just(0) | _stream_xid
_name = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=70)
_schema = _name.map(lambda name: name or "pg_catalog")

values: st.SearchStrategy[Value] = st.one_of(
    st.none(), st.just(UNCHANGED), st.binary(max_size=300), st.binary(max_size=20).map(Binary)
)
rows: st.SearchStrategy[Values] = st.lists(values, max_size=8).map(tuple)

inserts = st.builds(Insert, _u32, rows, _xid)
_updates = st.one_of(
    st.builds(Update, _u32, st.none(), st.none(), rows, _xid),
    st.builds(Update, _u32, st.sampled_from(["K", "O"]), rows, rows, _xid),
)
_deletes = st.builds(Delete, _u32, st.sampled_from(["K", "O"]), rows, _xid)
_truncates = st.builds(Truncate, st.lists(_u32, max_size=5).map(tuple), st.booleans(), st.booleans(), _xid)
_columns = st.lists(
    st.builds(RelationColumn, _name, _u32, st.integers(-(2**31), 2**31 - 1), st.booleans()), max_size=6
).map(tuple)
_relations = st.builds(Relation, _u32, _schema, _name, st.sampled_from(ReplicaIdentity), _columns, _xid)
_aborts = st.one_of(
    st.builds(StreamAbort, _stream_xid, _stream_xid, st.none(), st.none()),
    st.builds(StreamAbort, _stream_xid, _stream_xid, _u64, _time),
)

messages: st.SearchStrategy[PgOutputMessage] = st.one_of(
    st.builds(Begin, _u64, _time, _u32),
    st.builds(Commit, st.just(0), _u64, _u64, _time),
    st.builds(Origin, _u64, _name),
    _relations,
    st.builds(Type, _u32, _schema, _name, _xid),
    inserts,
    _updates,
    _deletes,
    _truncates,
    st.builds(Message, st.booleans(), _u64, _name, st.binary(max_size=300), _xid),
    st.builds(StreamStart, _stream_xid, st.booleans()),
    st.builds(StreamStop),
    st.builds(StreamCommit, _stream_xid, st.just(0), _u64, _u64, _time),
    _aborts,
)
