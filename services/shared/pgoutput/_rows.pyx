# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled twin of `rows`: the same functions, the same results, the same errors."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint32_t

from services.shared.pgoutput.errors import PgOutputError, corrupt
from services.shared.pgoutput.fields import known_flags
from services.shared.pgoutput.messages import (
    UNCHANGED,
    Begin,
    Binary,
    Commit,
    Delete,
    Insert,
    LargeDelete,
    LargeInsert,
    LargeUpdate,
    Transaction,
    Update,
)
from services.shared.pgoutput.rows import POSTGRES_EPOCH_US, SHORT

cdef extern from *:
    """
    /* The cyclic collector need not look at what holds values alone: they are most of its work. */
    #define pgmig_no_cycles(one) PyObject_GC_UnTrack(one)
    #define pgmig_new_tuple(cls, count) (((PyTypeObject *)(cls))->tp_alloc((PyTypeObject *)(cls), (count)))
    """
    object pgmig_new_tuple(object cls, Py_ssize_t count)
    void pgmig_no_cycles(object one)

cdef object _UNCHANGED = UNCHANGED
cdef object _BINARY_CLASS = Binary
cdef object _INSERT = Insert
cdef object _UPDATE = Update
cdef object _DELETE = Delete
cdef object _LARGE_INSERT = LargeInsert
cdef object _LARGE_UPDATE = LargeUpdate
cdef object _LARGE_DELETE = LargeDelete
cdef object _BEGIN = Begin
cdef object _COMMIT = Commit
cdef object _TRANSACTION = Transaction
cdef object _EPOCH = POSTGRES_EPOCH_US
cdef object _ZERO = 0
cdef object _K = "K"
cdef object _O = "O"
cdef Py_ssize_t _SHORT = SHORT


cdef inline uint32_t _u32(const unsigned char *at) noexcept:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef inline object _message(object cls, tuple fields):
    """`cls(*fields)` for a NamedTuple, without a call of its constructor."""
    cdef Py_ssize_t count = len(fields), i
    cdef object made = pgmig_new_tuple(cls, count)
    cdef object item
    for i in range(count):
        item = <object>fields[i]
        Py_INCREF(item)
        PyTuple_SET_ITEM(made, i, item)
    pgmig_no_cycles(made)
    return made


cdef class _Row:
    """A message that is read from left to right."""

    cdef object data
    cdef const unsigned char *bytes
    cdef Py_ssize_t size
    cdef Py_ssize_t at
    cdef object view  # of a large message, whose values are not copied

    cdef int need(self, Py_ssize_t count) except -1:
        if self.size - self.at < count:
            raise corrupt(self.data, "it ends too early")
        return 0

    cdef object value(self, Py_ssize_t length):
        cdef Py_ssize_t start = self.at
        self.need(length)
        self.at = start + length
        if self.view is not None and length > _SHORT:
            return self.view[start:self.at]
        return PyBytes_FromStringAndSize(<const char *>self.bytes + start, length)

    cdef tuple columns(self):
        """The tuple at this position, from its number of columns on."""
        cdef int count, i
        cdef unsigned char kind
        cdef Py_ssize_t length
        cdef object value
        self.need(2)
        count = (self.bytes[self.at] << 8) | self.bytes[self.at + 1]
        self.at += 2
        self.need(count)  # a byte for each column at least: no large tuple for a lying number
        cdef tuple values = PyTuple_New(count)
        for i in range(count):
            Py_INCREF(None)
            PyTuple_SET_ITEM(values, i, None)
        for i in range(count):
            self.need(1)
            kind = self.bytes[self.at]
            self.at += 1
            if kind == b"t" or kind == b"b":
                self.need(4)
                length = _u32(self.bytes + self.at)
                self.at += 4
                value = self.value(length)
                if kind == b"b":
                    value = _BINARY_CLASS(value)
            elif kind == b"n":
                continue
            elif kind == b"u":
                value = _UNCHANGED
            else:
                raise corrupt(self.data, f"column {i + 1} has the unknown format {kind:#04x}")
            Py_INCREF(value)
            PyTuple_SET_ITEM(values, i, value)
        pgmig_no_cycles(values)
        return values

    cdef int done(self) except -1:
        if self.at != self.size:
            raise corrupt(self.data, f"{self.size - self.at} bytes follow its end")
        return 0

    cdef object change(self, object xid):
        """The change of a row whose kind is the first byte, from its oid on."""
        cdef unsigned char kind = self.bytes[0], tag
        cdef object oid, old_kind = None
        cdef tuple old = None, new
        self.need(7)
        oid = _u32(self.bytes + self.at)
        tag = self.bytes[self.at + 4]
        self.at += 5
        if kind == b"I":
            if tag != b"N":
                raise corrupt(self.data, f"a new row was expected, not {tag:#04x}")
            new = self.columns()
            self.done()
            return _message(_INSERT if self.view is None else _LARGE_INSERT, (oid, new, xid))
        if tag == b"K":
            old_kind = _K
        elif tag == b"O":
            old_kind = _O
        if kind == b"D":
            if old_kind is None:
                raise corrupt(self.data, f"an old row was expected, not {tag:#04x}")
            old = self.columns()
            self.done()
            return _message(_DELETE if self.view is None else _LARGE_DELETE, (oid, old_kind, old, xid))
        if tag != b"N":
            if old_kind is None:
                raise corrupt(self.data, f"an old or new row was expected, not {tag:#04x}")
            old = self.columns()
            self.need(3)
            tag = self.bytes[self.at]
            if tag != b"N":
                raise corrupt(self.data, f"a new row was expected, not {tag:#04x}")
            self.at += 1
        new = self.columns()
        self.done()
        return _message(_UPDATE if self.view is None else _LARGE_UPDATE, (oid, old_kind, old, new, xid))


