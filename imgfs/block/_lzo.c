/* Decompress LZO1X, every read and every copy bounded.
 *
 * Written from the description of the stream in the Linux kernel's Documentation/staging/lzo.rst, as lzo.py
 * beside it was, which decodes the same and is what is used without a compiler.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { SHORT = -1, FULL = -2, BEFORE = -3, ENDLESS = -4 };

typedef struct {
    const unsigned char *in;
    size_t at, stop;
    unsigned char *out;
    size_t held, most;
} stream;

/* Continue a length whose first bits are all zero. Returns 0 at the end of what is stored. */
static int lengthened(stream *s, size_t base, size_t *length) {
    size_t sum = base;
    for (;;) {
        if (s->at >= s->stop)
            return 0;
        unsigned byte = s->in[s->at++];
        if (byte) {
            *length = sum + byte;
            return 1;
        }
        sum += 255; /* at most 255 for each stored byte: no overflow */
    }
}

static int literals(stream *s, size_t count) {
    if (count > s->stop - s->at)
        return SHORT;
    if (count > s->most - s->held)
        return FULL;
    memcpy(s->out + s->held, s->in + s->at, count);
    s->at += count;
    s->held += count;
    return 0;
}

static int match(stream *s, size_t distance, size_t length) {
    if (distance > s->held)
        return BEFORE;
    if (length > s->most - s->held)
        return FULL;
    unsigned char *to = s->out + s->held;
    const unsigned char *from = to - distance;
    s->held += length;
    if (distance >= length)
        memcpy(to, from, length);
    else
        while (length--) /* a copy that reads what it has just written repeats it */
            *to++ = *from++;
    return 0;
}

static int decode(stream *s) {
    int why;
    unsigned state = 0; /* literals behind the last instruction, 4: four or more */
    if (s->stop && s->in[0] > 17) {
        size_t count = s->in[s->at++] - 17u;
        if ((why = literals(s, count)))
            return why;
        state = count < 4 ? (unsigned)count : 4;
    }
    for (;;) {
        if (s->at >= s->stop)
            return ENDLESS;
        unsigned code = s->in[s->at++];
        size_t length, distance;
        unsigned behind;
        if (code < 16 && !state) {
            length = code;
            if (!length && !lengthened(s, 15, &length))
                return SHORT;
            if ((why = literals(s, length + 3)))
                return why;
            state = 4;
            continue;
        }
        if (code < 16 || code >= 64) {
            if (s->at >= s->stop)
                return SHORT;
            size_t high = s->in[s->at++];
            behind = code & 3;
            if (code < 16) {
                distance = (high << 2) + (code >> 2) + (state == 4 ? 2049 : 1);
                length = state == 4 ? 3 : 2;
            } else {
                distance = (high << 3) + (code >> 2 & 7) + 1;
                length = code < 128 ? 3 + (code >> 5 & 1) : 5 + (code >> 5 & 3);
            }
        } else {
            unsigned mask = code < 32 ? 7 : 31;
            length = code & mask;
            if (!length && !lengthened(s, mask, &length))
                return SHORT;
            length += 2;
            if (s->stop - s->at < 2)
                return SHORT;
            unsigned word = s->in[s->at] | (unsigned)s->in[s->at + 1] << 8;
            s->at += 2;
            behind = word & 3;
            if (code < 32) {
                distance = 16384 + ((size_t)(code >> 3 & 1) << 14) + (word >> 2);
                if (distance == 16384)
                    return 0;
            } else
                distance = (size_t)(word >> 2) + 1;
        }
        if ((why = match(s, distance, length)) || (why = literals(s, behind)))
            return why;
        state = behind;
    }
}

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
        stream s = {stored.buf, 0, (size_t)stored.len, out, 0, (size_t)most};
        Py_BEGIN_ALLOW_THREADS
        why = decode(&s);
        Py_END_ALLOW_THREADS
        if (why)
            PyErr_SetString(PyExc_ValueError, words[-why]);
        else
            result = PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)s.held);
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
