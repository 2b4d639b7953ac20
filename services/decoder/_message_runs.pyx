# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled twin of `message_runs`: the same function, the same results."""

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp


cdef inline unsigned long long _u64(const unsigned char *at) noexcept:
    cdef unsigned long long value = 0
    cdef int i
    for i in range(8):
        value = (value << 8) | at[i]
    return value


def collect(
    list messages not None,
    Py_ssize_t start,
    set known not None,
    list chunks not None,
    Py_ssize_t room,
    *,
    unsigned long long floor,
    bint inside,
):
    """See `message_runs.collect`."""
    cdef Py_ssize_t size = 0, at = start, count = len(messages), length
    cdef unsigned long long ended = 0
    cdef object message
    cdef const unsigned char *data
    cdef unsigned char last[4]
    cdef bint have_last = False
    cdef unsigned char header[4]
    while at < count and size < room:
        message = messages[at]
        if type(message) is not bytes:
            break
        data = <bytes>message
        length = PyBytes_GET_SIZE(message)
        if length < 5:
            break
        if data[0] == b"I" or data[0] == b"U" or data[0] == b"D":
            if not inside:
                break
            if not have_last or memcmp(last, data + 1, 4) != 0:
                if PyBytes_FromStringAndSize(<const char *>data + 1, 4) not in known:
                    break
                last[0], last[1], last[2], last[3] = data[1], data[2], data[3], data[4]
                have_last = True
        elif data[0] == b"B":
            if inside or length != 21 or _u64(data + 1) < floor:
                break
            inside = True
        elif data[0] == b"C":
            if not inside or length != 26:
                break
            inside = False
            ended = _u64(data + 10)
        else:
            break
        header[0], header[1], header[2], header[3] = (
            (length >> 24) & 255, (length >> 16) & 255, (length >> 8) & 255, length & 255
        )
        chunks.append(PyBytes_FromStringAndSize(<const char *>header, 4))
        chunks.append(message)
        size += length + 4
        at += 1
    return at, size, inside, ended