cdef _Row _row(object data, Py_ssize_t at):
    cdef _Row row = _Row.__new__(_Row)
    cdef const unsigned char[::1] buffer
    row.data = data
    row.at = at
    row.view = None
    if type(data) is bytes:
        row.bytes = <const unsigned char *>PyBytes_AS_STRING(data)
        row.size = PyBytes_GET_SIZE(data)
    else:
        buffer = data
        row.view = data
        row.size = buffer.shape[0]
        row.bytes = &buffer[0] if row.size else NULL
    return row


cdef inline unsigned long long _u64(const unsigned char *at) noexcept:
    return (<unsigned long long>_u32(at) << 32) | _u32(at + 4)


def read_begin(data, Py_ssize_t at, xid):
    """See `rows.read_begin`."""
    cdef _Row row = _row(data, at)
    row.need(20)
    cdef const unsigned char *here = row.bytes + at
    row.at += 20
    row.done()
    return _message(_BEGIN, (_u64(here), <object><long long>_u64(here + 8) + _EPOCH, _u32(here + 16)))


def read_commit(data, Py_ssize_t at, xid):
    """See `rows.read_commit`."""
    cdef _Row row = _row(data, at)
    row.need(25)
    cdef const unsigned char *here = row.bytes + at
    row.at += 25
    row.done()
    known_flags(data, here[0], 0)
    return _message(
        _COMMIT, (_ZERO, _u64(here + 1), _u64(here + 9), <object><long long>_u64(here + 17) + _EPOCH)
    )


def read_change(data, Py_ssize_t at, xid):
    """Insert, Update or Delete, by the first byte."""
    return _row(data, at).change(xid)


def read_changes(list messages, Py_ssize_t start):
    """See `rows.read_changes`."""
    cdef Py_ssize_t count = len(messages), at = start
    cdef list changes = []
    cdef _Row row
    cdef object data
    while at < count:
        data = messages[at]
        row = _row(data, 1)
        if row.size == 0 or (row.bytes[0] != b"I" and row.bytes[0] != b"U" and row.bytes[0] != b"D"):
            break
        changes.append(row.change(_ZERO))
        at += 1
    return changes, at


def read_transactions(list messages not None, Py_ssize_t start, dict known not None, floor):
    """See `rows.read_transactions`."""
    cdef list changes = [], transactions = []
    cdef unsigned long long least = floor
    cdef Py_ssize_t at = start, stop = 0, found
    cdef object ended
    while True:
        try:
            ended = _read_transaction(messages, at, known, least, changes)
        except PgOutputError:
            ended = None
        if ended is None:
            del changes[stop:]
            return changes, transactions, at
        at += 1 + <Py_ssize_t>ended[5]
        transactions.append(_message(_TRANSACTION, ended[:5]))
        least = ended[1]
        stop = len(changes)


cdef object _read_transaction(
    list messages, Py_ssize_t at, dict known, unsigned long long least, list changes
):
    """The fields of the one that begins at `at`, and how many messages follow its first; None where
    none does."""
    cdef Py_ssize_t count = len(messages), position
    cdef unsigned char kind
    cdef _Row row
    cdef object data
    cdef const unsigned char *here
    if at >= count:
        return None
    row = _row(messages[at], 1)
    if row.size == 0 or row.bytes[0] != b"B":
        return None
    row.need(20)
    here = row.bytes + 1
    row.at += 20
    row.done()
    cdef unsigned long long final = _u64(here)
    cdef uint32_t xid = _u32(here + 16)
    if final < least:
        return None
    for position in range(at + 1, count):
        data = messages[position]
        row = _row(data, 1)
        if row.size == 0:
            return None
        kind = row.bytes[0]
        if kind == b"I" or kind == b"U" or kind == b"D":
            changes.append(row.change(_ZERO))
        elif kind == b"C":
            row.need(25)
            here = row.bytes + 1
            row.at += 25
            row.done()
            known_flags(data, here[0], 0)
            return (
                final, _u64(here + 9), <object><long long>_u64(here + 17) + _EPOCH, len(changes), xid,
                position - at,
            )
        elif kind != b"R" or known.get(bytes(data[1:5])) != data:
            return None
    return None
