# cython: language_level=3
"""C types and C functions with which `rows` is compiled."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_AsTuple
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    /* Tuples of values have no cycles. The cyclic collector would spend most of its time on them. */
    #define pgmig_no_cycles(one) PyObject_GC_UnTrack(one)
    #define pgmig_new_tuple(cls, count) (((PyTypeObject *)(cls))->tp_alloc((PyTypeObject *)(cls), (count)))
    """
    object pgmig_new_tuple(object cls, Py_ssize_t count)
    void pgmig_no_cycles(object one)

cdef object UNCHANGED, Binary, POSTGRES_EPOCH_US
cdef object Begin, Commit, Transaction
cdef object Insert, Update, Delete, LargeInsert, LargeUpdate, LargeDelete
cdef int _NULL, _TOAST, _TEXT, _BINARY
cdef int _BEGIN, _COMMIT, _RELATION, _INSERT, _UPDATE, _DELETE
cdef int _NEW, _KEY, _FULL
cdef Py_ssize_t _BEGIN_END, _COMMIT_END


cdef inline const unsigned char *_in_view(const unsigned char[::1] data, Py_ssize_t at, Py_ssize_t count) except NULL:
    """`_at` for a memoryview, whose memory the caller holds, and for what is too short."""
    if count > data.shape[0] - at:
        raise IndexError("beyond the end of the message")
    return &data[at]


cdef inline const unsigned char *_at(object data, Py_ssize_t at, Py_ssize_t count) except NULL:
    """Where `count` bytes from `at` on are. Raises IndexError if there are fewer."""
    if type(data) is bytes and count <= PyBytes_GET_SIZE(data) - at:
        return <const unsigned char *>PyBytes_AS_STRING(data) + at
    return _in_view(data, at, count)


cdef inline uint32_t _u32(const unsigned char *at) noexcept:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef inline uint64_t _u64(const unsigned char *at) noexcept:
    return (<uint64_t>_u32(at) << 32) | _u32(at + 4)


cdef inline int _byte(object data, Py_ssize_t at) except -1:
    return _at(data, at, 1)[0]


cdef inline (uint32_t, int, int) _oid_and_row(object data, Py_ssize_t at) except *:
    cdef const unsigned char *found = _at(data, at, 7)
    return (_u32(found), <int>found[4], (<int>found[5] << 8) | found[6])


cdef inline (int, int) _row(object data, Py_ssize_t at) except *:
    cdef const unsigned char *found = _at(data, at, 3)
    return (<int>found[0], (<int>found[1] << 8) | found[2])


cdef inline (Py_ssize_t,) _length(object data, Py_ssize_t at) except *:
    return (<Py_ssize_t>_u32(_at(data, at, 4)),)


cdef inline (uint64_t, int64_t, uint32_t) _begin(object data, Py_ssize_t at) except *:
    cdef const unsigned char *found = _at(data, at, 20)
    return (_u64(found), <int64_t>_u64(found + 8), _u32(found + 16))


cdef inline (int, uint64_t, uint64_t, int64_t) _commit(object data, Py_ssize_t at) except *:
    cdef const unsigned char *found = _at(data, at, 25)
    return (<int>found[0], _u64(found + 1), _u64(found + 9), <int64_t>_u64(found + 17))


cdef inline object _slice(object data, Py_ssize_t start, Py_ssize_t stop):
    if type(data) is not bytes:
        return data[start:stop]
    return PyBytes_FromStringAndSize(<const char *>_at(data, start, stop - start), stop - start)


cdef inline tuple _values(list values):
    cdef tuple made = PyList_AsTuple(values)
    pgmig_no_cycles(made)
    return made


cdef inline object _new(object cls, tuple fields):
    """`cls(*fields)` for a NamedTuple, without a call of its constructor."""
    cdef Py_ssize_t count = PyTuple_GET_SIZE(fields), i
    cdef object made = pgmig_new_tuple(cls, count)
    cdef object item
    for i in range(count):
        item = <object>PyTuple_GET_ITEM(fields, i)
        Py_INCREF(item)
        PyTuple_SET_ITEM(made, i, item)
    pgmig_no_cycles(made)
    return made


@cython.locals(compiled=bint, i=Py_ssize_t, kind=int, length=Py_ssize_t, start=Py_ssize_t)
cdef Py_ssize_t _read_columns(object data, Py_ssize_t at, list values) except -1

@cython.locals(oid=uint32_t, tag=int, count=int, new=list)
cdef object _read_insert(object data, Py_ssize_t at, object xid)

@cython.locals(oid=uint32_t, tag=int, count=int, new=list, columns=list)
cdef object _read_update(object data, Py_ssize_t at, object xid)

@cython.locals(oid=uint32_t, tag=int, count=int, old=list)
cdef object _read_delete(object data, Py_ssize_t at, object xid)

cdef object _old_kind(int tag)

@cython.locals(kind=int)
cdef object _read_change(object data, Py_ssize_t at, object xid)

@cython.locals(final_lsn=uint64_t, commit_time=int64_t, xid=uint32_t)
cpdef object read_begin(object data, Py_ssize_t at, object _)

@cython.locals(flags=int, commit_lsn=uint64_t, end_lsn=uint64_t, commit_time=int64_t)
cpdef object read_commit(object data, Py_ssize_t at, object _)

cpdef object read_change(object data, Py_ssize_t at, object xid)

@cython.locals(at=Py_ssize_t, kind=int, changes=list)
cpdef tuple read_changes(list messages, Py_ssize_t start)

@cython.locals(at=Py_ssize_t, stop=Py_ssize_t, changes=list, transactions=list, found=tuple)
cpdef tuple read_transactions(list messages, Py_ssize_t start, dict known, uint64_t floor)

@cython.locals(
    final_lsn=uint64_t, end_lsn=uint64_t, commit_time=int64_t, xid=uint32_t, flags=int, kind=int, position=Py_ssize_t
)
cdef tuple _read_transaction(list messages, Py_ssize_t at, dict known, uint64_t floor, list changes)
