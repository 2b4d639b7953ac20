# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled twin of `wal_frames`: the same function, the same results."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize

from services.shared.pg.replication.wal_frames import LARGEST

cdef Py_ssize_t _LARGEST = LARGEST


def split(bytearray buffer not None, Py_ssize_t start, Py_ssize_t end):
    """See `wal_frames.split`."""
    cdef list messages = []
    cdef const unsigned char *data = <const unsigned char *>PyByteArray_AS_STRING(buffer)
    cdef Py_ssize_t at = start, length
    if start < 0 or end > len(buffer):
        raise ValueError("beyond the buffer")
    while at + 30 < end:
        length = (<Py_ssize_t>data[at + 1] << 24) | (data[at + 2] << 16) | (data[at + 3] << 8) | data[at + 4]
        if data[at] != b"d" or data[at + 5] != b"w" or at + 1 + length > end or length < 30 or length > _LARGEST:
            break
        messages.append(PyBytes_FromStringAndSize(<const char *>data + at + 30, length - 29))
        at += 1 + length
    return messages, at
