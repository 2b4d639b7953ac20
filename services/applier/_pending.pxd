# cython: language_level=3
"""C types and C functions with which `pending` is compiled."""

cimport cython
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

cdef object UNCHANGED, Insert, Update, Delete
cdef int INSERT, UPDATE, DELETE, REPLACE


cdef inline object _field(object change, Py_ssize_t i):
    return <object>PyTuple_GET_ITEM(change, i)


cdef inline bint _lacks(tuple values) except -1:
    cdef Py_ssize_t i
    for i in range(PyTuple_GET_SIZE(values)):
        if <object>PyTuple_GET_ITEM(values, i) is UNCHANGED:
            return True
    return False


@cython.final
cdef class Pending:
    cdef tuple _where
    cdef Py_ssize_t _first
    cdef bint _alone
    cdef dict _rows
    cdef list _keyless

    @cython.locals(kind=object)
    cpdef bint add(self, object change) except -1

    cdef object _key(self, tuple values)

    @cython.locals(before=tuple)
    cdef bint _insert(self, tuple new) except -1

    @cython.locals(before=tuple)
    cdef bint _update(self, object old, tuple new) except -1

    @cython.locals(before=tuple)
    cdef bint _delete(self, tuple old) except -1

    @cython.locals(held=tuple)
    cdef bint _move(self, object before, object key, tuple new) except -1

    @cython.locals(deletes=list, updates=dict, inserts=list, kind=int, values=tuple, missing=tuple, same=list)
    cpdef object take(self)


@cython.locals(at=Py_ssize_t, table=Pending)
cpdef Py_ssize_t merge(list steps, Py_ssize_t start, dict pending) except -1

cdef tuple _missing(tuple values)

cdef tuple _merged(tuple before, tuple after)
