# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled twin of `pending`: the same class and function, the same results."""

from cpython.dict cimport PyDict_DelItem, PyDict_GetItem, PyDict_SetItem
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM

from services.applier.pending import Net
from services.shared.pgoutput import UNCHANGED, Delete, Insert, Update

cdef object _UNCHANGED = UNCHANGED
cdef object _INSERT_CLASS = Insert
cdef object _UPDATE_CLASS = Update
cdef object _DELETE_CLASS = Delete

cdef enum:
    INSERT = 0
    UPDATE = 1
    DELETE = 2
    REPLACE = 3

cdef tuple _KINDS = (0, 1, 2, 3)


cdef class Pending:
    """See `pending.Pending`."""

    cdef tuple where
    cdef Py_ssize_t first  # the only column of `where`, or -1
    cdef bint alone
    cdef dict rows
    cdef list keyless

    def __init__(self, tuple where not None, *, bint alone=False):
        self.where = where
        self.first = where[0] if len(where) == 1 else -1
        self.alone = alone
        self.rows = {}
        self.keyless = []

    cpdef bint add(self, object change) except -1:
        cdef object kind = type(change)
        if self.alone:
            return False
        # Fields by position: Insert(oid, new), Update(oid, old_kind, old, new), Delete(oid, old_kind, old)
        if kind is _INSERT_CLASS:
            return self.insert(<tuple>PyTuple_GET_ITEM(change, 1))
        if not self.where:
            return False
        if kind is _UPDATE_CLASS:
            return self.update(<object>PyTuple_GET_ITEM(change, 2), <tuple>PyTuple_GET_ITEM(change, 3))
        if kind is _DELETE_CLASS:
            return self.delete(<tuple>PyTuple_GET_ITEM(change, 2))
        return False

    cdef object key(self, tuple values):
        if self.first >= 0:
            return values[self._checked(values, self.first)]
        return tuple([values[self._checked(values, i)] for i in self.where])

    cdef Py_ssize_t _checked(self, tuple values, Py_ssize_t i) except -1:
        if i >= len(values):
            raise IndexError("tuple index out of range")
        return i

    cdef tuple held(self, object key):
        cdef PyObject *found = PyDict_GetItem(self.rows, key)
        return None if found is NULL else <tuple>found

    cdef bint insert(self, tuple new) except -1:
        cdef object key
        cdef tuple before
        if not self.where:
            self.keyless.append(new)
            return True
        key = self.key(new)
        before = self.held(key)
        if before is None:
            PyDict_SetItem(self.rows, key, (_KINDS[INSERT], new))
        elif <int>before[0] == DELETE:
            PyDict_SetItem(self.rows, key, (_KINDS[REPLACE], new))
        else:
            return False
        return True

    cdef bint update(self, object old, tuple new) except -1:
        cdef object key = self.key(new), old_key
        cdef tuple before
        if old is not None:
            old_key = self.key(<tuple?>old)
            if old_key != key:
                return self.move(old_key, key, new)
        before = self.held(key)
        if before is None:
            PyDict_SetItem(self.rows, key, (_KINDS[UPDATE], new))
        elif <int>before[0] == DELETE:
            return False
        else:
            PyDict_SetItem(self.rows, key, (before[0], _merged(<tuple>before[1], new)))
        return True

    cdef bint delete(self, tuple old) except -1:
        cdef object key = self.key(old)
        cdef tuple before = self.held(key)
        cdef int kind
        if before is not None:
            kind = before[0]
            if kind == INSERT:
                PyDict_DelItem(self.rows, key)
                return True
            if kind == DELETE:
                return False
        PyDict_SetItem(self.rows, key, (_KINDS[DELETE], old))
        return True

    cdef bint move(self, object before, object key, tuple new) except -1:
        cdef tuple held = self.held(before)
        if held is None or <int>held[0] != INSERT or self.held(key) is not None:
            return False
        PyDict_DelItem(self.rows, before)
        PyDict_SetItem(self.rows, key, (_KINDS[INSERT], _merged(<tuple>held[1], new)))
        return True

    def take(self):
        cdef list deletes = [], inserts = self.keyless, same = None
        cdef dict updates = {}
        cdef tuple row, values, missing
        cdef int kind
        for key, row in self.rows.items():
            kind = row[0]
            values = row[1]
            if kind == UPDATE:
                missing = _missing(values)
                same = updates.get(missing)
                if same is None:
                    same = updates[missing] = []
                same.append(values)
            elif kind == INSERT:
                inserts.append(values)
            else:
                deletes.append((key, values))
                if kind == REPLACE:
                    inserts.append(values)
        self.rows, self.keyless = {}, []
        return Net(deletes, updates, inserts)


def absorb(list steps not None, Py_ssize_t start, dict pending not None):
    """See `pending.absorb`."""
    cdef Py_ssize_t at, count = len(steps)
    cdef object step
    cdef PyObject *table
    for at in range(start, count):
        step = steps[at]
        if type(step) is not tuple:
            return at
        table = PyDict_GetItem(pending, <object>PyTuple_GET_ITEM(step, 0))
        if table is NULL or not (<Pending>table).add(<object>PyTuple_GET_ITEM(step, 1)):
            return at
    return count


cdef tuple _missing(tuple values):
    cdef Py_ssize_t i, count = len(values)
    cdef list found = None
    for i in range(count):
        if <object>PyTuple_GET_ITEM(values, i) is _UNCHANGED:
            if found is None:
                found = []
            found.append(i)
    return () if found is None else tuple(found)


cdef tuple _merged(tuple before, tuple after):
    cdef Py_ssize_t i, count = len(after)
    for i in range(count):
        if <object>PyTuple_GET_ITEM(after, i) is _UNCHANGED:
            break
    else:
        return after
    if len(before) != count:
        raise ValueError("rows of different length")
    return tuple([before[i] if after[i] is _UNCHANGED else after[i] for i in range(count)])
