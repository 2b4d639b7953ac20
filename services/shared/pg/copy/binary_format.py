"""When COPY may use its binary format, which saves both servers the conversion of values from and to text.

Binary format needs the same type on both sides, with a binary representation that has never changed. So it is
used only for the built-in types below. User-defined types may have different send and receive functions.
Arrays and composite types contain the OIDs of their element types, which are the same on both sides only for
built-in types. All other types are copied as text.
"""

from __future__ import annotations

from collections.abc import Iterable

_MINIMUM_VERSION = 100000
"""From 10 on, dates and times are always 64-bit integers."""

_INTERVALS = frozenset({1186, 1187})
_INFINITE_INTERVALS_SINCE = 170000

# pg_type.oid and pg_type.typarray in src/include/catalog/pg_type.dat
_SCALARS = {
    "bool": 16,
    "bytea": 17,
    '"char"': 18,
    "name": 19,
    "int8": 20,
    "int2": 21,
    "int4": 23,
    "text": 25,
    "oid": 26,
    "json": 114,
    "cidr": 650,
    "float4": 700,
    "float8": 701,
    "macaddr": 829,
    "inet": 869,
    "bpchar": 1042,
    "varchar": 1043,
    "date": 1082,
    "time": 1083,
    "timestamp": 1114,
    "timestamptz": 1184,
    "interval": 1186,
    "timetz": 1266,
    "bit": 1560,
    "varbit": 1562,
    "numeric": 1700,
    "uuid": 2950,
    "jsonb": 3802,
}
_ARRAYS = {
    "json": 199,
    "cidr": 651,
    "bool": 1000,
    "bytea": 1001,
    '"char"': 1002,
    "name": 1003,
    "int2": 1005,
    "int4": 1007,
    "text": 1009,
    "bpchar": 1014,
    "varchar": 1015,
    "int8": 1016,
    "float4": 1021,
    "float8": 1022,
    "oid": 1028,
    "macaddr": 1040,
    "inet": 1041,
    "timestamp": 1115,
    "date": 1182,
    "time": 1183,
    "timestamptz": 1185,
    "interval": 1187,
    "numeric": 1231,
    "timetz": 1270,
    "bit": 1561,
    "varbit": 1563,
    "uuid": 2951,
    "jsonb": 3807,
}
_SAFE = frozenset(_SCALARS.values()) | frozenset(_ARRAYS.values())


def binary_safe(type_oids: Iterable[int], source_version: int, dest_version: int) -> bool:
    """Whether columns of these types (pg_attribute.atttypid) may be copied in binary format.

    Versions are server_version_num (170004). An older server reads a binary infinite interval as a finite
    one, although it would refuse the text.
    """
    types = set(type_oids)
    if min(source_version, dest_version) < _MINIMUM_VERSION or not types <= _SAFE:
        return False
    return not (types & _INTERVALS and dest_version < _INFINITE_INTERVALS_SINCE <= source_version)
