/* Sums in GF(2^8), without the interpreter's lock.
 *
 * Source: "The mathematics of RAID-6", H. Peter Anvin, section 4: eight elements of the polynomial 0x11D are
 * doubled at a time in a word, and a product is the sum of doublings.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define WORDS 512 /* at a time: terms and sum stay in the nearest cache */

/* Add ``bytes`` bytes times a factor to a sum of whole words, those behind them being zeros. */
static void add(uint64_t *sum, const unsigned char *term, size_t bytes, unsigned factor) {
    uint64_t words[WORDS];
    memset(words, 0, sizeof words);
    memcpy(words, term, bytes);
    for (; factor; factor >>= 1) {
        if (factor & 1)
            for (int i = 0; i < WORDS; i++)
                sum[i] ^= words[i];
        if (factor > 1)
            for (int i = 0; i < WORDS; i++) {
                uint64_t high = words[i] >> 7 & UINT64_C(0x0101010101010101);
                words[i] = (words[i] << 1 & UINT64_C(0xfefefefefefefefe)) ^ high * 0x1d;
            }
    }
}

PyDoc_STRVAR(added_doc, "added(stored, factors, length)\n--\n\n"
    "Return the sum of terms of ``length`` bytes that lie one behind the other, each times its factor.\n\n"
    "Raises:\n    ValueError: they are no such terms.\n");

static PyObject *added(PyObject *self, PyObject *args) {
    Py_buffer stored, factors;
    Py_ssize_t length;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*n", &stored, &factors, &length))
        return NULL;
    if (length < 0 || factors.len < 1 || stored.len % factors.len || stored.len / factors.len != length)
        PyErr_SetString(PyExc_ValueError, "as many bytes as there are terms of that length");
    else if ((result = PyBytes_FromStringAndSize(NULL, length))) {
        unsigned char *out = (unsigned char *)PyBytes_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t at = 0; at < length; at += WORDS * 8) {
            uint64_t sum[WORDS];
            size_t bytes = length - at < WORDS * 8 ? (size_t)(length - at) : WORDS * 8;
            memset(sum, 0, sizeof sum);
            for (Py_ssize_t term = 0; term < factors.len; term++)
                add(sum, (const unsigned char *)stored.buf + term * length + at, bytes,
                    ((const unsigned char *)factors.buf)[term]);
            memcpy(out + at, sum, bytes);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&stored);
    PyBuffer_Release(&factors);
    return result;
}

static PyMethodDef methods[] = {
    {"added", added, METH_VARARGS, added_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_galois", "Sums in GF(2^8), many bytes in one call.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__galois(void) {
    return PyModuleDef_Init(&module);
}
