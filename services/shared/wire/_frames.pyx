# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled twin of `frames`: the same function, the same results."""

from cpython.bytes cimport PyBytes_FromStringAndSize


def split(bytes payload not None, Py_ssize_t at):
    """See `frames.split`."""
    cdef list messages = []
    cdef const unsigned char *data = payload
    cdef Py_ssize_t size = len(payload), length
    while at + 4 <= size:
        length = (<Py_ssize_t>data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3]
        if at + 4 + length > size:
            break
        messages.append(PyBytes_FromStringAndSize(<const char *>data + at + 4, length))
        at += 4 + length
    return messages, at
