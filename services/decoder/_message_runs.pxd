# cython: language_level=3
"""C types and C functions with which `message_runs` is compiled."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t

cdef int _BEGIN, _COMMIT, _INSERT, _UPDATE, _DELETE
cdef Py_ssize_t _BEGIN_SIZE, _COMMIT_SIZE


cdef inline (int64_t,) _oid(const unsigned char *data, Py_ssize_t at) noexcept:
    cdef const unsigned char *here = data + at
    return ((<int64_t>here[0] << 24) | (here[1] << 16) | (here[2] << 8) | here[3],)


cdef inline (uint64_t,) _lsn(const unsigned char *data, Py_ssize_t at) noexcept:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = (value << 8) | data[at + i]
    return (value,)


cdef inline bytes _header(Py_ssize_t length):
    cdef unsigned char made[4]
    made[0] = (length >> 24) & 255
    made[1] = (length >> 16) & 255
    made[2] = (length >> 8) & 255
    made[3] = length & 255
    return PyBytes_FromStringAndSize(<const char *>made, 4)


@cython.locals(
    size=Py_ssize_t, at=Py_ssize_t, ended=uint64_t, last=int64_t, oid=int64_t,
    item=object, message=bytes, data="const unsigned char *", length=Py_ssize_t, kind=int,
)
cpdef tuple collect(
    list messages, Py_ssize_t start, set known, list chunks, Py_ssize_t room, uint64_t floor, bint inside
)
