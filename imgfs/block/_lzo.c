/* LZO1X for Python; what decodes is _lzo1x.h. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include "_lzo1x.h"

PyDoc_STRVAR(decompress_doc, "decompress(stored, most)\n--\n\n"
    "Return what an LZO1X stream decodes to, at most ``most`` bytes.\n\n"
    "Raises:\n    ValueError: it is none, or decodes to more.\n");

static PyObject *decompress(PyObject *self, PyObject *args) {
    static const char *const words[] = {
        "", "the stream is cut short", "it decodes to more than there is room for",
        "a copy from before the beginning", "the stream has no end",
    };
    Py_buffer stored;
    Py_ssize_t most;
    PyObject *result = NULL;
    int why = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*n", &stored, &most))
        return NULL;
    unsigned char *out = most >= 0 ? PyMem_Malloc((size_t)most + 1) : NULL;
    if (most < 0)
        PyErr_SetString(PyExc_ValueError, "a negative length");
    else if (!out)
        PyErr_NoMemory();
    else {
        size_t held = 0;
        Py_BEGIN_ALLOW_THREADS
        why = lzo1x(stored.buf, (size_t)stored.len, out, (size_t)most, &held);
        Py_END_ALLOW_THREADS
        if (why)
            PyErr_SetString(PyExc_ValueError, words[why]);
        else
            result = PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)held);
    }
    PyMem_Free(out);
    PyBuffer_Release(&stored);
    return result;
}

static PyMethodDef methods[] = {
    {"decompress", decompress, METH_VARARGS, decompress_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_lzo", "LZO1X, decompressed.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__lzo(void) {
    return PyModuleDef_Init(&module);
}
