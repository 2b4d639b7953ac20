# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled twin of `arrays`: the same functions, the same results."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memchr, memcpy


cdef class _Text:
    """The text of an array under way."""

    cdef char *data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    def __cinit__(self):
        self.room = 65536
        self.data = <char *>PyMem_Malloc(self.room)
        if self.data is NULL:
            raise MemoryError()
        self.data[0] = b"{"
        self.size = 1

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef char *larger
        if self.size + more > self.room:
            self.room = max(2 * self.room, self.size + more)
            larger = <char *>PyMem_Realloc(self.data, self.room)
            if larger is NULL:
                raise MemoryError()
            self.data = larger
        return 0

    cdef int add(self, object value) except -1:
        cdef const char *text
        cdef Py_ssize_t length, i
        cdef char byte
        if value is None:
            self.reserve(6)
            memcpy(self.data + self.size, b"NULL,", 5)
            self.size += 5
            return 0
        if not isinstance(value, bytes):
            raise TypeError(f"an array's element is {type(value).__name__}, not bytes")
        text = PyBytes_AS_STRING(value)
        length = PyBytes_GET_SIZE(value)
        if memchr(text, 34, length) is NULL and memchr(text, 92, length) is NULL:
            self.reserve(length + 4)
            self.data[self.size] = 34
            memcpy(self.data + self.size + 1, text, length)
            self.size += length + 1
        else:
            self.reserve(2 * length + 4)
            self.data[self.size] = 34
            self.size += 1
            for i in range(length):
                byte = text[i]
                if byte == 34 or byte == 92:
                    self.data[self.size] = 92
                    self.size += 1
                self.data[self.size] = byte
                self.size += 1
        self.data[self.size] = 34
        self.data[self.size + 1] = b","
        self.size += 2
        return 0

    cdef bytes whole(self):
        if self.size == 1:
            return b"{}"
        self.data[self.size - 1] = b"}"
        return PyBytes_FromStringAndSize(self.data, self.size)


def array(values):
    """See `arrays.array`."""
    cdef _Text text = _Text()
    for value in values:
        text.add(value)
    return text.whole()


def column(list rows not None, Py_ssize_t i):
    """See `arrays.column`."""
    cdef _Text text = _Text()
    cdef tuple row
    for row in rows:
        if i >= len(row):
            raise IndexError("tuple index out of range")
        text.add(row[i])
    return text.whole()
