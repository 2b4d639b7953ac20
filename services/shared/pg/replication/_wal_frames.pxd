# cython: language_level=3
"""C types and C functions with which `wal_frames` is compiled."""

cimport cython
from libc.stdint cimport uint32_t

cdef int COPY_DATA, XLOG_DATA
cdef Py_ssize_t OVERHEAD, LARGEST


cdef inline (int, uint32_t, int) _header(const unsigned char *data, Py_ssize_t at) noexcept:
    cdef const unsigned char *here = data + at
    return (
        <int>here[0],
        (<uint32_t>here[1] << 24) | (<uint32_t>here[2] << 16) | (<uint32_t>here[3] << 8) | here[4],
        <int>here[5],
    )


@cython.locals(
    messages=list, data="const unsigned char *", at=Py_ssize_t, kind=int, length=Py_ssize_t, inner=int, stop=Py_ssize_t
)
cpdef tuple split(bytearray buffer, Py_ssize_t start, Py_ssize_t end)
