/* The table of contents of a node of APFS' B-trees, in one pass.
 *
 * Source: Apple File System Reference (2020-06-22), "B-Trees": kvloc_t, kvoff_t. A listing of a hundred thousand
 * files reads ten thousand nodes; taken apart by the interpreter they were a sixth of a worker's time, and what
 * that left in memory another.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

static uint32_t half(const unsigned char *at) { /* little-endian on any machine */
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

static uint64_t word(const unsigned char *at) {
    uint64_t value = 0;
    for (int byte = 7; byte >= 0; byte--)
        value = value << 8 | at[byte];
    return value;
}

PyDoc_STRVAR(entries_doc, "entries(data, at, count, area, stop, least, wide, deep, turn)\n--\n\n"
    "Return the entries of a table of ``count`` at ``at`` that lie within [area, stop), and the numbers of their keys.\n\n"
    "Entries are four native uint32 each: where key and value begin and end. Keys are counted from ``area``, values\n"
    "back from ``stop``; of ``wide`` and ``deep`` bytes, or, where ``wide`` is 0, as long as the table says. A key has\n"
    "``least`` bytes or more; its number, a native uint64, is its first eight rotated left by ``turn`` bits.\n\n"
    "Raises:\n    ValueError: the table or the area leave ``data``.\n");

static PyObject *entries(PyObject *self, PyObject *args) {
    Py_buffer data;
    Py_ssize_t at, count, area, stop, least, wide, deep;
    int turn;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nnnnnnni", &data, &at, &count, &area, &stop, &least, &wide, &deep, &turn))
        return NULL;
    Py_ssize_t step = wide ? 4 : 8;
    if (at < 0 || count < 0 || at > data.len || count > (data.len - at) / step || area < 0 || area > stop ||
        stop > data.len || stop > INT32_MAX || least < 8 || wide < 0 || deep < 0 || turn < 0 || turn > 63)
        PyErr_SetString(PyExc_ValueError, "a table and an area within a node");
    else {
        PyObject *rows = PyBytes_FromStringAndSize(NULL, 16 * count), *keys = NULL;
        if (rows)
            keys = PyBytes_FromStringAndSize(NULL, 8 * count);
        Py_ssize_t kept = 0;
        if (keys) {
            unsigned char *row = (unsigned char *)PyBytes_AsString(rows), *key = (unsigned char *)PyBytes_AsString(keys);
            const unsigned char *base = data.buf, *entry = base + at;
            Py_ssize_t room = stop - area;
            for (Py_ssize_t one = 0; one < count; one++, entry += step) {
                Py_ssize_t k = half(entry), length = wide, v, held = deep;
                if (wide)
                    v = half(entry + 2);
                else {
                    length = half(entry + 2);
                    v = half(entry + 4);
                    held = half(entry + 6);
                }
                if (held > v || v > room || length < least || length > room - k)
                    continue;
                uint32_t place[4] = {(uint32_t)(area + k), (uint32_t)(area + k + length), (uint32_t)(stop - v),
                                     (uint32_t)(stop - v + held)};
                uint64_t number = word(base + area + k);
                if (turn)
                    number = number << turn | number >> (64 - turn);
                memcpy(row + 16 * kept, place, 16);
                memcpy(key + 8 * kept, &number, 8);
                kept++;
            }
            result = Py_BuildValue("y#y#", row, 16 * kept, key, 8 * kept);
        }
        Py_XDECREF(rows);
        Py_XDECREF(keys);
    }
    PyBuffer_Release(&data);
    return result;
}

static PyMethodDef methods[] = {
    {"entries", entries, METH_VARARGS, entries_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_toc", "Tables of contents of B-tree nodes.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__toc(void) {
    return PyModuleDef_Init(&module);
}
