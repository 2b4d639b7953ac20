# cython: language_level=3
"""C types and C functions with which `row_merge` is compiled. Callers have checked the bounds."""

cimport cython
from libc.stdint cimport uint32_t
from libc.string cimport memmove

cdef int _COPY_DATA
cdef Py_ssize_t HEADER


cdef inline (int, Py_ssize_t) _header(unsigned char[::1] window, Py_ssize_t at) noexcept:
    cdef const unsigned char *here = &window[0] + at
    return (
        <int>here[0],
        (<uint32_t>here[1] << 24) | (<uint32_t>here[2] << 16) | (<uint32_t>here[3] << 8) | here[4],
    )


cdef inline void _write_header(unsigned char[::1] window, Py_ssize_t at, int kind, Py_ssize_t length) noexcept:
    cdef unsigned char *here = &window[0] + at
    here[0] = kind
    here[1] = (length >> 24) & 255
    here[2] = (length >> 16) & 255
    here[3] = (length >> 8) & 255
    here[4] = length & 255


cdef inline void _move(unsigned char[::1] window, Py_ssize_t to, Py_ssize_t start, Py_ssize_t size) noexcept:
    cdef unsigned char *first = &window[0]
    memmove(first + to, first + start, size)


@cython.locals(
    end=Py_ssize_t, position=Py_ssize_t, start=Py_ssize_t, here=Py_ssize_t, joined=Py_ssize_t, after=Py_ssize_t,
    there=Py_ssize_t, size=Py_ssize_t, kind=int, length=Py_ssize_t,
)
cpdef tuple join(unsigned char[::1] window, Py_ssize_t rest)
