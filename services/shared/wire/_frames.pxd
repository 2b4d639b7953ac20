# cython: language_level=3
"""C types and C functions with which `frames` is compiled."""

cimport cython
from libc.stdint cimport uint32_t

cdef Py_ssize_t HEADER


cdef inline (uint32_t,) _length(const unsigned char *data, Py_ssize_t at) noexcept:
    cdef const unsigned char *here = data + at
    return ((<uint32_t>here[0] << 24) | (<uint32_t>here[1] << 16) | (<uint32_t>here[2] << 8) | here[3],)


@cython.locals(
    messages=list, data="const unsigned char *", size=Py_ssize_t, length=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t
)
cpdef tuple split(bytes payload, Py_ssize_t at)
